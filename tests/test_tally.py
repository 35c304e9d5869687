"""Counts against a dense recount; merges in any order and grouping."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.codes import tally
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import quantise
from mdlbench.codes.tally import SymbolCounts, Tally
from mdlbench.errors import CoderError, UsageError
from tests.references import dense_latents, histogram, quantised, sparse

OCTAVES = 5
FINEST = 0.25


def as_dict(counts: SymbolCounts) -> dict[tuple[int, int], int]:
    triples = zip(counts.latent, counts.symbol, counts.count, strict=True)
    return {(int(i), int(v)): int(n) for i, v, n in triples}


def recount(z: np.ndarray, step: float) -> dict[tuple[int, int], int]:
    return {
        (i, symbol): count
        for i, column in enumerate(quantised(z, step).T)
        for symbol, count in histogram(column).items()
        if symbol != 0
    }


def assert_same_tally(a: Tally, b: Tally) -> None:
    assert (a.n_tokens, a.n_latents) == (b.n_tokens, b.n_latents)
    np.testing.assert_array_equal(a.latent, b.latent)
    np.testing.assert_array_equal(a.half_step, b.half_step)
    np.testing.assert_array_equal(a.occurrences, b.occurrences)
    np.testing.assert_array_equal(a.active_histogram, b.active_histogram)


def random_latents(seed: int, n_tokens: int, n_latents: int, signed: bool) -> SparseLatents:
    """Heavy-tailed values, so that some lie outside the dense table."""
    rng = np.random.default_rng(seed)
    z = rng.gamma(1.0, 2.0, (n_tokens, n_latents)) * (rng.random((n_tokens, n_latents)) < 0.3)
    z[rng.random(z.shape) < 0.002] = 1e4
    z *= rng.choice([-1, 1], z.shape) if signed else 1
    return SparseLatents.from_dense(z.astype(np.float32))


@given(dense_latents(), st.integers(0, OCTAVES - 1))
def test_every_octave_counts_what_direct_quantisation_gives(z: np.ndarray, octave: int) -> None:
    counts = Tally.count(sparse(z), FINEST, OCTAVES).at(octave)
    step = FINEST * 2**octave
    assert as_dict(counts) == recount(z, step)
    assert as_dict(counts) == as_dict(SymbolCounts.of(quantise(sparse(z), step)))
    assert counts.active.tolist() == (quantised(z, step) != 0).sum(axis=0).tolist()
    assert counts.l0 == pytest.approx((quantised(z, step) != 0).sum() / len(z))


@given(dense_latents(), st.integers(0, OCTAVES - 1))
def test_histogram_of_active_latents_per_token(z: np.ndarray, octave: int) -> None:
    found = Tally.count(sparse(z), FINEST, OCTAVES).active_per_token(octave)
    active = (quantised(z, FINEST * 2**octave) != 0).sum(axis=1)
    expected = np.bincount(active, minlength=len(found))
    assert found.tolist() == expected.tolist()
    assert found.sum() == len(z)


@given(dense_latents())
def test_pairs_are_distinct_sorted_and_never_zero(z: np.ndarray) -> None:
    counts = Tally.count(sparse(z), FINEST, OCTAVES).at(1)
    pairs = list(zip(counts.latent.tolist(), counts.symbol.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert (counts.symbol != 0).all()
    assert (counts.count > 0).all()


@given(dense_latents(), st.data())
def test_merging_parts_in_any_order_and_grouping_counts_the_whole(
    z: np.ndarray, data: st.DataObject
) -> None:
    latents = sparse(z)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(z)), max_size=4)))
    edges = [0, *cuts, len(z)]
    parts = [latents.rows(a, b) for a, b in pairwise(edges)]
    tallies = [Tally.count(part, FINEST, OCTAVES) for part in parts]
    tallies = list(data.draw(st.permutations(tallies)))
    while len(tallies) > 1:
        at = data.draw(st.integers(0, len(tallies) - 2))
        tallies[at : at + 2] = [tallies[at] + tallies[at + 1]]
    whole = Tally.count(latents, FINEST, OCTAVES)
    assert_same_tally(tallies[0], whole)
    assert_same_tally(Tally.count_blocks(parts, FINEST, OCTAVES, z.shape[1]), whole)
    assert_same_tally(whole + Tally.empty(z.shape[1], OCTAVES), whole)


@given(dense_latents(), dense_latents())
def test_symbol_counts_merge_like_concatenated_tokens(a: np.ndarray, b: np.ndarray) -> None:
    width = min(a.shape[1], b.shape[1])
    a, b = a[:, :width], b[:, :width]
    counts = [SymbolCounts.of(quantise(sparse(z), 1.0)) for z in (a, b)]
    merged = counts[0] + counts[1]
    assert as_dict(merged) == recount(np.concatenate([a, b]), 1.0)
    assert merged.n_tokens == len(a) + len(b)


@given(dense_latents(), st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(z: np.ndarray, random) -> None:
    order = list(range(len(z)))
    random.shuffle(order)
    assert_same_tally(
        Tally.count(sparse(z), FINEST, OCTAVES), Tally.count(sparse(z[order]), FINEST, OCTAVES)
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("fold_at", [1000, 10**9])
@pytest.mark.parametrize(("cells", "cells_per_pair"), [(1, 1), (400, 1), (2**24, 8)])
def test_a_dense_table_and_sorting_count_the_same(
    signed: bool, fold_at: int, cells: int, cells_per_pair: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = random_latents(0, n_tokens=3000, n_latents=40, signed=signed)
    monkeypatch.setattr(tally, "FOLD_AT", fold_at)
    monkeypatch.setattr(tally, "BLOCK_TOKENS", 512)
    monkeypatch.setattr(tally, "DENSE_CELLS", cells)
    monkeypatch.setattr(tally, "CELLS_PER_PAIR", cells_per_pair)
    counted = Tally.count(latents, FINEST, OCTAVES)
    by_row = sum(
        (Tally.count(latents.rows(t, t + 100), FINEST, OCTAVES) for t in range(0, 3000, 100)),
        start=Tally.empty(40, OCTAVES),
    )
    assert_same_tally(counted, by_row)
    assert as_dict(counted.at(0)) == recount(latents.to_dense(), FINEST)
    assert as_dict(counted.at(2)) == recount(latents.to_dense(), FINEST * 4)


def test_memory_is_of_distinct_pairs_not_of_tokens() -> None:
    latents = random_latents(1, n_tokens=400, n_latents=8, signed=False)
    once = Tally.count(latents, 1.0, 3)
    many = Tally.count_blocks([latents] * 20, 1.0, 3, 8)
    assert len(many.occurrences) == len(once.occurrences)
    np.testing.assert_array_equal(many.occurrences, 20 * once.occurrences)
    assert many.active_histogram.shape == once.active_histogram.shape


def test_pooled_symbols_and_lookup() -> None:
    z = np.array([[1, 0], [1, -3], [2, 1]], dtype=np.float32)
    counts = SymbolCounts.of(quantise(sparse(z), 1.0))
    assert counts.pooled.alphabet.tolist() == [-3, 1, 2]
    assert counts.pooled.total.tolist() == [1, 3, 1]
    assert counts.pooled.alphabet[counts.pooled.position].tolist() == counts.symbol.tolist()
    asked = np.array([0, 0, 0, 1, 1, 1], dtype=np.int32), np.array([1, 2, 9, -3, 1, 2], np.int32)
    assert counts.lookup(*asked).tolist() == [2, 1, 0, 1, 1, 0]


def test_far_apart_symbols_are_pooled_too() -> None:
    z = np.array([[1, 0], [1e8, 1]], dtype=np.float32)
    counts = SymbolCounts.of(quantise(sparse(z), 1.0))
    assert counts.pooled.alphabet.tolist() == [1, 10**8]
    assert counts.pooled.total.tolist() == [2, 1]


def test_tallies_of_different_dictionaries_do_not_merge() -> None:
    with pytest.raises(CoderError, match="latents differ"):
        Tally.empty(3, 2) + Tally.empty(4, 2)
    with pytest.raises(CoderError, match="octaves differ"):
        Tally.empty(3, 2) + Tally.empty(3, 3)
    with pytest.raises(CoderError, match="latents differ"):
        Tally.count_blocks([random_latents(0, 5, 4, False)], 1.0, 2, 5)


@pytest.mark.parametrize("octaves", [0, -1, 17])
def test_octaves_out_of_range(octaves: int) -> None:
    with pytest.raises(UsageError, match="octaves"):
        Tally.empty(3, octaves)


def test_no_tokens_no_latents() -> None:
    counts = Tally.empty(0, 3).at(2)
    assert (counts.n_tokens, counts.n_latents, len(counts.count)) == (0, 0, 0)
    assert counts.active.tolist() == []


def test_values_that_all_round_to_zero_count_as_tokens_alone() -> None:
    faint = SparseLatents.from_dense(np.full((700_000, 1), 0.1, dtype=np.float32))
    tally = Tally.count(faint, finest=1.0, octaves=2)
    assert tally.n_tokens == 700_000
    assert len(tally.at(0).count) == 0
    assert tally.active_per_token(1).tolist() == [700_000]
