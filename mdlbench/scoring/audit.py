"""Rates shown by real bytes: written, read again, compared symbol by symbol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdlbench.codes import bitstream
from mdlbench.codes.rates import Code
from mdlbench.codes.symbols import FittedQuantiser, Symbols
from mdlbench.errors import MdlbenchError
from mdlbench.quantisers.files import decoded_values, described
from mdlbench.scoring import passes
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.search import Limit, headline_limit
from mdlbench.scoring.sweep import Sweep

AUDITED_TOKENS = 1 << 15
"""Longer test splits are coded in parts of so many tokens, so that memory suffices."""


@dataclass(frozen=True)
class Audit:
    """A real bitstream at one position, decoded and compared symbol by symbol.

    Attributes:
        position: where on the grid.
        coded: payload bits per token.
        codebook_bits: bits of the codebook in the header and of all else that the mode sends once.
    """

    position: int
    coded: float
    codebook_bits: float


def audited_position(bench: Bench, limits: list[Limit]) -> int:
    """The headline step; the finest where no tolerance is met."""
    limit = headline_limit(bench, limits)
    return 0 if limit is None or limit.search.position is None else limit.search.position


def encode_test_split(bench: Bench, sweep: Sweep, step: float) -> bytes:
    """The symbols of the test split as a bitstream, its codebook fitted on the calibration split.

    Raises:
        MdlbenchError: the stream does not decode to the same symbols and values.
    """
    quantiser = sweep.quantiser_at(step)
    symbols = passes.all_symbols(sweep.test, quantiser)
    return _encode(bench, sweep, symbols, quantiser, sweep.code(quantiser), step)


def _encode(
    bench: Bench,
    sweep: Sweep,
    symbols: Symbols,
    quantiser: FittedQuantiser,
    code: Code,
    step: float,
) -> bytes:
    """Symbols as a bitstream, which is decoded again; symbols and values are compared."""
    spec = sweep.coder.spec
    metadata = {
        "suite": bench.suite.name,
        "suite_digest": bench.suite.digest,
        "sae": spec.name,
        "weights_sha256": spec.weights_sha256,
        "quantiser": bench.mode.name,
    }
    told = described(bench.mode, quantiser)
    data = bitstream.encode(symbols, code.codebook, step=step, metadata=metadata, quantiser=told)
    decoded = bitstream.decode(data)
    if not _same(symbols, decoded.symbols):
        raise MdlbenchError("bitstream: the decoded symbols differ from the encoded ones")
    if not np.array_equal(decoded_values(decoded).value, quantiser.values(symbols).value):
        raise MdlbenchError("bitstream: the decoded values differ from those of the symbols")
    return data


def _same(one: Symbols, other: Symbols) -> bool:
    return (one.n_tokens, one.n_latents) == (other.n_tokens, other.n_latents) and all(
        np.array_equal(getattr(one, column), getattr(other, column))
        for column in ("token", "latent", "symbol")
    )


def audit_bitstream(bench: Bench, sweep: Sweep, limits: list[Limit]) -> Audit:
    """Code the test split for real at the headline step, decode it and compare."""
    position = audited_position(bench, limits)
    step, quantiser = sweep.step(position), sweep.quantiser(position)
    code = sweep.code(quantiser)
    sizes = [
        bitstream.sizes(_encode(bench, sweep, symbols, quantiser, code, step))
        for symbols in passes.symbols_in_parts(sweep.test, quantiser, AUDITED_TOKENS)
    ]
    return Audit(
        position=position,
        coded=8 * sum(part.payload_bytes for part in sizes) / bench.source.n_tokens["test"],
        codebook_bits=8.0 * sizes[0].codebook_bytes + sweep.header_bits(position),
    )
