"""The two ends of a range-coded stream, behind one set of calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import constriction
import numpy as np
from jaxtyping import Float64, Int32, Int64

TABLE_CELLS = 1 << 19
"""Weights tabulated at once, so that memory does not grow with N or D."""


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


class Writer:
    """The encoding `Channel`."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    def given(self, n: int, compute: Callable[[], Any]) -> Int64[np.ndarray, " n"]:
        return cast(np.ndarray, compute())

    def code(self, model: object, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        self._encoder.encode(symbols, model)
        return symbols

    def payload(self) -> bytes:
        """The stream so far, in whole 32-bit words."""
        words: np.ndarray = self._encoder.get_compressed()
        return words.astype("<u4").tobytes()


class Reader:
    """The decoding `Channel`; `code` raises `AssertionError` on an impossible stream."""

    def __init__(self, payload: bytes) -> None:
        words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
        self._decoder = constriction.stream.queue.RangeDecoder(words)

    def given(self, n: int, compute: Callable[[], Any]) -> Int64[np.ndarray, " n"]:
        return np.zeros(n, dtype=np.int64)

    def code(self, model: object, symbols: Int32[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        return cast(np.ndarray, self._decoder.decode(model, len(symbols)))


def within(lengths: Int64[np.ndarray, " run"]) -> Int64[np.ndarray, " item"]:
    """0 … length − 1 for each run."""
    ends = np.cumsum(lengths)
    first = np.repeat(ends - lengths, lengths)
    item: Int64[np.ndarray, " item"] = np.arange(len(first)) - first
    return item
