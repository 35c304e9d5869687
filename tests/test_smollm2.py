"""The shipped language suite on its real model: a few contexts, end to end.

The model is a file of the package index, downloaded once; nothing else is.
"""

from pathlib import Path

import numpy as np
import pytest

from mdlbench.adapters.load import load_coder
from mdlbench.records.record import parse_record
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite

SUITE = "smollm2-l15"
SAE = "batchtopk-1024-k96"


@pytest.fixture(scope="module")
def opener() -> Opener:
    """At one tolerance of the suite's; both tests share it, so that the model is loaded once."""
    suite = load_suite(SUITE)
    only = suite.tolerances[0].model_copy(update={"epsilons": [suite.headline.epsilon]})
    suite = suite.model_copy(update={"tolerances": [only]})
    return Opener(suite, Setting(limit=2, text="python-docs"))


def test_a_few_contexts_end_to_end(opener: Opener, tmp_path: Path) -> None:
    (outcome,) = run(opener, targets(opener.suite, [SAE], None), tmp_path / "results")
    assert isinstance(outcome, Scored)
    record = outcome.record
    (path,) = (tmp_path / "results" / "records").glob("*.json")
    assert parse_record(path.read_text(), path) == record
    assert record.partial
    assert (record.site.hook, record.site.text) == ("blocks.15.hook_resid_pre", "python-docs")
    assert record.n_tokens.test == 2 * (128 - 4)
    clean = record.floor.ce - record.floor.delta_ce
    assert 2.0 < clean < 4.5
    assert 0.0 < record.floor.delta_ce < 3.0
    assert 0.7 < (record.floor.ce_recovered or 0.0) < 1.0
    assert record.floor.kl == pytest.approx(record.floor.delta_ce, abs=0.5)
    audited = [point.bits for point in record.points if point.bits.coded is not None]
    assert [bits.coded for bits in audited] == pytest.approx([b.heldout for b in audited], rel=0.01)


def test_the_real_model_is_cut_where_it_should_be(opener: Opener) -> None:
    """A splice of the activations themselves is free, and one of a shipped SAE's output is not."""
    source = opener.open(opener.site_of())
    block = next(iter(source.blocks("test")))
    clean = source.clean_ce(block)
    free = source.splice(block, block.activations)
    assert np.allclose(free.ce, clean, atol=1e-5)
    assert np.allclose(free.kl, 0.0, atol=1e-5)
    coder = load_coder(f"saelens:saes/{SAE}", source=source, folder=load_suite(SUITE).folder)
    spliced = source.splice(block, coder.decode(*coder.encode(block.activations)))
    assert spliced.ce.mean() > clean.mean()
    assert source.ablated_ce(block).mean() > spliced.ce.mean() + 2.0
    norms = block.norms.numpy()
    assert norms.max() < 3 * np.median(norms)
