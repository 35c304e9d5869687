"""Features in superposition as activations: one token is one document, a read-out prices a splice.

The world is that of `sae_lens.synthetic` (SynthSAEBench, 2602.14687; maths §5): Zipf rates, a
Gaussian copula of low rank, trees whose siblings exclude each other, magnitudes that a parent
scales. Why not that module itself? It draws from torch's global generator, one token after the
other, which neither promises the same numbers in its next version nor lets a block be drawn
without those before it. Here NumPy's PCG64 draws, and each block has a generator of its own.

Other machines find the same data: no matrix product touches the activations, and the directions,
which need some, are rounded so coarsely that what a BLAS does to the last digit does not show. The
data's digest tells if it ever does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.special import ndtr, ndtri

from mdlbench.errors import SourceError
from mdlbench.sources.classified import ClassifiedTokens
from mdlbench.sources.kinds.superposed import SUPERPOSED, Hierarchy, SuperposedConfig, ZipfRates
from mdlbench.sources.protocol import (
    SPLITS,
    Block,
    Firing,
    SourceOpener,
    Split,
    TrueFeatures,
)
from mdlbench.suite.site import Site

BLOCK_TOKENS = 1024
RUN_TOKENS = 64
"""So many tokens of a block are drawn at a time."""
KEPT_BLOCKS = 96
"""So many blocks are kept, the first that are asked for: every SAE is run on them often."""
WORLD, STREAMS = 0, {"calibration": 1, "test": 2}
"""Which generator draws what, beside the seed."""
GRID = 2.0**-14
"""Directions are multiples of it."""
SPREADING_ROUNDS = 50
LEAST_OWN = 0.01
"""The least share of the Gaussian behind a feature that no other feature shares."""
NO_PARENT = -1


class Family(NamedTuple):
    """A level's features, and the children of each in turn."""

    parents: slice
    children: slice


@dataclass(frozen=True, eq=False)
class World:
    """All that is drawn once, before any token.

    Attributes:
        directions: of the features, of norm 1 but for their rounding.
        offset: what is added to every activation.
        drawn_rates: how often each would fire if no other feature kept it from it.
        mean, deviation: of each feature's magnitude, before a parent scales it.
        factors: weights of the shared Gaussians; no columns where firing is not correlated.
        parents: of each feature, −1 for none.
        hierarchy: the rules of the trees, if there are any.
    """

    directions: Float64[np.ndarray, "feature d"]
    offset: Float64[np.ndarray, " d"]
    drawn_rates: Float64[np.ndarray, " feature"]
    mean: Float64[np.ndarray, " feature"]
    deviation: Float64[np.ndarray, " feature"]
    factors: Float64[np.ndarray, "feature rank"]
    parents: Int64[np.ndarray, " feature"]
    hierarchy: Hierarchy | None

    @cached_property
    def thresholds(self) -> Float64[np.ndarray, " feature"]:
        """A feature fires where its Gaussian exceeds this."""
        return np.asarray(-ndtri(self.drawn_rates))

    @cached_property
    def own_weights(self) -> Float64[np.ndarray, " feature"]:
        """Weight of the Gaussian that each feature has for itself; all of them have variance 1."""
        return np.asarray(np.sqrt(1.0 - (self.factors**2).sum(axis=1)))

    @cached_property
    def families(self) -> list[Family]:
        """Level by level, from the children of the roots."""
        if self.hierarchy is None:
            return []
        families, first, width = [], 0, self.hierarchy.roots
        for _ in range(self.hierarchy.depth):
            children = width * self.hierarchy.branching
            middle = first + width
            families.append(Family(slice(first, middle), slice(middle, middle + children)))
            first, width = middle, children
        return families

    @cached_property
    def rates(self) -> Float64[np.ndarray, " feature"]:
        """How often each fires (maths §5), but for what correlation does to parent and child."""
        rates = self.drawn_rates * _positive(self.mean, self.deviation)
        for parents, children in self.families:
            of_each = rates[children].reshape(parents.stop - parents.start, -1)
            if self.hierarchy is not None and self.hierarchy.exclusive:
                of_each = _surviving(of_each)
            rates[children] = (of_each * rates[parents, None]).ravel()
        return np.asarray(rates)

    @cached_property
    def features(self) -> TrueFeatures:
        return TrueFeatures(self.directions, self.parents, self.rates)


