"""Latents of a whole split as a real file, and back: the audit of `heldout` (maths §3, `coded`).

A file is self-contained. In order, integers little-endian:

    magic      8 bytes   89 "MDLBITS"
    version    uint32    3; 1 had no trees, 2 trees by parents alone
    lengths    uint32 summary, uint32 codebook, uint64 payload, in bytes
    digest     32 bytes  SHA-256 of the whole file without these bytes
    summary    JSON: sizes, step, the quantiser's integers if there are any, the codebook's
               hyperparameters, the symbols' digest, metadata
    codebook   calibration counts: integer columns as byte planes, under LZMA; then, where latents
               are coded by the tree code, its edges and their joint counts, the rules and counts of
               families that look at siblings, and the kinds and counts of edges whose magnitudes
               depend on the parent's symbol, likewise
    payload    32-bit words of the range coder (`mdlbench.codes.stream`)

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mdlbench.codes.codelength import BetaPrior, Codebook
from mdlbench.codes.contexts import (
    MAX_WAVES,
    N_CONTEXTS,
    PARENT_OFF,
    PARENT_ON,
    Contexts,
    Rule,
    family_rules,
    n_waves,
    told_apart,
)
from mdlbench.codes.forest import ROOT, Forest
from mdlbench.codes.grades import (
    ESCAPED,
    MOST_LATENTS,
    N_CELLS,
    N_GRADES,
    GradedMagnitudes,
    Grades,
    Kind,
)
from mdlbench.codes.stream.channel import Channel, Reader, Writer
from mdlbench.codes.stream.forest import code_forest
from mdlbench.codes.stream.magnitudes import code_magnitudes
from mdlbench.codes.symbols import HALF_STEP_LIMIT, Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook, parent_firings
from mdlbench.disk.files import read_regular, write_atomically
from mdlbench.errors import CoderError, RecordError, UsageError, first_problem, reason

VERSION = 3
MAGIC = b"\x89MDLBITS"

MAX_BYTES, MAX_SUMMARY_BYTES = 2**29, 2**24
MAX_TOKENS = 2**31 - 1
MAX_LATENTS = 2**21
MAX_CALIBRATION_TOKENS = 2**36
MAX_LEVELS = 2**12
"""Levels of a forest, at most; each takes the reader some time, however few latents it has."""

FREE_NONZEROS, NONZEROS_PER_BYTE = 2**24, 2**2
FREE_PAIRS, PAIRS_PER_BYTE = 2**22, 2**2
"""The most items that a part of a file may stand for: some in any file, or so many for each byte.

A latent that is always on costs nearly nothing, so small files may have many; where there are more
of them than that, data needs 2 bits for each. A reader takes some 50 bytes for a nonzero and 100
for a pair: less than 2 GB for a file of a few megabytes, whatever it claims."""

_PREFIX = struct.Struct("<8sIIIQ")
_FIXED_BYTES = _PREFIX.size + hashlib.sha256().digest_size
_LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**23, "pb": 0}]
_PAIR = np.dtype([("latent", "<i4"), ("symbol", "<i4"), ("count", "<i8")])
_EDGE = np.dtype([("child", "<i4"), ("parent", "<i4"), ("joint", "<i8")])
_FAMILY = np.dtype([("parent", "<i4"), ("rule", "<i4")])
_TOLD = [context for context in range(N_CONTEXTS) if context not in (PARENT_OFF, PARENT_ON)]
_SIBLING = np.dtype([(str(context), "<i8") for context in _TOLD])
_ON_CELLS = range(N_GRADES, ESCAPED)
_GRADED = np.dtype([("child", "<i4"), ("kind", "<i4"), *((str(cell), "<i8") for cell in _ON_CELLS)])
_GOLDEN = 0.6180339887498949

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SiblingSummary(BaseModel):
    """What a file says of families whose contexts look at siblings."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_families: Annotated[int, Field(ge=1, le=MAX_LATENTS)]
    n_children: Annotated[int, Field(ge=1, le=MAX_LATENTS)]
    n_bytes: Annotated[int, Field(ge=0)]
    """Bytes of their rules and counts, after the edges in the codebook."""
    family_bytes: Annotated[int, Field(ge=0)]
    """Those of the rules alone, which come first."""
    priors: Annotated[list[tuple[Positive, Positive]], Field(max_length=len(Rule) * N_CONTEXTS)]
    """Priors of the contexts of each rule after the first, in order."""


