"""Latents of a whole split as a real file, and back: the audit of `heldout` (maths §3, `coded`).

A file is self-contained. In order, integers little-endian:

    magic      8 bytes   89 "MDLBITS"
    version    uint32    1
    lengths    uint32 summary, uint32 codebook, uint64 payload, in bytes
    digest     32 bytes  SHA-256 of the whole file but for these bytes
    summary    JSON: sizes, step, the quantiser's integers if there are any, the codebook's
               hyperparameters, the symbols' digest, metadata
    codebook   calibration counts: integer columns as byte planes, under LZMA
    payload    32-bit words of the range coder (`mdlbench.coding`)

The payload holds the nonzeros latent by latent, tokens in a fixed scattered order: a burst of
firings would otherwise need the far tails of the count models.
"""

from __future__ import annotations

import hashlib
import itertools
import lzma
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mdlbench.codelength import BetaPrior, Codebook
from mdlbench.coding.channel import Channel, Reader, Writer
from mdlbench.coding.counts import code_active
from mdlbench.coding.magnitudes import code_magnitudes
from mdlbench.coding.support import code_support
from mdlbench.errors import CoderError, RecordError, UsageError, first_problem
from mdlbench.files import write_atomically
from mdlbench.quantise import HALF_STEP_LIMIT, Symbols
from mdlbench.tally import SymbolCounts

VERSION = 1
MAGIC = b"\x89MDLBITS"

MAX_TOKENS = 2**31 - 1
MAX_LATENTS = 2**21
MAX_CALIBRATION_TOKENS = 2**36

FREE_NONZEROS, NONZEROS_PER_BYTE = 2**23, 2**9
FREE_PAIRS, PAIRS_PER_BYTE = 2**20, 2**6
"""A part of a file may stand for so many items, and so many more for each of its bytes: more than
data needs, and few enough that a hostile file cannot ask for all of the memory."""

_PREFIX = struct.Struct("<8sIIIQ")
_FIXED_BYTES = _PREFIX.size + hashlib.sha256().digest_size
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**23, "pb": 0}]
_PAIR = np.dtype([("latent", "<i4"), ("symbol", "<i4"), ("count", "<i8")])
_GOLDEN = 0.6180339887498949

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class Quantiser(BaseModel):
    """What, beside the step, says which values the symbols stand for (`mdlbench.modes`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Annotated[str, Field(pattern="^[a-z-]{1,20}$")]
    columns: dict[str, Annotated[list[Integer], Field(max_length=MAX_LATENTS)]]
    """Integers by name, as the mode's quantiser wrote them."""


class Summary(BaseModel):
    """What a file says of itself, readable without decoding it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    n_latents: Annotated[int, Field(ge=0, le=MAX_LATENTS)]
    n_nonzeros: Annotated[int, Field(ge=0)]
    step: Positive
    """Quantiser step: value = symbol · step, but for what `quantiser` says."""
    calibration_tokens: Annotated[int, Field(ge=0, le=MAX_CALIBRATION_TOKENS)]
    calibration_pairs: Annotated[int, Field(ge=0)]
    """Distinct (latent, symbol) pairs that the codebook was fitted on."""
    prior: tuple[Positive, Positive]
    strength: Positive
    symbols_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    quantiser: Quantiser | None = None
    """Absent where a value is its symbol times the step."""
    metadata: dict[str, JsonValue]
    """What the writer wants known: SAE, quantiser, suite, digests."""


class Sizes(NamedTuple):
    """Bytes of a file's parts. The header is all that is not payload, the codebook included."""

    header_bytes: int
    codebook_bytes: int
    payload_bytes: int


@dataclass(frozen=True, eq=False)
class Decoded:
    """A file's symbols, and what it says of them.

    Attributes:
        symbols: as they were encoded.
        codebook: the one that `symbols` were coded with.
        step: quantiser step, value = symbol · step where there is no `quantiser`.
        quantiser: what says other values, as given to `encode`.
        metadata: as given to `encode`.
        sizes: bytes of the file's parts.
    """

    symbols: Symbols
    codebook: Codebook
    step: float
    quantiser: Quantiser | None
    metadata: dict[str, JsonValue]
    sizes: Sizes


