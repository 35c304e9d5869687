"""Small unbroken checkpoints of every format, and how their own libraries read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from test_formats import CLASSES, write_gemma, write_openai, write_sparsify, write_trainer

D, WIDTH, K = 12, 40, 4
AFFINE = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}
GATES = {"b_gate": (WIDTH,), "r_mag": (WIDTH,), "b_mag": (WIDTH,)}
SAELENS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "standard": (AFFINE, {}),
    "topk": (AFFINE, {"k": K, "normalize_activations": "layer_norm"}),
    "jumprelu": ({**AFFINE, "threshold": (WIDTH,)}, {}),
    "gated": ({k: v for k, v in AFFINE.items() if k != "b_enc"} | GATES, {}),
    "matching_pursuit": (
        {"W_dec": (WIDTH, D), "b_dec": (D,)},
        {"max_iterations": 4, "residual_threshold": 0.1},
    ),
    "tree": ({**AFFINE, "threshold": (WIDTH,)}, {}),
    "group_sparse": ({**AFFINE, "threshold": (WIDTH // 2,)}, {"group_size": 2}),
    "skip_transcoder": ({**AFFINE, "W_skip": (D, D)}, {"d_out": D}),
}
ROWS = ("W_dec", "decoder.weight")
"""Tensors that hold the decoder; `decoder.weight` is kept transposed."""


@dataclass(frozen=True)
class Base:
    """A checkpoint of one format.

    Attributes:
        name: of the format and what varies in it.
        adapter: that reads it.
        weights, config: names of its files; without a config "".
        write: makes it in a folder.
    """

    name: str
    adapter: str
    weights: str
    config: str
    write: Callable[[Path], Any]

    @property
    def kind(self) -> str:
        """The ending of the weights' file: `.safetensors`, `.pt` or `.npz`."""
        return Path(self.weights).suffix

    def spec(self, folder: Path) -> str:
        named = folder / self.weights if self.adapter == "openai" else folder
        return f"{self.adapter}:{named}"


def write_saelens(folder: Path, architecture: str) -> None:
    shapes, extra = SAELENS[architecture]
    draw = torch.Generator().manual_seed(5)
    tensors = {name: 0.4 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    if architecture in ("matching_pursuit", "group_sparse"):
        tensors["W_dec"] = torch.nn.functional.normalize(tensors["W_dec"], dim=1)
    if architecture == "tree":
        tensors["parents"] = torch.arange(WIDTH) // 4 - 1
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "sae_weights.safetensors")
    config = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": WIDTH,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "metadata": {"hook_name": "pixels", "context_size": 128, "prepend_bos": True},
    }
    (folder / "cfg.json").write_text(json.dumps(config | extra))


def bases() -> list[Base]:
    """Every format, each with what varies in it."""
    found = [
        Base(
            f"saelens {name}",
            "saelens",
            "sae_weights.safetensors",
            "cfg.json",
            lambda folder, name=name: write_saelens(folder, name),
        )
        for name in SAELENS
    ]
    found += [
        Base(
            f"dictionary_learning {name}",
            "dictionary_learning",
            "ae.pt",
            "config.json",
            lambda folder, name=name: write_trainer(folder, name),
        )
        for name in CLASSES
    ]
    sparsify = {
        "topk": {},
        "skip": {"skip_connection": True},
        "groupmax": {"activation": "groupmax"},
    }
    found += [
        Base(
            f"sparsify {name}",
            "sparsify",
            "sae.safetensors",
            "cfg.json",
            lambda folder, changes=changes: write_sparsify(folder, **changes),
        )
        for name, changes in sparsify.items()
    ]
    found += [
        Base(
            f"openai {name}",
            "openai",
            "8.pt",
            "",
            lambda folder, name=name: write_openai(folder / "8.pt", name),
        )
        for name in ("TopK", "ReLU")
    ]
    return [*found, Base("gemma_scope", "gemma_scope", "params.npz", "", write_gemma)]


def read(file: Path) -> dict[str, Any]:
    """What a file of weights holds, by its own library, without memory mapping."""
    if file.suffix == ".safetensors":
        return dict(safetensors.torch.load(file.read_bytes()))
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    return dict(torch.load(file, map_location="cpu", weights_only=True, mmap=False))


def rewrite(content: dict[str, Any], file: Path) -> None:
    """The same content as a fresh file that nobody broke."""
    if file.suffix == ".npz":
        np.savez(file, **content)
    elif file.suffix == ".safetensors":
        whole = {name: tensor.contiguous().clone() for name, tensor in content.items()}
        safetensors.torch.save_file(whole, file)
    else:
        torch.save(content, file)


def decoder(content: dict[str, Any]) -> np.ndarray | None:
    """The decoder's rows in float64, [latent, d_out], as the file has them."""
    for name in ROWS:
        if name in content:
            tensor = torch.as_tensor(content[name]).detach().double()
            return np.asarray(tensor.T if name == "decoder.weight" else tensor)
    return None