class GradeSummary(BaseModel):
    """What a file says of edges along which a magnitude depends on the parent's symbol."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_children: Annotated[int, Field(ge=1, le=MAX_LATENTS)]
    n_bytes: Annotated[int, Field(ge=0)]
    """Bytes of their kinds and counts, at the end of the codebook."""
    strengths: Annotated[list[Positive], Field(min_length=len(Kind) - 1, max_length=len(Kind) - 1)]
    """Those of the kinds after the first, in order."""


class TreeSummary(BaseModel):
    """What a file says of its forest: where a latent has a parent, it is coded given the parent."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_edges: Annotated[int, Field(ge=1, le=MAX_LATENTS)]
    n_bytes: Annotated[int, Field(ge=0)]
    """Bytes of the edges, after the counts in the codebook."""
    parent_off: tuple[Positive, Positive]
    parent_on: tuple[Positive, Positive]
    """Priors of the firing probabilities in either context of families that look at parents."""
    siblings: SiblingSummary | None = None
    """Absent where no family looks at siblings."""
    grades: GradeSummary | None = None
    """Absent where no magnitude depends on the parent's symbol."""


Integer = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class QuantiserHeader(BaseModel):
    """What, beside the step, says which values the symbols stand for (`quantisers.modes`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: Annotated[str, Field(pattern="^[a-z-]{1,20}$")]
    columns: dict[str, Annotated[list[Integer], Field(max_length=MAX_LATENTS)]]
    """Integers by name, as the mode's quantiser wrote them."""


class Summary(BaseModel):
    """Facts about a file that can be read without decoding it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    n_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    n_latents: Annotated[int, Field(ge=0, le=MAX_LATENTS)]
    n_nonzeros: Annotated[int, Field(ge=0)]
    step: Positive
    """Quantiser step: value = symbol · step, unless `quantiser` says otherwise."""
    calibration_tokens: Annotated[int, Field(ge=0, le=MAX_CALIBRATION_TOKENS)]
    calibration_pairs: Annotated[int, Field(ge=0)]
    """Distinct (latent, symbol) pairs that the codebook was fitted on."""
    prior: tuple[Positive, Positive]
    strength: Positive
    tree: TreeSummary | None = None
    """None where all latents are coded independently."""
    symbols_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    quantiser: QuantiserHeader | None = None
    """Absent where a value is its symbol times the step."""
    metadata: dict[str, JsonValue]
    """Facts from the writer: SAE, quantiser, suite, digests."""


class Sizes(NamedTuple):
    """Bytes of a file's parts. The header is everything except the payload.

    It includes the codebook and, beside it, the tree: edges, rules, kinds and their counts.
    """

    header_bytes: int
    codebook_bytes: int
    payload_bytes: int
    tree_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Decoded:
    """A file's symbols, and the facts about them.

    Attributes:
        symbols: as they were encoded.
        codebook: the one that `symbols` were coded with.
        step: quantiser step, value = symbol · step where there is no `quantiser`.
        quantiser: what says other values, as given to `encode`.
        metadata: as given to `encode`.
        sizes: bytes of the file's parts.
    """

    symbols: Symbols
    codebook: Codebook | TreeCodebook
    step: float
    quantiser: QuantiserHeader | None
    metadata: dict[str, JsonValue]
    sizes: Sizes


def encode(
    symbols: Symbols,
    codebook: Codebook | TreeCodebook,
    *,
    step: float,
    metadata: Mapping[str, JsonValue],
    quantiser: QuantiserHeader | None = None,
) -> bytes:
    """The file that says these symbols under a codebook, flat or with a tree.

    Raises:
        CoderError: the codebook cannot code the symbols, or they are not sorted, or not nonzero;
            or a forest is too deep.
        UsageError: a file cannot hold such a step, such metadata or so much data.
    """
    book = _as_tree(codebook)
    codebook = book.flat
    _check_encodable(symbols, codebook)
    _check_depth(book.forest)
    _check_waves(book.contexts)
    writer = Writer()
    _code_latents(writer, book, symbols.n_tokens, symbols.nnz, _by_latent(symbols))
    payload = writer.payload()
    packed_tree = _pack_tree(book)
    packed = b"".join([_pack_counts(codebook.counts), *packed_tree])
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
            tree=_tree_summary(book, packed_tree),
            symbols_sha256=_symbols_sha256(symbols),
            quantiser=quantiser,
            metadata=dict(metadata),
        )
        _check_limits(summary, len(packed), len(payload))
        parts = _Parts(_summary_json(summary), packed, payload)
        _check_size(*map(len, parts))
    except (ValidationError, RecordError) as error:
        raise UsageError(f"bitstream: cannot be written: {_reason(error)}") from error
    return _join(parts)


def decode(data: bytes) -> Decoded:
    """The symbols of a file, from the file alone.

    Raises:
        RecordError: the file is foreign, newer, truncated, corrupt or inconsistent.
    """
    parts = _split(data)
    summary = _summary(parts)
    packed, tree = _split_codebook(parts.codebook, summary)
    counts = _unpack_counts(packed, summary)
    codebook = Codebook.build(counts, BetaPrior(*summary.prior), summary.strength)
    book = _unpack_tree(tree, codebook, summary.tree)
    nothing = _ByLatent.unknown()
    try:
        by_latent = _code_latents(
            Reader(parts.payload, len(parts.codebook)),
            book,
            summary.n_tokens,
            summary.n_nonzeros,
            nothing,
        )
    except (AssertionError, ValueError) as error:
        raise RecordError(f"bitstream: the payload does not decode: {error}") from error
    symbols = by_latent.by_token(summary.n_tokens, summary.n_latents)
    if _symbols_sha256(symbols) != summary.symbols_sha256:
        raise RecordError(
            "bitstream: the decoded symbols are not those that were encoded: the file was written "
            "by incompatible arithmetic, or it was tampered with"
        )
    used = book if book.forest.n_edges else codebook
    return Decoded(
        symbols,
        used,
        summary.step,
        summary.quantiser,
        summary.metadata,
        _sizes(parts, summary),
    )


def sizes(data: bytes) -> Sizes:
    """Bytes of a file's parts, without decoding; raises `RecordError` as `decode` does."""
    parts = _split(data)
    return _sizes(parts, _summary(parts))


