"""Tensors, arrays and archives that no honest checkpoint holds."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faulty import bases

Change = Callable[[torch.Tensor], Any]
WRONG_SHAPES: dict[str, Change] = {
    "transposed": lambda t: t.T.contiguous() if t.ndim == 2 else t[:-1].clone(),
    "one row more": lambda t: torch.cat([t, t[:1]]) if t.ndim else t.reshape(1),
    "one dimension more": lambda t: t[None].clone(),
    "empty": lambda t: t.new_zeros(0),
    "scalar": lambda t: t.new_zeros(()),
    "shape (0, 4)": lambda t: t.new_zeros((0, 4)),
}
WRONG_VALUES: dict[str, Change] = {
    "NaN": lambda t: torch.full_like(t.float(), torch.nan),
    "infinite": lambda t: torch.full_like(t.float(), torch.inf),
    "minus infinite": lambda t: torch.full_like(t.float(), -torch.inf),
    "huge": lambda t: torch.full_like(t.float(), 3e38),
    "tiny": lambda t: torch.full_like(t.float(), 1e-45),
    "negative": lambda t: -t.float().abs() - 1,
    "float64 beyond float32": lambda t: torch.full_like(t.double(), 1e300),
    "zero": torch.zeros_like,
}
DTYPES: dict[str, Change] = {
    str(dtype).removeprefix("torch."): lambda t, dtype=dtype: t.to(dtype)
    for dtype in (
        torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int8, torch.int64, torch.uint8, torch.bool,
    )
}  # fmt: skip
ONLY_PICKLED: dict[str, Change] = {
    "complex64": lambda t: t.to(torch.complex64),
    "sparse COO": lambda t: t.float().to_sparse(),
    "sparse CSR": lambda t: t.float().reshape(len(t) if t.ndim else 1, -1).to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
    "nested": lambda t: torch.nested.nested_tensor([t.float().flatten(), t.float().flatten()[:1]]),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "a parameter": lambda t: torch.nn.Parameter(t.float()),
    "strided by 0, 40 GB": lambda t: t.flatten()[:1].expand(100_000, 100_000),
    "strided by 0, 6 GB": lambda t: t.flatten()[:1].expand(1_600_000_000),
    "strided by 0, of the right shape": lambda t: t.flatten()[:1].expand(t.shape),
    "a view of a larger storage": lambda t: torch.stack([t, t])[1],
    "conjugated": lambda t: t.to(torch.complex64).conj(),
    "text": lambda t: "weights",
    "a list": lambda t: t.tolist(),
    "None": lambda t: None,
    "a big integer": lambda t: 10**4000,
    "deep nesting": lambda t: _deep(250),
}
ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda a: a.astype(">f4"),
    "float16": lambda a: a.astype("f2"),
    "long double": lambda a: a.astype(np.longdouble),
    "complex": lambda a: a.astype("c8"),
    "text": lambda a: a.astype("U8"),
    "dates": lambda a: a.astype("i8").astype("M8[s]"),
    "records": lambda a: np.zeros(a.shape, dtype=[("a", "f4"), ("b", "f4")]),
    "Fortran's order": np.asfortranarray,
    "uint64": lambda a: np.full(a.shape, 2**63, dtype="u8"),
}


def _deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested


def changed_tensor(file: Path, draw: random.Random) -> str:
    """Rewrite the file with one tensor changed, missing or added; says how."""
    content = bases.read(file)
    name = draw.choice(list(content))
    how = draw.choice(["missing", "extra", "renamed", *["changed"] * 12])
    if how == "missing":
        del content[name]
    elif how == "extra":
        content["extra"] = content[name] if file.suffix == ".npz" else torch.zeros(3)
    elif how == "renamed":
        content[name.upper() + "\x1b[31m"] = content.pop(name)
    else:
        how = _replaced(content, name, file.suffix, draw)
    bases.rewrite(content, file)
    return f"{_plain(name)} {how}"


def _plain(name: str) -> str:
    return name.encode("unicode_escape").decode()


def _replaced(content: dict[str, Any], name: str, suffix: str, draw: random.Random) -> str:
    changes: dict[str, Callable[[Any], Any]] = {**WRONG_SHAPES, **WRONG_VALUES, **DTYPES}
    if suffix == ".pt":
        changes |= ONLY_PICKLED
    value = content[name]
    if suffix == ".npz":
        unknown = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
        arrays = {k: _on_array(v) for k, v in changes.items() if k not in unknown}
        how = draw.choice(list(changes := {**arrays, **ARRAYS}))
        content[name] = changes[how](value)
        return how
    how = draw.choice(list(changes))
    tensor = value if isinstance(value, torch.Tensor) else torch.zeros(3)
    content[name] = changes[how](tensor)
    return how


def _on_array(change: Change) -> Callable[[np.ndarray], Any]:
    return lambda array: change(torch.from_numpy(array)).numpy()


def changed_archive(file: Path, draw: random.Random) -> str:
    """Zip the members again in another way, or claim what is not so."""
    changes = {
        "deflated": lambda: _zipped_again(file, zipfile.ZIP_DEFLATED),
        "one member deflated": lambda: _one_deflated(file, draw),
        "another member deflated": lambda: _one_deflated(file, draw),
        "bzip2": lambda: _zipped_again(file, zipfile.ZIP_BZIP2),
        "lzma": lambda: _zipped_again(file, zipfile.ZIP_LZMA),
        "stored again": lambda: _zipped_again(file, zipfile.ZIP_STORED),
        "a bomb of 3 GB beside": lambda: _with_bomb(file, "extra.npy"),
        "a bomb of 3 GB as a tensor": lambda: _with_bomb(file, _largest(file)),
        "members twice": lambda: _zipped_again(file, zipfile.ZIP_STORED, twice=True),
        "sizes of 2^32 − 2 claimed": lambda: _claiming(file),
        "pickles instead": lambda: _pickled(file),
        "shapes of 10^12 claimed": lambda: _claimed_shape(file),
    }
    how = draw.choice(list(changes))
    changes[how]()
    return how


def _members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _largest(file: Path) -> str:
    with zipfile.ZipFile(file) as archive:
        return max(archive.infolist(), key=lambda member: member.file_size).filename


def _zipped_again(file: Path, method: int, twice: bool = False) -> None:
    members = _members(file)
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
            if twice:
                archive.writestr(name, bytes(len(data)))


def _one_deflated(file: Path, draw: random.Random) -> None:
    """Few numbers: what compressed bytes are mistaken for is then likely to be finite."""
    members = list(_members(file).items())
    draw.shuffle(members)
    deflated = draw.choice([name for name, _ in members])
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            method = zipfile.ZIP_DEFLATED if name == deflated else zipfile.ZIP_STORED
            archive.writestr(name, data, method)


def _with_bomb(file: Path, name: str) -> None:
    """A member that unpacks to 3 GB of zeros, after the header of an array."""
    members = {other: data for other, data in _members(file).items() if other != name}
    size, packed = _bomb()
    with zipfile.ZipFile(file, "w") as archive:
        for other, data in members.items():
            archive.writestr(other, data)
        archive.writestr(name, packed)
        local = archive.getinfo(name).header_offset
    data = bytearray(file.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    for start, method, unpacked in ((local, 8, 22), (central, 10, 24)):
        struct.pack_into("<H", data, start + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", data, start + unpacked, size)
    file.write_bytes(data)


def _bomb(blocks: int = 3000) -> tuple[int, bytes]:
    """Size and deflated bytes: the header of a large array, then zeros."""
    header = io.BytesIO()
    shape = (blocks << 18,)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(header.getvalue()) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return len(header.getvalue()) + (blocks << 20), first + block * blocks + packer.flush()


def _claiming(file: Path) -> None:
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**32 - 2)
    file.write_bytes(data)


def _pickled(file: Path) -> None:
    """Objects where arrays are expected; whoever loads them makes a file named `ran`."""
    with zipfile.ZipFile(file, "a") as archive:
        name = archive.namelist()[0]
    members = _members(file)
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Runs()], dtype=object), allow_pickle=True)
    members[name] = (
        buffer.getvalue() if name.endswith(".npy") else b"cos\nsystem\n(S'touch ran'\ntR."
    )
    with zipfile.ZipFile(file, "w") as archive:
        for other, data in members.items():
            archive.writestr(other, data)


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("touch ran",)


def _claimed_shape(file: Path) -> None:
    """An array's header, or a pickled tensor's size, that says more than there is."""
    members = _members(file)
    name = next((n for n in members if n.endswith((".npy", "data.pkl"))), _largest(file))
    if name.endswith(".npy"):
        buffer = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
        np.lib.format.write_array_header_1_0(buffer, header)
        members[name] = buffer.getvalue() + bytes(64)
    else:
        size = struct.pack("<BB", ord("K"), bases.WIDTH)
        members[name] = members[name].replace(size, struct.pack("<Bi", ord("J"), 2**31 - 1))
    with zipfile.ZipFile(file, "w") as archive:
        for other, data in members.items():
            archive.writestr(other, data)


def changed_header(file: Path, draw: random.Random) -> str:
    """The JSON before the tensors of a safetensors file, with one thing claimed that is not so."""
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    name = draw.choice([key for key in header if key != "__metadata__"])
    changes: dict[str, dict[str, Any] | str] = {
        "shape of 10^12": {"shape": [10**6, 10**6]},
        "shape beyond 64 bits": {"shape": [2**40, 2**40]},
        "negative shape": {"shape": [-1, 4]},
        "offsets beyond the file": {"data_offsets": [0, 10**12]},
        "offsets that overlap": {"data_offsets": [0, 4 * bases.WIDTH]},
        "other dtype": {"dtype": draw.choice(["F16", "BF16", "F64", "I64", "F8_E4M3", "nosuch"])},
        "shape of text": {"shape": ["a"]},
        "header of 2^60 bytes": "length",
        "header of 90 MB": "spaces",
        "tensor twice": "twice",
        "deep nesting": "deep",
    }
    how = draw.choice(list(changes))
    change = changes[how]
    if isinstance(change, dict):
        header[name] |= change
    text = json.dumps(header)
    if change == "spaces":
        text += " " * 90_000_000
    elif change == "twice":
        text = text[:-1] + "," + text[1:]
    elif change == "deep":
        text = text[:-1] + ',"a":' + "[" * 20_000 + "]" * 20_000 + "}"
    length = 2**60 if change == "length" else len(text)
    file.write_bytes(struct.pack("<Q", length) + text.encode() + data[8 + size :])
    return f"{name} {how}"
