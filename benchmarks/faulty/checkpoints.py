"""Broken checkpoints through `check-adapter`: refused, or loaded as their own library does."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faulty import bases
from faulty.bases import Base
from faulty.child import MismatchError, mdlbench
from faulty.filesystem import replaced, scrambled
from faulty.outcome import Outcome, Watch
from faulty.tensors import changed_archive, changed_header, changed_tensor
from faulty.values import HOSTILE, MARK
from mdlbench.adapters.load import load_coder

Outputs = tuple[np.ndarray, ...]


class Checkpoints:
    """Every format in turn, broken in a way that is drawn."""

    name = "checkpoints"

    def __init__(self, count: int) -> None:
        self.count = count
        self.bases = bases.bases()
        self.whole: dict[str, Outputs] = {}

    def prepare(self, work: Path) -> None:
        self.folder = work
        for base in self.bases:
            base.write(work / base.name)
            self.whole[base.name] = outputs(base, work / base.name)

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        base = self.bases[number % len(self.bases)]
        how, nonsense = self._broken_copy(base, folder / "sae", draw)
        watch = Watch(f"{base.name}: {how} #{number}")
        known = self.whole[base.name] if nonsense else None
        spec = base.spec(Path("sae"))
        ran = mdlbench(
            ["check-adapter", spec], folder, after=lambda: _compare(base, Path("sae"), known)
        )
        command = f"mdlbench check-adapter {spec}"
        watch.see(ran, command, says_on_stdout=True)
        if (folder / "ran").exists():
            watch.blame("code of the file was run", command)
        return watch.outcome()

    def _broken_copy(self, base: Base, folder: Path, draw: random.Random) -> tuple[str, bool]:
        """A copy, broken in a way that the format's own library can write."""
        while True:
            shutil.copytree(self.folder / base.name, folder, dirs_exist_ok=True)
            try:
                return broken(base, folder, draw)
            except Exception:
                shutil.rmtree(folder)


def broken(base: Base, folder: Path, draw: random.Random) -> tuple[str, bool]:
    """Break the checkpoint; how, and whether what it says now is nonsense."""
    weights = folder / base.weights
    ways: list[Callable[[], tuple[str, bool]]] = [
        lambda: (f"weights: {_scramble(weights, draw)}", False),
        lambda: (changed_tensor(weights, draw), False),
        lambda: (changed_tensor(weights, draw), False),
    ]
    if base.kind in (".pt", ".npz"):
        ways.append(lambda: (f"archive: {changed_archive(weights, draw)}", False))
    else:
        ways.append(lambda: (f"header: {changed_header(weights, draw)}", False))
    if base.config:
        config = folder / base.config
        ways += 2 * [lambda: hostile_value(config, draw)]
        ways.append(lambda: (f"config: {_scramble(config, draw)}", False))
    else:
        config = weights
    if draw.random() < 0.1:
        file = draw.choice([weights, config])
        return f"{file.name} is {replaced(file, draw)}", False
    return draw.choice(ways)()


def _scramble(file: Path, draw: random.Random) -> str:
    how, data = scrambled(file.read_bytes(), draw)
    file.write_bytes(data)
    return how


def hostile_value(file: Path, draw: random.Random) -> tuple[str, bool]:
    """One key of a JSON file with a hostile value, missing, or twice."""
    content = json.loads(file.read_text())
    owner, key = draw.choice(list(keys(content)))
    value = draw.choice(HOSTILE)
    if draw.random() < 0.1:
        del owner[key]
        file.write_text(json.dumps(content))
        return f"{key} is missing", False
    owner[key] = MARK
    text = json.dumps(content, ensure_ascii=False).replace(f'"{MARK}"', value.text)
    file.write_text(text)
    return f"{key} is {value.name}", value.nonsense


def keys(content: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every key at every depth, with the object that has it."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from keys(value)


def outputs(base: Base, folder: Path) -> Outputs:
    """Decoder rows, latents and reconstructions of some fixed tokens."""
    coder = load_coder(base.spec(folder))
    x = torch.randn(16, coder.spec.d_in, generator=torch.Generator().manual_seed(0))
    latents, side = coder.encode(x)
    rows = np.asarray(coder.decoder_rows())
    return rows, latents.to_dense(), np.asarray(coder.decode(latents, side))


def _compare(base: Base, folder: Path, unbroken: Outputs | None) -> None:
    """Raise `MismatchError` unless a fresh copy of what the file says gives the same numbers."""
    found = outputs(base, folder)
    if unbroken is not None and not _equal(found, unbroken):
        raise MismatchError("nonsense is accepted and changes the numbers")
    try:
        content = bases.read(folder / base.weights)
    except Exception as error:
        raise MismatchError(
            f"accepted, but not by its own library: {type(error).__name__}"
        ) from error
    expected = bases.decoder(content)
    if expected is not None and not _close(found[0], expected):
        raise MismatchError("the decoder is not that of the file")
    fresh = Path("fresh") / folder
    fresh.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.name != base.weights:
            shutil.copy(file, fresh)
    bases.rewrite(content, fresh / base.weights)
    if not _equal(found, outputs(base, fresh)):
        raise MismatchError("loads otherwise than a fresh copy of the file")


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and np.allclose(found, expected, rtol=2e-6, atol=1e-30)


def _equal(one: Outputs, other: Outputs) -> bool:
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))
