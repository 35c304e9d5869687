"""Reading configs and weights: nothing read can run code, every tensor is checked.

Weights are those of safetensors, of NumPy archives without objects, and of `torch.save` as far as
`torch.load(weights_only=True)` reads them. Files are read whole, not mapped: what a mapped file's
directory claims is not checked by torch, and a file that is written again would change the weights.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile, ZipInfo

import numpy as np
import safetensors.torch
import torch
from pydantic import BeforeValidator, Field

from mdlbench.adapters import archive
from mdlbench.disk import npy
from mdlbench.disk.files import read_regular
from mdlbench.disk.json_text import parse_json
from mdlbench.errors import (
    CheckpointError,
    MdlbenchError,
    did_you_mean,
    first_line,
    heed_shortage,
    listed,
    reason,
    shown,
)

CONFIG_BYTES = 1 << 24
"""The most that a config may have."""
LONGEST_TEXT = 1000
"""Characters of a name in a config, at most."""
INTEGERS = (
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth_value), Field(gt=-(2**31), lt=2**31)]
"""A whole number of a config."""
Count = Annotated[Whole, Field(gt=0)]
"""A width, or a number of latents, tokens or steps."""
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
"""A name in a config."""

PICKLES = {".pt", ".pth", ".pkl", ".bin", ".ckpt"}


@contextmanager
def blamed_on(where: object, reason: str = "cannot be understood") -> Iterator[None]:
    """Whatever foreign bytes raise in the block, as a `CheckpointError` that names the file."""
    try:
        yield
    except MdlbenchError:
        raise
    except Exception as error:
        heed_shortage(error)
        raise CheckpointError(f"{where}: {reason}: {first_line(error)}") from error


def require_file(path: Path) -> Path:
    """The path, if it is a regular file; else `CheckpointError` says what is there instead."""
    if path.is_file():
        return path
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: not a regular file")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: no such folder")
    pickles = sorted(other.name for other in path.parent.iterdir() if other.suffix in PICKLES)
    beside = f" ({listed(pickles)} beside it is a pickle: not read)" if pickles else ""
    raise CheckpointError(f"{path}: no such file{beside}")


def digest_files(*paths: Path) -> str:
    """SHA-256 over the SHA-256 of each file, in order."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {reason(error)}") from error
    return digest.hexdigest()


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with blamed_on(path, "truncated, or not a safetensors file"):
        tensors: dict[str, torch.Tensor] = safetensors.torch.load_file(path)
        return tensors


def load_pickle_free(path: Path) -> dict[str, Any]:
    """The tensors and plain values that `torch.save` wrote as one dict.

    Raises:
        CheckpointError: the file is truncated or of another kind, needs code to be run (names the
            first class or function that it asks for), or is not a dict with text keys; or one of
            its tensors is sparse, quantised, nested or without numbers, or has more than the file
            has room for.
    """
    try:
        held = archive.unpacked_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        heed_shortage(error)
        raise CheckpointError(f"{path}: {_why_not_loaded(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path}: expected a dict of tensors by name, found a {type(content).__name__}"
        )
    for name, tensor in _tensors_in(content):
        if problem := _why_not_dense(tensor, held):
            raise CheckpointError(f"{path}: {shown(name)[1:-1]} {problem}")
    return content


