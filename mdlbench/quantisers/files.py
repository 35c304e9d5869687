"""What a file says of its quantiser, and the values that its symbols stand for."""

from __future__ import annotations

from mdlbench.codes import bitstream
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import FittedQuantiser, PlainStep
from mdlbench.errors import RecordError, UsageError
from mdlbench.quantisers.modes import Mode, mode_of


def described(mode: Mode, quantiser: FittedQuantiser) -> bitstream.QuantiserHeader | None:
    """What a file must say of a quantiser beside its step, if anything."""
    columns = dict(quantiser.columns)
    return bitstream.QuantiserHeader(mode=mode.name, columns=columns) if columns else None


def decoded_values(decoded: bitstream.Decoded) -> SparseLatents:
    """The scaled latents that a file's symbols stand for, from the file alone.

    Raises:
        RecordError: the file's quantiser is not one of mdlbench's, or does not fit its symbols.
    """
    symbols, told = decoded.symbols, decoded.quantiser
    if told is None:
        return PlainStep(decoded.step).values(symbols)
    try:
        reconstruction = mode_of(told.mode).machinery.reconstruction
        known = reconstruction(decoded.step, told.columns, symbols.n_latents)
    except UsageError as error:
        raise RecordError(f"bitstream: quantiser: {error}") from error
    return known.values(symbols)
