"""The tree code against a slow, dense, float64 version of its definition (maths §3)."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from math import lgamma, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.codes import codelength, tree
from mdlbench.codes.codelength import Codebook, Rate, binary_entropy, fit_beta_prior
from mdlbench.codes.contexts import (
    MAX_WAVES,
    MERGED,
    N_CONTEXTS,
    PARENT_OFF,
    PARENT_ON,
    Contexts,
    Rule,
    n_waves,
)
from mdlbench.codes.forest import Forest, joint_count_bits
from mdlbench.codes.grades import (
    KIND_BITS,
    STATES,
    GradedMagnitudes,
    Grades,
    Kind,
    count_cells,
)
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import Met, TreeCodebook, plugin
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


def exclusive(seed: int, n_tokens: int, parents: Matrix) -> Matrix:
    """Symbols of a forest in which exactly one child fires where its parent does."""
    rng = np.random.default_rng(seed)
    on = np.zeros((n_tokens, len(parents)), dtype=bool)
    on[:, parents < 0] = rng.random((n_tokens, (parents < 0).sum())) < 0.4
    for latents in Forest.from_parents(parents).levels[1:]:
        for parent in np.unique(parents[latents]):
            children = latents[parents[latents] == parent]
            which = children[rng.integers(len(children), size=n_tokens)]
            on[np.arange(n_tokens), which] |= on[:, parent]
    return on.astype(np.int32)


def correlated(seed: int, n_tokens: int, parents: Matrix) -> Matrix:
    """Symbols of latents whose odds all rise and fall together from token to token."""
    rng = np.random.default_rng(seed)
    level = rng.standard_normal((n_tokens, 1)) * 2
    own = np.random.default_rng(98).uniform(-3, 0, len(parents))
    on = rng.random((n_tokens, len(parents))) < 1 / (1 + np.exp(-level - own))
    return on * rng.geometric(0.5, on.shape).astype(np.int32)


def swelling(seed: int, n_tokens: int, parents: Matrix) -> Matrix:
    """Symbols of a forest whose children are about as large as their parents are."""
    rng = np.random.default_rng(seed)
    dense = gated(seed, n_tokens, parents, 0.1)
    for latents in Forest.from_parents(parents).levels[1:]:
        for i in latents:
            above = dense[:, parents[i]]
            alike = dense[:, i].clip(0, 1) * (above + rng.integers(0, 2, n_tokens))
            dense[:, i] = np.where(above != 0, alike, dense[:, i])
    return dense


WORLDS = {
    "swelling": swelling,
    "exclusive": exclusive,
    "correlated": correlated,
    "gated": gated,
    "leaking": lambda seed, n, parents: gated(seed, n, parents, 0.2),
    "independent": lambda seed, n, parents: gated(seed, n, np.full(len(parents), -1)),
}


def all_edges(calibration: Matrix, parents: Matrix, rule: int = Rule.PARENT) -> TreeCodebook:
    """The code of all edges, whether or not they pay, all families under one rule."""
    flat = Codebook.fit(counted(calibration))
    contexts = Contexts.of(Forest.from_parents(parents), flat.counts.active)
    contexts = contexts.ruled(np.minimum(contexts.widest, rule))
    return TreeCodebook.of_contexts(flat, contexts, contexts.firings([symbols_of(calibration)]))


def graded(book: TreeCodebook, calibration: Matrix, kinds: Sequence[int]) -> TreeCodebook:
    """The same code of supports; edges are of these kinds in turn, whether or not they pay."""
    forest, grades, symbols = book.forest, Grades.of(book.flat), symbols_of(calibration)
    kind = np.where(forest.is_child, np.resize(kinds, len(forest.parents)), int(Kind.NOTHING))
    placed = grades.cells(symbols, forest.parent_at(symbols))
    cells = count_cells(symbols.latent, placed, symbols.n_latents)
    strengths = np.array([1.0, 2.0, 0.3, 7.0])
    return replace(book, magnitudes=GradedMagnitudes.build(grades, kind, cells, strengths))


def without_grades(calibration: Matrix, parents: Matrix | None) -> float:
    """Bits that a tree code with the magnitudes of the flat one saves, header included."""
    flat, symbols = Codebook.fit(counted(calibration)), symbols_of(calibration)
    runs = Runs.here(lambda: [symbols])
    whole = TreeCodebook._of_all_edges(flat, runs, parents)
    saved = [0.0]
    for book in (whole.pruned(), whole):
        widest = book.contexts.ruled(book.contexts.widest)
        told = book.with_siblings(widest, widest.firings([symbols]))
        saved += [book.gained_bits, told.gained_bits]
    return max(saved)


def parents_alone(calibration: Matrix, parents: Matrix) -> TreeCodebook:
    """The tree code that knows of no siblings: its edges that pay, if together they do."""
    flat, forest = Codebook.fit(counted(calibration)), Forest.from_parents(parents)
    joint = forest.joint_counts([symbols_of(calibration)])
    book = TreeCodebook.of_forest(flat, forest, joint).pruned()
    return book if book.gained_bits > 0 else TreeCodebook.without_edges(flat)


def direct_contexts(book: TreeCodebook, dense: Matrix) -> Matrix:
    """The context of every latent on every token, on or off, by the definition."""
    parents, active = book.forest.parents, book.flat.counts.active
    on, found = dense != 0, np.zeros(dense.shape, dtype=np.int64)
    for i, parent in enumerate(parents.tolist()):
        if parent >= 0:
            before = [
                j
                for j in np.flatnonzero(parents == parent).tolist()
                if (-active[j], j) < (-active[i], i)
            ]
            finest = 3 * on[:, parent] + np.minimum(on[:, before].sum(axis=1), 2)
            found[:, i] = MERGED[book.contexts.rule[i], finest]
    return found


def fitted(calibration: Matrix, parents: Matrix | None = None) -> TreeCodebook:
    symbols = symbols_of(calibration)
    return TreeCodebook.fit(
        Codebook.fit(counted(calibration)), Runs.here(lambda: [symbols]), parents
    )


def direct_grade(book: TreeCodebook, calibration: Matrix, i: int, v: int) -> int:
    """In which quarter of the latent's own nonzeros a symbol is; no symbol is in two."""
    sizes = np.abs(calibration[:, i])
    k = np.count_nonzero(sizes)
    limits = [
        min(
            {0, *sizes.tolist()},
            key=lambda u: (abs(4 * ((sizes > 0) & (sizes <= u)).sum() - j * k), u),
        )
        for j in (1, 2, 3)
    ]
    return sum(abs(v) > limit for limit in limits)


