"""What is found in parts of a split is what is found in the whole, bit for bit."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import FlatCode, TreeCode
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import quantise
from mdlbench.codes.tally import Tally
from mdlbench.quantisers.per_feature import measure_choices
from mdlbench.quantisers.trial import Trial
from mdlbench.statistics.pairwise import pairwise_sum, partial_sums

N_LATENTS, STEP = 6, 0.25


def drawn_runs(seed: int, lengths: list[int]) -> list[SparseLatents]:
    draw = np.random.default_rng(seed)
    runs = []
    for n_tokens in lengths:
        z = draw.exponential(size=(n_tokens, N_LATENTS)) * (
            draw.random((n_tokens, N_LATENTS)) < 0.4
        )
        z[:, 1] *= z[:, 0] > 0
        runs.append(SparseLatents.from_dense(z.astype(np.float32)))
    return runs


def parted(runs: list, cuts: list[int]) -> Runs:
    """The runs in parts that begin at the cuts; measurements travel as to another process."""
    ends = sorted({0, *(cut % (len(runs) + 1) for cut in cuts), len(runs)})

    def measured(measure):
        return [
            pickle.loads(pickle.dumps(measure))(Part(start, runs[start:stop]))
            for start, stop in itertools.pairwise(ends)
        ]

    return Runs(measured)


def same(one: object, other: object) -> bool:
    return pickle.dumps(one) == pickle.dumps(other)


splits = given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.lists(st.integers(0, 100), max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e9, 1e9, width=64), max_size=40), st.lists(st.integers(0, 40), max_size=5)
)
def test_a_pairwise_sum_does_not_depend_on_the_parts(terms, cuts):
    ends = sorted({0, *(min(cut, len(terms)) for cut in cuts), len(terms)})
    whole = pairwise_sum([partial_sums(0, terms)], 0.0)
    parts = [partial_sums(a, terms[a:b]) for a, b in itertools.pairwise(ends)]
    assert pairwise_sum(parts, 0.0) == whole
    assert whole == pytest.approx(np.sum(terms), rel=1e-12, abs=1e-6)


def test_a_pairwise_sum_adds_neighbours_first():
    terms = [1.0, 1e-16, 1e-16, 1e-16, 1.0]
    assert pairwise_sum([partial_sums(0, terms)], 0.0) == ((1.0 + 1e-16) + (1e-16 + 1e-16)) + 1.0


@settings(max_examples=15, deadline=None)
@splits
def test_counts_and_prices_of_parts_are_those_of_the_whole(seed, lengths, cuts):
    runs = drawn_runs(seed, lengths)
    whole, parts = Runs.here(lambda: runs), parted(runs, cuts)
    assert same(Tally.of_runs(parts, STEP, 4, N_LATENTS), Tally.of_runs(whole, STEP, 4, N_LATENTS))
    first = itertools.accumulate([0, *lengths])
    numbered = [
        (quantise(run, STEP), np.arange(start, start + run.n_tokens, dtype=np.int64))
        for run, start in zip(runs, first, strict=False)
    ]
    for kind in (FlatCode, TreeCode):
        found = [
            kind.fit(each, N_LATENTS).rates(priced, sum(lengths))
            for each, priced in (
                (Runs.here(lambda: [s for s, _ in numbered]), Runs.here(lambda: numbered)),
                (parted([s for s, _ in numbered], cuts), parted(numbered, cuts)),
            )
        ]
        assert same(found[0], found[1])


@settings(max_examples=15, deadline=None)
@splits
def test_what_modes_are_fitted_on_is_that_of_the_whole(seed, lengths, cuts):
    runs = drawn_runs(seed, lengths)
    whole, parts = Runs.here(lambda: runs), parted(runs, cuts)
    one, other = (
        measure_choices(each, N_LATENTS, 1.0, STEP, range(-2, 3)) for each in (whole, parts)
    )
    assert np.array_equal(one.distortion, other.distortion)
    assert np.array_equal(one.rate, other.rate)
    directions = np.eye(N_LATENTS, dtype=np.float32)
    samples = [Trial(each, directions, STEP).sample for each in (whole, parts)]
    assert same(*samples)


def test_changed_runs_are_those_of_the_change():
    runs = Runs.here(lambda: [1, 2, 3]).each(float).each(str)
    assert runs.map(lambda part: (part.start, list(part))) == [(0, ["1.0", "2.0", "3.0"])]