def summarise(data: bytes) -> Summary:
    """A file's summary, without decoding; raises `RecordError` as `decode` does."""
    return _summary(_split(data))


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises `OutputError` if that fails."""
    write_atomically(path, data)


def read(path: Path) -> bytes:
    """An intact file, to `decode`; raises `RecordError` naming it if it is missing or damaged."""
    try:
        data = read_regular(path, MAX_BYTES)
        _split(data)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {reason(error)}") from error
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return data


class _Parts(NamedTuple):
    summary: bytes
    codebook: bytes
    payload: bytes


def _join(parts: _Parts) -> bytes:
    prefix = _PREFIX.pack(MAGIC, VERSION, *map(len, parts))
    return b"".join([prefix, _digest(prefix, *parts), *parts])


def _digest(*pieces: bytes) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _split(data: bytes) -> _Parts:
    """The parts of an intact file of this version."""
    if len(data) < _FIXED_BYTES or not data.startswith(MAGIC):
        raise RecordError("bitstream: not a file of mdlbench, or one cut short")
    _, version, *lengths = _PREFIX.unpack_from(data)
    if not 1 <= version <= VERSION:
        raise RecordError(
            f"bitstream: format version {version}, but this mdlbench reads {VERSION}: upgrade it"
        )
    if len(data) != _FIXED_BYTES + sum(lengths):
        raise RecordError(
            f"bitstream: {len(data)} bytes instead of {_FIXED_BYTES + sum(lengths)}: truncated, "
            "or something was appended"
        )
    _check_size(*lengths)
    bounds = np.cumsum([_FIXED_BYTES, *lengths]).tolist()
    parts = _Parts(*(data[a:b] for a, b in itertools.pairwise(bounds)))
    if _digest(data[: _PREFIX.size], *parts) != data[_PREFIX.size : _FIXED_BYTES]:
        raise RecordError("bitstream: corrupt: the checksum does not match")
    return parts


def _check_size(summary: int, codebook: int, payload: int) -> None:
    """Refuse more bytes than are read."""
    total = _FIXED_BYTES + summary + codebook + payload
    if total > MAX_BYTES or summary > MAX_SUMMARY_BYTES:
        raise RecordError(
            f"bitstream: {total:,} bytes, {summary:,} of them its summary; at most {MAX_BYTES:,} "
            f"are read, and a summary of {MAX_SUMMARY_BYTES:,}"
        )


def _sizes(parts: _Parts, summary: Summary) -> Sizes:
    header = _FIXED_BYTES + len(parts.summary) + len(parts.codebook)
    packed, tree = _split_codebook(parts.codebook, summary)
    return Sizes(header, len(packed), len(parts.payload), len(tree))


def _split_codebook(codebook: bytes, summary: Summary) -> tuple[bytes, bytes]:
    """Calibration counts and the tree, each still packed."""
    end = len(codebook) - (_tree_bytes(summary.tree) if summary.tree else 0)
    return codebook[:end], codebook[end:]


def _tree_bytes(tree: TreeSummary) -> int:
    return tree.n_bytes + sum(part.n_bytes for part in (tree.siblings, tree.grades) if part)


def _summary_json(summary: Summary) -> bytes:
    """What is not used is not written, as before there was such a thing."""
    absent: dict[str, bool | dict[str, bool]] = {}
    tree = summary.tree
    if summary.quantiser is None:
        absent["quantiser"] = True
    if tree:
        unused = {"siblings": tree.siblings is None, "grades": tree.grades is None}
        absent["tree"] = {name: True for name, without in unused.items() if without}
    return summary.model_dump_json(exclude=absent).encode()


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
        summary.n_tokens * summary.n_latents,
        max(FREE_NONZEROS, NONZEROS_PER_BYTE * payload_bytes),
    )
    pairs = max(FREE_PAIRS, PAIRS_PER_BYTE * codebook_bytes)
    if summary.n_nonzeros > nonzeros:
        raise RecordError(f"bitstream: {summary.n_nonzeros} nonzeros, but at most {nonzeros} fit")
    if summary.calibration_pairs > pairs:
        raise RecordError(
            f"bitstream: a codebook of {summary.calibration_pairs} pairs, but at most {pairs} fit"
        )
    if summary.tree and not (
        _tree_bytes(summary.tree) <= codebook_bytes and summary.tree.n_edges < summary.n_latents
    ):
        raise RecordError(f"bitstream: {summary.tree.n_edges} edges do not fit")
    if payload_bytes % 4:
        raise RecordError("bitstream: the payload does not consist of whole words")


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


def _as_tree(codebook: Codebook | TreeCodebook) -> TreeCodebook:
    """The codebook itself; a flat one becomes a tree code of roots alone."""
    if isinstance(codebook, Codebook):
        return TreeCodebook.without_edges(codebook)
    return codebook


def _symbols_sha256(symbols: Symbols) -> str:
    digest = hashlib.sha256()
    for column in (symbols.token, symbols.latent, symbols.symbol):
        digest.update(np.ascontiguousarray(column, dtype="<i4").data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _ByLatent:
    """Nonzeros in coding order: by latent, then by scattered token.

    Attributes:
        place: latent·N + scattered token of each.
        symbol: of each.
    """

    place: Int64[np.ndarray, " nnz"]
    symbol: Int32[np.ndarray, " nnz"]

    @classmethod
    def unknown(cls) -> _ByLatent:
        """What a reader has to begin with."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int32))

    def by_token(self, n_tokens: int, n_latents: int) -> Symbols:
        n = max(n_tokens, 1)
        latent = (self.place // n).astype(np.int32)
        scattered = self.place % n
        scattered *= pow(_multiplier(n_tokens), -1, n)
        token = (scattered % n).astype(np.int32)
        del scattered
        order = _stable_order(token, n_tokens)
        return Symbols(token[order], latent[order], self.symbol[order], n_tokens, n_latents)


def _by_latent(symbols: Symbols) -> _ByLatent:
    n = symbols.n_tokens
    scattered = symbols.token * np.int64(_multiplier(n)) % max(n, 1)
    order = _stable_order(scattered, n)
    # by token, then stably by latent: two sorts of small keys are radix sorts, one of latent·N +
    # token is not
    order = order[_stable_order(symbols.latent[order], symbols.n_latents)]
    place = symbols.latent * np.int64(n) + scattered
    return _ByLatent(place[order], symbols.symbol[order])


def _stable_order(key: Int[np.ndarray, " nnz"], limit: int) -> Int64[np.ndarray, " nnz"]:
    """An order that sorts keys below a limit; keys of at most 16 bits are radix-sorted."""
    return np.argsort(key.astype(np.min_scalar_type(max(limit - 1, 0))), kind="stable")


def _multiplier(n_tokens: int) -> int:
    """Token t is coded as t·multiplier mod N: near N/φ, so that neighbours land far apart."""
    # near the golden section, multiples are spread as evenly as can be, over any stretch of tokens;
    # without a common divisor with N, the map can be undone
    multiplier = max(int(n_tokens * _GOLDEN), 1)
    while math.gcd(multiplier, n_tokens) > 1:
        multiplier += 1
    return multiplier


def _code_latents(
    channel: Channel, book: TreeCodebook, n_tokens: int, n_nonzeros: int, known: _ByLatent
) -> _ByLatent:
    """Write what is known, or read what is not: counts and positions, then magnitudes."""
    place = code_forest(channel, book, n_tokens, n_nonzeros, known.place)
    if len(place) != n_nonzeros:
        raise RecordError(f"bitstream: {len(place)} nonzeros instead of {n_nonzeros}")
    return _ByLatent(place, code_magnitudes(channel, book, n_tokens, place, known.symbol))


def _pack_counts(counts: SymbolCounts) -> bytes:
    """Differences of latents and of symbols, and counts."""
    pairs = np.empty(len(counts.count), dtype=_PAIR)
    pairs["latent"] = np.diff(counts.latent, prepend=0)
    pairs["symbol"] = np.diff(counts.symbol, prepend=0)
    pairs["count"] = counts.count
    return _pack(pairs)


class _PackedTree(NamedTuple):
    """The parts of the codebook that say the tree; parts that there are none of are empty."""

    edges: bytes
    families: bytes
    sibling_counts: bytes
    grades: bytes


def _pack_tree(book: TreeCodebook) -> _PackedTree:
    return _PackedTree(_pack_edges(book), *_pack_siblings(book), _pack_grades(book.magnitudes))


def _pack_grades(magnitudes: GradedMagnitudes | None) -> bytes:
    """Children and the kinds of the edges above them, and counts of cells with the parent on."""
    if magnitudes is None:
        return b""
    children = np.flatnonzero(magnitudes.kind)
    graded = np.empty(len(children), dtype=_GRADED)
    graded["child"], graded["kind"] = np.diff(children, prepend=0), magnitudes.kind[children]
    for cell in _ON_CELLS:
        graded[str(cell)] = magnitudes.cells[cell, children]
    return _pack(graded)


def _pack_edges(book: TreeCodebook) -> bytes:
    """Children, differences between them, parents and joint counts; nothing for no edge."""
    child = np.flatnonzero(book.forest.is_child)
    if len(child) == 0:
        return b""
    edges = np.empty(len(child), dtype=_EDGE)
    edges["child"] = np.diff(child, prepend=0)
    edges["parent"] = book.forest.parents[child]
    edges["joint"] = book.firings[PARENT_ON:, child].sum(axis=0)
    return _pack(edges)


def _pack_siblings(book: TreeCodebook) -> tuple[bytes, bytes]:
    """Rules of the families that look at siblings; then, by child, firings with siblings on."""
    rules = family_rules(book.contexts)
    told, children = np.flatnonzero(rules), np.flatnonzero(book.contexts.rule)
    if len(told) == 0:
        return b"", b""
    families = np.empty(len(told), dtype=_FAMILY)
    families["parent"], families["rule"] = np.diff(told, prepend=0), rules[told]
    counts = np.empty(len(children), dtype=_SIBLING)
    for context in _TOLD:
        counts[str(context)] = book.firings[context, children]
    return _pack(families), _pack(counts)


def _tree_summary(book: TreeCodebook, packed: _PackedTree) -> TreeSummary | None:
    if not book.forest.n_edges:
        return None
    off, on = book.priors[Rule.PARENT][[PARENT_OFF, PARENT_ON]].tolist()
    return TreeSummary(
        n_edges=book.forest.n_edges,
        n_bytes=len(packed.edges),
        parent_off=tuple(off),
        parent_on=tuple(on),
        siblings=_sibling_summary(book, packed.families, packed.sibling_counts),
        grades=_grade_summary(book.magnitudes, len(packed.grades)),
    )


def _grade_summary(magnitudes: GradedMagnitudes | None, n_bytes: int) -> GradeSummary | None:
    if magnitudes is None:
        return None
    return GradeSummary(
        n_children=int((magnitudes.kind > 0).sum()),
        n_bytes=n_bytes,
        strengths=magnitudes.strengths[1:].tolist(),
    )


def _sibling_summary(book: TreeCodebook, families: bytes, counts: bytes) -> SiblingSummary | None:
    if not book.contexts.rule.any():
        return None
    return SiblingSummary(
        n_families=int((family_rules(book.contexts) > 0).sum()),
        n_children=int((book.contexts.rule > 0).sum()),
        n_bytes=len(families) + len(counts),
        family_bytes=len(families),
        priors=[tuple(book.priors[at].tolist()) for at in _sibling_priors()],
    )


def _sibling_priors() -> list[tuple[int, int]]:
    """The rules that look at siblings, with each of their contexts."""
    return [(rule, at) for rule in Rule if rule > 0 for at in told_apart(rule).tolist()]


def _unpack_tree(packed: bytes, flat: Codebook, summary: TreeSummary | None) -> TreeCodebook:
    if summary is None:
        return TreeCodebook.without_edges(flat)
    edges, siblings, grades = _split_tree(packed, summary)
    parents, joint = _unpack_edges(edges, flat.counts.n_latents, summary)
    try:
        forest = Forest.from_parents(parents)
        _check_depth(forest)
        contexts = Contexts.of(forest, flat.counts.active)
        firings = parent_firings(flat.counts, joint)
        priors = np.full((len(Rule), N_CONTEXTS, 2), 0.5)
        priors[Rule.PARENT][[PARENT_OFF, PARENT_ON]] = summary.parent_off, summary.parent_on
        if summary.siblings:
            contexts, firings = _unpack_siblings(siblings, contexts, firings, summary.siblings)
            for at, prior in zip(_sibling_priors(), summary.siblings.priors, strict=True):
                priors[at] = prior
        book = TreeCodebook.build(flat, contexts, firings, priors)
        if summary.grades is None:
            return book
        return replace(book, magnitudes=_unpack_grades(grades, book, summary.grades))
    except (CoderError, ValueError) as error:
        raise RecordError(f"bitstream: codebook: {error}") from error


def _split_tree(packed: bytes, summary: TreeSummary) -> tuple[bytes, bytes, bytes]:
    """Edges, siblings and grades."""
    behind = len(packed) - (summary.grades.n_bytes if summary.grades else 0)
    return packed[: summary.n_bytes], packed[summary.n_bytes : behind], packed[behind:]


def _unpack_grades(packed: bytes, book: TreeCodebook, summary: GradeSummary) -> GradedMagnitudes:
    """Magnitudes given parents' symbols."""
    # checked before any is unpacked: a child takes 136 bytes, and a latent more
    if len(book.contexts.rule) > MOST_LATENTS:
        raise RecordError(f"bitstream: codebook: grades of more than {MOST_LATENTS:,} latents")
    if summary.n_children > book.forest.n_edges:
        raise RecordError("bitstream: codebook: more graded children than edges")
    graded = _unpack(packed, _GRADED, summary.n_children)
    child, kinds = np.cumsum(graded["child"], dtype=np.int64), graded["kind"]
    n_latents = len(book.contexts.rule)
    if child[0] < 0 or child[-1] >= n_latents or (np.diff(child) <= 0).any():
        raise RecordError("bitstream: codebook: graded children are not distinct latents")
    if not book.forest.is_child[child].all():
        raise RecordError("bitstream: codebook: a graded latent has no parent")
    if (kinds < 1).any() or (kinds >= len(Kind)).any():
        raise RecordError("bitstream: codebook: an edge is of no kind that this mdlbench knows")
    kind = np.zeros(n_latents, dtype=np.int64)
    kind[child] = kinds
    grades = Grades.of(book.flat)
    cells = np.zeros((N_CELLS, n_latents), dtype=np.int64)
    own = grades.counts[:, child]
    for cell in _ON_CELLS:
        told = graded[str(cell)]
        if (told < 0).any() or (told > own[cell % N_GRADES]).any():
            raise RecordError("bitstream: codebook: nonzeros by grade are not counts")
        cells[cell, child] = told
        own[cell % N_GRADES] -= told
    cells[:N_GRADES, child] = own
    strengths = np.array([1.0, *summary.strengths])
    return GradedMagnitudes.build(grades, kind, cells, strengths)


def _unpack_edges(
    packed: bytes, n_latents: int, summary: TreeSummary
) -> tuple[Int64[np.ndarray, " latent"], Int64[np.ndarray, " latent"]]:
    """Parents, and joint counts."""
    edges = _unpack(packed, _EDGE, summary.n_edges)
    child = np.cumsum(edges["child"], dtype=np.int64)
    if child[0] < 0 or child[-1] >= n_latents or (np.diff(child) <= 0).any():
        raise RecordError("bitstream: codebook: children of a forest are not distinct latents")
    parents, joint = np.full(n_latents, ROOT), np.zeros(n_latents, dtype=np.int64)
    parents[child], joint[child] = edges["parent"], edges["joint"]
    return parents, joint


def _unpack_siblings(
    packed: bytes,
    contexts: Contexts,
    firings: Int64[np.ndarray, "context latent"],
    summary: SiblingSummary,
) -> tuple[Contexts, Int64[np.ndarray, "context latent"]]:
    """Contexts with the rules of families, and firings told apart by them."""
    n_latents = len(contexts.rule)
    families = _unpack(packed[: summary.family_bytes], _FAMILY, summary.n_families)
    parent, rule = np.cumsum(families["parent"], dtype=np.int64), families["rule"]
    if parent[0] < 0 or parent[-1] >= n_latents or (np.diff(parent) <= 0).any():
        raise RecordError("bitstream: codebook: families are not those of distinct latents")
    if (rule < 1).any() or (rule >= len(Rule)).any():
        raise RecordError("bitstream: codebook: a family has no rule that this mdlbench knows")
    of_family = np.zeros(n_latents, dtype=np.int64)
    of_family[parent] = rule
    forest = contexts.forest
    contexts = contexts.ruled(np.where(forest.is_child, of_family[forest.parents], 0))
    children = np.flatnonzero(contexts.rule)
    if len(children) != summary.n_children:
        raise RecordError("bitstream: codebook: families have another number of children")
    _check_waves(contexts)
    counts = _unpack(packed[summary.family_bytes :], _SIBLING, len(children))
    firings = firings.copy()
    for context in _TOLD:
        told = counts[str(context)]
        if (told < 0).any() or (told > firings.sum(axis=0)[children]).any():
            raise RecordError("bitstream: codebook: firings with siblings on are not counts")
        firings[context, children] = told
        parent_state = PARENT_ON if context > PARENT_ON else PARENT_OFF
        firings[parent_state, children] -= told
    return contexts, firings


def _check_waves(contexts: Contexts) -> None:
    if n_waves(contexts) > MAX_WAVES + len(contexts.forest.levels):
        raise CoderError(
            f"a forest with {n_waves(contexts)} siblings to code one after another; a file holds "
            f"at most {MAX_WAVES}"
        )


def _check_depth(forest: Forest) -> None:
    if len(forest.levels) > MAX_LEVELS:
        raise CoderError(
            f"a forest of {len(forest.levels)} levels; a file holds at most {MAX_LEVELS}"
        )


def _pack(table: np.ndarray) -> bytes:
    """Integer columns: all first bytes, then all second, …"""
    # high bytes are nearly all zero; side by side they compress to nothing, between low ones they
    # do not
    planes = table.view(np.uint8).reshape(-1, table.itemsize).T
    return lzma.compress(planes.tobytes(), format=lzma.FORMAT_RAW, filters=_LZMA)


def _unpack(packed: bytes, dtype: np.dtype[np.void], n: int) -> np.ndarray:
    planes = np.frombuffer(_decompress(packed, n * dtype.itemsize), dtype=np.uint8)
    return planes.reshape(dtype.itemsize, n).T.reshape(-1).view(dtype)


def _unpack_counts(packed: bytes, summary: Summary) -> SymbolCounts:
    pairs = _unpack(packed, _PAIR, summary.calibration_pairs)
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
        # one byte more than stated shows that there is more, without unpacking all of it
        raw = decompressor.decompress(packed, max_length=size + 1)
    except lzma.LZMAError as error:
        raise RecordError(f"bitstream: codebook: does not decompress: {error}") from error
    if len(raw) != size:
        raise RecordError("bitstream: codebook: its size differs from the one in the summary")
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
