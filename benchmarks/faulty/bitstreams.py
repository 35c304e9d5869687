"""Broken files of `mdlbench encode` through `decode`: refused, or the same symbols."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from faulty.child import MismatchError, mdlbench
from faulty.filesystem import replaced, scrambled
from faulty.outcome import Outcome, Watch
from faulty.records import leaves
from faulty.values import HOSTILE, MARK
from mdlbench.codes import bitstream
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts

PREFIX = struct.Struct("<8sIIIQ")
COLUMNS = ("token", "latent", "symbol")


def draw_symbols(seed: int, n_tokens: int = 300, n_latents: int = 40) -> Symbols:
    generator = np.random.default_rng(seed)
    dense = generator.integers(1, 9, size=(n_tokens, n_latents))
    dense *= generator.random(dense.shape) < 0.1
    token, latent = np.nonzero(dense)
    columns = (column.astype(np.int32) for column in (token, latent, dense[token, latent]))
    return Symbols(*columns, n_tokens=n_tokens, n_latents=n_latents)


class Bitstreams:
    """A file broken as bytes, or in one of its parts with its digest made to fit."""

    name = "bitstreams"

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self, work: Path) -> None:
        work.mkdir()
        self.symbols = draw_symbols(1)
        codebook = Codebook.fit(SymbolCounts.of(draw_symbols(0)))
        metadata = {"sae": "some", "suite": "tiny"}
        self.data = bitstream.encode(self.symbols, codebook, step=0.5, metadata=metadata)
        assert joined(self._parts()) == self.data

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        file = folder / "x.bits"
        file.write_bytes(self.data)
        watch = Watch(f"{self._broken(file, draw)} #{number}")
        ran = mdlbench(["decode", "x.bits", "-o", "x.npz"], folder, after=self._compare)
        command = "mdlbench decode x.bits -o x.npz"
        watch.see(ran, command)
        return watch.outcome()

    def _compare(self) -> None:
        with np.load("x.npz") as found:
            for column in COLUMNS:
                if not np.array_equal(found[column], getattr(self.symbols, column)):
                    raise MismatchError(f"other {column}s are decoded")

    def _broken(self, file: Path, draw: random.Random) -> str:
        kind = draw.choice(["whole", "part", "part", "part", "summary", "summary", "file"])
        if kind == "file" and draw.random() < 0.3:
            return f"the file is {replaced(file, draw)}"
        if kind == "summary":
            how, data = self._other_summary(draw)
        elif kind == "part":
            how, data = self._other_part(draw)
        else:
            how, data = scrambled(self.data, draw)
        file.write_bytes(data)
        return how

    def _parts(self) -> list[bytes]:
        """Summary, codebook and payload."""
        _, _, *lengths = PREFIX.unpack(self.data[: PREFIX.size])
        parts, place = [], PREFIX.size + hashlib.sha256().digest_size
        for length in lengths:
            parts.append(self.data[place : place + length])
            place += length
        return parts

    def _other_part(self, draw: random.Random) -> tuple[str, bytes]:
        parts = self._parts()
        which = draw.randrange(3)
        how, parts[which] = scrambled(parts[which], draw)
        return f"{('summary', 'codebook', 'payload')[which]}: {how}, digest fits", joined(parts)

    def _other_summary(self, draw: random.Random) -> tuple[str, bytes]:
        summary, *others = self._parts()
        content: dict[str, Any] = json.loads(summary)
        owner, key, where = draw.choice(list(leaves(content)))
        if isinstance(owner[key], int) and draw.random() < 0.5:
            owner[key] = draw.choice(
                [0, 1, owner[key] + 1, owner[key] - 1, 2**21, 2**31 - 1, 2**36]
            )
            how, text = f"{where} is another number", json.dumps(content)
        else:
            value = draw.choice(HOSTILE)
            owner[key] = MARK
            text = json.dumps(content, ensure_ascii=False).replace(f'"{MARK}"', value.text)
            how = f"{where} is {value.name}"
        return f"summary: {how}, digest fits", joined([text.encode(), *others])


def joined(parts: list[bytes]) -> bytes:
    """A file of these parts whose digest fits."""
    prefix = PREFIX.pack(bitstream.MAGIC, bitstream.VERSION, *map(len, parts))
    body = b"".join(parts)
    return prefix + hashlib.sha256(prefix + body).digest() + body
