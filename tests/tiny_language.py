"""Random language models of a few thousand weights, and what splicing into them costs, naively."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from mdlbench.sources.language.blocks import BlocksModel
from mdlbench.sources.language.hooked import HookedModel
from mdlbench.sources.language.text import Contexts
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

VOCABULARY, D_MODEL, D_MLP, N_HEADS, D_HEAD, N_LAYERS, CONTEXT = 40, 16, 24, 2, 6, 3, 12
SPECIAL = (0, 7)
KINDS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z")


class Characters:
    """A tokenizer with a token for each character, and two special ones."""

    bos_token_id: int | None = 0
    eos_token_id: int | None = 7
    padding_side = "right"

    def __init__(self) -> None:
        self.all_special_ids = list(SPECIAL)

    def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
        assert options == {"add_special_tokens": False, "verbose": False}
        return {"input_ids": [[self.id(character) for character in one] for one in text]}

    @staticmethod
    def id(character: str) -> int:
        return 8 + ord(character) % (VOCABULARY - 8)


def random_weights(module: torch.nn.Module, seed: int) -> None:
    """Every parameter drawn, the biases and the normalisations' too, so that none is overlooked."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        is_scale = name.endswith(".w") or "norm" in name
        noise = torch.randn(tensor.shape, generator=generator) * 0.4
        tensor.data = (noise + is_scale).to(tensor.dtype)


def hooked_transformer(seed: int = 0, **changes: Any) -> Any:
    """A model of TransformerLens as GPT-2 is, but for the changes to its config."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "d_head": D_HEAD,
        "n_heads": N_HEADS,
        "d_mlp": D_MLP,
        "n_ctx": CONTEXT,
        "d_vocab": VOCABULARY,
        "act_fn": "gelu_new",
        "normalization_type": "LN",
        "device": "cpu",
    }
    model = HookedTransformer(HookedTransformerConfig(**config | changes))
    random_weights(model, seed)
    model.tokenizer = Characters()
    return model.eval().requires_grad_(False)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "neox": {"parallel_attn_mlp": True, "positional_embedding_type": "rotary", "rotary_dim": 6},
    "gemma2": {
        "normalization_type": "RMS",
        "use_normalization_before_and_after": True,
        "output_logits_soft_cap": 3.0,
        "positional_embedding_type": "rotary",
        "rotary_dim": 6,
        "gated_mlp": True,
    },
    "olmo2": {
        "normalization_type": "RMS",
        "original_architecture": "Olmo2ForCausalLM",
        "d_head": D_MODEL // N_HEADS,
        "positional_embedding_type": "rotary",
        "rotary_dim": 6,
        "gated_mlp": True,
    },
}
"""Changes that make a tiny model one of that kind."""


def hooked_model(transformer: Any, dtype: torch.dtype = torch.float32) -> HookedModel:
    return HookedModel("tiny", transformer.to(dtype))


def llama(seed: int = 0, **changes: Any) -> Any:
    """A Llama of transformers, its key-value heads shared."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": D_MODEL,
        "intermediate_size": D_MLP,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "num_key_value_heads": 1,
        "head_dim": D_HEAD,
        "max_position_embeddings": CONTEXT,
        "attention_bias": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**config | changes))
    random_weights(model, seed)
    return model.eval().requires_grad_(False)


def blocks_model(causal_lm: Any, dtype: torch.dtype = torch.float32) -> BlocksModel:
    return BlocksModel("tiny", causal_lm.to(dtype), Characters(), "cpu")


def contexts(n: int, seed: int) -> Contexts:
    """Random tokens, a few of them special."""
    generator = np.random.default_rng(seed)
    stream = generator.integers(0, VOCABULARY, size=(n, CONTEXT + 1))
    return Contexts(stream[:, :-1].copy(), stream[:, 1:].copy())