def direct_state(book: TreeCodebook, calibration: Matrix, row: Matrix, i: int) -> int:
    """What is told apart of the parent's symbol."""
    parent = int(book.forest.parents[i])
    v = int(row[parent]) if parent >= 0 else 0
    finest = 1 + direct_grade(book, calibration, parent, v) if v else 0
    assert book.magnitudes is not None
    return int(STATES[book.magnitudes.kind[i], finest])


def direct_saved(
    book: TreeCodebook, calibration: Matrix, row: Matrix, i: int, q: dict[int, float]
) -> float:
    """log₂ P/Q of a nonzero's grade in its parent's state; q is the flat code of its symbols."""
    magnitudes = book.magnitudes
    if magnitudes is None or magnitudes.kind[i] == Kind.NOTHING or row[i] not in q:
        return 0.0
    s, state = magnitudes.strengths[magnitudes.kind[i]], direct_state(book, calibration, row, i)
    grade = direct_grade(book, calibration, i, int(row[i]))
    share = sum(q[v] for v in q if direct_grade(book, calibration, i, v) == grade) / sum(q.values())
    met = [
        direct_grade(book, calibration, i, int(other[i])) == grade
        for other in calibration[calibration[:, i] != 0]
        if direct_state(book, calibration, other, i) == state
    ]
    return log2((sum(met) + s * share) / (len(met) + s) / share)


def direct_bits(book: TreeCodebook, calibration: Matrix, test: Matrix) -> Matrix:
    """Bits of each latent on each token, from the definition, at fitted hyperparameters."""
    pool = histogram(calibration[calibration != 0])
    seen, once = sum(pool.values()), sum(count == 1 for count in pool.values())
    escape = (once + 1) / (seen + once + 1)
    signed = not pool or min(pool) < 0
    s = book.flat.strength
    fitted_in, met_in = direct_contexts(book, calibration), direct_contexts(book, test)
    bits = np.zeros(test.shape)
    for i, parent in enumerate(book.forest.parents.tolist()):
        n = histogram(calibration[:, i][calibration[:, i] != 0])
        k = sum(n.values())
        for t, v in enumerate(test[:, i].tolist()):
            rows = fitted_in[:, i] == met_in[t, i]
            a, b = book.priors[book.contexts.rule[i], met_in[t, i]]
            a, b = book.flat.prior if parent < 0 else (a, b)
            on = (np.count_nonzero(calibration[rows, i]) + a) / (rows.sum() + a + b)
            bits[t, i] = -log2(on if v else 1 - on)
            if v in pool:
                q = {u: (n[u] + s * pool[u] / seen * (1 - escape)) / (k + s) for u in pool}
                bits[t, i] -= log2(q[v]) + direct_saved(book, calibration, test[t], i, q)
            elif v:
                bits[t, i] += exp_golomb(abs(v)) + signed - log2(s * escape / (k + s))
    return bits


