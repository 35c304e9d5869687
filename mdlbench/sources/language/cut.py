"""What is asked of a language model that can be cut: a prefix up to a hook, a suffix from it on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64
from torch import nn

from mdlbench.errors import MdlbenchError, SourceError, UsageError, first_line, heed_shortage
from mdlbench.sources.language.hooks import Hook, HookEntry, Wiring, joined
from mdlbench.sources.language.text import Tokenizer

Residual = Float[torch.Tensor, "document position d_model"]
Activation = Float[torch.Tensor, "document position d_hook"]
Heads = Float[torch.Tensor, "token d_heads"]
Written = Float[torch.Tensor, "token d_model"]
Logits = Float[torch.Tensor, "document position vocabulary"]
TokenIds = Int64[torch.Tensor, "document position"]
Change = Callable[[torch.Tensor], torch.Tensor]
"""What is done to an activation as it passes."""
NOTHING: Mapping[Hook, Change] = {}

PLAIN = (str, int, float, list, tuple, dict, type(None))
"""What a config holds that decides something, beside the dtype, which the weights show."""
CUT_ERRORS = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far, relatively, a model's pieces may be from the whole by rounding alone."""
PROBED = 8
"""Tokens on which a model's pieces are compared with the whole."""
FOREIGN = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)
"""What a model's own code raises when it is run in a way that it is not made for."""


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
        accepted: hook points where the pieces have been found to be the whole.
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
    accepted: set[Hook]

    @property
    def module(self) -> Any:
        """The model as `transformers` has it, for whoever trains what stands in it."""
        ...

    def logits(self, tokens: TokenIds) -> Logits:
        """The whole model's, in float32."""
        ...

    def changed(self, tokens: TokenIds, changes: Mapping[Hook, Change]) -> Logits:
        """The whole model's logits with activations at hook points replaced as they pass."""
        ...

    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        """Activations at some hook points, from a pass that ends with the last of them."""
        ...

    def write_z(self, layer: int, z: Heads) -> Written:
        """What the heads' outputs, side by side, add to the residual stream."""
        ...

    def suffix(
        self, residual: Residual, entry: HookEntry, changes: Mapping[Hook, Change] = NOTHING
    ) -> Residual:
        """The final hidden state, after the last normalisation.

        Args:
            residual: the residual stream where the model is entered.
            entry: where that is.
            changes: what is done to activations in the layers from there on, as they pass.
        """
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
def require_cuttable(model: LanguageModel) -> None:
    """Check that a model's second half, run by itself, and its head make the whole one's logits.

    Raises:
        SourceError: the whole model's logits are not finite.
        UsageError: they do not.
    """
    tokens, where = _probe(model), "hook points"
    with explained(model, where):
        logits = model.logits(tokens)
    if not logits.isfinite().all():
        raise SourceError(
            f"model {model.name}: its own logits are NaN or infinite, before any SAE; its weights "
            "are damaged, or try another --dtype"
        )
    middle = Hook(model.n_layers // 2, "resid_pre")
    with explained(model, where):
        residual = model.capture(tokens, [middle])[middle]
        pieces = model.head(model.suffix(residual, HookEntry(middle.layer))[0])
    _require_near(pieces, logits[0], model, where)


@torch.no_grad()
def require_hook(model: LanguageModel, hook: Hook) -> None:
    """Check, once, that a model in pieces is the whole model at a hook point.

    Every position is given the activation of the one before it, once in the whole model, once
    between prefix and suffix.

    Raises:
        UsageError: the logits differ, or nothing can be replaced there.
    """
    if hook in model.accepted:
        return
    wiring, tokens = Wiring.of(hook, model.is_parallel), _probe(model)
    with explained(model, hook.name):
        captured = model.capture(tokens, sorted({hook, *wiring.base}))
        new = _moved(captured[hook])
        written = model.write_z(hook.layer, new[0])[None] if hook.kind == "z" else new
        residual = sum((captured[base] for base in wiring.base), written)
        pieces = model.head(model.suffix(residual, wiring.entry)[0])
        whole = model.changed(tokens, {hook: _moved})
    _require_near(pieces, whole[0], model, hook.name)
    model.accepted.add(hook)


@torch.no_grad()
def require_hooks(model: LanguageModel, hooks: Sequence[Hook]) -> None:
    """Check that a model in pieces is the whole model at each hook point, and at all of them.

    For all at once, each is given its activations of the untouched model a position later, once in
    the whole model, once in the suffix from the first one's layer on.

    Raises:
        UsageError: the logits differ, or nothing can be replaced there.
    """
    for hook in hooks:
        require_hook(model, hook)
    if len(hooks) == 1:
        return
    tokens, where = _probe(model), joined(hooks)
    start = Hook(min(hook.layer for hook in hooks), "resid_pre")
    with explained(model, where):
        captured = model.capture(tokens, sorted({start, *hooks}))
        changes = {hook: partial(_instead, _moved(captured[hook])) for hook in hooks}
        hidden = model.suffix(captured[start], HookEntry(start.layer), changes)
        whole = model.changed(tokens, changes)
    _require_near(model.head(hidden[0]), whole[0], model, where)


def _instead(new: Activation, x: torch.Tensor) -> torch.Tensor:
    return new.to(x.dtype)


def require_readable(model: LanguageModel, hook: Hook) -> None:
    """Check that a model has what a transcoder reads at a hook point; raises `UsageError`."""
    with explained(model, hook.name):
        model.capture(_probe(model), [hook])


def _moved(activation: Activation) -> Activation:
    """Activations, each a position later, the last one first."""
    return activation.roll(1, dims=1)


def _probe(model: LanguageModel) -> TokenIds:
    """Some tokens, no more than the model reads at once."""
    n_tokens = min(PROBED, model.n_positions)
    return torch.arange(1, n_tokens + 1, device=model.device)[None] % model.head.weight.shape[1]


@contextmanager
def explained(model: LanguageModel, where: str) -> Iterator[None]:
    """What a model's own code raises when it is run in pieces, as an error that names it."""
    try:
        yield
    except (MdlbenchError, *FOREIGN) as error:
        heed_shortage(error)
        reason = str(error) if isinstance(error, MdlbenchError) else first_line(error)
        raise _refusal(model, where, reason) from error


def _require_near(
    pieces: Float[torch.Tensor, "token word"],
    whole: Float[torch.Tensor, "token word"],
    model: LanguageModel,
    where: str,
) -> None:
    limit = CUT_ERRORS.get(model.head.weight.dtype, 0.1)
    if not (pieces - whole).norm() <= limit * whole.norm():
        raise _refusal(model, where, "run in pieces, it is not the model that it is as a whole")


def _refusal(model: LanguageModel, where: str, reason: str) -> UsageError:
    return UsageError(f"model {model.name} cannot be cut at {where}: {reason}")
