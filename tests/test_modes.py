"""Operating modes: what each quantiser chooses, what a decoder is told, what a record says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from mdlbench.adapters.load import NamedCoder
from mdlbench.codes import bitstream
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.codes.rates import Code
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import FittedQuantiser, PlainStep, Symbols, quantise
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import CoderError, RecordError, UsageError
from mdlbench.quantisers import trial as trial_module
from mdlbench.quantisers.files import decoded_values, described
from mdlbench.quantisers.modes import MODES, mode_of
from mdlbench.quantisers.per_feature import (
    DROPPED,
    HIGHEST,
    LOWEST,
    Allocation,
    allocate,
    measure_choices,
)
from mdlbench.quantisers.protocol import Calibration
from mdlbench.quantisers.rdo import (
    FRACTION,
    N_CENTROIDS,
    OFFSETS,
    Centroids,
    PricedRounding,
    fit_centroids,
    fit_rate_aware,
)
from mdlbench.quantisers.trial import HIGH_RATE_SLOPE, Trial, curve_slope
from mdlbench.records.record import Identity
from mdlbench.records.store import read_records
from mdlbench.scoring.audit import encode_test_split
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.single import evaluate
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener
from mdlbench.suite.site import Site
from mdlbench.suite.suite import OwnQuantiser
from tests.records import make_identity, make_record
from tests.tiny import tiny_suite, write_sae

BOARDS = sorted((Path(__file__).parent.parent / "leaderboards").glob("*/"))
FINEST = 2.0**-5
LEVELS = range(LOWEST, HIGHEST + 1)
PLAIN = "normalised", "uniform", "tree"
"""Modes of plain rounding: a file says nothing of their quantiser but its step."""


def exponentials(
    seed: int, n_tokens: int = 400, n_latents: int = 6, signed: bool = False
) -> SparseLatents:
    """Latents that fire at different rates, with magnitudes of different scales."""
    rng = np.random.default_rng(seed)
    on = rng.random((n_tokens, n_latents)) < rng.uniform(0.02, 0.6, n_latents)
    size = rng.exponential(rng.uniform(0.1, 4.0, n_latents), (n_tokens, n_latents))
    sign = rng.choice([-1, 1], size.shape) if signed else 1
    dense = np.where(on & (size >= FINEST / 2), size * sign, 0)
    return SparseLatents.from_dense(dense.astype(np.float32))


def directions_of(seed: int, n_latents: int = 6, d: int = 4) -> Float[np.ndarray, "latent d"]:
    rows = np.random.default_rng(seed).standard_normal((n_latents, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def trial(latents: SparseLatents, seed: int = 0, finest: float = FINEST) -> Trial:
    return Trial(Runs.here(lambda: [latents]), directions_of(seed, latents.n_latents), finest)


def allocated(latents: SparseLatents, step: float) -> Allocation:
    return allocate(trial(latents), step)


seeds = st.integers(0, 10_000)
steps = st.sampled_from([FINEST, 0.1, 0.5, 1.0, 2.3, 8.0])


class TestAllocation:
    @given(seed=seeds, step=steps, signed=st.booleans())
    @settings(max_examples=10)
    def test_symbols_come_back_from_their_values(self, seed, step, signed):
        latents = exponentials(seed, signed=signed)
        allocation = allocated(latents, step)
        symbols = allocation.symbols(latents)
        values = allocation.values(symbols)
        again = allocation.symbols(values)
        assert again.symbol.tolist() == symbols.symbol.tolist()
        assert again.latent.tolist() == symbols.latent.tolist()
        half_step = np.ldexp(step / 2, allocation.level)[values.latent]
        dense = latents.to_dense()[values.token, values.latent]
        assert (np.abs(values.value - dense) <= half_step * (1 + 1e-5)).all()

    @given(seed=seeds, step=steps)
    @settings(max_examples=10)
    def test_costs_no_more_than_any_level_for_all(self, seed, step):
        latents = exponentials(seed)
        choices = measure_choices(
            Runs.here(lambda: [latents]), latents.n_latents, step, FINEST, LEVELS
        )
        slope = choices.slope(step)
        assert 0 < slope <= HIGH_RATE_SLOPE * step**2
        cost = choices.lagrangian(slope)
        chosen = choices.cheapest(slope)
        at = np.searchsorted(choices.levels, chosen)
        spent = cost[np.arange(len(at)), at].sum()
        assert spent <= cost.sum(axis=0).min() * (1 + 1e-12)
        finest_taken = np.ldexp(step, chosen[chosen < DROPPED])
        assert (finest_taken >= FINEST * (1 - 1e-6)).all()

    def test_distortions_and_rates_against_float64(self):
        latents, step = exponentials(3), 1.0
        choices = measure_choices(
            Runs.here(lambda: [latents]), latents.n_latents, step, FINEST, LEVELS
        )
        assert choices.levels.tolist() == [*range(LOWEST, HIGHEST + 1), DROPPED]
        z, n = latents.to_dense().astype(np.float64), latents.n_tokens
        for column, level in enumerate(choices.levels[:-1]):
            width = step * 2.0 ** int(level)
            error = ((z - np.floor(z / width + 0.5) * width) ** 2).sum(axis=0) / n
            assert choices.distortion[:, column] == pytest.approx(error, rel=1e-9)
            counts = SymbolCounts.of(quantise(latents, width))
            bits = Codebook.fit(counts).latent_bits(counts)
            assert choices.rate[:, column] == pytest.approx(bits, rel=1e-12)
        assert choices.distortion[:, -1] == pytest.approx((z**2).sum(axis=0) / n, rel=1e-9)
        assert (choices.rate[:, -1] == 0).all()

    def test_at_high_rate_everyone_shares_the_step_and_the_slope_is_shannons(self):
        rng = np.random.default_rng(0)
        z = rng.uniform(1, 9, (3000, 4)).astype(np.float32)
        latents, step = SparseLatents.from_dense(z), 0.0625
        choices = measure_choices(Runs.here(lambda: [latents]), 4, step, step / 8, LEVELS)
        assert choices.slope(step) == pytest.approx(HIGH_RATE_SLOPE * step**2, rel=0.05)
        alike = trial(latents, finest=step / 8)
        assert alike.slope(step) == pytest.approx(HIGH_RATE_SLOPE * step**2, rel=0.05)
        assert allocate(alike, step).level.tolist() == [0, 0, 0, 0]

    @given(levels=st.lists(st.integers(LOWEST, DROPPED), min_size=1, max_size=40))
    def test_header_is_the_entropy_of_the_levels(self, levels):
        allocation = Allocation(1.0, np.array(levels, dtype=np.int32))
        share = [levels.count(level) / len(levels) for level in set(levels)]
        entropy = -sum(p * math.log2(p) for p in share)
        assert allocation.header_bits == pytest.approx(len(levels) * entropy, abs=1e-9)

    def test_a_dropped_latent_is_off_and_level_zero_is_the_plain_step(self):
        latents = exponentials(1)
        level = np.array([0, DROPPED, 0, 0, 0, 0], dtype=np.int32)
        symbols = Allocation(0.7, level).symbols(latents)
        assert 1 not in symbols.latent
        plain = PlainStep(0.7).symbols(latents)
        kept = plain.latent != 1
        assert symbols.symbol.tolist() == plain.symbol[kept].tolist()

    @pytest.mark.parametrize(
        "columns",
        [{}, {"level": [0]}, {"level": [0, DROPPED + 1]}, {"level": [0, 0], "offset": []}],
    )
    def test_columns_that_are_no_allocation_are_refused(self, columns):
        with pytest.raises(UsageError, match="per-feature"):
            Allocation.of_columns(1.0, columns, n_latents=2)


class TestRateAware:
    @given(seed=seeds, step=steps, signed=st.booleans())
    @settings(max_examples=6)
    def test_costs_no_more_than_plain_rounding(self, seed, step, signed):
        latents = exponentials(seed, signed=signed)
        quantiser = fit_rate_aware(trial(latents, seed), step)
        dense = np.zeros((latents.n_tokens, latents.n_latents), dtype=np.int32)
        symbols = quantiser.symbols(latents)
        dense[symbols.token, symbols.latent] = symbols.symbol
        decided = dense[latents.token, latents.latent]
        rounded = np.rint(latents.value / step).astype(np.int32)
        costs = [quantiser.cost(latents, s).sum() for s in (decided, rounded)]
        assert costs[0] <= costs[1] * (1 + 1e-9)
        assert (np.abs(decided) <= np.abs(rounded) + 1).all()
        assert (decided * latents.value >= 0).all()

    @given(seed=seeds, step=steps)
    @settings(max_examples=6)
    def test_coarser_or_equal_symbols_and_fewer_of_them(self, seed, step):
        latents = exponentials(seed)
        quantiser = fit_rate_aware(trial(latents, seed), step)
        symbols, plain = quantiser.symbols(latents), quantise(latents, step)
        assert symbols.nnz <= plain.nnz
        assert (symbols.symbol > 0).all()
        assert (quantiser.values(symbols).value > 0).all()

    def test_a_decision_against_float64(self):
        latents, step = exponentials(5), 0.8
        quantiser = fit_rate_aware(trial(latents, 5), step)
        offsets = [0.0, *(quantiser.centroids.offset / 64), 0.0]
        decided = {}
        symbols = quantiser.symbols(latents)
        for t, i, v in zip(symbols.token, symbols.latent, symbols.symbol, strict=True):
            decided[int(t), int(i)] = int(v)
        book = quantiser.prices
        for t, i, a in zip(latents.token, latents.latent, latents.value, strict=True):
            nearest = math.floor(float(a) / step + 0.5)
            costs = {}
            for v in {0, nearest, max(nearest - 1, 0)}:
                value = (v + offsets[min(v, N_CENTROIDS + 1)]) * step if v else 0.0
                bits = book.off_latent_bits[i]
                if v:
                    query = np.array([i], dtype=np.int32), np.array([v], dtype=np.int32)
                    bits = book.on_latent_bits[i] + book.magnitude_bits(*query)[0]
                costs[v] = (float(a) - value) ** 2 + quantiser.slope * bits
            assert costs[decided.get((int(t), int(i)), 0)] <= min(costs.values()) + 1e-9

    def test_centroids_against_least_squares(self):
        latents, step, directions = exponentials(8, n_tokens=300), 0.5, directions_of(8)
        symbols = quantise(latents, step)
        found = fit_centroids(latents.to_dense() @ directions, symbols, directions, step)
        dense = np.zeros((latents.n_tokens, latents.n_latents), dtype=np.int64)
        dense[symbols.token, symbols.latent] = symbols.symbol
        missing = (latents.to_dense().astype(np.float64) - dense * step) @ directions
        columns = [((dense == v) @ directions).ravel() for v in range(1, N_CENTROIDS + 1)]
        prior = np.eye(N_CENTROIDS)
        design = np.vstack([np.stack(columns, axis=1), prior])
        target = np.concatenate([missing.ravel(), np.zeros(N_CENTROIDS)])
        shift = np.linalg.lstsq(design, target, rcond=None)[0] / step
        assert found.offset / FRACTION == pytest.approx(
            np.clip(shift, -63 / 64, 127 / 64), abs=0.51 / FRACTION
        )
        assert found.header_bits == 8 * N_CENTROIDS

    @given(
        offset=st.lists(st.integers(*OFFSETS), min_size=N_CENTROIDS, max_size=N_CENTROIDS),
        symbol=st.integers(-9, 9),
    )
    def test_values_keep_sign_and_zero(self, offset, symbol):
        value = Centroids(0.25, np.array(offset)).of(np.array([symbol], dtype=np.int32))[0]
        assert np.sign(value) == np.sign(symbol)
        if abs(symbol) > N_CENTROIDS:
            assert value == symbol * 0.25

    @pytest.mark.parametrize("columns", [{}, {"offset": [0] * 3}, {"offset": [0, 0, 0, 128]}])
    def test_columns_that_are_no_centroids_are_refused(self, columns):
        with pytest.raises(UsageError, match="centroids"):
            Centroids.of_columns(1.0, columns, n_latents=2)


class TestTrial:
    @given(seed=seeds, step=steps, signed=st.booleans())
    @settings(max_examples=5)
    def test_what_is_kept_costs_no_more_than_plain_rounding(self, seed, step, signed):
        candidates = trial(exponentials(seed, signed=signed), seed)
        slope = candidates.slope(step)
        assert 0 < slope <= HIGH_RATE_SLOPE * step**2
        plain = candidates.cost(PlainStep(step)).lagrangian(slope)
        kept: list[FittedQuantiser] = [
            allocate(candidates, step),
            fit_rate_aware(candidates, step),
        ]
        for quantiser in kept:
            assert candidates.cost(quantiser).lagrangian(slope) <= plain * (1 + 1e-9)

    def test_cost_against_float64(self):
        latents, step = exponentials(4), 0.9
        cost = trial(latents, 4).cost(PlainStep(step))
        z = latents.to_dense().astype(np.float64)
        error = (z - np.floor(z / step + 0.5) * step) @ directions_of(4)
        assert cost.distortion == pytest.approx((error**2).sum() / latents.n_tokens, rel=1e-5)
        counts = SymbolCounts.of(quantise(latents, step))
        assert cost.rate == pytest.approx(Codebook.fit(counts).bits(counts).total, rel=1e-12)

    def test_errors_of_latents_that_point_alike_add_up(self):
        rng = np.random.default_rng(0)
        on = rng.random((2000, 1)) < 0.3
        z = np.where(on, rng.uniform(0.5, 0.9, (2000, 8)), 0).astype(np.float32)
        latents, step = SparseLatents.from_dense(z), 0.5
        apart = Trial(Runs.here(lambda: [latents]), np.eye(8, dtype=np.float32), FINEST)
        alike = Trial(Runs.here(lambda: [latents]), np.eye(8, dtype=np.float32)[[0] * 8], FINEST)
        dropped = Allocation(step, np.full(8, DROPPED, dtype=np.int32))
        squares = (z.astype(np.float64) ** 2).sum() / 2000
        together = (z.sum(axis=1, dtype=np.float64) ** 2).sum() / 2000
        assert apart.cost(dropped) == pytest.approx((squares, 0.0), rel=1e-5, abs=1e-9)
        assert alike.cost(dropped).distortion == pytest.approx(together, rel=1e-5)
        assert together > 7 * squares

    def test_the_first_tokens_are_the_sample(self):
        parts = [exponentials(seed, n_tokens=3000) for seed in (0, 1)]
        sample = Trial(Runs.here(lambda: parts), directions_of(0), FINEST).sample
        assert sample.n_tokens == 4096
        expected = np.vstack([parts[0].to_dense(), parts[1].to_dense()[:1096]])
        assert sample.to_dense().tolist() == expected.tolist()

    def test_slope_of_a_curve(self):
        falling = np.array([8.0, 6.0, 3.0])
        slope = curve_slope(np.array([1.0, 2.0, 8.0]), falling, step=10.0)
        assert slope == pytest.approx(math.sqrt(1 / 2 * 6 / 3))
        distortion, usual = np.array([1.0, 2.0, 1.5]), HIGH_RATE_SLOPE * 0.25
        assert curve_slope(distortion, falling, step=0.5) == usual
        assert curve_slope(np.array([1.0, 2.0, 8.0]), falling, step=0.5) == usual


def test_no_latents_at_all():
    nothing = SparseLatents.from_dense(np.zeros((5, 3), dtype=np.float32))
    for quantiser in (
        allocate(trial(nothing), 1.0),
        fit_rate_aware(trial(nothing), 1.0),
    ):
        symbols = quantiser.symbols(nothing)
        assert symbols.nnz == 0
        assert quantiser.values(symbols).nnz == 0


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return write_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def records(suite, sae):
    return {name: evaluate(str(sae), suite, quantiser=name) for name in MODES}


SAMPLED = 300


def fitted_on_runs(mode: str, *runs: SparseLatents) -> tuple[PricedRounding, Code]:
    """The quantiser at step 1, and the code of the calibration symbols that it decides."""
    calibration = Calibration(
        Runs.here(lambda: runs), lambda: directions_of(0), runs[0].n_latents, FINEST, None
    )
    machinery = MODES[mode].machinery
    quantiser = machinery.fit(calibration, 1.0)
    code = machinery.code.fit(calibration.runs.each(quantiser.symbols), calibration.n_latents)
    return quantiser, code


def one_latent(value: float, n_tokens: int = 50) -> SparseLatents:
    """Tokens whose first latent has this value, once."""
    dense = np.zeros((n_tokens, 6), dtype=np.float32)
    dense[7, 0] = value
    return SparseLatents.from_dense(dense)


@pytest.fixture
def short_sample(monkeypatch):
    monkeypatch.setattr(trial_module, "SAMPLE_TOKENS", SAMPLED)
    return exponentials(3, n_tokens=SAMPLED)


@pytest.mark.parametrize("mode", ["rdo", "rdo-tree"])
def test_negative_latents_that_come_after_the_sample(short_sample, mode):
    quantiser, code = fitted_on_runs(mode, short_sample, one_latent(-9.0))
    flat = getattr(quantiser.prices, "flat", quantiser.prices)
    # escape, 2⌊log₂9⌋ + 1 and a sign bit
    escape = flat.strength * flat.pooled.escape / (flat.counts.active[0] + flat.strength)
    query = np.array([0], dtype=np.int32), np.array([-9], dtype=np.int32)
    assert flat.magnitude_bits(*query)[0] == pytest.approx(-math.log2(escape) + 7 + 1)
    symbols = quantiser.symbols(one_latent(-9.0))
    assert symbols.symbol.tolist() == [-9]
    assert -9 in getattr(code.codebook, "flat", code.codebook).counts.symbol


@pytest.mark.parametrize("mode", ["rdo", "rdo-tree"])
def test_no_negative_latent_stays_on_where_no_calibration_token_keeps_one(short_sample, mode):
    quantiser, code = fitted_on_runs(mode, short_sample, one_latent(-0.51))
    assert quantiser.slope > 0
    assert not quantiser.negatives
    assert quantiser.symbols(one_latent(-9.0)).nnz == 0
    assert quantiser.symbols(one_latent(9.0)).symbol.tolist() == [9]
    data = bitstream.encode(
        quantiser.symbols(one_latent(-9.0)), code.codebook, step=1.0, metadata={}
    )
    assert bitstream.decode(data).symbols.nnz == 0


@pytest.mark.parametrize("mode", ["rdo", "rdo-tree"])
def test_a_negative_latent_that_calibration_never_showed_is_an_error(short_sample, mode):
    quantiser, _ = fitted_on_runs(mode, short_sample, one_latent(0.3))
    with pytest.raises(CoderError, match="no calibration token had a negative latent"):
        quantiser.symbols(one_latent(-9.0))


@pytest.mark.parametrize("name", MODES)
def test_real_bytes_are_the_rate_and_decode_to_the_values(records, suite, sae, name):
    audited = [point for point in records[name].points if point.bits.coded is not None]
    assert len(audited) == 1
    bits = audited[0].bits
    assert bits.coded == pytest.approx(bits.heldout, rel=0.005, abs=64 / 200)
    bench = Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS), name)
    with encoded(bench, NamedCoder(str(sae))) as run:
        data = encode_test_split(bench, run, audited[0].step)
        quantiser = run.sweep.quantiser_at(audited[0].step)
        whole = concatenate(
            [latents for part in run.sweep.runs("test").map(list) for latents in part]
        )
        expected = quantiser.values(quantiser.symbols(whole))
    decoded = bitstream.decode(data)
    assert decoded.metadata["quantiser"] == name
    assert decoded_values(decoded).value.tolist() == expected.value.tolist()
    assert (decoded.quantiser is None) == (name in PLAIN)


@pytest.mark.parametrize("name", MODES)
def test_records_say_their_mode(records, suite, name):
    record = records[name]
    assert {point.quantiser for point in record.points} == {name}
    own = name == suite.quantiser
    assert record.identity.quantiser == (None if own else name)
    assert record.label == (record.name if own else f"{record.name} [{name}]")
    assert ("quantiser" in json.loads(record.to_json())["identity"]) != own
    header = [point.header_bits for point in record.points]
    assert all(bits is None or bits > 0 for bits in header)
    if name in ("normalised", "uniform"):
        assert set(header) == {None}
    if name == "rdo":
        assert set(header) == {8.0 * N_CENTROIDS}


def test_the_generic_path_prices_as_the_one_count_does(suite, sae):
    bench = Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS))
    with encoded(bench, NamedCoder(str(sae))) as run:
        for position in (0, 40, 47):
            fast, alone = run.sweep.rates(position), run.sweep._priced_alone(position)
            for field in ("heldout", "adaptive", "enumerative", "bound", "l0"):
                assert getattr(alone, field) == pytest.approx(getattr(fast, field), rel=1e-12)
            assert alone.plugin == pytest.approx(fast.plugin, rel=1e-12)
            assert alone.document_bits == pytest.approx(fast.document_bits, rel=1e-12)
            assert alone.latent_bits == pytest.approx(fast.latent_bits, rel=1e-12)


def test_what_a_mode_sends_is_in_the_model_part(suite, sae, records):
    record = records["rdo"]
    step = next(point.step for point in record.points if point.bits.coded is not None)
    bench = Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS), "rdo")
    with encoded(bench, NamedCoder(str(sae))) as run:
        codebook = bitstream.sizes(encode_test_split(bench, run, step)).codebook_bytes
    assert record.coder.codebook_bits == 8 * codebook + 8 * N_CENTROIDS


@pytest.mark.parametrize("mode", ["per-feature", "rdo", "tree"])
def test_no_rate_is_worse_at_the_headline(records, mode):
    other, own = (records[name].at("mse", 0.004) for name in (mode, "normalised"))
    assert other.bits <= own.bits_ci[1]


def test_ids_of_committed_records_are_unchanged():
    found = [record for board in BOARDS for record in read_records(board)]
    assert len(found) > 20
    assert all(record.identity.id == record.id for record in found)


def test_a_quantiser_is_part_of_the_identity_only_where_there_is_one():
    plain, rdo = make_identity("sae"), make_identity("sae", quantiser="rdo")
    assert plain.id != rdo.id
    content = plain.model_dump(mode="json")
    del content["quantiser"]
    assert Identity(**content) == plain
    assert Identity(**content).id == plain.id


def test_labels_name_another_quantiser():
    assert make_record("sae").label == "sae"
    assert make_record("sae", quantiser="rdo").label == "sae [rdo]"


def test_unknown_modes_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="rdo"):
        mode_of("rdq")
    assert set(MODES) == {"normalised", "uniform", "per-feature", "rdo", "tree", "rdo-tree"}
    assert set(get_args(OwnQuantiser)) <= set(MODES)


def test_a_file_with_a_foreign_quantiser_is_refused():
    latents = exponentials(2)
    symbols = quantise(latents, 1.0)
    codebook = Codebook.fit(SymbolCounts.of(symbols))
    for quantiser, message in (
        (bitstream.QuantiserHeader(mode="nothing", columns={}), "no quantiser 'nothing'"),
        (
            bitstream.QuantiserHeader(mode="rdo", columns={"offset": [1, 2]}),
            "offsets of 4 centroids",
        ),
        (
            bitstream.QuantiserHeader(mode="per-feature", columns={"level": [0]}),
            "level for each of 6",
        ),
        (bitstream.QuantiserHeader(mode="normalised", columns={"x": [0]}), "plain step"),
    ):
        data = bitstream.encode(symbols, codebook, step=1.0, metadata={}, quantiser=quantiser)
        with pytest.raises(RecordError, match=message):
            decoded_values(bitstream.decode(data))


def test_a_plain_step_tells_a_file_nothing():
    assert described(MODES["normalised"], PlainStep(1.0)) is None
    told = described(MODES["rdo"], fit_rate_aware(trial(exponentials(0)), 1.0))
    assert told is not None
    assert list(told.columns) == ["offset"]


@given(
    dense=st.lists(st.lists(st.integers(-9, 9), min_size=3, max_size=3), min_size=1, max_size=12),
    cut=st.integers(0, 12),
)
@settings(max_examples=30)
def test_counts_of_runs_are_those_of_the_whole(dense, cut):
    symbol = np.array(dense, dtype=np.int32)

    def run(part: np.ndarray) -> Symbols:
        token, latent = (index.astype(np.int32) for index in np.nonzero(part))
        return Symbols(token, latent, part[token, latent], *part.shape)

    whole = SymbolCounts.of(run(symbol))
    parts = SymbolCounts.of_runs([run(symbol[:cut]), run(symbol[cut:])], 3)
    assert parts.count.tolist() == whole.count.tolist()
    assert parts.symbol.tolist() == whole.symbol.tolist()
    assert parts.n_tokens == whole.n_tokens
    assert run(symbol).active_per_token.tolist() == (symbol != 0).sum(axis=1).tolist()