@given(
    dense_latents(max_tokens=16),
    SEEDS,
    SEEDS,
    st.sampled_from(Rule),
    st.permutations(Kind),
    st.integers(1, 9),
)
@settings(max_examples=60)
def test_tokens_and_latents_cost_what_the_definition_says(
    z: Matrix, seed: int, draw: int, rule: int, kinds: list[int], reach: int
) -> None:
    rng = np.random.default_rng(draw)
    calibration = quantised(z, 1.0).astype(np.int32)
    test = calibration[rng.integers(0, len(z), 9)] * (rng.random((9, z.shape[1])) < 0.8)
    if len(calibration) > 2 and calibration.min() < 0:
        test[0, 0] = -999
    name = np.random.default_rng(seed).permutation(z.shape[1])
    parents = np.full(z.shape[1], -1, dtype=np.int32)
    limit = np.minimum(np.arange(1, len(name)), reach)
    parents[name[1:]] = name[np.random.default_rng(seed).integers(0, limit)]
    book = graded(all_edges(calibration, parents, rule), calibration, kinds)
    expected = direct_bits(book, calibration, test)
    document = np.repeat([0, 1, 3], 3)
    found = book.document_bits(symbols_of(test), document, 5)
    by_document = [expected[document == d].sum() for d in range(5)]
    np.testing.assert_allclose(found, by_document, rtol=1e-8, atol=1e-9)
    met = book.met([symbols_of(test)])
    of_latents = book.latent_bits(counted(test), met)
    np.testing.assert_allclose(of_latents, expected.mean(axis=0), rtol=1e-8, atol=1e-9)
    rate = book.bits(counted(test), met)
    assert rate.total == pytest.approx(expected.sum() / 9, rel=1e-9, abs=1e-9)
    ungraded = replace(book, magnitudes=None)
    assert rate.support == ungraded.bits(counted(test), met).support
    assert ungraded.bits(counted(test), met).magnitude == book.flat.bits(counted(test)).magnitude


