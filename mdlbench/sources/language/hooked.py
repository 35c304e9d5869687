"""Models of TransformerLens, cut at a hook point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

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

NORMALISED_OUTPUT = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
"""Whose blocks normalise what attention and MLP write, and not what they read."""

NAMES = ("model_name", "tokenizer_name", "device", "n_devices", "seed", "init_weights", "dtype")
"""Keys of a config that do not decide what a model computes, or that its weights show."""


class HookedModel:
    """A model of TransformerLens, which can start at any layer."""

    def __init__(self, name: str, model: Any) -> None:
        self.name, self._model = name, model.eval().requires_grad_(False)
        cfg, unembed = model.cfg, model.unembed
        self.tokenizer: Tokenizer = model.tokenizer
        self.d_model, self.n_layers, self.n_positions = cfg.d_model, cfg.n_layers, cfg.n_ctx
        self.is_parallel = bool(cfg.parallel_attn_mlp)
        self._normalises_output = cfg.original_architecture in NORMALISED_OUTPUT
        self.head = Head(unembed.W_U, unembed.b_U, float(cfg.output_logits_soft_cap or 0))
        self.sha256 = weights_digest(model)
        self.settings = settings_of(cfg.to_dict(), NAMES)
        self.device = unembed.W_U.device
        require_cuttable(self, model)

    @torch.no_grad()
    def capture(self, tokens: TokenIds, hooks: Sequence[Hook]) -> dict[Hook, Activation]:
        found: dict[Hook, torch.Tensor] = {}

        def keep(hook: Hook) -> Callable[..., None]:
            def hooked(value: torch.Tensor, **_: Any) -> None:
                found[hook] = value.flatten(2).float()

            return hooked

        n_blocks = max(hook.n_blocks for hook in hooks)
        residual = self._model.run_with_hooks(
            tokens,
            return_type=None,
            stop_at_layer=n_blocks,
            fwd_hooks=[(hook.name, keep(hook)) for hook in hooks],
        )
        last = Hook(n_blocks, "resid_pre")
        return found | {last: residual.float()} if last in hooks else found

    @torch.no_grad()
    def write_z(self, layer: int, z: Heads) -> Written:
        block = self._model.blocks[layer]
        written: torch.Tensor = z.to(block.attn.W_O.dtype) @ block.attn.W_O.flatten(0, 1)
        written = written + block.attn.b_O
        if self._model.cfg.use_normalization_before_and_after:
            written = block.ln1_post(written)
        elif self._normalises_output:
            written = block.ln1(written)
        return written.float()

    @torch.no_grad()
    def suffix(self, residual: Residual, entry: HookEntry) -> Residual:
        layer, residual = entry.layer, residual.to(self._model.cfg.dtype)
        if entry.half == "mlp":
            block = self._model.blocks[layer]
            given = residual if self._normalises_output else block.ln2(residual)
            residual = residual + block.apply_mlp(given)
            layer += 1
        if layer < self.n_layers:
            residual = self._model(
                residual, start_at_layer=layer, stop_at_layer=self.n_layers, return_type=None
            )
        hidden: torch.Tensor = self._model.ln_final(residual)
        return hidden.float()
