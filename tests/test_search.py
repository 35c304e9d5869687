"""The searches for a step and a decoder's precision, on losses that are known, counting passes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.decoder import USUAL_WEIGHT_BITS, decoder_weight_bits, fewest_bits
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limit, search_limits
from mdlbench.scoring.sweep import Sweep
from mdlbench.statistics.distortion import DistortionSums
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, step_at

OCTAVES = 6


class CountingSweep(Sweep):
    """A sweep of made-up losses: squared error Δ² + floor, and a loss that follows from it.

    `splices` and `decoded` count the passes with and without the model, by what they were for.
    """

    has_weights = True
    spec = SimpleNamespace(model_bits=None, side_bits=0.0)
    coder = SimpleNamespace(spec=spec)

    def __init__(self, loss=lambda error: error, floor=0.1, rounding=1.0, harm=1.0):
        self.dyadic = [STEPS_PER_OCTAVE * octave for octave in range(OCTAVES)]
        self.splices, self.decoded, self.rounds = Counter(), Counter(), []
        self._loss, self._floor, self._rounding, self._harm = loss, floor, rounding, harm

    def error(self, position, bits=None):
        rounded = 0.0 if bits is None else self._rounding * 4.0**-bits
        return self._floor + step_at(0.01, position) ** 2 + rounded

    def sums(self, position, bits=None):
        error = self.error(position, bits)
        plain = self.error(position)
        loss = np.array([self._loss(plain + self._harm * (error - plain))])
        return DistortionSums(np.array([error]), np.ones(1), ce=loss, kl=loss)

    def measured(self):
        return sorted(position for position in self.splices if isinstance(position, int))

    def measure(self, positions):
        self.rounds.append(list(positions))
        self.splices.update(positions)

    def price(self, positions):
        """Nothing is to be done: rates are known."""

    def rates(self, position):
        """The rate of a Gaussian's 20 dimensions: convex against squared error."""
        return SimpleNamespace(heldout=200.0 - 20 * np.log2(step_at(1.0, position)))

    def distortion(self, position):
        assert position in self.splices
        return self.sums(position)

    def at_precision(self, position, bits, spliced):
        counted = self.splices if spliced else self.decoded
        counted[position, bits] += 1
        return self.sums(position, bits)


class CountingBench(Bench):
    """One document of one token, whose draws are all itself; counts them."""

    def __init__(self):
        object.__setattr__(self, "draws", [])
        object.__setattr__(self, "reference", SimpleNamespace(tokens=np.ones(1)))

    @property
    def bootstrap(self):
        return self

    def means(self, sums):
        self.draws.append(sums)
        return sums

    def per_document(self, sums, metric):
        return sums.ce if metric_of(metric).spliced else sums.squared_error


def linear_bits(kept_with):
    """Bit by bit from the usual precision."""
    if not kept_with(USUAL_WEIGHT_BITS):
        return next((bits for bits in range(USUAL_WEIGHT_BITS + 1, 18) if kept_with(bits)), None)
    bits = USUAL_WEIGHT_BITS
    while bits > 2 and kept_with(bits - 1):
        bits -= 1
    return bits


@given(least=st.integers(2, 20), start=st.integers(2, 17))
def test_the_fewest_bits_do_not_depend_on_where_the_search_begins(least, start):
    asked = []
    found = fewest_bits(lambda bits: asked.append(bits) or bits >= least, start)
    assert found == (least if least <= 17 else None)
    assert found == linear_bits(lambda bits: bits >= least)
    assert len(asked) == len(set(asked))
    if start in (least, least - 1) and 2 < least < 17:
        assert len(asked) == 2


@given(kept=st.sets(st.integers(2, 17)), start=st.integers(2, 17))
def test_where_bits_are_not_monotone_the_run_around_the_start_ends_the_search(kept, start):
    found = fewest_bits(kept.__contains__, start)
    above = [bits for bits in sorted(kept) if bits >= start]
    if not above:
        assert found is None
    elif above[0] > start:
        assert found == above[0]
    else:
        assert set(range(found, start + 1)) <= kept
        assert found == 2 or found - 1 not in kept
    assert start != USUAL_WEIGHT_BITS or found == linear_bits(kept.__contains__)


@given(
    power=st.floats(0.7, 1.5),
    epsilon=st.floats(0.2, 0.6),
    rounding=st.floats(1e-3, 1e4),
    harm=st.floats(0.3, 0.9),
)
def test_a_decoders_precision_takes_two_splices_where_the_loss_follows_the_error(
    power, epsilon, rounding, harm
):
    """Also where rounding the decoder harms less than a coarser step of the same error."""
    sweep = CountingSweep(lambda error: error**power, rounding=rounding, harm=harm)
    resampled = Resampled(CountingBench(), sweep)
    limit = search_limit(resampled, "delta_ce", epsilon)
    if limit.search.position is None or limit.search.at_coarsest:
        return
    position = limit.search.position
    found = decoder_weight_bits(resampled, limit)
    assert found == (linear_bits(lambda bits: sweep.sums(position, bits).ce[0] <= epsilon) or 32)
    spliced = [key for key in sweep.splices if isinstance(key, tuple)]
    assert len(spliced) <= 3 or found > 16
    assert max(sweep.splices.values()) == 1


def test_a_decoders_precision_on_an_error_takes_no_splice():
    sweep = CountingSweep(rounding=50.0)
    resampled = Resampled(CountingBench(), sweep)
    limit = search_limit(resampled, "mse", 0.13)
    before = dict(sweep.splices)
    bits = decoder_weight_bits(resampled, limit)
    position = limit.search.position
    assert sweep.error(position, bits) <= 0.13 < sweep.error(position, bits - 1)
    assert sweep.splices == before


TOLERANCES = st.lists(
    st.tuples(st.sampled_from(["mse", "delta_ce", "kl"]), st.floats(0.08, 0.3)),
    min_size=1,
    max_size=10,
    unique=True,
)


@given(wanted=TOLERANCES, power=st.floats(0.5, 2.0))
def test_every_position_is_measured_once_and_tolerances_share_them(wanted, power):
    """Together they find what each finds alone, from no more positions, draws and rounds."""
    sweep, bench = CountingSweep(lambda error: error**power), CountingBench()
    found = search_limits(Resampled(bench, sweep), wanted)
    assert max(sweep.splices.values()) == 1
    kinds = len({metric for metric, _ in wanted})
    assert len(bench.draws) <= kinds * len(sweep.measured())
    rounds, asked = 0, set()
    for limit in found:
        alone = CountingSweep(lambda error: error**power)
        lonely = Resampled(CountingBench(), alone)
        assert search_limit(lonely, limit.metric, limit.epsilon) == limit
        rounds, asked = max(rounds, len(alone.rounds)), asked | set(alone.measured())
    assert set(sweep.measured()) <= asked
    assert len(sweep.rounds) <= rounds


def test_ten_tolerances_of_a_language_suite_take_few_splices():
    """A definite count: 6 dyadic steps, and two neighbours at each tolerance unless shared."""
    sweep = CountingSweep()
    wanted = [("delta_ce", e) for e in (0.105, 0.11, 0.12, 0.14, 0.17)]
    wanted += [("mse", e) for e in (0.105, 0.11, 0.12, 0.14, 0.17)]
    search_limits(Resampled(CountingBench(), sweep), wanted)
    assert len(sweep.measured()) == 16
    assert len(sweep.rounds) == 2
