"""Decoders of `transformers`, cut at a hook point.

The model runs through its own code, always: the prefix is the whole model with the layers after
the hook point left out, the suffix the whole model with those before it left out and the residual
stream put in. So masks, positions, scaled embeddings and windows are the model's own affair, and
each layer keeps its index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import nn

from mdlbench.errors import UsageError
from mdlbench.sources.language.cut import (
    NOTHING,
    Activation,
    Change,
    Head,
    Heads,
    Logits,
    Residual,
    TokenIds,
    Written,
    explained,
    require_cuttable,
    settings_of,
    weights_digest,
)
from mdlbench.sources.language.hooks import Hook, HookEntry
from mdlbench.sources.language.layout import (
    FINAL_NORM,
    LAYERS,
    Block,
    Tap,
    dtype_of,
    first,
    is_parallel,
    part_of,
)
from mdlbench.sources.language.text import Tokenizer

NAMES = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Keys of a config that do not decide what a model computes, or that its weights show."""


class DecoderModel:
    """A causal language model of `transformers`.

    Args:
        name: what SAEs' configs call it.
        model: the model, such as a `LlamaForCausalLM`.
        tokenizer: its tokenizer.
        device: where it is to compute.

    Raises:
        SourceError: its own logits are not finite.
        UsageError: it has no decoder layers, or run in pieces it is another model.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, device: str) -> None:
        self.name, self.tokenizer = name, tokenizer
        self._model = model.eval().requires_grad_(False).to(device)
        with explained(self, "hook points"):
            self._trunk = model.get_decoder()
            self._layers = list(part_of(self._trunk, LAYERS))
            self._norm: nn.Module = part_of(self._trunk, FINAL_NORM)
            config = model.config.get_text_config()
            self.d_model, self.n_layers = config.hidden_size, len(self._layers)
            self.n_positions = config.max_position_embeddings
            self.is_parallel = is_parallel(config)
            unembedding = model.get_output_embeddings()
            softcap = float(getattr(config, "final_logit_softcapping", None) or 0)
            self.head = Head(unembedding.weight.T, unembedding.bias, softcap)
        self.sha256 = weights_digest(model)
        self.settings = settings_of(model.config.to_dict(), NAMES)
        self.device = torch.device(device)
        self.accepted: set[Hook] = set()
        require_cuttable(self)

    @property
    def module(self) -> Any:
        return self._model

    @torch.no_grad()
    def logits(self, tokens: TokenIds) -> Logits:
        found: torch.Tensor = self._model(input_ids=tokens, use_cache=False).logits
        return found.float()

    @torch.no_grad()
    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        found: dict[Hook, torch.Tensor] = {}
        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(watched(self._tap(hook), self._keep(hook, found)))
            stack.enter_context(self._only(range(max(hook.n_blocks for hook in hooks))))
            self._trunk(input_ids=tokens, use_cache=False)
        return found

    @torch.no_grad()
    def write_z(self, layer: int, z: Heads) -> Written:
        return self._block(layer).write_z(z).float()

    @torch.no_grad()
    def suffix(
        self, residual: Residual, entry: HookEntry, changes: Mapping[Hook, Change] = NOTHING
    ) -> Residual:
        layer, residual = entry.layer, residual.to(dtype_of(self._trunk))
        if entry.half == "mlp":
            residual, layer = self._block(layer).mlp_half(residual), layer + 1
        following = self._layers[layer] if layer < self.n_layers else self._norm
        entered = watched(Tap(following, "input"), lambda _: residual)
        with entered, self._changing(changes), self._only(range(layer, self.n_layers)):
            output = self._trunk(inputs_embeds=residual, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.float()

    @torch.no_grad()
    def changed(self, tokens: TokenIds, changes: Mapping[Hook, Change]) -> Logits:
        with self._changing(changes):
            return self.logits(tokens)

    @contextmanager
    def _changing(self, changes: Mapping[Hook, Change]) -> Iterator[None]:
        """While activations are changed as they pass, in the order in which the model makes them.

        The stream between attention and MLP is no module's: attention is made to write the rest.
        """
        with ExitStack() as stack:
            for hook in sorted(changes, key=attrgetter("place")):
                for tap, change in self._taps(hook, changes[hook]):
                    stack.enter_context(watched(tap, change))
            yield

    def _taps(self, hook: Hook, change: Change) -> list[tuple[Tap, Change]]:
        if hook.kind != "resid_mid":
            return [(self._tap(hook), change)]
        before: list[torch.Tensor] = []

        def remember(x: torch.Tensor) -> torch.Tensor:
            before[:] = [x]
            return x

        def write(x: torch.Tensor) -> torch.Tensor:
            return change(before[0] + x) - before[0]

        pre, written = (self._tap(Hook(hook.layer, kind)) for kind in ("resid_pre", "attn_out"))
        return [(pre, remember), (written, write)]

    def _keep(self, hook: Hook, found: dict[Hook, torch.Tensor]) -> Change:
        of = self._tap(hook).of

        def keep(value: torch.Tensor) -> torch.Tensor:
            found[hook] = (of(value) if of else value).float()
            return value

        return keep

    def _tap(self, hook: Hook) -> Tap:
        if hook.kind in ("resid_pre", "resid_post"):
            return Tap(self._layers[hook.layer], "input" if hook.kind == "resid_pre" else "output")
        if hook.kind == "resid_mid" and self.is_parallel:
            raise UsageError("attention and MLP of this model are parallel")
        return self._block(hook.layer).tap(hook.kind)

    def _block(self, layer: int) -> Block:
        return Block.of(self._layers[layer])

    @contextmanager
    def _only(self, layers: Collection[int]) -> Iterator[None]:
        """The model with the other layers handing on the residual stream as it is."""
        skipped = [layer for i, layer in enumerate(self._layers) if i not in layers]
        try:
            for layer in skipped:
                layer.forward = _hand_on
            yield
        finally:
            for layer in skipped:
                vars(layer).pop("forward", None)


@contextmanager
def watched(tap: Tap, change: Change) -> Iterator[None]:
    """While what passes a tap is as `change` makes it."""

    def of_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    def of_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        new = change(first(output))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(of_input, with_kwargs=True)
    else:
        handle = tap.module.register_forward_hook(of_output)
    try:
        yield
    finally:
        handle.remove()


def _hand_on(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What a layer that is left out does."""
    return hidden_states
