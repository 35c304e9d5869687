"""What a splice costs where the model gives each token a class of its own."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mdlbench.sources.protocol import Block, SpliceLoss


class ClassifiedTokens:
    """The losses of an `ActivationSource` by its model's distribution and the tokens' classes."""

    def clean_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        """See `ActivationSource`, like the next two."""
        return self._ce(self._log_probabilities(block.activations), block)

    def ablated_ce(self, block: Block) -> Float64[np.ndarray, " token"]:
        return self._ce(self._log_probabilities(torch.zeros_like(block.activations)), block)

    def splice(self, block: Block, reconstruction: Float[torch.Tensor, "token d"]) -> SpliceLoss:
        clean = self._clean_log_probabilities(block)
        spliced = self._log_probabilities(reconstruction)
        kl = (clean.exp() * (clean - spliced)).sum(dim=1)
        return SpliceLoss(self._ce(spliced, block), np.asarray(kl.cpu()))

    def _log_probabilities(
        self, x: Float[torch.Tensor, "token d"]
    ) -> Float64[torch.Tensor, "token class"]:
        """The model's distribution at each activation."""
        raise NotImplementedError

    def _classes(self, block: Block) -> Int64[torch.Tensor, " token"]:
        """The true classes of a test block, where the distribution is."""
        raise NotImplementedError

    def _clean_log_probabilities(self, block: Block) -> Float64[torch.Tensor, "token class"]:
        return self._log_probabilities(block.activations)

    def _ce(
        self, log_probabilities: Float64[torch.Tensor, "token class"], block: Block
    ) -> Float64[np.ndarray, " token"]:
        classes = self._classes(block)
        return np.asarray(-log_probabilities.gather(1, classes[:, None])[:, 0].cpu())