def encode(
    symbols: Symbols,
    codebook: Codebook,
    *,
    step: float,
    metadata: Mapping[str, JsonValue],
    quantiser: Quantiser | None = None,
) -> bytes:
    """The file that says these symbols under a codebook.

    Raises:
        CoderError: the codebook cannot code the symbols, or they are not sorted, or not nonzero.
        UsageError: the step, the metadata or the size are not what a file can hold.
    """
    _check_encodable(symbols, codebook)
    writer = Writer()
    _code_latents(writer, codebook, symbols.n_tokens, symbols.nnz, _by_latent(symbols))
    payload = writer.payload()
    packed = _pack_counts(codebook.counts)
    try:
        summary = Summary(
            n_tokens=symbols.n_tokens,
            n_latents=symbols.n_latents,
            n_nonzeros=symbols.nnz,
            step=step,
            calibration_tokens=codebook.counts.n_tokens,
            calibration_pairs=len(codebook.counts.count),
            prior=(codebook.prior.a, codebook.prior.b),
            strength=codebook.strength,
            symbols_sha256=_symbols_sha256(symbols),
            quantiser=quantiser,
            metadata=dict(metadata),
        )
        _check_limits(summary, len(packed), len(payload))
    except (ValidationError, RecordError) as error:
        raise UsageError(f"bitstream: cannot be written: {_reason(error)}") from error
    absent = {"quantiser"} if quantiser is None else None
    return _join(_Parts(summary.model_dump_json(exclude=absent).encode(), packed, payload))


def decode(data: bytes) -> Decoded:
    """The symbols of a file, from the file alone.

    Raises:
        RecordError: the file is foreign, newer, truncated, corrupt or inconsistent.
    """
    parts = _split(data)
    summary = _summary(parts)
    counts = _unpack_counts(parts.codebook, summary)
    codebook = Codebook.build(counts, BetaPrior(*summary.prior), summary.strength)
    nothing = _ByLatent.unknown(summary.n_latents)
    try:
        by_latent = _code_latents(
            Reader(parts.payload), codebook, summary.n_tokens, summary.n_nonzeros, nothing
        )
    except (AssertionError, ValueError) as error:
        raise RecordError(f"bitstream: the payload does not decode: {error}") from error
    symbols = by_latent.by_token(summary.n_tokens)
    if _symbols_sha256(symbols) != summary.symbols_sha256:
        raise RecordError(
            "bitstream: the decoded symbols are not those that were encoded: the file was written "
            "by incompatible arithmetic, or it was tampered with"
        )
    return Decoded(
        symbols, codebook, summary.step, summary.quantiser, summary.metadata, _sizes(parts)
    )


def sizes(data: bytes) -> Sizes:
    """Bytes of a file's parts, without decoding; raises `RecordError` as `decode` does."""
    return _sizes(_split(data))