@given(forests(min_latents=1), SEEDS, st.sampled_from(sorted(WORLDS)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_tree_code_never_costs_its_calibration_data_more(
    parents: Matrix, seed: int, world: str, learned: bool
) -> None:
    """Header included, than the flat code, or any tree code that tells less."""
    calibration = WORLDS[world](seed, 300, parents)
    book = fitted(calibration, None if learned else parents)
    counts = book.flat.counts
    flat = 300 * book.flat.bits(counts).total
    tree = 300 * book.bits(counts, book.own).total
    assert tree + book.header_bits <= flat + 1e-9 * flat
    assert flat - tree == pytest.approx(book.saved_bits.sum(), abs=1e-6)
    if book.forest.n_edges == 0:
        assert (tree, book.header_bits) == (flat, 0.0)
    plain = without_grades(calibration, None if learned else parents)
    assert tree + book.header_bits <= flat - plain + 1e-9 * flat
    if not learned:
        kept = book.forest.is_child
        assert (book.forest.parents[kept] == parents[kept]).all()
        alone = parents_alone(calibration, parents)
        older = 300 * alone.bits(counts, alone.own).total + alone.header_bits
        assert tree + book.header_bits <= older + 1e-9 * flat


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
        assert (
            book.bits(counts, book.met([symbols_of(test)])).total
            < 0.9 * book.flat.bits(counts).total
        )


def test_independent_latents_are_coded_as_by_the_flat_code() -> None:
    calibration = gated(3, 500, np.full(30, -1))
    book = fitted(calibration)
    assert book.forest.n_edges == 0
    assert book.bits(book.flat.counts, book.own) == book.flat.bits(book.flat.counts)
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
    contexts = Contexts.of(forest, counts.active)
    rate = plugin(contexts, counts, contexts.firings([symbols_of(dense)]))
    assert rate.support == pytest.approx(expected, abs=1e-9)
    assert rate.magnitude == codelength.plugin(counts).magnitude
    book = all_edges(dense, parents)
    assert book.bits(counts, book.own).support >= rate.support - 1e-9


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
    contexts = Contexts.of(Forest.from_parents(np.array([1, -1])), counted(nested).active)
    rate = plugin(contexts, counted(nested), contexts.firings([symbols_of(nested)]))
    assert rate == pytest.approx(Rate(tree, 0.0), abs=1e-6)


def test_counts_of_other_tokens_are_refused() -> None:
    forest = Forest.from_parents(np.array([-1, 0]))
    counts = counted(np.array([[1, 1], [0, 0]]))
    contexts = Contexts.of(forest, counts.active)
    with pytest.raises(CoderError, match="come from different tokens"):
        plugin(contexts, counts, contexts.firings([symbols_of(np.ones((2, 2)))]))
    with pytest.raises(CoderError, match="forest of 2 latents does not fit counts of 3"):
        plugin(contexts, counted(np.ones((2, 3))), np.zeros((N_CONTEXTS, 2), dtype=np.int64))
    with pytest.raises(CoderError, match="forest of 2 latents does not fit counts of 3"):
        Contexts.of(forest, np.ones(3, dtype=np.int64))
    with pytest.raises(CoderError, match="come from different tokens"):
        TreeCodebook.fit(
            Codebook.fit(counts), Runs.here(lambda: [symbols_of(np.ones((5, 2)))]), forest.parents
        )


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (3, 0), (3, 2)])
def test_nothing_to_code(shape: tuple[int, int]) -> None:
    book = fitted(np.zeros(shape))
    symbols = symbols_of(np.zeros(shape))
    assert book.document_bits(symbols, np.zeros(shape[0], dtype=np.int64), 2).shape == (2,)
    assert np.isfinite(book.bits(counted(np.zeros(shape)), book.own).total)


