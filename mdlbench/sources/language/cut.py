"""What is asked of a language model that can be cut: a prefix up to a hook, a suffix from it on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import nn

from mdlbench.errors import SourceError, UsageError
from mdlbench.sources.language.hooks import Hook, HookEntry
from mdlbench.sources.language.text import Tokenizer

Residual = Float[torch.Tensor, "document position d_model"]
Activation = Float[torch.Tensor, "document position d_hook"]
Heads = Float[torch.Tensor, "token d_heads"]
Written = Float[torch.Tensor, "token d_model"]
TokenIds = Int64[torch.Tensor, "document position"]

PLAIN = (str, int, float, list, tuple, dict, type(None))
"""What a config holds that decides something, beside the dtype, which the weights show."""
CUT_ERRORS = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far, relatively, a model's pieces may be from the whole by rounding alone."""


@dataclass(frozen=True)
class Head:
    """Final hidden state → logits, in float32 whatever the model's precision.

    Attributes:
        weight: of the unembedding.
        bias: of the unembedding; None for none.
        softcap: logits are softcap·tanh(logits/softcap) if it is positive.
    """

    weight: Float[torch.Tensor, "d_model vocabulary"]
    bias: Float[torch.Tensor, " vocabulary"] | None = None
    softcap: float = 0.0

    def __call__(
        self, hidden: Float[torch.Tensor, "token d_model"], words: slice = slice(None)
    ) -> Float[torch.Tensor, "token word"]:
        """The logits of some words of the vocabulary."""
        logits = hidden.float() @ self.weight[:, words].float()
        if self.bias is not None:
            logits += self.bias[words].float()
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap > 0 else logits

    def mean_direction(
        self, probabilities: Float[torch.Tensor, "token word"], words: slice
    ) -> Float[torch.Tensor, "token d_model"]:
        """Σ_v p_v · (unembedding of v): its product with a hidden state is the mean logit."""
        return probabilities.float() @ self.weight[:, words].T.float()


class LanguageModel(Protocol):
    """A causal language model cut open; everything without gradients.

    Attributes:
        name: what SAEs' configs call it.
        tokenizer: its tokenizer.
        d_model, n_layers: its size.
        n_positions: tokens that it can read at once.
        is_parallel: whether attention and MLP both read the block's input.
        head: from the final hidden state to logits.
        sha256: digest of its weights as loaded.
        settings: what decides beside the weights what it computes, as text.
        device: where it computes.
    """

    name: str
    tokenizer: Tokenizer
    d_model: int
    n_layers: int
    n_positions: int
    is_parallel: bool
    head: Head
    sha256: str
    settings: str
    device: torch.device

    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        """Activations at some hook points, from a pass that ends with the last of them."""
        ...

    def write_z(self, layer: int, z: Heads) -> Written:
        """What the heads' outputs, side by side, add to the residual stream."""
        ...

    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        """The final hidden state, after the last normalisation."""
        ...


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all tensors of a model, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def settings_of(config: Mapping[str, object], besides: Collection[str]) -> str:
    """What a model's config says, as text; only names of things are `besides` that."""
    said = {
        key: value
        for key, value in sorted(config.items())
        if key not in besides and isinstance(value, PLAIN)
    }
    return json.dumps(said, sort_keys=True, default=str)


@torch.no_grad()
def require_cuttable(model: LanguageModel, whole: Callable[[TokenIds], torch.Tensor]) -> None:
    """Check that the pieces, at a layer in the middle, add up to the whole model.

    Raises:
        SourceError: the whole model's logits are not finite.
        UsageError: the pieces do not add up.
    """
    tokens = torch.arange(1, 9, device=model.device)[None] % model.head.weight.shape[1]
    logits = whole(tokens)[0].float()
    if not logits.isfinite().all():
        raise SourceError(
            f"model {model.name}: its own logits are NaN or infinite, before any SAE; its weights "
            "are damaged, or try another --dtype"
        )
    layer, rest = model.n_layers // 2, ("resid_pre", "attn_out", "mlp_out", "resid_post")
    z = Hook(layer, "z")
    found = model.capture(tokens, [z, *(Hook(layer, kind) for kind in rest)])
    pre, attn, mlp, post = (found[Hook(layer, kind)] for kind in rest)
    pairs = [
        (model.write_z(layer, found[z][0]), attn[0]),
        (pre + attn + mlp, post),
        (model.suffix(pre, HookEntry(layer)), model.suffix(post, HookEntry(layer + 1))),
        (model.head(model.suffix(post, HookEntry(layer + 1))[0]), logits),
    ]
    if not model.is_parallel:
        pairs.append((model.suffix(pre + attn, HookEntry(layer, "mlp")), pairs[2][1]))
    limit = CUT_ERRORS.get(model.head.weight.dtype, 0.1)
    if not all((piece - part).norm() <= limit * part.norm() for piece, part in pairs):
        raise UsageError(
            f"model {model.name} cannot be cut at its hook points: run in pieces, it is not the "
            "model that it is as a whole"
        )
