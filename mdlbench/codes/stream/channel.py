"""The two ends of a range-coded stream, behind one set of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import constriction
import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.errors import RecordError

TABLE_CELLS = 1 << 19
"""Weights tabulated at once, so that memory does not grow with N or D."""

SLACK, SLACK_BITS = 2.0**-7, 64
"""What a stream may be shorter than expected: models are rounded to 24 bits."""

FREE_CELLS, CELLS_PER_BYTE = 1 << 29, 1 << 12
"""Weights that a reader may tabulate: some seconds of work, and more for a larger file."""


def categorical(weights: Float64[np.ndarray, " symbol"]) -> object:
    """A model of symbols 0, 1, …, at least two, in proportion to their weights, at 24 bits."""
    return constriction.stream.model.Categorical(weights, perfect=False)


def uniform(size: int) -> object:
    """A model of `size` ≥ 2 equally likely symbols."""
    return constriction.stream.model.Uniform(size)


# Writing and reading run the same code, so that no step of one can be forgotten in the other. What
# differs is where a symbol comes from: `given` before it is coded, `code` afterwards.
class Channel(Protocol):
    """One side of a range-coded stream: the same calls write it and read it."""

    def given(self, n: int, compute: Callable[[], Any]) -> Int64[np.ndarray, " n"]:
        """Values that only the writer knows: `compute()` when writing, `n` zeros when reading."""
        ...

    def code(self, model: object, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """Write the symbols and return them; or return as many symbols read from the stream."""
        ...

    def expect(self, bits: float) -> None:
        """Say how many bits come next, before memory is taken for what they stand for.

        Raises:
            RecordError: the stream that is read has fewer, all that was expected before included.
        """
        ...

    def tabulate(self, cells: int) -> None:
        """Say of how many weights models are made next, or of how much other work.

        Raises:
            RecordError: they are more, with all before, than a file of this size has use for.
        """
        ...


class Writer:
    """The encoding `Channel`."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def given(self, n: int, compute: Callable[[], Any]) -> Int64[np.ndarray, " n"]:
        return cast(np.ndarray, compute())

    def code(self, model: object, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        self._encoder.encode(symbols, model)
        return symbols

    def expect(self, bits: float) -> None:
        pass

    def tabulate(self, cells: int) -> None:
        pass

    def payload(self) -> bytes:
        """The stream so far, in whole 32-bit words."""
        words: np.ndarray = self._encoder.get_compressed()
        return words.astype("<u4").tobytes()


class Reader:
    """The decoding `Channel`; `code` raises `AssertionError` on an impossible stream.

    Args:
        payload: what the writer wrote.
        beside: bytes that the file has of its codebook.
    """

    def __init__(self, payload: bytes, beside: int = 0) -> None:
        words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)
        self._unspent = (1 + SLACK) * 8 * len(payload) + SLACK_BITS
        self._cells = FREE_CELLS + CELLS_PER_BYTE * (len(payload) + beside)

    def given(self, n: int, compute: Callable[[], Any]) -> Int64[np.ndarray, " n"]:
        return np.zeros(n, dtype=np.int64)

    def code(self, model: object, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        return cast(np.ndarray, self._decoder.decode(model, len(symbols)))

    def expect(self, bits: float) -> None:
        # past its end, a stream reads as one of zeros: the coder itself would not notice
        self._unspent -= bits
        if self._unspent < 0:
            raise RecordError("bitstream: the payload is too short for what it claims to hold")

    def tabulate(self, cells: int) -> None:
        self._cells -= cells
        if self._cells < 0:
            raise RecordError("bitstream: to decode it takes more work than so few bytes are worth")


def within(lengths: Int64[np.ndarray, " run"]) -> Int64[np.ndarray, " item"]:
    """0 … length − 1 for each run."""
    item: Int64[np.ndarray, " item"] = np.arange(lengths.sum())
    item -= np.repeat(np.cumsum(lengths) - lengths, lengths)
    return item
