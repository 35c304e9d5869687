"""Surrogates of the models and SAEs of suites whose weights are only on the hub.

Each suite's model is a small one of the same architecture with random weights; each of its SAEs
stands at the release's own place, in the release's own layout, and reconstructs what it reads: two
latents for each axis of a turned basis, one for either sign. So an SAE that is read wrong, or at
another place, is seen by its error. Transcoders are random.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from mdlbench.suite.load import load_suite
from tests.surrogate_hub import Files, Weights, as_json, write_repository
from tests.tiny_language import causal_lm

WIDTH, N_HEADS, HEAD = 32, 4, 8
N_LATENTS, CONTEXT, VOCABULARY = 2 * WIDTH, 1024, 258
N_OF_QWEN = 128
"""Qwen-Scope's k of 100 needs more latents than reconstruct; the others are never on."""
BOS, EOS = 0, 1

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma-2-2b-l12": ("gemma2", {"num_hidden_layers": 13}),
    "pythia-160m-l8": ("neox", {"num_hidden_layers": 9}),
    "gemma-3-270m": ("gemma3", {"num_hidden_layers": 13}),
    "gemma-3-1b": ("gemma3", {"num_hidden_layers": 14}),
    "qwen3-1.7b": ("qwen3", {"num_hidden_layers": 22}),
    "llama-3.1-8b": ("llama", {"num_hidden_layers": 16}),
}
"""The architecture of each suite's model, and how many layers reach the SAEs."""
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": N_HEADS,
    "head_dim": HEAD,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}
CLASSES = {
    "Standard": "AutoEncoder",
    "PAnneal": "AutoEncoder",
    "TopK": "AutoEncoderTopK",
    "topk": "AutoEncoderTopK",
    "BatchTopK": "BatchTopKSAE",
    "JumpRelu": "JumpReluAutoEncoder",
    "GatedSAE": "GatedAutoEncoder",
    "MatryoshkaBatchTopK": "MatryoshkaBatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
}
"""The class of dictionary_learning that trained an architecture of SAEBench, by its folder."""


def write_suite_hub(cache: Path, name: str) -> None:
    """Write a suite's model and SAEs into a cache of the hub."""
    suite = load_suite(name)
    repositories: dict[str, Files] = {suite.source.model.name: model_files(name)}
    for entry in suite.saes:
        adapter, _, place = entry.spec.partition(":")
        if adapter in STYLES:
            owner, repository, path = place.removeprefix("hf://").split("/", 2)
            files = STYLES[adapter](path, f"{repository}/{path}")
            repositories.setdefault(f"{owner}/{repository}", {}).update(files)
    for repository, files in repositories.items():
        write_repository(cache, repository, files)


def model_files(name: str) -> Files:
    """A model of that suite's architecture, and a tokenizer of bytes."""
    family, changes = MODELS[name]
    kinds = ["sliding_attention", "full_attention"] * changes["num_hidden_layers"]
    layers = {"layer_types": kinds[: changes["num_hidden_layers"]], "sliding_window": 64}
    sliding = layers if family.startswith("gemma") else {}
    model = causal_lm(family, **SIZES | changes | sliding)
    for parameter in model.parameters():
        parameter.data *= 0.5
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    return files | tokenizer_files(has_bos=family != "qwen3")


def tokenizer_files(has_bos: bool) -> Files:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<bos>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<eos>", **({"bos_token": "<bos>"} if has_bos else {})}
    with TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


def exact(centred: bool, unit: float = 1.0) -> Weights:
    """An SAE that reconstructs everything, W_enc [d_in, n] and W_dec [n, d_in].

    Args:
        centred: whether the decoder's bias is subtracted from what is read.
        unit: of its latents.
    """
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    W_enc = torch.cat([basis, -basis], 1)
    b_dec = torch.randn(WIDTH, generator=generator)
    return {
        "W_enc": (W_enc * unit).contiguous(),
        "b_enc": torch.zeros(N_LATENTS) if centred else -(b_dec @ W_enc) * unit,
        "W_dec": (W_enc.T / unit).contiguous(),
        "b_dec": b_dec,
    }


