"""Rates shown by real bytes: written, read again, compared symbol by symbol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mdlbench.codes import bitstream
from mdlbench.codes.rates import Code
from mdlbench.codes.symbols import FittedQuantiser, Symbols
from mdlbench.errors import MdlbenchError
from mdlbench.quantisers.files import decoded_values, described
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import Encoded
from mdlbench.scoring.search import Limit, headline_limit
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.tasks import Range
from mdlbench.scoring.worker import Worker

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


def encode_test_split(bench: Bench, run: Encoded, step: float) -> bytes:
    """The symbols of the test split as a bitstream, its codebook fitted on the calibration split.

    Raises:
        MdlbenchError: the stream does not decode to the same symbols and values.
    """
    quantiser = run.sweep.quantiser_at(step)
    whole = run.sweep.latents.gathered(Range("test", 0, bench.source.n_blocks["test"]))
    trial = BitstreamTrial.of(bench, run.sweep, quantiser, step)
    return trial.encode(quantiser.symbols(whole))


@dataclass(frozen=True, eq=False)
class BitstreamTrial:
    """Symbols written as a bitstream, which is decoded again; symbols and values are compared.

    Attributes:
        quantiser: says what symbols stand for.
        code: by which they are written.
        step: of the quantiser.
        told: what the file says of the quantiser beside its step.
        metadata: what else it says.
    """

    quantiser: FittedQuantiser
    code: Code
    step: float
    told: bitstream.QuantiserHeader | None
    metadata: Mapping[str, str]

    @classmethod
    def of(
        cls, bench: Bench, sweep: Sweep, quantiser: FittedQuantiser, step: float
    ) -> BitstreamTrial:
        """That of a suite, an SAE and a step."""
        metadata = {
            "suite": bench.suite.name,
            "suite_digest": bench.suite.digest,
            "sae": sweep.spec.name,
            "weights_sha256": sweep.spec.weights_sha256,
            "quantiser": bench.mode.name,
        }
        told = described(bench.mode, quantiser)
        return cls(quantiser, sweep.code(quantiser), step, told, metadata)

    def encode(self, symbols: Symbols) -> bytes:
        """The file; raises `MdlbenchError` where it does not decode to the same."""
        data = bitstream.encode(
            symbols,
            self.code.codebook,
            step=self.step,
            metadata=self.metadata,
            quantiser=self.told,
        )
        decoded = bitstream.decode(data)
        if not _same(symbols, decoded.symbols):
            raise MdlbenchError("bitstream: the decoded symbols differ from the encoded ones")
        if not np.array_equal(decoded_values(decoded).value, self.quantiser.values(symbols).value):
            raise MdlbenchError("bitstream: the decoded values differ from those of the symbols")
        return data


@dataclass(frozen=True, eq=False)
class AuditPart:
    """The sizes of some symbols as a bitstream."""

    trial: BitstreamTrial
    symbols: Symbols

    def __call__(self, worker: Worker) -> bitstream.Sizes:
        return bitstream.sizes(self.trial.encode(self.symbols))


def _same(one: Symbols, other: Symbols) -> bool:
    return (one.n_tokens, one.n_latents) == (other.n_tokens, other.n_latents) and all(
        np.array_equal(getattr(one, column), getattr(other, column))
        for column in ("token", "latent", "symbol")
    )


def audited_ranges(block_tokens: Sequence[int], at_least: float) -> Iterator[Range]:
    """The test split in ranges of at least so many tokens; the last may have fewer."""
    start, n_tokens = 0, 0
    for stop, tokens in enumerate(block_tokens, 1):
        n_tokens += tokens
        if n_tokens >= at_least or stop == len(block_tokens):
            yield Range("test", start, stop)
            start, n_tokens = stop, 0


def audit_bitstream(bench: Bench, run: Encoded, limits: list[Limit]) -> Audit:
    """Code the test split for real at the headline step, decode it and compare."""
    position = audited_position(bench, limits)
    quantiser = run.sweep.quantiser(position)
    trial = BitstreamTrial.of(bench, run.sweep, quantiser, run.sweep.step(position))
    sizes: list[bitstream.Sizes] = []
    ranges = audited_ranges(run.test.block_tokens, AUDITED_TOKENS)
    while wave := list(islice(ranges, bench.rounds.executor.n_workers)):
        parts = [quantiser.symbols(run.sweep.latents.gathered(part)) for part in wave]
        sizes += bench.rounds.executor.run([AuditPart(trial, symbols) for symbols in parts])
    return Audit(
        position=position,
        coded=8 * sum(part.payload_bytes for part in sizes) / bench.source.n_tokens["test"],
        codebook_bits=8.0 * sizes[0].codebook_bytes + run.sweep.header_bits(position),
    )
