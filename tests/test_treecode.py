"""The tree code against a slow, dense, float64 version of its definition (maths §3)."""

from __future__ import annotations

from math import lgamma, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook, Rate, binary_entropy, fit_beta_prior
from mdlbench.codes.forest import Forest
from mdlbench.codes.runs import Runs
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import ContextCounts, TreeCodebook, plugin
from mdlbench.errors import CoderError
from tests.references import dense_latents, exp_golomb, forests, histogram, quantised, symbols_of

SEEDS = st.integers(0, 2**32 - 1)
Matrix = np.ndarray


def counted(dense: Matrix) -> SymbolCounts:
    return SymbolCounts.of(symbols_of(dense))


def gated(seed: int, n_tokens: int, parents: Matrix, leak: float = 0.0) -> Matrix:
    """Symbols of latents that fire where their parent does, and elsewhere at rate `leak`."""
    rng = np.random.default_rng(99)
    rate = np.where(parents < 0, rng.uniform(0.05, 0.4, len(parents)), rng.uniform(0.2, 0.7))
    rng = np.random.default_rng(seed)
    on = np.zeros((n_tokens, len(parents)), dtype=bool)
    for latents in Forest.from_parents(parents).levels:
        for i in latents:
            allowed = on[:, parents[i]] if parents[i] >= 0 else np.ones(n_tokens, dtype=bool)
            on[:, i] = rng.random(n_tokens) < np.where(allowed, rate[i], leak)
    return (on * rng.geometric(0.3, on.shape)).astype(np.int32)


def all_edges(calibration: Matrix, parents: Matrix) -> TreeCodebook:
    """The code of all edges, whether or not they pay."""
    forest = Forest.from_parents(parents)
    flat = Codebook.fit(counted(calibration))
    joint = forest.joint_counts([symbols_of(calibration)])
    tokens, active = ContextCounts.of(forest, flat.counts, joint)
    child = forest.is_child
    off, on = (fit_beta_prior(active[c, child], tokens[c, child]) for c in (0, 1))
    return TreeCodebook.build(flat, forest, joint, (off, on))


def fitted(calibration: Matrix, parents: Matrix | None = None) -> TreeCodebook:
    symbols = symbols_of(calibration)
    return TreeCodebook.fit(
        Codebook.fit(counted(calibration)), Runs.here(lambda: [symbols]), parents
    )


def direct_bits(book: TreeCodebook, calibration: Matrix, test: Matrix) -> Matrix:
    """Bits of each latent on each token, from the definition, at fitted hyperparameters."""
    pool = histogram(calibration[calibration != 0])
    seen, once = sum(pool.values()), sum(count == 1 for count in pool.values())
    escape = (once + 1) / (seen + once + 1)
    signed = not pool or min(pool) < 0
    s = book.flat.strength
    bits = np.zeros(test.shape)
    for i, parent in enumerate(book.forest.parents.tolist()):
        n = histogram(calibration[:, i][calibration[:, i] != 0])
        k = sum(n.values())
        for t, v in enumerate(test[:, i].tolist()):
            given_on = parent >= 0 and test[t, parent] != 0
            rows = np.ones(len(calibration), dtype=bool)
            if parent >= 0:
                rows = (calibration[:, parent] != 0) == given_on
            a, b = book.flat.prior if parent < 0 else book.priors[int(given_on)]
            on = (np.count_nonzero(calibration[rows, i]) + a) / (rows.sum() + a + b)
            bits[t, i] = -log2(on if v else 1 - on)
            if v in pool:
                bits[t, i] -= log2((n[v] + s * pool[v] / seen * (1 - escape)) / (k + s))
            elif v:
                bits[t, i] += exp_golomb(abs(v)) + signed - log2(s * escape / (k + s))
    return bits