def _tensors_in(content: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor at any depth, with the nearest key above it; each container is entered once."""
    seen: set[int] = set()
    left: list[tuple[str, Any]] = list(content.items())
    while left:
        name, value = left.pop()
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            named = value.items() if isinstance(value, Mapping) else ((name, v) for v in value)
            left += [(key if isinstance(key, str) else name, inner) for key, inner in named]


def _why_not_dense(tensor: torch.Tensor, held: int) -> str | None:
    """What keeps a tensor from being numbers in a file of so many bytes; None if nothing does."""
    if tensor.is_nested or tensor.is_quantized:
        return f"is {'nested' if tensor.is_nested else 'quantised'}, expected a plain tensor"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}), expected a plain tensor"
    if tensor.is_meta:
        return "has a shape, but no numbers: it is on the device 'meta'"
    if tensor.numel() * tensor.element_size() > held:
        return f"has shape {tuple(tensor.shape)}, but the file holds {held:,} bytes"
    return None


def _why_not_loaded(error: Exception) -> str:
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return (
            f"needs code to be run ({asked.group(1)}), which mdlbench does not do; save the "
            "module's state_dict() instead"
        )
    if isinstance(error, pickle.UnpicklingError):
        return "truncated, or not a file of torch.save"
    return f"truncated, or not a file of torch.save: {first_line(error).partition('. ')[0]}"


def load_npz(path: Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """The arrays of a NumPy archive.

    Args:
        path: the archive.
        names: those that it may have; if it has another, nothing is read. None allows any.

    Raises:
        CheckpointError: the file is truncated or of another kind, holds an unknown array, objects
            rather than numbers, or promises more than it has.
    """
    with blamed_on(path, "truncated, or not an archive of arrays"), ZipFile(path) as found:
        members = {info.filename.removesuffix(".npy"): info for info in found.infolist()}
        if names is not None:
            _reject_unknown(members, names, str(path))
        archive.check(found, path)
        return {name: _array(found, member) for name, member in members.items()}


def _array(found: ZipFile, member: ZipInfo) -> torch.Tensor:
    with found.open(member) as stream:
        promised = npy.read_header(stream.read(npy.LONGEST_HEADER)).ends
    if promised != member.file_size:
        raise ValueError(
            f"{shown(member.filename)} promises {promised:,} bytes and has {member.file_size:,}"
        )
    with found.open(member) as stream:
        return torch.from_numpy(np.lib.format.read_array(stream, allow_pickle=False))


def load_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; raises `CheckpointError` for anything else."""
    with blamed_on(path, "cannot be read"):
        text = read_regular(path, CONFIG_BYTES)
    with blamed_on(path, "not JSON"):
        content = parse_json(text)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected an object, found a {type(content).__name__}")
    return content


def only_tensors(content: Mapping[str, Any], where: str) -> dict[str, torch.Tensor]:
    """The same, if all values are tensors; else `CheckpointError` names the first that is not."""
    for name, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{where}: {shown(str(name))} is a {type(value).__name__}, expected a tensor"
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
    _reject_unknown(tensors, shapes, where)
    return {
        name: _as_float32(name, find_tensor(tensors, name, where), shape, where, said_by)
        for name, shape in shapes.items()
    }


def _reject_unknown(names: Collection[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise CheckpointError(
                f"{where}: unknown tensor {shown(name)}. {did_you_mean(name, known)}"
            )


def whole_numbers(tensor: torch.Tensor, name: str, where: str) -> list[int]:
    """What a tensor of integers holds, in order; raises `CheckpointError` for another."""
    return [int(value) for value in _integers(tensor, name, where).flatten().tolist()]


def index_array(tensor: torch.Tensor, name: str, where: str) -> np.ndarray:
    """A tensor of integers as an array; raises `CheckpointError` for another."""
    return np.asarray(_integers(tensor, name, where).cpu())


def _integers(tensor: torch.Tensor, name: str, where: str) -> torch.Tensor:
    if tensor.dtype not in INTEGERS:
        raise CheckpointError(f"{where}: {name} has dtype {tensor.dtype}, expected integers")
    return tensor.detach().resolve_neg()


def check_k(k: int, d_latents: int, where: str) -> None:
    """Raise `CheckpointError` unless there are k latents to choose."""
    if not 0 < k <= d_latents:
        raise CheckpointError(f"{where}: k must be from 1 to {d_latents} latents, not {k}")


def find_tensor(tensors: Mapping[str, torch.Tensor], name: str, where: str) -> torch.Tensor:
    """The tensor of that name; raises `CheckpointError` if there is none."""
    if name not in tensors:
        raise CheckpointError(f"{where}: no tensor {name!r}; it has {listed(tensors)}")
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
    weights = tensor.detach().resolve_neg().float()
    finite = weights.isfinite()
    if not finite.all():
        bad = weights.numel() - int(finite.sum())
        raise CheckpointError(
            f"{where}: {name}: {bad} of {weights.numel()} weights are NaN or infinite"
        )
    return weights.contiguous()
