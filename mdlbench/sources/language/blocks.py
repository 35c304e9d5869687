"""Models of `transformers` with Llama-like blocks, cut at a hook point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mdlbench.errors import UsageError
from mdlbench.sources.language.cut import (
    Activation,
    Head,
    Heads,
    Residual,
    TokenIds,
    Written,
    require_cuttable,
    settings_of,
    weights_digest,
)
from mdlbench.sources.language.hooks import Hook, HookEntry
from mdlbench.sources.language.text import Tokenizer

NAMES = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""Keys of a config that do not decide what a model computes, or that its weights show."""


class BlocksModel:
    """A Llama-like model of `transformers`, its decoder layers run as modules.

    Such a model begins with nothing but the token embedding and finds positions by itself, so one
    with the first layers taken away, fed the residual stream, is the suffix.
    """

    def __init__(self, name: str, model: Any, tokenizer: Tokenizer, device: str) -> None:
        self.name, self.tokenizer = name, tokenizer
        self._model = model.eval().requires_grad_(False).to(device)
        _refuse_other_blocks(name, model)
        self._layers = list(model.model.layers)
        self.d_model, self.n_layers = model.config.hidden_size, len(self._layers)
        self.n_positions = model.config.max_position_embeddings
        self.is_parallel = False
        self.head = Head(model.lm_head.weight.T, model.lm_head.bias)
        self.sha256 = weights_digest(model)
        self.settings = settings_of(model.config.to_dict(), NAMES)
        self.device = torch.device(device)
        require_cuttable(self, lambda tokens: model(input_ids=tokens, use_cache=False).logits)

    @torch.no_grad()
    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        found: dict[Hook, torch.Tensor] = {}
        n_blocks = max(hook.n_blocks for hook in hooks)
        handles = [self._keep(hook, n_blocks, found) for hook in hooks]
        try:
            with self._only(slice(0, n_blocks)):
                self._model.model(input_ids=tokens, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _keep(self, hook: Hook, n_blocks: int, found: dict[Hook, torch.Tensor]) -> Any:
        layer = self._layers[hook.layer]
        after = layer.input_layernorm if hook.layer < n_blocks else self._model.model.norm
        module, of_input = {
            "resid_pre": (after, True),
            "resid_mid": (layer.post_attention_layernorm, True),
            "resid_post": (layer, False),
            "attn_out": (layer.self_attn, False),
            "mlp_out": (layer.mlp, False),
            "z": (layer.self_attn.o_proj, True),
        }[hook.kind]

        def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            value = inputs[0] if of_input else output
            found[hook] = (value[0] if isinstance(value, tuple) else value).float()

        return module.register_forward_hook(keep)

    @torch.no_grad()
    def write_z(self, layer: int, z: Heads) -> Written:
        projection: nn.Linear = self._layers[layer].self_attn.o_proj
        written: torch.Tensor = projection(z.to(projection.weight.dtype))
        return written.float()

    @torch.no_grad()
    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        first, residual = entry.layer, residual.to(self._model.dtype)
        if entry.half == "mlp":
            layer = self._layers[first]
            residual = residual + layer.mlp(layer.post_attention_layernorm(residual))
            first += 1
        with self._only(slice(first, None)):
            hidden: torch.Tensor = self._model.model(
                inputs_embeds=residual, use_cache=False
            ).last_hidden_state
        return hidden.float()

    @contextmanager
    def _only(self, layers: slice) -> Iterator[None]:
        """The model with some of its layers alone."""
        inner, config = self._model.model, self._model.config
        kept = self._layers[layers]
        try:
            inner.layers, config.num_hidden_layers = nn.ModuleList(kept), len(kept)
            yield
        finally:
            inner.layers, config.num_hidden_layers = nn.ModuleList(self._layers), self.n_layers


def _refuse_other_blocks(name: str, model: Any) -> None:
    parts = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not layers or not all(hasattr(layers[0], part) for part in parts):
        raise UsageError(f"model {name}: {type(model).__name__} has no Llama-like blocks")