def world(config: SuperposedConfig) -> World:
    """The world of a config, the same at every call."""
    generator = _generator(config.seed, WORLD)
    n = config.features
    rank = 0 if config.correlation is None else config.correlation.rank
    scale = 0.0 if config.correlation is None else config.correlation.scale
    directions = _on_grid(spread_directions(generator.standard_normal((n, config.d))))
    offset = generator.standard_normal(config.d)
    magnitudes = config.magnitudes
    deviation = magnitudes.deviation + magnitudes.deviation_spread * generator.standard_normal(n)
    factors = _within_unit(scale * generator.standard_normal((n, rank)))
    rates = zipf_rates(config.rates, n)
    parents = _parents(config.hierarchy, n)
    return World(
        directions=directions,
        offset=_on_grid(config.offset * offset / np.sqrt((offset * offset).sum())),
        drawn_rates=compensated(rates, parents, config.hierarchy),
        mean=np.linspace(magnitudes.first, magnitudes.last, n),
        deviation=np.abs(deviation),
        factors=factors,
        parents=parents,
        hierarchy=config.hierarchy,
    )


def spread_directions(
    rows: Float64[np.ndarray, "feature d"],
) -> Float64[np.ndarray, "feature d"]:
    """Rows of norm 1 whose Σcos² over pairs is next to the least that there is, n²/d.

    W ← W (WᵀW)^(−½), then each row to norm 1, again and again: where that ends is a tight frame of
    unit rows, the minimum that `sae_lens.synthetic` approaches by gradient steps (Benedetto and
    Fickus, 2003).
    """
    for _ in range(SPREADING_ROUNDS):
        eigenvalues, vectors = np.linalg.eigh(rows.T @ rows)
        rows = rows @ (vectors / np.sqrt(eigenvalues)) @ vectors.T
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def zipf_rates(rates: ZipfRates, n: int) -> Float64[np.ndarray, " feature"]:
    """i^(−exponent) for i = 1 … n, moved and stretched to run from `most` to `least`."""
    powers = np.arange(1, n + 1, dtype=np.float64) ** -rates.exponent
    share = (powers - powers[-1]) / (powers[0] - powers[-1])
    return np.asarray(rates.least + (rates.most - rates.least) * share)


def compensated(
    rates: Float64[np.ndarray, " feature"],
    parents: Int64[np.ndarray, " feature"],
    hierarchy: Hierarchy | None,
) -> Float64[np.ndarray, " feature"]:
    """How often features have to be drawn for these rates, at most always (maths §5).

    A child is drawn as often as it is to fire where its parent does; among exclusive siblings, that
    times 1 + the others' shares of the parent's rate.
    """
    if hierarchy is None or not hierarchy.compensated:
        return rates
    drawn = rates.copy()
    children = np.flatnonzero(parents != NO_PARENT)
    above = rates[parents[children]]
    drawn[children] /= above
    if hierarchy.exclusive:
        together = np.bincount(parents[children], rates[children], minlength=len(rates))
        drawn[children] *= 1 + (together[parents[children]] - rates[children]) / above
    return np.asarray(np.minimum(drawn, 1.0))


def _parents(hierarchy: Hierarchy | None, n: int) -> Int64[np.ndarray, " feature"]:
    """Trees over the first features, level by level, siblings beside each other."""
    parents = np.full(n, NO_PARENT, dtype=np.int64)
    if hierarchy is not None:
        last = hierarchy.roots * hierarchy.tree_features
        children = np.arange(hierarchy.roots, last)
        parents[children] = (children - hierarchy.roots) // hierarchy.branching
    return parents


def _within_unit(
    factors: Float64[np.ndarray, "feature rank"],
) -> Float64[np.ndarray, "feature rank"]:
    """Rows whose squares sum to more than a variance of 1 leaves are shortened."""
    shared = (factors * factors).sum(axis=1, keepdims=True)
    most = 1.0 - LEAST_OWN
    return np.where(shared > most, factors * np.sqrt(most / np.maximum(shared, most)), factors)


