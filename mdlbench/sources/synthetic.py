"""Activations made from a known dictionary: one token is one document, a read-out prices a splice.

Why not `sae_lens.synthetic`? It correlates latent Gaussians, while the break-even of feature
splitting (maths §9) needs correlated firing indicators. Its hierarchy lowers firing rates after
they were drawn. And it draws from torch's global generator, which does not promise the same numbers
in its next version. Here they come from NumPy's PCG64, and no matrix
product touches the activations, so that their digest does not depend on a machine's BLAS.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from mdlbench.sources.classified import ClassifiedTokens
from mdlbench.sources.kinds.synthetic import (
    SYNTHETIC,
    Features,
    LoneFeature,
    PairOfFeatures,
    SyntheticConfig,
)
from mdlbench.sources.protocol import Block, SourceOpener, Split
from mdlbench.suite.site import Site

BLOCK_TOKENS = 1024
THRESHOLD = 0.5
"""A larger projection shows that a feature fired: half of the mean magnitude."""


@dataclass(frozen=True)
class SyntheticSplit:
    """A split: what fires, what is seen of it, and what comes next.

    Attributes:
        contributions: magnitude of each feature on each token, 0 where it does not fire.
        activations: what is to be reconstructed.
        labels: what the read-out is to predict; the number of features stands for "nothing".
    """

    contributions: Float64[np.ndarray, "token feature"]
    activations: Float32[np.ndarray, "token d"]
    labels: Int64[np.ndarray, " token"]


def directions(config: SyntheticConfig) -> Float64[np.ndarray, "feature d"]:
    """The true dictionary: random orthonormal rows, by Gram and Schmidt's procedure, done twice."""
    rows = _generator(config, 0).standard_normal((config.n_features, config.d))
    for i, row in enumerate(rows):
        for _ in range(2):
            row -= ((rows[:i] * row).sum(axis=1, keepdims=True) * rows[:i]).sum(axis=0)
        row /= np.sqrt((row * row).sum())
    return rows


def draw(config: SyntheticConfig, split: Split) -> SyntheticSplit:
    """The whole of a split."""
    generator = _generator(config, {"calibration": 1, "test": 2}[split])
    n = getattr(config.tokens, split)
    fires = np.concatenate([_fires(group, generator.random(n)) for group in config.features], 1)
    magnitudes = generator.uniform(1 - config.spread, 1 + config.spread, fires.shape)
    contributions = np.where(fires, magnitudes, 0.0)
    activations = config.noise * generator.standard_normal((n, config.d))
    for column, on, direction in zip(contributions.T, fires.T, directions(config), strict=True):
        activations[on] += column[on, None] * direction
    labels = _labels(config, contributions, generator.random(n))
    return SyntheticSplit(contributions, activations.astype(np.float32), labels)


def outcomes(group: Features) -> list[tuple[list[bool], float]]:
    """Sets that may fire together, with their probabilities; otherwise none fires."""
    if isinstance(group, LoneFeature):
        return [([True], group.probability)]
    if isinstance(group, PairOfFeatures):
        (a, b), both = group.probabilities, group.both
        return [([True, False], a - both), ([False, True], b - both), ([True, True], both)]
    child = group.probability * group.child
    return [([True, False], group.probability - child), ([True, True], child)]


def _generator(config: SyntheticConfig, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([config.seed, stream]))


def _fires(
    group: Features, uniform: Float64[np.ndarray, " token"]
) -> Bool[np.ndarray, "token member"]:
    """Which members of a group fire where, from one uniform number a token."""
    members, probabilities = zip(*outcomes(group), strict=True)
    nothing = [False] * group.n_features
    outcome = np.searchsorted(np.cumsum(probabilities), uniform, side="right")
    return np.array([*members, nothing])[outcome]


def _labels(
    config: SyntheticConfig,
    contributions: Float64[np.ndarray, "token feature"],
    uniform: Float64[np.ndarray, " token"],
) -> Int64[np.ndarray, " token"]:
    """Labels drawn from the read-out's own distribution on activations without noise."""
    nothing = np.full((len(contributions), 1), THRESHOLD)
    shares = np.exp(config.sharpness * np.concatenate([contributions, nothing], axis=1))
    cumulative = np.cumsum(shares, axis=1)
    return np.asarray((cumulative < uniform[:, None] * cumulative[:, -1:]).sum(axis=1))


class Synthetic(ClassifiedTokens):
    """The `ActivationSource` of a synthetic suite.

    The model that a reconstruction is spliced into reads features off the activation x: its logits
    are sharpness·⟨x, w_i⟩ for each true direction w_i, and sharpness·½ for "nothing". Labels are
    drawn from that model's own distribution on activations without noise. So it is calibrated:
    apart from the noise, a splice adds KL(clean ‖ spliced) to the CE on average, never less.
    """

    def __init__(
        self, config: SyntheticConfig, device: str = "cpu", limit: int | None = None
    ) -> None:
        tokens: dict[Split, SyntheticSplit] = {
            "calibration": draw(config, "calibration"),
            "test": draw(config, "test"),
        }
        self.site = Site(hook=SYNTHETIC)
        self.hook = SYNTHETIC
        self.image_shape: tuple[int, int] | None = None
        self.d_in = self.d_out = config.d
        self.device = torch.device(device)
        self.data_sha256 = _digest(config, tokens)
        self._activations = {split: drawn.activations[:limit] for split, drawn in tokens.items()}
        self._labels = torch.from_numpy(tokens["test"].labels[:limit]).to(self.device)
        self.n_documents: dict[Split, int] = {
            split: len(activations) for split, activations in self._activations.items()
        }
        self.n_tokens = dict(self.n_documents)
        self._sharpness = config.sharpness
        self._read_out = torch.from_numpy(directions(config).T).to(self.device)

    def n_blocks(self, split: Split) -> int:
        return math.ceil(len(self._activations[split]) / BLOCK_TOKENS)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        for index in range(self.n_blocks(split))[start:stop]:
            first = index * BLOCK_TOKENS
            part = self._activations[split][first : first + BLOCK_TOKENS]
            document = np.arange(first, first + len(part), dtype=np.int64)
            yield Block(index, document, torch.from_numpy(part).to(self.device))

    def _log_probabilities(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> Float64[torch.Tensor, "token class"]:
        projections = x.double() @ self._read_out
        logits = torch.nn.functional.pad(projections, (0, 1), value=THRESHOLD)
        return torch.log_softmax(self._sharpness * logits, dim=1)

    def _classes(self, block: Block) -> Int64[torch.Tensor, " token"]:
        return self._labels[torch.from_numpy(block.document).to(self.device)]


def _digest(config: SyntheticConfig, tokens: dict[Split, SyntheticSplit]) -> str:
    """SHA-256 of the activations, and of all that the read-out's loss depends on."""
    digest = hashlib.sha256(np.float64(config.sharpness).tobytes())
    digest.update(directions(config).astype("<f4").tobytes())
    for drawn in tokens.values():
        digest.update(drawn.activations.astype("<f4").tobytes())
        digest.update(drawn.labels.astype("<i8").tobytes())
    return digest.hexdigest()


class SyntheticOpener(SourceOpener[SyntheticConfig]):
    """Draws a suite's activations."""

    def open(self, site: Site) -> Synthetic:
        return Synthetic(self.config, self.setting.device, self.setting.limit)
