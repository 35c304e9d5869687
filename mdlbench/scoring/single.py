"""One SAE by itself: its record, or its latents as a file."""

from __future__ import annotations

from pathlib import Path

from mdlbench.adapters.formats.python import coder_of
from mdlbench.errors import (
    MdlbenchError,
    UsageError,
)
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.audit import encode_test_split
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.search import search_limit
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite


def evaluate(
    sae: object,
    suite: Suite | str | Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    limit: int | None = None,
    text: str | None = None,
    quantiser: str | None = None,
) -> EvalRecord:
    """Score one SAE on a suite.

    Args:
        sae: `ADAPTER:ARGUMENT`, the path of a folder, a key of the suite, or any object with
            `encode` and `decode`.
        suite: a loaded suite, a shipped suite's name, or a path.
        name: what to call the SAE in the record.
        device: where to compute.
        limit: documents per split, for a quick look; such a record is never ranked.
        text: for a language suite, one of its texts by name or a path.
        quantiser: the operating mode; the suite's own where None.

    Raises:
        UsageError: there is no such suite, key, adapter or quantiser.
        CheckpointError: the SAE cannot be loaded.
        CoderError: the SAE misbehaves when run.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    opener = Opener(loaded, Setting(device, limit, text))
    if not isinstance(sae, str | Path):
        bench = Bench.open(opener, opener.site_of(name=name or "SAE"), quantiser)
        coder = coder_of(sae, source=bench.source, device=device)
        return evaluate_coder(bench, coder, bench.identity(coder.spec.identity, name)).record
    target = targets(loaded, [str(sae)], adapter=None)[0]
    bench = Bench.open(opener, target_site(opener, target), quantiser)
    coder = target.sae.load(bench.source, str(bench.source.device))
    identity = bench.identity(coder.spec.identity, name or target.name)
    return evaluate_coder(bench, coder, identity).record


def encode_target(
    opener: Opener, target: Target, step: float | None, quantiser: str | None = None
) -> bytes:
    """A target's test split as a bitstream, at a step or at the suite's headline tolerance.

    Raises:
        UsageError: the step is finer than the suite's finest.
        MdlbenchError: no step meets the headline tolerance.
    """
    bench = Bench.open(opener, target_site(opener, target), quantiser)
    coder = target.sae.load(bench.source, str(bench.source.device))
    with encoded(bench, coder) as run:
        finest = run.sweep.finest
        if step is not None and not step >= finest:
            raise UsageError(f"--step {step:g} is finer than the suite's finest step {finest:g}")
        if step is None:
            headline = bench.suite.headline
            search = search_limit(bench, run.sweep, headline.metric, headline.epsilon).search
            if search.position is None:
                raise MdlbenchError(
                    f"{target.label}: no step keeps {headline.metric} within "
                    f"{headline.epsilon:g}; give one with --step"
                )
            step = run.sweep.step(search.position)
        return encode_test_split(bench, run.sweep, step)