@given(dense_latents(max_tokens=16), SEEDS, SEEDS)
@settings(max_examples=40)
def test_tokens_and_latents_cost_what_the_definition_says(z: Matrix, seed: int, draw: int) -> None:
    rng = np.random.default_rng(draw)
    calibration = quantised(z, 1.0).astype(np.int32)
    test = calibration[rng.integers(0, len(z), 9)] * (rng.random((9, z.shape[1])) < 0.8)
    if len(calibration) > 2 and calibration.min() < 0:
        test[0, 0] = -999
    name = np.random.default_rng(seed).permutation(z.shape[1])
    parents = np.full(z.shape[1], -1, dtype=np.int32)
    parents[name[1:]] = name[np.random.default_rng(seed).integers(0, np.arange(1, len(name)))]
    book = all_edges(calibration, parents)
    expected = direct_bits(book, calibration, test)
    document = np.repeat([0, 1, 3], 3)
    found = book.document_bits(symbols_of(test), document, 5)
    by_document = [expected[document == d].sum() for d in range(5)]
    np.testing.assert_allclose(found, by_document, rtol=1e-8, atol=1e-9)
    joint = book.forest.joint_counts([symbols_of(test)])
    of_latents = book.latent_bits(counted(test), joint)
    np.testing.assert_allclose(of_latents, expected.mean(axis=0), rtol=1e-8, atol=1e-9)
    rate = book.bits(counted(test), joint)
    assert rate.total == pytest.approx(expected.sum() / 9, rel=1e-9, abs=1e-9)
    assert rate.magnitude == book.flat.bits(counted(test)).magnitude


@given(forests(min_latents=1), SEEDS, st.sampled_from([0.0, 0.05, 0.5]), st.booleans())
@settings(max_examples=30)
def test_the_tree_code_never_costs_its_calibration_data_more(
    parents: Matrix, seed: int, leak: float, learned: bool
) -> None:
    """Header included: the parents of all latents, and the joint counts."""
    calibration = gated(seed, 300, parents, leak)
    book = fitted(calibration, None if learned else parents)
    counts = book.flat.counts
    flat = 300 * book.flat.bits(counts).total
    tree = 300 * book.bits(counts, book.joint).total
    assert tree + book.header_bits <= flat + 1e-9 * flat
    assert flat - tree == pytest.approx(book.saved_bits.sum(), abs=1e-6)
    if book.forest.n_edges == 0:
        assert (tree, book.header_bits) == (flat, 0.0)
    if not learned:
        kept = book.forest.is_child
        assert (book.forest.parents[kept] == parents[kept]).all()


