"""Random language models of a few thousand weights, and what splicing into them costs, naively."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.language.text import Contexts
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

VOCABULARY, D_MODEL, D_MLP, N_HEADS, D_HEAD, N_LAYERS, CONTEXT = 40, 16, 24, 2, 6, 3, 12
SPECIAL = (0, 7)
PROBE = (1, 8)
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
    """Every parameter drawn, the biases and the normalisations' too, so that none is overlooked.

    Linear attention divides by the norms of small vectors, which larger weights bring near zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.named_parameters():
        is_scale = ("norm" in name or "ln_" in name) and name.endswith("weight")
        size = 0.1 if "linear_attn" in name else 0.4
        noise = torch.randn(tensor.shape, generator=generator) * size
        tensor.data = (noise + is_scale).to(tensor.dtype)


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": 1,
    "head_dim": D_HEAD,
    "max_position_embeddings": CONTEXT,
}
WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
WINDOW["layer_types"] = WINDOW["layer_types"][:N_LAYERS]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
}


@dataclass(frozen=True)
class Family:
    """A kind of decoder of transformers, and where its layers have what.

    Attributes:
        config: its config's class.
        keys: of the config, beside `SIZES`; "" takes a key away.
        layers: where its layers are.
        attn_out, mlp_out, mlp, projection: names of modules in a layer, by their output the first
            two, by their input the others.
    """

    config: str
    keys: dict[str, Any]
    layers: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    mlp: str = "mlp"
    projection: str = "self_attn.o_proj"

    @property
    def is_parallel(self) -> bool:
        return bool(self.keys.get("use_parallel_residual"))


NORMED = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
OF_LLAMA = {"head_dim": None, "num_key_value_heads": None}
"""Keys that older configs do not have."""
NEOX = {
    "layers": "gpt_neox.layers",
    "attn_out": "attention",
    "projection": "attention.dense",
}
FAMILIES = {
    "llama": Family("LlamaConfig", {"attention_bias": True}),
    "qwen2": Family("Qwen2Config", {}),
    "qwen3": Family("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen3-moe": Family("Qwen3MoeConfig", {"num_experts": 4, "mlp_only_layers": [0], **EXPERTS}),
    "mistral": Family("MistralConfig", {"sliding_window": 4}),
    "gemma": Family("GemmaConfig", {}),
    "gemma2": Family(
        "Gemma2Config",
        {"query_pre_attn_scalar": 6, "final_logit_softcapping": 3.0, **WINDOW},
        **NORMED,
    ),
    "gemma3": Family("Gemma3TextConfig", {"query_pre_attn_scalar": 6, **WINDOW}, **NORMED),
    "phi3": Family("Phi3Config", {"pad_token_id": 0, "sliding_window": 4, "head_dim": None}),
    "smollm3": Family(
        "SmolLM3Config", {"pad_token_id": 0, "no_rope_layers": [1, 0, 1], "head_dim": None}
    ),
    "qwen3.5": Family("Qwen3_5TextConfig", HYBRID),
    "qwen3-next": Family(
        "Qwen3NextConfig",
        {"num_experts": 4, "shared_expert_intermediate_size": 8, **EXPERTS, **HYBRID},
    ),
    "olmo2": Family("Olmo2Config", {"pad_token_id": 0, "head_dim": None}, **NORMED),
    "neox": Family("GPTNeoXConfig", {"use_parallel_residual": True, **OF_LLAMA}, **NEOX),
    "neox-sequential": Family(
        "GPTNeoXConfig", {"use_parallel_residual": False, **OF_LLAMA}, **NEOX
    ),
    "gpt2": Family(
        "GPT2Config",
        OF_LLAMA,
        layers="transformer.h",
        attn_out="attn",
        projection="attn.c_proj",
    ),
    "gpt-oss": Family("GptOssConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW}),
}
"""Every family that is promised to be cut, each with what is special about it at this size."""


def causal_lm(family: str = "gpt2", seed: int = 0, **changes: Any) -> Any:
    """A model of that family, its config changed."""
    import transformers

    kind = FAMILIES[family]
    keys = {key: value for key, value in (SIZES | kind.keys | changes).items() if value is not None}
    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, kind.config)(**keys)
    )
    random_weights(model, seed)
    return model.eval().requires_grad_(False)


def decoder(model: Any = "gpt2", dtype: torch.dtype = torch.float32) -> DecoderModel:
    """A family's model, or one that is given, as the harness cuts it."""
    model = causal_lm(model) if isinstance(model, str) else model
    return DecoderModel("tiny", model.to(dtype), Characters(), "cpu")


def counted(model: Any, calls: list[int], family: str = "gpt2") -> Any:
    """A model that notes whose attention runs, but for the probes that accept a hook point."""
    kind = FAMILIES[family]

    def note(layer: int) -> Callable[..., None]:
        def noted(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            if given.shape[:2] != PROBE:
                calls.append(layer)

        return noted

    for layer, block in enumerate(model.get_submodule(kind.layers)):
        attention = block.get_submodule(kind.projection.partition(".")[0])
        attention.register_forward_pre_hook(note(layer), with_kwargs=True)
    return model


def contexts(n: int, seed: int) -> Contexts:
    """Random tokens, a few of them special."""
    generator = np.random.default_rng(seed)
    stream = generator.integers(0, VOCABULARY, size=(n, CONTEXT + 1))
    return Contexts(stream[:, :-1].copy(), stream[:, 1:].copy())


@dataclass(frozen=True)
class Naive:
    """A whole model run from the tokens on at every question, softmax in float64.

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


def naive(model: Any, family: str, dtype: torch.dtype = torch.float64) -> Naive:
    """A copy of that model of transformers, run whole in that precision."""
    kind, model = FAMILIES[family], deepcopy(model).to(dtype)
    model.config._experts_implementation = "eager" if dtype == torch.float64 else None
    layers = model.get_submodule(kind.layers)

    @contextmanager
    def hooked(kind_of_hook: str, layer: int, change: Callable[..., Any]) -> Iterator[None]:
        block = layers[layer]
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
            first = output[0] if isinstance(output, tuple) else output
            new = change(before[-1] + first) - before[-1]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        def remember(module: Any, args: Any) -> None:
            before.append(args[0])

        part = part_of(block)
        handles = {
            "resid_pre": lambda: [block.register_forward_pre_hook(of_input, with_kwargs=True)],
            "resid_mid": lambda: [
                block.register_forward_pre_hook(remember),
                part(kind.attn_out).register_forward_hook(middle),
            ],
            "resid_post": lambda: [block.register_forward_hook(of_output)],
            "attn_out": lambda: [part(kind.attn_out).register_forward_hook(of_output)],
            "mlp_out": lambda: [part(kind.mlp_out).register_forward_hook(of_output)],
            "mlp_in": lambda: [
                part(kind.mlp).register_forward_pre_hook(of_input, with_kwargs=True)
            ],
            "z": lambda: [
                part(kind.projection).register_forward_pre_hook(of_input, with_kwargs=True)
            ],
        }[kind_of_hook]()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    return Naive(lambda tokens: model(tokens, use_cache=False).logits, hooked)


def part_of(block: Any) -> Callable[[str], Any]:
    """Parts of a layer by name; a hybrid's layers have another attention in its place."""

    def part(name: str) -> Any:
        if name.startswith("self_attn") and not hasattr(block, "self_attn"):
            name = name.replace("self_attn", "linear_attn").replace("o_proj", "out_proj")
        return block.get_submodule(name)

    return part


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
