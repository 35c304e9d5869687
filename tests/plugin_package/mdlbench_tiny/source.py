"""A source outside the tree: positive random numbers, of which a model reads the sum."""

import hashlib
import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from mdlbench.sources.protocol import Block, Setting, SourceOpener, SpliceLoss, Split
from mdlbench.suite.site import Site
from mdlbench.suite.source import SourceConfig

SITE = Site(hook="tiny")
BLOCK_TOKENS = 64


class TinyConfig(SourceConfig):
    """Positive random numbers."""

    opener: ClassVar[str] = "mdlbench_tiny.source:TinyOpener"

    kind: Literal["tiny"]
    width: Annotated[int, Field(gt=0)]
    n_tokens: Annotated[int, Field(gt=0)]
    """Tokens of each split; each is a document of its own."""

    @property
    def fixed_site(self) -> dict[str, Any]:
        return SITE.model_dump()

    @property
    def exact_tokens(self) -> dict[str, int]:
        return {"calibration": self.n_tokens, "test": self.n_tokens}


class TinyOpener(SourceOpener[TinyConfig]):
    def open(self, site: Site) -> "Tiny":
        return Tiny(self.config, self.setting)


class Tiny:
    """The model says "yes" with the probability σ(sum of the activation − width)."""

    def __init__(self, config: TinyConfig, setting: Setting) -> None:
        self.site, self.hook, self.image_shape = SITE, SITE.hook, None
        self.d_in = self.d_out = config.width
        self.device = torch.device(setting.device)
        generator = np.random.default_rng(0)
        drawn = generator.exponential(size=(2, config.n_tokens, config.width)).astype("<f4")
        self.data_sha256 = hashlib.sha256(drawn.tobytes()).hexdigest()
        calibration, test = (torch.from_numpy(x[: setting.limit]).to(self.device) for x in drawn)
        self.activations: dict[Split, torch.Tensor] = {"calibration": calibration, "test": test}
        self.n_documents = {split: len(x) for split, x in self.activations.items()}
        self.n_tokens = self.n_documents

    def n_blocks(self, split: Split) -> int:
        return math.ceil(self.n_tokens[split] / BLOCK_TOKENS)

    def blocks(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        for index in range(self.n_blocks(split))[start:stop]:
            first = index * BLOCK_TOKENS
            activations = self.activations[split][first : first + BLOCK_TOKENS]
            yield Block(index, np.arange(first, first + len(activations)), activations)

    def clean_ce(self, block: Block) -> np.ndarray:
        return self.splice(block, block.activations).ce

    def ablated_ce(self, block: Block) -> np.ndarray:
        return self.splice(block, torch.zeros_like(block.activations)).ce

    def splice(self, block: Block, reconstruction: torch.Tensor) -> SpliceLoss:
        """The label is what the model finds likelier on the activation itself."""
        clean, spliced = self._probabilities(block.activations), self._probabilities(reconstruction)
        label = clean.argmax(axis=1, keepdims=True)
        ce = -np.log(np.take_along_axis(spliced, label, axis=1))[:, 0]
        return SpliceLoss(ce, (clean * np.log(clean / spliced)).sum(axis=1))

    def _probabilities(self, x: torch.Tensor) -> np.ndarray:
        logit = x.double().sum(dim=1) - self.d_in
        return torch.sigmoid(torch.stack([logit, -logit], dim=1)).cpu().numpy()