@given(dense_latents(), SEEDS)
@settings(max_examples=20)
def test_arbitrary_parents_never_cost_more_either(z: Matrix, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = np.array([rng.integers(-1, i) if i else -1 for i in range(z.shape[1])])
    book = fitted(quantised(z, 1.0).astype(np.int32), parents)
    assert book.saved_bits.sum() >= book.header_bits


def test_a_forest_is_kept_where_it_pays_and_helps_other_tokens() -> None:
    parents = np.array([-1, 0, 0, 1, -1, 4, 5, -1])
    calibration, test = gated(1, 2000, parents), gated(2, 1000, parents)
    counts = counted(test)
    for book in (fitted(calibration, parents), fitted(calibration)):
        assert book.forest.n_edges == 5
        joint = book.forest.joint_counts([symbols_of(test)])
        assert book.bits(counts, joint).total < 0.9 * book.flat.bits(counts).total


def test_independent_latents_are_coded_as_by_the_flat_code() -> None:
    calibration = gated(3, 500, np.full(30, -1))
    book = fitted(calibration)
    assert book.forest.n_edges == 0
    assert book.bits(book.flat.counts, book.joint) == book.flat.bits(book.flat.counts)
    bad = fitted(calibration, np.arange(-1, 29))
    assert (bad.forest.n_edges, bad.header_bits) == (0, 0.0)


def test_a_strictly_gated_child_costs_next_to_nothing_while_its_parent_is_off() -> None:
    """The prior is fitted to contexts in which nothing ever fired; maths says nothing at all."""
    parents = np.append(np.full(10, -1), np.repeat(np.arange(10), 20))
    book = fitted(gated(4, 2000, parents), parents)
    assert book.forest.n_edges == 200
    a_token = np.zeros((1, 210))
    off = direct_bits(book, gated(4, 2000, parents), a_token)[0, 10:].sum()
    assert 0 < off < 1e-6
    alone = a_token.copy()
    alone[0, 50] = 1
    assert np.isfinite(book.document_bits(symbols_of(alone), np.array([0]), 1)).all()


def test_priors_of_contexts_are_the_maximum_of_their_marginal_likelihood() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(0, 500, 400)
    k = rng.binomial(n, rng.beta(0.8, 9.0, 400))

    def nats(a: float, b: float) -> float:
        constant = lgamma(a + b) - lgamma(a) - lgamma(b)
        return sum(
            lgamma(x + a) + lgamma(m - x + b) - lgamma(m + a + b) + constant
            for x, m in zip(k.tolist(), n.tolist(), strict=True)
        )

    prior = fit_beta_prior(k, n)
    for a in (0.97, 1.03):
        for b in (0.97, 1.03):
            assert nats(prior.a * a, prior.b * b) < nats(*prior)
    assert prior.a == pytest.approx(0.8, rel=0.2)
    assert prior.b == pytest.approx(9.0, rel=0.25)
    assert fit_beta_prior(k, np.full(400, 500)) == fit_beta_prior(k, 500)


@given(forests(min_latents=1), SEEDS)
@settings(max_examples=20)
def test_plugin_is_the_conditional_entropy_of_the_supports(parents: Matrix, seed: int) -> None:
    dense = gated(seed, 200, parents, 0.1)
    forest = Forest.from_parents(parents)
    on = dense != 0
    expected = 0.0
    for i, parent in enumerate(parents.tolist()):
        above = on[:, parent] if parent >= 0 else np.zeros(200, dtype=bool)
        for context in (above, ~above):
            if context.any():
                share = on[context, i].mean()
                expected += context.mean() * float(binary_entropy(np.array([share]))[0])
    counts = counted(dense)
    rate = plugin(counts, forest, forest.joint_counts([symbols_of(dense)]))
    assert rate.support == pytest.approx(expected, abs=1e-9)
    assert rate.magnitude == codelength.plugin(counts).magnitude
    book = all_edges(dense, parents)
    assert book.bits(counts, book.joint).support >= rate.support - 1e-9


@pytest.mark.parametrize(
    ("p", "share", "flat", "tree"),
    [
        (0.1, 0.5, 0.572794, 0.568996),
        (0.3, 0.5, 1.219681, 1.181291),
        (0.5, 0.5, 1.622556, 1.5),
    ],
)
def test_hierarchy(p: float, share: float, flat: float, tree: float) -> None:
    """Maths §9: a bird is an animal. Flat: one latent for birds, one for all other animals."""
    n = 2000
    animals, birds = round(n * p), round(n * p * share)
    token = np.arange(n)
    others = (token >= birds) & (token < animals)
    split = np.stack([token < birds, others], axis=1)
    nested = np.stack([token < birds, token < animals], axis=1)
    assert codelength.plugin(counted(split)).total == pytest.approx(flat, abs=1e-6)
    forest = Forest.from_parents(np.array([1, -1]))
    joint = forest.joint_counts([symbols_of(nested)])
    assert plugin(counted(nested), forest, joint) == pytest.approx(Rate(tree, 0.0), abs=1e-6)


def test_counts_of_other_tokens_are_refused() -> None:
    forest = Forest.from_parents(np.array([-1, 0]))
    counts = counted(np.array([[1, 1], [0, 0]]))
    with pytest.raises(CoderError, match="come from different tokens"):
        plugin(counts, forest, np.array([0, 2]))
    with pytest.raises(CoderError, match="forest of 2 latents does not fit counts of 3"):
        plugin(counted(np.ones((2, 3))), forest, np.array([0, 1]))
    with pytest.raises(CoderError, match="come from different tokens"):
        TreeCodebook.fit(
            Codebook.fit(counts), Runs.here(lambda: [symbols_of(np.ones((5, 2)))]), forest.parents
        )


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (3, 0), (3, 2)])
def test_nothing_to_code(shape: tuple[int, int]) -> None:
    book = fitted(np.zeros(shape))
    symbols = symbols_of(np.zeros(shape))
    assert book.document_bits(symbols, np.zeros(shape[0], dtype=np.int64), 2).shape == (2,)
    assert np.isfinite(book.bits(counted(np.zeros(shape)), book.joint).total)


def test_parts_of_a_split_add_up() -> None:
    parents = np.array([-1, 0, 0, 1])
    book, test = fitted(gated(5, 900, parents), parents), gated(6, 60, parents)
    document = np.arange(60) // 7
    whole = book.document_bits(symbols_of(test), document, 9)
    parts = sum(
        book.document_bits(symbols_of(test[a:b]), document[a:b], 9) for a, b in ((0, 25), (25, 60))
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