def summarise(data: bytes) -> Summary:
    """What a file says of itself, without decoding; raises `RecordError` as `decode` does."""
    return _summary(_split(data))


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises `OutputError` where that fails."""
    write_atomically(path, data)


def read(path: Path) -> bytes:
    """An intact file, to `decode`; raises `RecordError` naming it if it is missing or damaged."""
    try:
        data = path.read_bytes()
        _split(data)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return data


class _Parts(NamedTuple):
    summary: bytes
    codebook: bytes
    payload: bytes


def _join(parts: _Parts) -> bytes:
    prefix = _PREFIX.pack(MAGIC, VERSION, *map(len, parts))
    return prefix + hashlib.sha256(b"".join([prefix, *parts])).digest() + b"".join(parts)


def _split(data: bytes) -> _Parts:
    """The parts of an intact file of this version."""
    if len(data) < _FIXED_BYTES or not data.startswith(MAGIC):
        raise RecordError("bitstream: not a file of mdlbench, or one cut short")
    _, version, *lengths = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise RecordError(
            f"bitstream: format version {version}, but this mdlbench reads {VERSION}: upgrade it"
        )
    if len(data) != _FIXED_BYTES + sum(lengths):
        raise RecordError(
            f"bitstream: {len(data)} bytes instead of {_FIXED_BYTES + sum(lengths)}: truncated, "
            "or something was appended"
        )
    bounds = np.cumsum([_FIXED_BYTES, *lengths]).tolist()
    parts = _Parts(*(data[a:b] for a, b in itertools.pairwise(bounds)))
    if _join(parts) != data:
        raise RecordError("bitstream: corrupt: the checksum does not match")
    return parts


def _sizes(parts: _Parts) -> Sizes:
    header = _FIXED_BYTES + len(parts.summary) + len(parts.codebook)
    return Sizes(header, len(parts.codebook), len(parts.payload))


def _summary(parts: _Parts) -> Summary:
    try:
        summary = Summary.model_validate_json(parts.summary)
    except ValidationError as error:
        raise RecordError(f"bitstream: summary: {_reason(error)}") from error
    _check_limits(summary, len(parts.codebook), len(parts.payload))
    return summary


def _check_limits(summary: Summary, codebook_bytes: int, payload_bytes: int) -> None:
    """Refuse sizes that contradict each other before anything is allocated for them."""
    nonzeros = min(
        summary.n_tokens * summary.n_latents, FREE_NONZEROS + NONZEROS_PER_BYTE * payload_bytes
    )
    pairs = FREE_PAIRS + PAIRS_PER_BYTE * codebook_bytes
    if summary.n_nonzeros > nonzeros:
        raise RecordError(f"bitstream: {summary.n_nonzeros} nonzeros, but at most {nonzeros} fit")
    if summary.calibration_pairs > pairs:
        raise RecordError(
            f"bitstream: a codebook of {summary.calibration_pairs} pairs, but at most {pairs} fit"
        )
    if payload_bytes % 4:
        raise RecordError("bitstream: the payload is not in whole words")


def _reason(error: ValidationError | RecordError) -> str:
    if isinstance(error, RecordError):
        return str(error).removeprefix("bitstream: ")
    return first_problem(error, root="file")


def _check_encodable(symbols: Symbols, codebook: Codebook) -> None:
    if symbols.n_latents != codebook.counts.n_latents:
        raise CoderError(
            f"a codebook of {codebook.counts.n_latents} latents cannot code {symbols.n_latents}"
        )
    at = symbols.token.astype(np.int64) * symbols.n_latents + symbols.latent
    inside = (
        (symbols.token >= 0)
        & (symbols.token < symbols.n_tokens)
        & (symbols.latent >= 0)
        & (symbols.latent < symbols.n_latents)
        & (symbols.symbol != 0)
    )
    if not inside.all() or (np.diff(at) <= 0).any():
        raise CoderError("symbols: must be nonzero, in range, and sorted by token, then latent")
    codebook.pooled.tail_bits(symbols.symbol[codebook.pooled.of(symbols.symbol) == 0])


def _symbols_sha256(symbols: Symbols) -> str:
    digest = hashlib.sha256()
    for column in (symbols.token, symbols.latent, symbols.symbol):
        digest.update(column.astype("<i4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _ByLatent:
    """Nonzeros in coding order: by latent, then by scattered token.

    Attributes:
        active: k_i.
        place: latent·N + scattered token of each.
        symbol: of each.
    """

    active: Int64[np.ndarray, " latent"]
    place: Int64[np.ndarray, " nnz"]
    symbol: Int32[np.ndarray, " nnz"]

    @classmethod
    def unknown(cls, n_latents: int) -> _ByLatent:
        """What a reader begins with."""
        nothing = np.zeros(0, dtype=np.int64)
        return cls(np.zeros(n_latents, dtype=np.int64), nothing, nothing.astype(np.int32))

    def by_token(self, n_tokens: int) -> Symbols:
        n_latents = len(self.active)
        latent, scattered = np.divmod(self.place, max(n_tokens, 1))
        token = scattered * pow(_multiplier(n_tokens), -1, max(n_tokens, 1)) % max(n_tokens, 1)
        order = _stable_order(token, n_tokens)
        return Symbols(
            token[order].astype(np.int32),
            latent[order].astype(np.int32),
            self.symbol[order],
            n_tokens,
            n_latents,
        )


def _by_latent(symbols: Symbols) -> _ByLatent:
    n = symbols.n_tokens
    scattered = symbols.token * np.int64(_multiplier(n)) % max(n, 1)
    order = _stable_order(scattered, n)
    order = order[_stable_order(symbols.latent[order], symbols.n_latents)]
    place = symbols.latent * np.int64(n) + scattered
    active = np.bincount(symbols.latent, minlength=symbols.n_latents)
    return _ByLatent(active, place[order], symbols.symbol[order])


def _stable_order(key: Int[np.ndarray, " nnz"], limit: int) -> Int64[np.ndarray, " nnz"]:
    """What sorts keys below a limit; keys of at most 16 bits are radix-sorted."""
    return np.argsort(key.astype(np.min_scalar_type(max(limit - 1, 0))), kind="stable")


def _multiplier(n_tokens: int) -> int:
    """Token t is coded as t·multiplier mod N: near N/φ, so that neighbours land far apart."""
    multiplier = max(int(n_tokens * _GOLDEN), 1)
    while math.gcd(multiplier, n_tokens) > 1:
        multiplier += 1
    return multiplier


def _code_latents(
    channel: Channel, codebook: Codebook, n_tokens: int, n_nonzeros: int, known: _ByLatent
) -> _ByLatent:
    """Write what is known, or read what is not: counts, then positions, then magnitudes."""
    active = code_active(channel, codebook, n_tokens, known.active)
    if active.sum() != n_nonzeros:
        raise RecordError(f"bitstream: {active.sum()} nonzeros instead of {n_nonzeros}")
    place = code_support(channel, n_tokens, active, known.place)
    return _ByLatent(active, place, code_magnitudes(channel, codebook, active, known.symbol))


def _pack_counts(counts: SymbolCounts) -> bytes:
    """Differences of latents and of symbols, and counts: all first bytes, then all second, …"""
    pairs = np.empty(len(counts.count), dtype=_PAIR)
    pairs["latent"] = np.diff(counts.latent, prepend=0)
    pairs["symbol"] = np.diff(counts.symbol, prepend=0)
    pairs["count"] = counts.count
    planes = pairs.view(np.uint8).reshape(-1, _PAIR.itemsize).T
    return lzma.compress(planes.tobytes(), format=lzma.FORMAT_RAW, filters=_LZMA)


def _unpack_counts(packed: bytes, summary: Summary) -> SymbolCounts:
    n = summary.calibration_pairs
    planes = np.frombuffer(_decompress(packed, n * _PAIR.itemsize), dtype=np.uint8)
    pairs = planes.reshape(_PAIR.itemsize, n).T.reshape(-1).view(_PAIR)
    counts = SymbolCounts(
        np.cumsum(pairs["latent"], dtype=np.int32),
        np.cumsum(pairs["symbol"], dtype=np.int32),
        pairs["count"].astype(np.int64),
        summary.calibration_tokens,
        summary.n_latents,
    )
    if not _are_counts(counts):
        raise RecordError("bitstream: codebook: not the symbol counts of any data")
    return counts


def _decompress(packed: bytes, size: int) -> bytes:
    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=_LZMA)
    try:
        raw = decompressor.decompress(packed, max_length=size + 1)
    except lzma.LZMAError as error:
        raise RecordError(f"bitstream: codebook: does not decompress: {error}") from error
    if len(raw) != size:
        raise RecordError("bitstream: codebook: not of the size that the summary states")
    return raw


def _are_counts(counts: SymbolCounts) -> bool:
    """Whether latents, symbols and counts lie in their ranges and pairs are sorted and distinct."""
    if len(counts.count) == 0:
        return True
    in_range = (
        (counts.latent >= 0)
        & (counts.latent < counts.n_latents)
        & (counts.symbol != 0)
        & (counts.symbol > -HALF_STEP_LIMIT)
        & (counts.symbol < HALF_STEP_LIMIT)
        & (counts.count > 0)
        & (counts.count <= counts.n_tokens)
    )
    if not in_range.all():
        return False
    step = np.diff(counts.latent)
    increasing = (step > 0) | ((step == 0) & (np.diff(counts.symbol) > 0))
    return bool(increasing.all() and counts.active.max() <= counts.n_tokens)
