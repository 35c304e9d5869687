"""Code lengths from symbol counts (maths §3). Bits per token unless a name says otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64
from scipy.optimize import minimize, minimize_scalar
from scipy.special import betaln, digamma, gammaln
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import Symbols, half_steps, symbol_at
from mdlbench.codes.tally import SymbolCounts, Tally
from mdlbench.errors import CoderError

PARAMETER_BITS = 32
"""Bits of one hyperparameter in the header of the adaptive code."""

BLOCK_NONZEROS = 2**16
TABLE_CELLS = 2**23
"""A codebook's latent × symbol price table has at most this many cells."""

_LOG2 = math.log(2.0)
_PRIOR_BOUNDS = (math.log(1e-4), math.log(1e7))
STRENGTH_BOUNDS = (math.log(1e-3), math.log(1e7))
"""Within which the logarithm of a strength is sought."""


class Rate(NamedTuple):
    """Bits per token of two parts: which latents are on, and the values of those."""

    support: float
    magnitude: float

    @property
    def total(self) -> float:
        return self.support + self.magnitude


def binary_entropy(p: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """H₂(p) in bits, 0 at p = 0 and p = 1."""
    entropy: Float64[np.ndarray, "*shape"] = -(xlog2x(p) + xlog2x(1.0 - p))
    return entropy


def plugin(counts: SymbolCounts) -> Rate:
    """Entropy of the counts themselves: Σ H₂(k_i/N) + (k_i/N)·H(v given on) (maths §3)."""
    if counts.n_tokens == 0:
        return Rate(0.0, 0.0)
    active, latents = _distinct(counts.active)
    times, pairs = _distinct(counts.count)
    support = _dot(latents, binary_entropy(active / counts.n_tokens))
    magnitude = _dot(latents, xlog2x(active)) - _dot(pairs, xlog2x(times))
    return Rate(support, max(magnitude / counts.n_tokens, 0.0))


def exp_golomb_bits(x: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
    """2⌊log₂x⌋ + 1 bits for a positive integer."""
    _, exponent = np.frexp(x)
    bits: Int64[np.ndarray, "*shape"] = 2 * (exponent.astype(np.int64) - 1) + 1
    return bits


class BetaPrior(NamedTuple):
    """Beta(a, b), shared by the firing probabilities of all latents."""

    a: float
    b: float


def fit_beta_prior(
    active: Int64[np.ndarray, " latent"], n_tokens: int | Int64[np.ndarray, " latent"]
) -> BetaPrior:
    """(a, b) of greatest Beta-binomial marginal likelihood (maths §3).

    Each latent fires on `active` of `n_tokens` tokens, of its own or of all. Sums run over the
    distinct pairs only. Where the likelihood has no maximum (all latents dead, or all alike), a and
    b stop at 1e-4 or 1e7.
    """
    if len(active) == 0 or not np.any(n_tokens):
        return BetaPrior(0.5, 0.5)
    each = np.broadcast_to(n_tokens, active.shape)
    trials, latents = np.unique(each, return_counts=True)
    row = np.searchsorted(trials, each)
    stride = int(active.max()) + 1
    pairs, members = np.unique(row * stride + active, return_counts=True)
    n, k = (side.astype(np.float64) for side in (trials[pairs // stride], pairs % stride))
    weight = members / len(active)
    share = latents / len(active)

    def loss(log_ab: Float64[np.ndarray, " 2"]) -> tuple[float, Float64[np.ndarray, " 2"]]:
        a, b = np.exp(log_ab)
        value = _dot(weight, betaln(k + a, n - k + b) - betaln(a, b))
        shared = digamma(a + b) - _dot(share, digamma(trials + a + b))
        da = a * (_dot(weight, digamma(k + a)) - digamma(a) + shared)
        db = b * (_dot(weight, digamma(n - k + b)) - digamma(b) + shared)
        return -value, -np.array([da, db])

    rate = float(np.clip(_dot(weight, k) / _dot(trials, share), 1e-6, 1 - 1e-6))
    start = np.log([0.5, 0.5 * (1 - rate) / rate])
    found = minimize(loss, start, jac=True, method="TNC", bounds=[_PRIOR_BOUNDS] * 2)
    a, b = np.exp(found.x)
    return BetaPrior(float(a), float(b))


@dataclass(frozen=True, eq=False)
class PooledMagnitudes:
    """g(v): how nonzero symbols are distributed over all latents together, escape included.

    The escape stands for every symbol that calibration never showed. Its probability is the
    Good-Turing estimate that the next nonzero is such a one, (t₁ + 1) / (M + t₁ + 1), with t₁ the
    symbols seen exactly once among M nonzeros; those seen share the rest in proportion.

    Attributes:
        alphabet: distinct symbols seen, increasing.
        probability: g of each, in (0, 1).
        escape: g of the escape; 1 when no symbol was seen.
        signed: whether negative symbols can be coded; costs a bit in the escape's tail.
    """

    alphabet: Int32[np.ndarray, " value"]
    probability: Float64[np.ndarray, " value"]
    escape: float
    signed: bool

    @classmethod
    def fit(cls, counts: SymbolCounts) -> PooledMagnitudes:
        alphabet, total, _ = counts.pooled
        seen = int(total.sum())
        novelty = int((total == 1).sum()) + 1
        return cls(
            alphabet=alphabet,
            probability=total / (seen + novelty),
            escape=novelty / (seen + novelty),
            signed=len(alphabet) == 0 or bool(alphabet[0] < 0),
        )

    def __post_init__(self) -> None:
        if len(self.alphabet) != len(self.probability):
            raise CoderError("codebook: alphabet and probabilities differ in length")

    def of(self, symbol: Int32[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """g of each symbol, 0 for those never seen."""
        return _found(self.alphabet, self.probability, symbol)

    def tail_bits(self, symbol: Int32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Exp-Golomb bits of an escaped symbol, and its sign where there are signs.

        Raises:
            CoderError: a negative symbol, and calibration showed positive ones only.
        """
        if not self.signed and len(symbol) and symbol.min() < 0:
            raise CoderError(
                f"cannot code symbol {symbol.min()}: no calibration token had a negative latent; "
                "calibrate on data like that which is scored"
            )
        return exp_golomb_bits(np.abs(symbol).astype(np.int64)) + int(self.signed)


class MagnitudeLikelihood:
    """Dirichlet-multinomial marginal likelihood of the magnitudes, with base s·g (maths §3).

    log Π_i Γ(s)/Γ(k_i+s) Π_v Γ(n_i(v)+s·g(v))/Γ(s·g(v)), as a function of s. Latents, and symbols,
    with equal counts are summed once. `pooled` is g of each distinct symbol, increasing.
    """

    def __init__(self, counts: SymbolCounts, pooled: Float64[np.ndarray, " value"]) -> None:
        active, self._latents = _distinct(counts.active[counts.active > 0])
        self._active = active.astype(np.float64)
        self._pooled = pooled
        stride = int(counts.count.max(initial=0)) + 1
        group, pairs = _distinct(counts.pooled.position * np.int64(stride) + counts.count)
        value, count = np.divmod(group, stride)
        self._once = np.bincount(value[count == 1], pairs[count == 1], minlength=len(pooled))
        many = count > 1
        self._value, self._count, self._pairs = value[many], count[many], pairs[many]
        self._repeated = np.bincount(self._value, self._pairs, minlength=len(pooled))

    def nats(self, s: float) -> float:
        """The logarithm of the likelihood at concentration s."""
        base = s * self._pooled
        latents = _dot(self._latents, math.lgamma(s) - gammaln(self._active + s))
        once = _dot(self._once, np.log(base))
        many = _dot(self._pairs, gammaln(self._count + base[self._value]))
        return latents + once + many - _dot(self._repeated, gammaln(base))

    def best_strength(self) -> float:
        """s of greatest likelihood, between 1e-3 and 1e7; 1 where nothing is on."""
        if len(self._active) == 0:
            return 1.0
        found = minimize_scalar(
            lambda log_s: -self.nats(math.exp(log_s)),
            bounds=STRENGTH_BOUNDS,
            method="bounded",
            options={"xatol": 1e-3},
        )
        return math.exp(found.x)


@dataclass(frozen=True, eq=False)
class Codebook:
    """The frozen code of `heldout`, fitted on calibration tokens (maths §3).

    Latent i is on with π_i = (k_i + a)/(N + a + b); an active latent shows symbol v with
    q_i(v) = (n_i(v) + s·g(v))/(k_i + s), or an escape with s·g(escape)/(k_i + s) that an Exp-Golomb
    code of |v| follows. All of it follows from `counts`, `prior` and `strength` by arithmetic.

    Attributes:
        counts: symbol counts of the calibration tokens.
        prior: (a, b).
        strength: s.
        pooled: g.
        firing_probability: π_i, in (0, 1).
    """

    counts: SymbolCounts
    prior: BetaPrior
    strength: float
    pooled: PooledMagnitudes
    firing_probability: Float64[np.ndarray, " latent"]

    @classmethod
    def fit(cls, counts: SymbolCounts) -> Codebook:
        """The codebook of greatest marginal likelihood; deterministic."""
        pooled = PooledMagnitudes.fit(counts)
        prior = fit_beta_prior(counts.active, counts.n_tokens)
        strength = MagnitudeLikelihood(counts, pooled.probability).best_strength()
        return cls.build(counts, prior, strength)

    @classmethod
    def build(cls, counts: SymbolCounts, prior: BetaPrior, strength: float) -> Codebook:
        """The codebook of given hyperparameters, as a decoder rebuilds it."""
        firing = (counts.active + prior.a) / (counts.n_tokens + prior.a + prior.b)
        return cls(counts, prior, strength, PooledMagnitudes.fit(counts), firing)

    def with_signs(self) -> Codebook:
        """The same code, but that a symbol which calibration never showed may be negative."""
        return replace(self, pooled=replace(self.pooled, signed=True))

    @cached_property
    def off_latent_bits(self) -> Float64[np.ndarray, " latent"]:
        """−log₂ q_i(0) of each latent."""
        bits: Float64[np.ndarray, " latent"] = np.log1p(-self.firing_probability) / -_LOG2
        return bits

    @cached_property
    def on_latent_bits(self) -> Float64[np.ndarray, " latent"]:
        """−log₂ π_i of each latent."""
        bits: Float64[np.ndarray, " latent"] = -np.log2(self.firing_probability)
        return bits

    @cached_property
    def off_bits(self) -> float:
        """B₀ = −Σ_i log₂ q_i(0), the bits of a token with nothing on."""
        return float(self.off_latent_bits.sum())

    def magnitude_distribution(
        self, latent: int
    ) -> tuple[Int32[np.ndarray, " value"], Float64[np.ndarray, " value_and_escape"]]:
        """The alphabet, and q_i of each of its symbols and, last, of the escape; sums to 1."""
        alphabet = self.pooled.alphabet
        k, s = int(self.counts.active[latent]), self.strength
        n = self.counts.lookup(np.full(len(alphabet), latent, dtype=np.int32), alphabet)
        base = np.append(self.pooled.probability, self.pooled.escape)
        return alphabet, (np.append(n, 0) + s * base) / (k + s)

    def magnitude_bits(
        self, latent: Int32[np.ndarray, " n"], symbol: Int32[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """−log₂ q_i(v | on), escape and tail included, for nonzero symbols.

        Raises:
            CoderError: a negative symbol, and calibration showed positive ones only.
        """
        n = self.counts.lookup(latent, symbol)
        seen = n + self.strength * self.pooled.of(symbol)
        mass_bits = -np.log2(seen, where=n > 0, out=np.zeros(len(n)))
        mass_bits[n == 0] = self._unseen_bits(symbol[n == 0])
        bits: Float64[np.ndarray, " n"] = self._total_bits[latent] + mass_bits
        return bits

    def excess_bits(
        self, latent: Int32[np.ndarray, " n"], symbol: Int32[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """w = log₂ q_i(0) − log₂ q_i(v), what a symbol adds to B₀; 0 for zero.

        Raises:
            CoderError: a negative symbol, and calibration showed positive ones only.
        """
        table = self._table
        rare = np.flatnonzero(~table.holds(symbol))
        if len(rare) == 0:
            return table.excess_bits(latent, symbol)
        rare_latent, rare_symbol = latent[rare], symbol[rare]
        usual_symbol = symbol.copy()
        usual_symbol[rare] = 0
        bits = table.excess_bits(latent, usual_symbol)
        bits[rare] = self._switch_bits[rare_latent]
        bits[rare] += self.magnitude_bits(rare_latent, rare_symbol)
        return bits

    @cached_property
    def _switch_bits(self) -> Float64[np.ndarray, " latent"]:
        """What turning a latent on costs: log₂ q_i(0) − log₂ π_i."""
        bits: Float64[np.ndarray, " latent"] = self.on_latent_bits - self.off_latent_bits
        return bits

    @cached_property
    def _total_bits(self) -> Float64[np.ndarray, " latent"]:
        """log₂(k_i + s), the denominator of q_i(v | on)."""
        bits: Float64[np.ndarray, " latent"] = np.log2(self.counts.active + self.strength)
        return bits

    def _unseen_bits(self, symbol: Int32[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """−log₂ s·g(v), or −log₂ s·g(escape) and the tail: the numerator where n_i(v) = 0."""
        base = self.pooled.of(symbol)
        novel = base == 0
        bits = -np.log2(self.strength * np.where(novel, self.pooled.escape, base))
        bits[novel] += self.pooled.tail_bits(symbol[novel])
        return bits

    @cached_property
    def _table(self) -> _PriceTable:
        return _PriceTable.of(self)

    def bits(self, counts: SymbolCounts) -> Rate:
        """`heldout`: the rate of other tokens' counts under this codebook (maths §3)."""
        if counts.n_latents != self.counts.n_latents:
            raise CoderError(
                f"a codebook of {self.counts.n_latents} latents cannot code {counts.n_latents}"
            )
        n, k = counts.n_tokens, counts.active
        if n == 0:
            return Rate(0.0, 0.0)
        switch = _dot(k, self._switch_bits)
        excess = sum(
            _dot(counts.count[block], self.excess_bits(counts.latent[block], counts.symbol[block]))
            for block in _blocks(len(counts.count))
        )
        return Rate(self.off_bits + switch / n, (excess - switch) / n)

    def latent_bits(self, counts: SymbolCounts) -> Float64[np.ndarray, " latent"]:
        """Bits per token of each latent; they add up to `bits` (additivity, maths §1)."""
        excess = counts.count * self.excess_bits(counts.latent, counts.symbol)
        spent = np.bincount(counts.latent, weights=excess, minlength=counts.n_latents)
        return self.off_latent_bits + spent / max(counts.n_tokens, 1)

    def document_bits(
        self, symbols: Symbols, document: Int64[np.ndarray, " token"], n_documents: int
    ) -> Float64[np.ndarray, " document"]:
        """`heldout` bits of each document; `document` numbers the document of each token."""
        excess = self.excess_bits(symbols.latent, symbols.symbol)
        owner = document[symbols.token]
        spent = np.bincount(owner, weights=excess, minlength=n_documents)
        return np.asarray(np.bincount(document, minlength=n_documents) * self.off_bits + spent)


@dataclass(frozen=True, eq=False)
class _PriceTable:
    """Excess bits of every latent's usual symbols, so that a nonzero costs one gather.

    Attributes:
        bits: row by row of latents, for symbols `low` to `high`; 0 for symbol 0.
    """

    bits: Float64[np.ndarray, " cell"]
    low: int
    high: int

    @classmethod
    def of(cls, codebook: Codebook) -> _PriceTable:
        counts = codebook.counts
        reach = _usual_reach(counts, codebook.pooled.signed)
        low = -reach if codebook.pooled.signed else 0
        symbol = np.arange(low, reach + 1, dtype=np.int32)
        unseen = codebook._unseen_bits(np.where(symbol == 0, np.int32(1), symbol))
        latent_bits = codebook._switch_bits + codebook._total_bits
        bits = latent_bits[:, None] + unseen
        bits[:, -low] = 0.0
        table = cls(bits.reshape(-1), low, reach)
        base = codebook.strength * codebook.pooled.probability
        seen = latent_bits[counts.latent] - np.log2(counts.count + base[counts.pooled.position])
        usual = table.holds(counts.symbol)
        cell = table._cell(counts.latent, counts.symbol)
        table.bits[cell[usual]] = seen[usual]
        return table

    def holds(self, symbol: Int32[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        held: Bool[np.ndarray, " n"] = symbol <= self.high
        if self.low < 0 or (len(symbol) and symbol.min() < 0):
            held &= symbol >= self.low
        return held

    def excess_bits(
        self, latent: Int32[np.ndarray, " n"], symbol: Int32[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        return self.bits.take(self._cell(latent, symbol))

    def _cell(
        self, latent: Int32[np.ndarray, " n"], symbol: Int32[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        cell = latent.astype(np.int64)
        cell *= self.high - self.low + 1
        cell += symbol
        cell -= self.low
        return cell


def _usual_reach(counts: SymbolCounts, signed: bool) -> int:
    """5/4 of the |symbol| that all but a thousandth stay within, as far as the table may grow."""
    limit = (TABLE_CELLS // max(counts.n_latents, 1) - 1) // (2 if signed else 1)
    alphabet, total, _ = counts.pooled
    order = np.argsort(np.abs(alphabet))
    magnitude = np.abs(alphabet[order])
    within = np.cumsum(total[order]) <= 0.999 * total.sum()
    wanted = min(5 * int(magnitude[within].max(initial=1)) // 4, int(magnitude.max(initial=1)))
    return max(min(wanted, limit), 1)


def fit_codebooks(tally: Tally) -> list[Codebook]:
    """The codebook of every octave, fitted on several threads."""
    with _threads() as threads:
        return list(threads.map(lambda j: Codebook.fit(tally.at(j)), range(tally.octaves)))


def document_bits(
    latents: SparseLatents,
    finest: float,
    codebooks: Sequence[Codebook],
    document: Int64[np.ndarray, " token"],
    n_documents: int,
) -> Float64[np.ndarray, "document octave"]:
    """`heldout` bits of each document at step finest · 2^j under the j-th codebook (maths §3).

    `latents` are already scaled for the quantiser; `document` numbers the document of each token.
    Documents without a token here cost 0, so that the parts of a split add up.
    """
    tokens = np.bincount(document, minlength=n_documents)
    off_bits = np.array([codebook.off_bits for codebook in codebooks])
    bits: Float64[np.ndarray, "document octave"] = np.outer(tokens, off_bits)

    def excess(block: slice) -> tuple[Int64[np.ndarray, " run"], Float64[np.ndarray, "run octave"]]:
        owner = document[latents.token[block]]
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        latent, c = latents.latent[block], half_steps(latents.value[block], finest)
        sums = np.empty((len(first), len(codebooks)))
        for octave, codebook in enumerate(codebooks):
            symbol = symbol_at(c, octave)
            sums[:, octave] = np.add.reduceat(codebook.excess_bits(latent, symbol), first)
        return owner[first], sums

    with _threads() as threads:
        list(threads.map(lambda codebook: codebook._table, codebooks))
        for owner, sums in threads.map(excess, _blocks(latents.nnz)):
            np.add.at(bits, owner, sums)
    return bits


def adaptive(counts: SymbolCounts) -> float:
    """Beta-binomial × Dirichlet-multinomial code, which needs no codebook (maths §3).

    The closed form of coding each latent token by token with counts kept by encoder and decoder.
    Its hyperparameters are fitted on the scored counts and charged: a, b and s as 32-bit floats,
    and g as the pooled count of every symbol up to the largest, each in Exp-Golomb bits, after
    that largest symbol and a bit that says whether there are signs.
    """
    if counts.n_tokens == 0:
        return 0.0
    alphabet, total, _ = counts.pooled
    prior = BetaPrior(*(_as_sent(x) for x in fit_beta_prior(counts.active, counts.n_tokens)))
    likelihood = MagnitudeLikelihood(counts, total / max(int(total.sum()), 1))
    nats = _support_nats(counts, prior) + likelihood.nats(_as_sent(likelihood.best_strength()))
    return (-nats / _LOG2 + _adaptive_header_bits(alphabet, total)) / counts.n_tokens


def _as_sent(parameter: float) -> float:
    return float(np.float32(parameter))


def _adaptive_header_bits(
    alphabet: Int32[np.ndarray, " value"], total: Int64[np.ndarray, " value"]
) -> int:
    largest = int(np.abs(alphabet).max(initial=0))
    signs = 2 if len(alphabet) and alphabet[0] < 0 else 1
    unused = signs * largest - len(alphabet)
    size = int(exp_golomb_bits(np.array([largest + 1])).sum()) + 1
    return 3 * PARAMETER_BITS + size + int(exp_golomb_bits(total + 1).sum()) + unused


def _support_nats(counts: SymbolCounts, prior: BetaPrior) -> float:
    active, latents = _distinct(counts.active)
    k, n = active.astype(np.float64), counts.n_tokens
    return _dot(latents, betaln(k + prior.a, n - k + prior.b) - betaln(prior.a, prior.b))


def enumerative(
    counts: SymbolCounts, active_histogram: Int64[np.ndarray, " active"], magnitude_bits: float
) -> float:
    """Mean over tokens of log₂ C(D, k_t) + L(k_t), plus the bits of the magnitudes (maths §3).

    L is the Exp-Golomb length of k_t + 1; `active_histogram` counts tokens by k_t.
    """
    if counts.n_tokens == 0:
        return 0.0
    k = np.arange(len(active_histogram))
    subset = log2_binomial(counts.n_latents, k) + exp_golomb_bits(k + 1)
    return _dot(active_histogram, subset) / counts.n_tokens + magnitude_bits


def log2_binomial(
    n: int | Int64[np.ndarray, "*shape"], k: Int64[np.ndarray, "*shape"]
) -> Float64[np.ndarray, "*shape"]:
    """log₂ C(n, k), for k ≤ n."""
    bits = (gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)) / _LOG2
    return np.maximum(bits, 0.0)


def bound(counts: SymbolCounts) -> float:
    """The paper's upper bound L0·(B + log₂ D), at the B these counts need (maths §3)."""
    return bound_formula(counts.l0, bits_per_nonzero(counts), counts.n_latents)


def bound_formula(l0: float, bits_per_nonzero: int, n_latents: int) -> float:
    """L0·(B + log₂ D)."""
    return l0 * (bits_per_nonzero + math.log2(n_latents)) if n_latents else 0.0


def bits_per_nonzero(counts: SymbolCounts) -> int:
    """B = ⌈log₂ of the magnitude levels in use⌉, and one more where there are signs."""
    alphabet = counts.pooled.alphabet
    levels = len(np.unique(np.abs(alphabet)))
    signed = bool((alphabet < 0).any())
    return math.ceil(math.log2(max(levels, 1))) + int(signed)


def decoder_bits(live_rows: int, d: int, weight_bits: int) -> int:
    """Bits of the dictionary and its bias, (live rows · d + d)·b, sent once (maths §3)."""
    return (live_rows * d + d) * weight_bits


def break_even_tokens(model_bits: float, bits_per_token: float) -> float:
    """Tokens after which the latents sent have cost as much as the model part; inf at rate 0."""
    return model_bits / bits_per_token if bits_per_token > 0 else math.inf


def _threads() -> ThreadPoolExecutor:
    """As many as NumPy's own library computes with."""
    pools = _numerical_libraries().info()
    return ThreadPoolExecutor(max((pool["num_threads"] for pool in pools), default=1))


@cache
def _numerical_libraries() -> ThreadpoolController:
    """Found once: to look for them takes milliseconds, to ask them nothing."""
    return ThreadpoolController()


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK_NONZEROS):
        yield slice(start, start + BLOCK_NONZEROS)


def _dot(
    a: Float64[np.ndarray, " n"] | Int64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]
) -> float:
    """Σ a·b, the same to the last bit however many threads there are (BLAS would not be)."""
    return float((a * b).sum())


def xlog2x(
    x: Float64[np.ndarray, "*shape"] | Int64[np.ndarray, "*shape"],
) -> Float64[np.ndarray, "*shape"]:
    """x·log₂ x of what is not negative, 0 at x = 0."""
    product: Float64[np.ndarray, "*shape"] = x * np.log2(np.where(x > 0, x, 1))
    return product


def _distinct(
    key: Int64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Distinct non-negative integers, increasing, and how often each occurs."""
    if key.max(initial=0) <= 4 * len(key) + 2**16:
        count = np.bincount(key)
        present = np.flatnonzero(count)
        return present, count[present]
    return np.unique(key, return_counts=True)


def _found(
    alphabet: Int32[np.ndarray, " value"],
    of: Float64[np.ndarray, " value"],
    symbol: Int32[np.ndarray, " n"],
) -> Float64[np.ndarray, " n"]:
    if len(alphabet) == 0:
        return np.zeros(len(symbol))
    at = np.minimum(np.searchsorted(alphabet, symbol), len(alphabet) - 1)
    return np.where(alphabet[at] == symbol, of[at], 0.0)
