"""The score does not move with the ruler: other test tokens, another seed of the bootstrap."""

import numpy as np
import pytest

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limits
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.targets import target_site, targets
from mdlbench.sources.open import Opener
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval
from mdlbench.statistics.tolerance import cheapest_within
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Tolerance

DRAWS = 40
TOKENS = 1024
EPSILONS = {"fvu": [0.001, 0.003, 0.01], "delta_ce": [0.2, 0.5]}
"""Beyond the noise of a loss over so many tokens; see maths §7."""


@pytest.fixture(scope="module")
def measured():
    """A trained SAE on a pool of tokens of a known source, which is cut into test sets."""
    shipped = load_suite("toy")
    tokens = shipped.source.tokens.model_copy(
        update={"calibration": 8 * TOKENS, "test": DRAWS * TOKENS}
    )
    source = shipped.source.model_copy(update={"tokens": tokens})
    tolerances = [Tolerance(metric=m, epsilons=epsilons) for m, epsilons in EPSILONS.items()]
    suite = shipped.model_copy(
        update={"source": source, "replicates": 100, "tolerances": tolerances}
    )
    suite._folder = shipped.folder
    opener = Opener(suite)
    target = targets(suite, ["batchtopk-64-k3.4"], adapter=None)[0]
    bench = Bench.open(InProcess(opener), target_site(opener, target))
    with encoded(bench, target.sae) as run:
        yield bench, run


def searched(bench, run, seed):
    """Search and prices under a seed of the bootstrap, from the beginning."""
    suite = bench.suite.model_copy(update={"seed": seed})
    sweep = Sweep(run.sweep.latents, bench.mode, bench.suite.steps)
    resampled = Resampled(Bench(suite, bench.rounds, bench.limit, bench.mode), sweep)
    search_limits(resampled, list(suite.limits()))
    sweep.price(sweep.measured())
    return resampled


@pytest.fixture(scope="module")
def resampled(measured):
    return searched(*measured, seed=0)


def curve(resampled, metric):
    """Bits and losses per document and step."""
    sweep = resampled.sweep
    bits = np.stack([sweep.rates(p).document_bits for p in sweep.measured()], axis=-1)
    losses = [resampled.bench.per_document(sweep.distortion(p), metric) for p in sweep.measured()]
    return bits, np.stack(losses, axis=-1)


@pytest.mark.parametrize("metric", ["fvu", "delta_ce"])
def test_the_interval_covers_redraws_of_the_test_set_as_often_as_it_says(resampled, metric):
    """Each part of the pool is a test set of its own; the truth is the whole pool's score."""
    bits, losses = curve(resampled, metric)
    covered = []
    for epsilon in EPSILONS[metric]:
        whole = bits.mean(axis=0)
        truth = float(cheapest_within(whole, losses.mean(axis=0), epsilon).of(whole))
        for i in range(DRAWS):
            part = slice(i * TOKENS, (i + 1) * TOKENS)
            bootstrap = Bootstrap(np.ones(TOKENS), 200, seed=i)
            drawn = np.stack([bootstrap.means(column) for column in bits[part].T], axis=-1)
            lost = np.stack([bootstrap.means(column) for column in losses[part].T], axis=-1)
            low, high = percentile_interval(cheapest_within(drawn, lost, epsilon).of(drawn))
            covered.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_another_seed_of_the_bootstrap_moves_no_score_by_a_tenth_of_its_interval(
    measured, resampled
):
    others = [searched(*measured, seed) for seed in (7,)]
    for metric, epsilon in resampled.bench.suite.limits():
        low, high = percentile_interval(resampled.bits_at(metric, epsilon))
        scores = []
        for one in (resampled, *others):
            bits, losses = (part.mean(axis=0) for part in curve(one, metric))
            scores.append(float(cheapest_within(bits, losses, epsilon).of(bits)))
        assert max(scores) - min(scores) < 0.1 * (high - low)
