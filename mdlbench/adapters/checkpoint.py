"""Reading weights: safetensors only, every tensor checked for its shape and for finite values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from mdlbench.errors import CheckpointError, did_you_mean

PICKLES = {".pt", ".pth", ".pkl", ".bin", ".ckpt"}


def require_file(path: Path) -> Path:
    """The path, if it is a file; else `CheckpointError` says what is there instead."""
    if path.is_file():
        return path
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: no such folder")
    pickles = sorted(other.name for other in path.parent.iterdir() if other.suffix in PICKLES)
    beside = f" ({', '.join(pickles)} beside it is a pickle: not read)" if pickles else ""
    raise CheckpointError(f"{path}: no such file{beside}")


def digest_files(*paths: Path) -> str:
    """SHA-256 over the SHA-256 of each file, in order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return digest.hexdigest()


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file: {error}") from error
    return tensors


def as_float32(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, torch.Tensor]:
    """The tensors in float32, if they are exactly those of `shapes` and finite.

    Raises:
        CheckpointError: names the tensor that is missing, unknown, mis-shaped or not finite.
    """
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"{where}: unknown tensor {name!r}. {did_you_mean(name, shapes)}")
    return {name: _as_float32(name, tensors, shape, where) for name, shape in shapes.items()}


def _as_float32(
    name: str, tensors: Mapping[str, torch.Tensor], shape: tuple[int, ...], where: str
) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError(f"{where}: no tensor {name!r}; it has {', '.join(sorted(tensors))}")
    tensor = tensors[name]
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{where}: {name} has shape {tuple(tensor.shape)}, but its config says {shape}"
        )
    if not tensor.is_floating_point():
        raise CheckpointError(f"{where}: {name} has dtype {tensor.dtype}, expected floats")
    weights = tensor.detach().float()
    finite = weights.isfinite()
    if not finite.all():
        bad = weights.numel() - int(finite.sum())
        raise CheckpointError(
            f"{where}: {name}: {bad} of {weights.numel()} weights are NaN or infinite"
        )
    return weights.contiguous()