def _on_grid(values: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return np.rint(values / GRID) * GRID


def _positive(
    mean: Float64[np.ndarray, " feature"], deviation: Float64[np.ndarray, " feature"]
) -> Float64[np.ndarray, " feature"]:
    """The probability that a magnitude is above 0."""
    certain = np.full(len(mean), np.inf)
    return np.asarray(ndtr(np.divide(mean, deviation, out=certain, where=deviation > 0)))


def _surviving(
    rates: Float64[np.ndarray, "parent child"],
) -> Float64[np.ndarray, "parent child"]:
    """How often each of exclusive siblings fires where they are drawn at these rates.

    One of those drawn stays, each as likely: p_i·E[1/(1 + number of others drawn)].
    """
    surviving = np.empty_like(rates)
    for child in range(rates.shape[1]):
        others = np.zeros_like(rates)
        others[:, 0] = 1.0
        for rate in np.delete(rates, child, axis=1).T:
            moved = np.roll(others, 1, axis=1) * rate[:, None]
            others = others * (1 - rate[:, None]) + moved
        chance = (others / np.arange(1, rates.shape[1] + 1)).sum(axis=1)
        surviving[:, child] = rates[:, child] * chance
    return surviving


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A block's tokens, drawn.

    Attributes:
        firing: the features that fire.
        activations: the offset, and what each of them adds.
        uniform: a number in [0, 1) for each token, which decides its label.
    """

    firing: Firing
    activations: Float32[np.ndarray, "token d"]
    uniform: Float64[np.ndarray, " token"]

    def first(self, n: int) -> Drawn:
        """Its first n tokens."""
        stop = int(np.searchsorted(self.firing.token, n))
        firing = Firing(*(part[:stop] for part in self.firing))
        return Drawn(firing, self.activations[:n], self.uniform[:n])


def draw(the_world: World, seed: int, split: Split, index: int) -> Drawn:
    """The block of that index in a split; it depends on no other block."""
    generator = _generator(seed, STREAMS[split], index)
    runs = [_run(the_world, generator) for _ in range(BLOCK_TOKENS // RUN_TOKENS)]
    token = np.concatenate([run.token + i * RUN_TOKENS for i, run in enumerate(runs)])
    feature = np.concatenate([run.feature for run in runs])
    magnitude = np.concatenate([run.magnitude for run in runs])
    activations = _activations(the_world, token, feature, magnitude)
    firing = Firing(token, feature, magnitude.astype(np.float32))
    return Drawn(firing, activations, generator.random(BLOCK_TOKENS))


class _Run(NamedTuple):
    """The features that fire on some tokens; their magnitudes in float64."""

    token: Int64[np.ndarray, " fires"]
    feature: Int64[np.ndarray, " fires"]
    magnitude: Float64[np.ndarray, " fires"]


def _run(the_world: World, generator: np.random.Generator) -> _Run:
    """So few tokens that a CPU's cache holds all that is drawn for them."""
    shape = RUN_TOKENS, len(the_world.mean)
    shared = generator.standard_normal((RUN_TOKENS, the_world.factors.shape[1]), dtype=np.float32)
    gaussians = generator.standard_normal(shape, dtype=np.float32)
    gaussians *= the_world.own_weights.astype(np.float32)
    for weights, factor in zip(the_world.factors.T.astype(np.float32), shared.T, strict=True):
        gaussians += factor[:, None] * weights
    token, feature = np.nonzero(gaussians > the_world.thresholds.astype(np.float32))
    mean, deviation = the_world.mean[feature], the_world.deviation[feature]
    magnitude = np.maximum(mean + deviation * generator.standard_normal(len(token)), 0.0)
    lot = generator.random(len(token))
    if the_world.hierarchy is not None:
        magnitudes, lots = np.zeros(shape), np.zeros(shape)
        magnitudes[token, feature], lots[token, feature] = magnitude, lot
        _grow(the_world, the_world.hierarchy, magnitudes, lots)
        magnitude = magnitudes[token, feature]
    on = magnitude > 0
    return _Run(token[on], feature[on], magnitude[on])


def _grow(
    the_world: World,
    hierarchy: Hierarchy,
    magnitudes: Float64[np.ndarray, "token feature"],
    lots: Float64[np.ndarray, "token feature"],
) -> None:
    """Apply the trees' rules in place, from the roots down (maths §5)."""
    for parents, children in the_world.families:
        shape = len(magnitudes), parents.stop - parents.start, hierarchy.branching
        of_each = magnitudes[:, children].reshape(shape)
        if hierarchy.exclusive:
            of_each = _exclusive(of_each, lots[:, children].reshape(shape))
        above = magnitudes[:, parents]
        share = above / the_world.mean[parents] if hierarchy.scaled else np.sign(above)
        magnitudes[:, children] = (of_each * share[:, :, None]).reshape(len(magnitudes), -1)


def _exclusive(
    magnitudes: Float64[np.ndarray, "token parent child"],
    lots: Float64[np.ndarray, "token parent child"],
) -> Float64[np.ndarray, "token parent child"]:
    """Only the sibling with the highest lot stays, among those that fire."""
    drawn = np.where(magnitudes > 0, lots, -1.0)
    return np.where(drawn == drawn.max(axis=2, keepdims=True), magnitudes, 0.0)


def _activations(
    the_world: World,
    token: Int64[np.ndarray, " fires"],
    feature: Int64[np.ndarray, " fires"],
    magnitude: Float64[np.ndarray, " fires"],
) -> Float32[np.ndarray, "token d"]:
    """Sums in float64, feature after feature, so that they are the same everywhere."""
    activations = np.tile(the_world.offset, (BLOCK_TOKENS, 1))
    order = np.argsort(feature, kind="stable")
    ends = np.cumsum(np.bincount(feature, minlength=len(the_world.mean)))
    for on, direction in zip(np.split(order, ends[:-1]), the_world.directions, strict=True):
        activations[token[on]] += magnitude[on, None] * direction
    return activations.astype(np.float32)


class Superposed(ClassifiedTokens):
    """The `ActivationSource` of features in superposition; it `KnowsFeatures`.

    The model that a reconstruction is spliced into is a linear softmax on features: its logits are
    sharpness·⟨x − offset, d_i⟩ for the most frequent features, and half the first feature's mean
    magnitude times sharpness for "none of them". Labels are drawn from its own distribution on the
    activations. So it is calibrated: a splice adds KL(clean ‖ spliced) to the CE on average.
    """

    def __init__(
        self,
        config: SuperposedConfig,
        device: str = "cpu",
        limit: int | None = None,
        calibration_tokens: int | None = None,
    ) -> None:
        self._config, self._world = config, world(config)
        self._kept: dict[tuple[Split, int], Drawn] = {}
        self.site = Site(hook=SUPERPOSED)
        self.hook = SUPERPOSED
        self.image_shape: tuple[int, int] | None = None
        self.d_in = self.d_out = config.d
        self.device = torch.device(device)
        self.features = self._world.features
        sizes: dict[Split, int] = {
            "calibration": calibration_tokens or config.tokens.calibration,
            "test": config.tokens.test,
        }
        self.n_documents: dict[Split, int] = {
            split: min(size, limit or size) for split, size in sizes.items()
        }
        self.n_tokens = dict(self.n_documents)
        read = self.features.most_frequent(config.read_out)
        self._read_out = torch.from_numpy(self._world.directions[read].T.copy()).to(self.device)
        self._offset = torch.from_numpy(self._world.offset).to(self.device)
        self.data_sha256 = self._digest()
        if config.sha256 not in (None, self.data_sha256):
            raise SourceError(
                f"the data drawn here have the digest {self.data_sha256[:12]}, not the suite's "
                f"{str(config.sha256)[:12]}: this machine or its NumPy draws other numbers"
            )

    def n_blocks(self, split: Split) -> int:
        return math.ceil(self.n_tokens[split] / BLOCK_TOKENS)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        for index in range(self.n_blocks(split))[start:stop]:
            first = index * BLOCK_TOKENS
            drawn = self._drawn(split, index)
            document = np.arange(first, first + len(drawn.activations), dtype=np.int64)
            yield Block(index, document, torch.from_numpy(drawn.activations).to(self.device))

    def firing(self, split: Split, block: Block) -> Firing:
        """See `KnowsFeatures`."""
        return self._drawn(split, block.index).firing

    def _drawn(self, split: Split, index: int) -> Drawn:
        found = self._kept.get((split, index))
        if found is None:
            n = min(BLOCK_TOKENS, self.n_tokens[split] - index * BLOCK_TOKENS)
            found = draw(self._world, self._config.seed, split, index).first(n)
            if len(self._kept) < KEPT_BLOCKS:
                self._kept[split, index] = found
        return found

    def _log_probabilities(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> Float64[torch.Tensor, "token class"]:
        projections = (x.double() - self._offset) @ self._read_out
        nothing = self._config.magnitudes.first / 2
        logits = torch.nn.functional.pad(projections, (0, 1), value=nothing)
        return torch.log_softmax(self._config.sharpness * logits, dim=1)

    def _classes(self, block: Block) -> Int64[torch.Tensor, " token"]:
        return self._labels(self._drawn("test", block.index))

    def _labels(self, drawn: Drawn) -> torch.Tensor:
        """Int64[token]: the classes that the read-out's own distribution draws."""
        x = torch.from_numpy(drawn.activations).to(self.device)
        cumulative = self._log_probabilities(x).exp().cumsum(dim=1)
        uniform = torch.from_numpy(drawn.uniform).to(self.device)[:, None]
        return (cumulative < uniform * cumulative[:, -1:]).sum(dim=1)

    def _digest(self) -> str:
        """SHA-256 of the world, the sizes, and the first block of each split with its labels."""
        digest = hashlib.sha256()
        sizes = [self._config.tokens.calibration, self._config.tokens.test]
        digest.update(np.array([*sizes, self._config.seed], dtype="<i8").tobytes())
        digest.update(np.array([self._config.sharpness, self._config.read_out]).tobytes())
        for part in (self._world.directions, self._world.offset):
            digest.update(part.astype("<f8").tobytes())
        for part in (self._world.drawn_rates, self._world.mean, self._world.deviation):
            digest.update(part.astype("<f4").tobytes())
        for split in SPLITS:
            drawn = draw(self._world, self._config.seed, split, 0)
            digest.update(drawn.activations.astype("<f4").tobytes())
            digest.update(self._labels(drawn).cpu().numpy().astype("<i8").tobytes())
        return digest.hexdigest()


class SuperposedOpener(SourceOpener[SuperposedConfig]):
    """Draws a suite's activations, as they are asked for."""

    def open(self, site: Site) -> Superposed:
        setting = self.setting
        return Superposed(self.config, setting.device, setting.limit, setting.calibration_tokens)
