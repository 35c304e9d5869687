"""Reading configs and weights: nothing read can run code, every tensor is checked.

Weights are those of safetensors, of NumPy archives without objects, and of `torch.save` as far as
`torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
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


def load_pickle_free(path: Path) -> dict[str, Any]:
    """The tensors and plain values that `torch.save` wrote as one dict.

    Raises:
        CheckpointError: the file is truncated or of another kind, needs code to be run (names the
            first class or function that it asks for), or is not a dict with text keys.
    """
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:
        raise CheckpointError(f"{path}: {_why_not_loaded(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path}: expected a dict of tensors by name, found a {type(content).__name__}"
        )
    return content


def _why_not_loaded(error: Exception) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return (
            f"needs code to be run ({asked.group(1)}), which mdlbench does not do; save the "
            "module's state_dict() instead"
        )
    if isinstance(error, pickle.UnpicklingError):
        return "truncated, or not a file of torch.save"
    reason = re.split(r"\n|\. ", str(error))[0] or type(error).__name__
    return f"truncated, or not a file of torch.save: {reason}"


def load_npz(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a NumPy archive.

    Raises:
        CheckpointError: the file is truncated or of another kind, or holds objects, not numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except Exception as error:
        raise CheckpointError(f"{path}: truncated, or not an archive of arrays: {error}") from error


def load_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises `CheckpointError` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, found a {type(content).__name__}")
    return content


def only_tensors(content: Mapping[str, Any], where: str) -> dict[str, torch.Tensor]:
    """The same, if all values are tensors; else `CheckpointError` names the first that is not."""
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{where}: {name!r} is a {type(value).__name__}, expected a tensor"
            )
    return dict(content)


def matrix_shape(tensors: Mapping[str, torch.Tensor], name: str, where: str) -> tuple[int, int]:
    """Rows and columns of the matrix that tells an SAE's widths where no config does."""
    shape = tuple(find_tensor(tensors, name, where).shape)
    if len(shape) != 2 or 0 in shape:
        raise CheckpointError(f"{where}: {name} has shape {shape}, expected a matrix")
    return shape


def as_float32(
    tensors: Mapping[str, torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    said_by: str = "its config",
) -> dict[str, torch.Tensor]:
    """The tensors in float32, if they are exactly those of `shapes` and finite.

    Args:
        tensors: the tensors by name.
        shapes: the shape that each must have; no other may be there.
        where: what errors call the file.
        said_by: what errors name as the source of the shapes.

    Raises:
        CheckpointError: names the tensor that is missing, unknown, mis-shaped or not finite.
    """
    for name in tensors:
        if name not in shapes:
            raise CheckpointError(f"{where}: unknown tensor {name!r}. {did_you_mean(name, shapes)}")
    return {
        name: _as_float32(name, find_tensor(tensors, name, where), shape, where, said_by)
        for name, shape in shapes.items()
    }


def check_k(k: int, d_latents: int, where: str) -> None:
    """Raise `CheckpointError` unless there are k latents to choose."""
    if not 0 < k <= d_latents:
        raise CheckpointError(f"{where}: k must be from 1 to {d_latents} latents, not {k}")


def find_tensor(tensors: Mapping[str, torch.Tensor], name: str, where: str) -> torch.Tensor:
    """The tensor of that name; raises `CheckpointError` if there is none."""
    if name not in tensors:
        raise CheckpointError(f"{where}: no tensor {name!r}; it has {', '.join(sorted(tensors))}")
    return tensors[name]


def _as_float32(
    name: str, tensor: torch.Tensor, shape: tuple[int, ...], where: str, said_by: str
) -> torch.Tensor:
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{where}: {name} has shape {tuple(tensor.shape)}, but {said_by} says {shape}"
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
