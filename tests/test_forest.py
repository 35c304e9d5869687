"""Forests of latents: what is one, what is counted along its edges, which one is learned."""

from __future__ import annotations

import itertools
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes import forest as forest_module
from mdlbench.codes.forest import Forest, joint_count_bits, learn_forest
from mdlbench.codes.runs import Runs
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import CoderError
from tests.references import entropy, forests, symbols_of


def depth_of(parents: list[int], latent: int) -> int:
    return 0 if parents[latent] < 0 else 1 + depth_of(parents, parents[latent])


def random_supports(seed: int, n_tokens: int, n_latents: int) -> np.ndarray:
    """Chains of latents that copy each other on part of the tokens."""
    rng = np.random.default_rng(seed)
    on = rng.random((n_tokens, n_latents)) < rng.uniform(0.02, 0.6, n_latents)
    for latent in range(1, n_latents):
        copied = rng.random(n_tokens) < rng.choice([0.0, 0.3, 0.8])
        on[copied, latent] = on[copied, rng.integers(latent)]
    return on.astype(np.int32)


@given(forests())
def test_levels_count_the_edges_to_the_root(parents: np.ndarray) -> None:
    forest = Forest.from_parents(parents)
    depth = [depth_of(parents.tolist(), latent) for latent in range(len(parents))]
    assert forest.level.tolist() == depth
    assert [set(level.tolist()) for level in forest.levels] == [
        {i for i, d in enumerate(depth) if d == level} for level in range(max(depth, default=0) + 1)
    ]
    assert forest.n_edges == sum(d > 0 for d in depth)


@given(forests(min_latents=2), st.data())
def test_a_cycle_anywhere_is_refused(parents: np.ndarray, data: st.DataObject) -> None:
    cycle = data.draw(st.permutations(range(len(parents))))[: data.draw(st.integers(1, 4))]
    parents[cycle] = np.roll(cycle, 1)
    with pytest.raises(CoderError, match="own parent" if len(cycle) == 1 else "themselves"):
        Forest.from_parents(parents)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([0], "latent 0 is its own parent"),
        ([1, 0], "latents descend from themselves: [01] → [10] → [01]$"),
        ([-1, 2, 1, 1], "[12] → [21]"),
        ([*range(1, 20), 0], "→ …$"),
        ([-1, 2], "latent 1 has parent 2; parents are from 0 to 1, or -1 for a root"),
        ([-2, 0], "latent 0 has parent -2"),
        ([0.5, -1.0], "one integer for each latent"),
        ([[-1, 0]], "one integer for each latent"),
    ],
)
def test_what_is_no_forest_is_named(parents: list[int], message: str) -> None:
    with pytest.raises(CoderError, match=message):
        Forest.from_parents(np.array(parents))


def test_a_long_chain_is_a_forest() -> None:
    assert Forest.from_parents(np.arange(-1, 99_999)).level.tolist() == list(range(100_000))


def test_no_latents_are_a_forest() -> None:
    forest = Forest.from_parents(np.zeros(0, dtype=int))
    assert [level.tolist() for level in forest.levels] == [[]]
    assert forest.header_bits == 0.0


def test_header_names_each_latents_parent() -> None:
    assert Forest.from_parents(np.array([-1, 0, 0])).header_bits == 3 * log2(4)
    assert Forest.of_roots(3).header_bits == 0.0


@given(forests(), st.integers(0, 30), st.integers(0, 99), st.data())
@settings(max_examples=60)
def test_joint_counts_are_those_of_the_parts_in_any_order(
    parents: np.ndarray, n_tokens: int, seed: int, data: st.DataObject
) -> None:
    on = np.random.default_rng(seed).integers(0, 2, (n_tokens, len(parents)))
    forest = Forest.from_parents(parents)
    cuts = sorted(data.draw(st.lists(st.integers(0, n_tokens), max_size=3)))
    parts = [symbols_of(on[a:b]) for a, b in itertools.pairwise([0, *cuts, n_tokens])]
    direct = [0 if p < 0 else int((on[:, c] & on[:, p]).sum()) for c, p in enumerate(parents)]
    assert forest.joint_counts(data.draw(st.permutations(parts))).tolist() == direct


def test_symbols_of_another_dictionary_are_refused() -> None:
    with pytest.raises(CoderError, match="forest of 2 latents does not fit symbols of 3"):
        Forest.of_roots(2).joint_counts([symbols_of(np.ones((1, 3)))])


def test_a_joint_count_costs_a_choice_among_those_that_are_possible() -> None:
    forest = Forest.from_parents(np.array([-1, 0, 0, 0]))
    bits = joint_count_bits(forest, np.array([7, 3, 0, 9]), 10)
    assert bits.tolist() == [0.0, log2(4), 0.0, log2(2)]


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Bits over all tokens."""
    return len(one) * (entropy(one) + entropy(other) - entropy(2 * one + other))


def greatest_spanning_gain(gains: dict[tuple[int, int], float], n_latents: int) -> float:
    """Kruskal."""
    tree = list(range(n_latents))
    total = 0.0
    for (a, b), gain in sorted(gains.items(), key=lambda item: -item[1]):
        if tree[a] != tree[b]:
            total += gain
            tree = [tree[b] if t == tree[a] else t for t in tree]
    return total


@pytest.mark.parametrize("dense", [0, 2], ids=["by a product", "pair by pair"])
@pytest.mark.parametrize("cells", [1, 20, 2**20])
@pytest.mark.parametrize("seed", range(4))
def test_the_learned_forest_spans_the_pairs_that_pay(
    dense: int, cells: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the greatest mutual information, however many pairs are counted at once, and how."""
    monkeypatch.setattr(forest_module, "TABLE_CELLS", cells)
    monkeypatch.setattr(forest_module, "DENSE", dense)
    on = random_supports(seed, 400, 12)
    active = on.sum(axis=0)
    gains = {}
    for a, b in itertools.combinations(range(12), 2):
        choices = min(active[a], active[b]) - max(active[a] + active[b] - 400, 0) + 1
        gain = mutual_information(on[:, a], on[:, b])
        if gain > log2(13) + log2(choices):
            gains[a, b] = gain
    parts = [symbols_of(on[:150]), symbols_of(on[150:])]
    forest, joint = learn_forest(Runs.here(lambda: parts), SymbolCounts.of(symbols_of(on)))
    assert joint.tolist() == forest.joint_counts(parts).tolist()
    edges = [(c, int(p)) for c, p in enumerate(forest.parents) if p >= 0]
    found = sum(gains[min(edge), max(edge)] for edge in edges)
    assert found == pytest.approx(greatest_spanning_gain(gains, 12), rel=1e-9)
    assert 3 < len(edges) < 12
    for child, parent in edges:
        root = child
        while forest.parents[root] >= 0:
            root = forest.parents[root]
        assert active[root] >= max(active[child], active[parent])


def test_independent_latents_are_left_alone() -> None:
    """The best of 19,900 pairs by chance does not pay for its edge."""
    on = (np.random.default_rng(0).random((3000, 200)) < 0.1).astype(np.int32)
    symbols = symbols_of(on)
    assert learn_forest(Runs.here(lambda: [symbols]), SymbolCounts.of(symbols)).forest.n_edges == 0


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (5, 0), (4, 2)])
def test_nothing_to_learn_from(shape: tuple[int, int]) -> None:
    symbols = symbols_of(np.zeros(shape))
    forest = learn_forest(Runs.here(lambda: [symbols]), SymbolCounts.of(symbols)).forest
    assert forest.n_edges == 0
    assert len(forest.parents) == shape[1]
