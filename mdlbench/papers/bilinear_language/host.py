"""A language model whose MLPs are read, and replaced, at the positions that its suite measures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import nn

from mdlbench.errors import UsageError
from mdlbench.sources.language.cut import LanguageModel
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.layout import LAYERS, Block, part_of
from mdlbench.sources.language.losses import cross_entropies
from mdlbench.sources.language.text import Contexts, measured

BLOCK_TOKENS = 1024

Change = Callable[[Float[torch.Tensor, "token d_in"]], Float[torch.Tensor, "token d_out"]]
"""What stands in an MLP's place: its input → its output."""


class Host:
    """A language model on some contexts, each of which is a document.

    Special tokens and positions before `first_position` keep the model's own MLPs.

    Args:
        model: the model.
        contexts: tokens and their next tokens.
        first_position: the first position of a context that is measured.

    Attributes:
        model: it.
        first_position: see there.
        n_documents: contexts.
        sha256: digest of the model's weights, the tokens, and which of them are measured.
    """

    def __init__(self, model: LanguageModel, contexts: Contexts, first_position: int) -> None:
        self.model, self.first_position, self._contexts = model, first_position, contexts
        self._mask = measured(contexts, model.tokenizer, first_position)
        self.n_documents = len(contexts.tokens)
        digest = hashlib.sha256(f"{model.sha256}{model.settings}".encode())
        for array in (*contexts, self._mask):
            digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        self.sha256 = digest.hexdigest()
        self._layers: Any = part_of(model.module.get_decoder(), LAYERS)

    @property
    def n_blocks(self) -> int:
        return math.ceil(self.n_documents / self._block_documents)

    @property
    def _block_documents(self) -> int:
        context: int = self._contexts.tokens.shape[1]
        return max(1, BLOCK_TOKENS // context)

    def block(self, index: int) -> slice:
        """The documents of a block."""
        return slice(index * self._block_documents, (index + 1) * self._block_documents)

    @property
    def n_tokens(self) -> Float64[np.ndarray, " document"]:
        """Measured tokens of each document."""
        return np.asarray(self._mask.sum(axis=1), dtype=np.float64)

    def mlp(self, layer: int) -> nn.Module:
        """The MLP of a layer; raises `UsageError` where there is no such layer."""
        if not 0 <= layer < len(self._layers):
            raise UsageError(
                f"{self.model.name} has no layer {layer}: its layers are 0 to "
                f"{len(self._layers) - 1}"
            )
        return Block.of(self._layers[layer]).mlp

    def facts(self, part: slice) -> str:
        """Digest of some documents: tokens, and which of them are measured."""
        digest = hashlib.sha256()
        for array in (self._contexts.tokens, self._mask):
            digest.update(np.ascontiguousarray(array[part], dtype="<i8").tobytes())
        return digest.hexdigest()

    def inputs(
        self, part: slice, layers: Sequence[int]
    ) -> dict[int, Float[torch.Tensor, "token d_in"]]:
        """What the MLPs of some layers are given at the measured tokens of some documents."""
        hooks = {layer: Hook(layer, "mlp_in") for layer in layers}
        found = self.model.capture(self._tokens(part), list(hooks.values()))
        mask = self._where(part)
        return {layer: found[hook][mask] for layer, hook in hooks.items()}

    def hidden(
        self, part: slice, changes: Mapping[int, Change]
    ) -> Float[torch.Tensor, "token d_model"]:
        """The final hidden state of the measured tokens, with some layers' MLPs replaced.

        Gradients reach what stands in their place, unless the caller forbids them.
        """
        mask = self._where(part)
        with ExitStack() as stack:
            for layer, change in changes.items():
                stack.enter_context(replaced(self.mlp(layer), mask, change))
            trunk = self.model.module.get_decoder()
            output: torch.Tensor = trunk(
                input_ids=self._tokens(part), use_cache=False
            ).last_hidden_state
        return output[mask]

    def logits(
        self, part: slice, changes: Mapping[int, Change]
    ) -> Float[torch.Tensor, "token word"]:
        """The next-token logits of the measured tokens, in float32."""
        found: torch.Tensor = self.model.module.get_output_embeddings()(self.hidden(part, changes))
        return found.float()

    @torch.no_grad()
    def loss_sums(self, changes: Mapping[int, Change]) -> Float64[np.ndarray, " document"]:
        """Σ next-token cross-entropy of each document's measured tokens, in nats."""
        found = np.zeros(self.n_documents)
        for index in range(self.n_blocks):
            part = self.block(index)
            hidden, labels = self.hidden(part, changes), self._labels(part)
            state = torch.arange(len(labels), device=labels.device)
            losses = cross_entropies(self.model.head, hidden, labels, state)
            document = np.nonzero(self._mask[part])[0] + part.start
            found += np.bincount(document, weights=losses, minlength=self.n_documents)
        return found

    def _tokens(self, part: slice) -> Int64[torch.Tensor, "document position"]:
        return torch.from_numpy(self._contexts.tokens[part]).to(self.model.device)

    def _labels(self, part: slice) -> Int64[torch.Tensor, " token"]:
        labels = self._contexts.labels[part][self._mask[part]]
        return torch.from_numpy(labels).to(self.model.device)

    def _where(self, part: slice) -> torch.Tensor:
        return torch.from_numpy(self._mask[part]).to(self.model.device)


@contextmanager
def replaced(mlp: nn.Module, mask: torch.Tensor, change: Change) -> Iterator[None]:
    """While an MLP's outputs are another function of its inputs, where the mask says so."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        new = output.clone()
        new[mask] = change(args[0][mask].float()).to(output.dtype)
        return new

    handle = mlp.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