def test_parts_of_a_split_add_up() -> None:
    parents = np.array([-1, 0, 0, 1])
    book, test = fitted(gated(5, 900, parents), parents), gated(6, 60, parents)
    document = np.arange(60) // 7
    whole = book.document_bits(symbols_of(test), document, 9)
    parts = sum(
        book.document_bits(symbols_of(test[a:b]), document[a:b], 9) for a, b in ((0, 25), (25, 60))
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_exclusive_children_cost_the_logarithm_of_their_number() -> None:
    """Maths §3: not the sum of their entropies, which the tree code by parents alone costs."""
    n_children, n = 16, 20_000
    parents = np.append(-1, np.zeros(n_children, dtype=np.int64))
    calibration, test = exclusive(7, n, parents), exclusive(8, n, parents)
    counts, book = counted(test), fitted(calibration, parents)
    share = counts.active[0] / n
    root = float(binary_entropy(np.array([share]))[0])
    found = book.bits(counts, book.met([symbols_of(test)]))
    assert found.support == pytest.approx(root + share * log2(n_children), rel=0.002)
    alone = parents_alone(calibration, parents)
    older = alone.bits(counts, alone.met([symbols_of(test)])).support
    each = float(binary_entropy(np.array([1 / n_children]))[0])
    assert older == pytest.approx(root + share * n_children * each, rel=0.002)
    assert book.header_bits < n_children * 30
    assert set(book.contexts.rule[1:].tolist()) == {Rule.ANY}


def test_exclusive_trees_say_so_by_a_latent_above_them() -> None:
    """One that is always on: by parents alone, its edges save nothing."""
    n, parents = 8000, np.append(-1, np.zeros(8, dtype=np.int64))
    dense = exclusive(11, n, parents)
    dense[:, 0] = 1
    dense[np.arange(n), 1 + np.random.default_rng(12).integers(8, size=n)] = 1
    dense[:, 1:] *= np.cumsum(dense[:, 1:], axis=1) == 1
    assert parents_alone(dense, parents).forest.n_edges == 0
    book = fitted(dense, parents)
    share = dense[:, 1:].mean(axis=0)
    assert (dense[:, 1:].sum(axis=1) == 1).all()
    entropy = float(-(share * np.log2(share)).sum())
    assert book.bits(counted(dense), book.own).support == pytest.approx(entropy, abs=0.01)


def test_siblings_that_rise_and_fall_together_are_counted() -> None:
    parents = np.append(-1, np.zeros(12, dtype=np.int64))
    calibration, test = correlated(9, 4000, parents), correlated(10, 2000, parents)
    counts, book = counted(test), fitted(calibration, parents)
    assert set(book.contexts.rule[1:].tolist()) == {Rule.EITHER}
    alone = parents_alone(calibration, parents)
    older = alone.bits(counts, alone.met([symbols_of(test)])).support
    assert book.bits(counts, book.met([symbols_of(test)])).support < 0.93 * older


@given(forests(), st.sampled_from(Rule), SEEDS, st.data())
@settings(max_examples=40)
def test_firings_by_context_are_those_of_the_parts_and_tell_the_tokens(
    parents: Matrix, rule: int, seed: int, data: st.DataObject
) -> None:
    dense = correlated(seed, data.draw(st.integers(0, 30)), parents)
    book = all_edges(dense, parents, rule)
    cut = data.draw(st.integers(0, len(dense)))
    parts = [symbols_of(dense[cut:]), symbols_of(dense[:cut])]
    firings = book.contexts.firings(parts)
    tokens, active = book.contexts.counts(counted(dense), firings)
    met = direct_contexts(book, dense)
    for context in range(N_CONTEXTS):
        assert tokens[context].tolist() == (met == context).sum(axis=0).tolist()
        assert active[context].tolist() == ((met == context) & (dense != 0)).sum(axis=0).tolist()
    assert firings.tolist() == sum(book.contexts.firings([part]) for part in parts).tolist()


def test_magnitudes_that_follow_their_parents() -> None:
    """A child that takes its parent's symbol, of four alike, costs two bits less by quarters."""
    n, parents = 6000, np.array([-1, 0, -1])

    def draw(seed: int) -> Matrix:
        rng = np.random.default_rng(seed)
        root = rng.integers(1, 5, n) * (rng.random(n) < 0.5)
        apart = rng.integers(1, 5, n) * (rng.random(n) < 0.5)
        return np.stack([root, root * (rng.random(n) < 0.5), apart], axis=1).astype(np.int32)

    book, test = fitted(draw(1), parents), draw(2)
    assert book.magnitudes is not None
    assert book.magnitudes.kind.tolist() == [Kind.NOTHING, Kind.QUARTERS, Kind.NOTHING]
    counts, met = counted(test), book.met([symbols_of(test)])
    roots = 2 * (counts.active[0] + counts.active[2]) / n
    assert book.bits(counts, met).magnitude == pytest.approx(roots, abs=0.01)
    assert book.plugin(counts, met).magnitude == pytest.approx(roots, abs=0.01)
    flat = plugin(book.contexts, counts, met.firings).magnitude
    assert flat - book.plugin(counts, met).magnitude == pytest.approx(
        2 * counts.active[1] / n, abs=0.005
    )


def test_counts_of_grades_cost_a_choice_among_those_that_are_possible() -> None:
    """The child's firings with the parent on are known; then, grade by grade, how many were."""
    parents = np.array([-1, 0])
    dense = np.zeros((40, 2), dtype=np.int32)
    dense[:16, 0] = np.repeat([1, 2, 3, 4], 4)
    dense[:12, 1] = np.repeat([1, 2, 3], 4)
    dense[20:24, 1] = 4
    plain = all_edges(dense, parents)
    bits = [graded(plain, dense, [kind]).magnitudes.choice_bits.tolist() for kind in Kind]
    # 12 of the child's 16 nonzeros, 4 of each grade, had the parent on: of the first four 0 to 4,
    # then, 8 being left of 12, again, and 4 of 8; the last are told by their sum
    on = 3 * log2(5)
    assert bits[Kind.NOTHING] == bits[Kind.ON][:1] * 2 == [0.0, 0.0]
    assert bits[Kind.ON][1] == pytest.approx(on)
    assert bits[Kind.HALVES][1] == pytest.approx(on + 3 * log2(5))
    # of the first quarter, four; of what is left, two grades of four have any, then one
    assert bits[Kind.QUARTERS][1] == pytest.approx(on + (3 + 2 + 1) * log2(5))
    book = graded(plain, dense, [Kind.ON])
    assert book.header_bits == pytest.approx(plain.header_bits + KIND_BITS + on)


def test_what_is_met_in_parts_adds_up() -> None:
    parents = np.array([-1, 0, 0, 1])
    dense = swelling(3, 90, parents)
    book = graded(all_edges(dense, parents), dense, [Kind.QUARTERS])
    parts = [symbols_of(dense[40:]), symbols_of(dense[:40])]
    whole = book.met([symbols_of(dense)])
    for met in (book.met(parts), Met.sum(book.met([part]) for part in parts)):
        assert met.cells.tolist() == whole.cells.tolist()
        assert met.cells[:, 1:].tolist() == book.own.cells[:, 1:].tolist()
        assert met.firings.tolist() == whole.firings.tolist()


def test_counts_of_siblings_cost_a_choice_among_those_that_are_possible() -> None:
    """Each child fires 10 times: k_pc is known, then how many met an earlier sibling."""
    dense = np.zeros((40, 3), dtype=np.int32)
    dense[:20, 0], dense[:12, 1], dense[8:18, 2] = 1, 1, 1
    parents = np.array([-1, 0, 0])
    book = all_edges(dense, parents, Rule.ANY)
    # the second child fires on 4 of the 12 tokens where the first does, and on 6 of the other 8:
    # of its 10 firings, 0 to 8 may have been without the first
    assert book.choice_bits.tolist() == [0.0, 0.0, log2(9)]
    joint = joint_count_bits(book.forest, book.flat.counts.active, 40)
    assert book.header_bits == pytest.approx(3 * log2(4) + joint.sum() + 2 + log2(9))


def test_a_family_as_large_as_the_dictionary() -> None:
    """Time and memory follow nonzeros; what a file would take too long to read goes by parents."""
    n_latents, n_tokens = 60_000, 2000
    rng = np.random.default_rng(0)
    latent = np.sort(rng.integers(1, n_latents, (n_tokens, 8)), axis=1)
    dense_rows = [np.unique(np.append(0, row)) for row in latent]
    token = np.repeat(np.arange(n_tokens), [len(row) for row in dense_rows])
    latents = np.concatenate(dense_rows).astype(np.int32)
    symbols = Symbols(token.astype(np.int32), latents, np.ones_like(latents), n_tokens, n_latents)
    parents = np.append(-1, np.zeros(n_latents - 1, dtype=np.int32))
    contexts = Contexts.of(Forest.from_parents(parents), SymbolCounts.of(symbols).active)
    assert not contexts.widest.any()
    either = contexts.ruled(np.where(parents < 0, int(Rule.PARENT), int(Rule.EITHER)))
    firings = either.firings([symbols])
    told = firings[PARENT_ON:, 1:].sum(axis=1)
    assert told.tolist() == [n_tokens, n_tokens, len(latents) - 3 * n_tokens]
    assert firings[PARENT_OFF].sum() == n_tokens
    assert either.counts(SymbolCounts.of(symbols), firings).tokens[:, 1:].sum(axis=0).max() == 2000
    smaller = Contexts.of(
        Forest.from_parents(parents[: MAX_WAVES // 2]), np.ones(MAX_WAVES // 2, dtype=np.int64)
    )
    assert n_waves(smaller.ruled(smaller.widest)) == MAX_WAVES // 2


def graded_pair() -> tuple[np.ndarray, np.ndarray]:
    """A parent and a child as large as it, as symbols and as parents."""
    rng = np.random.default_rng(0)
    size = np.where(rng.random(4000) < 0.5, rng.integers(1, 40, 4000), 0)
    return np.stack([size, size], axis=1), np.array([-1, 0])


def test_too_many_latents_have_no_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, parents = graded_pair()
    runs = Runs.here(lambda: [symbols_of(symbols)])
    flat = Codebook.fit(counted(symbols))
    assert TreeCodebook.fit(flat, runs, parents).magnitudes is not None
    monkeypatch.setattr(tree, "MOST_LATENTS", 1)
    alone = TreeCodebook.fit(flat, runs, parents)
    assert alone.magnitudes is None
    assert alone.forest.parents.tolist() == [-1, 0]


def test_memory_does_not_grow_with_runs() -> None:
    symbols, parents = graded_pair()
    wide = np.concatenate([symbols, np.zeros((len(symbols), 2000), dtype=np.int64)], axis=1)
    run = symbols_of(wide)
    book = TreeCodebook.fit(
        Codebook.fit(counted(wide)), Runs.here(lambda: [run]), np.append(parents, [-1] * 2000)
    )
    peaks = []
    for n in (2, 40):
        tracemalloc.start()
        met = book.met(run for _ in range(n))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert met.cells.sum() == n * book.met([run]).cells.sum()
    assert peaks[1] < 1.2 * peaks[0]