def dictionary_learning(path: str, where: str) -> Files:
    """A trainer's folder of SAEBench, whose name tells the architecture."""
    longest = max((key for key in CLASSES if re.search(rf"(^|_){key}_", path)), key=len)
    kind = CLASSES[longest]
    w = exact(centred=kind != "JumpReluAutoEncoder")
    linear = {"encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"]}
    linear["decoder.weight"] = w["W_dec"].T.contiguous()
    zeros, k = torch.zeros(N_LATENTS), {"k": torch.tensor(WIDTH), "threshold": torch.tensor(0.0)}
    state = {
        "AutoEncoder": {**linear, "bias": w["b_dec"]},
        "AutoEncoderTopK": {**linear, "b_dec": w["b_dec"], **k},
        "BatchTopKSAE": {**linear, "b_dec": w["b_dec"], **k},
        "JumpReluAutoEncoder": {**w, "threshold": zeros},
        "GatedAutoEncoder": {
            "encoder.weight": linear["encoder.weight"],
            "decoder.weight": linear["decoder.weight"],
            "decoder_bias": w["b_dec"],
            "r_mag": zeros,
            "gate_bias": zeros,
            "mag_bias": zeros,
        },
        "MatryoshkaBatchTopKSAE": {**w, **k, "group_sizes": torch.tensor([16, N_LATENTS - 16])},
    }[kind]
    layer = re.search(r"resid_post_layer_(\d+)", path)
    gemma = "gemma-2-2b" in where
    trainer = {
        "dict_class": kind,
        "activation_dim": WIDTH,
        "dict_size": N_LATENTS,
        "layer": int(layer[1]),
        "lm_name": "google/gemma-2-2b" if gemma else "EleutherAI/pythia-160m-deduped",
        "submodule_name": layer[0],
        **({"k": WIDTH} if "TopK" in kind else {}),
    }
    config = {"trainer": trainer, "buffer": {"d_submodule": WIDTH, "io": "out", "ctx_len": CONTEXT}}
    return {f"{path}/config.json": as_json(config), f"{path}/ae.pt": saved(state)}


def gemma_scope(path: str, where: str) -> Files:
    """Gemma Scope's archives, and Gemma Scope 2's safetensors with their config."""
    w = transcoder() if "transcoder" in where else exact(centred=False)
    w["threshold"] = torch.zeros(N_LATENTS)
    if "gemma-scope-2-" not in where:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: tensor.numpy() for name, tensor in w.items()})
        return {f"{path}/params.npz": buffer.getvalue()}
    layer = re.search(r"layer_(\d+)", path)[1]
    block = f"model.layers.{layer}"
    hook = {
        "resid_post": f"{block}.output",
        "attn_out": f"{block}.self_attn.o_proj.input",
        "mlp_out": f"{block}.post_feedforward_layernorm.output",
    }.get(path.partition("/")[0], f"{block}.pre_feedforward_layernorm.output")
    config = {"architecture": "jump_relu", "model_name": "gemma-v3", "hf_hook_point_in": hook}
    if "transcoder" in path:
        config["hf_hook_point_out"] = f"{block}.post_feedforward_layernorm.output"
        config["affine_connection"] = "affine" in path
    tensors = {{"W_enc": "w_enc", "W_dec": "w_dec"}.get(k, k): t for k, t in w.items()}
    if "affine" in path:
        tensors["affine_skip_connection"] = torch.eye(WIDTH) * 0.1
    return {
        f"{path}/config.json": as_json(config),
        f"{path}/params.safetensors": save(tensors),
    }


def transcoder() -> Weights:
    generator = torch.Generator().manual_seed(6)
    w = exact(centred=False)
    w["W_dec"] = 0.1 * torch.randn(N_LATENTS, WIDTH, generator=generator)
    return w


def qwen_scope(path: str, where: str) -> Files:
    w, more = exact(centred=False), N_OF_QWEN - N_LATENTS
    state = {
        "W_enc": torch.cat([w["W_enc"].T, torch.zeros(more, WIDTH)]),
        "b_enc": torch.cat([w["b_enc"], torch.full((more,), -1.0)]),
        "W_dec": torch.cat([w["W_dec"].T, torch.ones(WIDTH, more)], 1),
        "b_dec": w["b_dec"],
    }
    return {path: saved(state)}


def llama_scope(path: str, where: str) -> Files:
    """JumpReLU SAEs of activations whose norm is √d on average."""
    letter, norm = re.search(r"L15([RAM])-", path)[1], 11.0
    scale = WIDTH**0.5 / norm
    hook = {"R": "resid_post", "A": "attn_out", "M": "mlp_out"}[letter]
    w = exact(centred=False)
    name = f"blocks.15.hook_{hook}"
    config = {
        "d_model": WIDTH,
        "d_sae": N_LATENTS,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 1e-6,
        "top_k": 50,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
        "hook_point_in": name,
        "hook_point_out": name,
    }
    tensors = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"] * scale,
        "decoder.weight": w["W_dec"].T.contiguous(),
        "decoder.bias": w["b_dec"] * scale,
    }
    return {
        f"{path}/hyperparams.json": json.dumps(config).encode(),
        f"{path}/checkpoints/final.safetensors": save(tensors),
    }


STYLES: dict[str, Callable[[str, str], Files]] = {
    "dictionary_learning": dictionary_learning,
    "gemma_scope": gemma_scope,
    "qwen_scope": qwen_scope,
    "llama_scope": llama_scope,
}


def saved(state: Weights) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