@dataclass(frozen=True)
class Naive:
    """A whole model run from the tokens on at every question, in float32, softmax in float64.

    Attributes:
        run: tokens → logits.
        hooked: kind, layer and what to do with the activation there → while that is done.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    hooked: Callable[..., Any]

    @torch.no_grad()
    def activations(self, tokens: np.ndarray, kind: str, layer: int) -> torch.Tensor:
        """[document, position, d]"""
        found = []
        with self.hooked(kind, layer, lambda x: found.append(x.flatten(2).clone()) or x):
            self.run(torch.from_numpy(tokens))
        return found[0]

    @torch.no_grad()
    def log_probabilities(
        self, tokens: np.ndarray, kind: str, layer: int, new: torch.Tensor, mask: np.ndarray
    ) -> np.ndarray:
        """[document, position, vocabulary] with `new` in the activations' place under the mask."""
        where = torch.from_numpy(mask)

        def replaced(x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            x[where] = new.reshape(len(new), *x.shape[2:]).to(x.dtype)
            return x

        with self.hooked(kind, layer, replaced):
            logits = self.run(torch.from_numpy(tokens))
        return np.asarray(torch.log_softmax(logits.double(), -1))

    @torch.no_grad()
    def clean(self, tokens: np.ndarray) -> np.ndarray:
        return np.asarray(torch.log_softmax(self.run(torch.from_numpy(tokens)).double(), -1))


def naive_hooked(transformer: Any) -> Naive:
    @contextmanager
    def hooked(kind: str, layer: int, change: Callable[[torch.Tensor], Any]) -> Iterator[None]:
        name = f"blocks.{layer}.{'attn.' if kind == 'z' else ''}hook_{kind}"
        with transformer.hooks(fwd_hooks=[(name, lambda x, hook: change(x))]):
            yield

    return Naive(lambda tokens: transformer(tokens), hooked)


def naive_llama(causal_lm: Any) -> Naive:
    @contextmanager
    def hooked(kind: str, layer: int, change: Callable[[torch.Tensor], Any]) -> Iterator[None]:
        block = causal_lm.model.layers[layer]
        before: list[torch.Tensor] = []

        def of_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        def of_output(module: Any, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            return (change(first), *output[1:]) if isinstance(output, tuple) else change(first)

        def middle(module: Any, args: Any, output: Any) -> Any:
            """What attention must write for the stream after it to be as changed."""
            return (change(before[-1] + output[0]) - before[-1], *output[1:])

        def remember(module: Any, args: Any) -> None:
            before.append(args[0])

        handles = {
            "resid_pre": lambda: [block.register_forward_pre_hook(of_input, with_kwargs=True)],
            "resid_mid": lambda: [
                block.register_forward_pre_hook(remember),
                block.self_attn.register_forward_hook(middle),
            ],
            "resid_post": lambda: [block.register_forward_hook(of_output)],
            "attn_out": lambda: [block.self_attn.register_forward_hook(of_output)],
            "mlp_out": lambda: [block.mlp.register_forward_hook(of_output)],
            "z": lambda: [
                block.self_attn.o_proj.register_forward_pre_hook(of_input, with_kwargs=True)
            ],
        }[kind]()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    return Naive(lambda tokens: causal_lm(tokens).logits, hooked)


def language_suite(folder: Path, source: Mapping[str, Any] = {}, **changes: Any) -> Suite:
    """A suite of that tiny model on random letters; `source` and `changes` replace keys.

    Its first text is on a hub, its second is random letters, its third Python's documentation.
    """
    content = {
        "name": "lm",
        "title": "A language model",
        "source": {
            "kind": "language",
            "model": {"kind": "hub", "name": "tiny"},
            "texts": [
                {"kind": "hub", "name": "wikitext", "dataset": "Salesforce/wikitext"},
                {"kind": "file", "name": "own", "path": "own.txt"},
                {"kind": "python-docs", "name": "docs"},
            ],
            "place": {"context": 8, "prepend_bos": True},
            "tokens": {"calibration": 800, "test": 80},
            **source,
        },
        "steps": {"finest": 0.125, "octaves": 4, "unit": "latent_rms"},
        "tolerances": [
            {"metric": "delta_ce", "epsilons": [0.2]},
            {"metric": "fvu", "epsilons": [0.3]},
        ],
        "headline": {"metric": "fvu", "epsilon": 0.3},
        "replicates": 200,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    letters = np.random.default_rng(0).integers(0, 26, size=5000)
    (folder / "own.txt").write_text("".join(chr(97 + i) for i in letters))
    return load_suite(folder)


def write_saelens(
    folder: Path, seed: int = 0, n_latents: int = 2 * D_MODEL, scale: float = 1.0, **metadata: Any
) -> Path:
    """A ReLU SAE in the SAELens layout: axes with either sign; `scale` is its latents' unit."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n_latents, D_MODEL))
    rows[:D_MODEL] = np.eye(D_MODEL)
    encoder = rows.T.copy()
    encoder[:, D_MODEL:] = -np.eye(D_MODEL)[:, : n_latents - D_MODEL]
    rows[D_MODEL:] = encoder[:, D_MODEL:].T
    weights = {
        "W_enc": encoder * scale,
        "b_enc": np.zeros(n_latents),
        "W_dec": rows / scale,
        "b_dec": generator.normal(size=D_MODEL) * 0.1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(array).float() for name, array in weights.items()}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {
        "architecture": "standard",
        "d_in": D_MODEL,
        "d_sae": n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder
