"""The tokens that an SAE is trained on: one matrix, held in memory or read from disk as needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Float32, Int64

from mdlbench.errors import UsageError
from mdlbench.sources.protocol import Activations, Harvests

CHUNK = 1 << 19
"""Means are taken of so many tokens at a time, so that memory does not grow with their number."""


class Rows:
    """A matrix whose rows are tokens, in parts that lie one behind the other.

    Args:
        parts: of one precision and device. Those that are mapped from files are read where they
            are used, and the operating system holds of them what fits.
    """

    def __init__(self, parts: Sequence[Float[torch.Tensor, "token d_in"]]) -> None:
        self._parts = parts
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self._n_rows = int(self._ends[-1])

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(
        self, rows: Int64[torch.Tensor, " chosen"]
    ) -> Float[torch.Tensor, "chosen d_in"]:
        """The rows of some numbers, in the order of the numbers."""
        ascending, order = rows.cpu().sort()
        stops = torch.searchsorted(ascending, self._ends).tolist()
        found = self._parts[0].new_empty(len(rows), self._parts[0].shape[1])
        start, first = 0, 0
        for part, stop in zip(self._parts, stops, strict=True):
            if stop > start:
                found[order[start:stop]] = part[ascending[start:stop] - first]
            start, first = stop, first + len(part)
        return found

    def mean(self) -> Float32[torch.Tensor, " d_in"]:
        """The mean row."""
        return self._averaged(lambda chunk: chunk.mean(dim=0, dtype=torch.float32))

    def mean_norm(self) -> Float32[torch.Tensor, ""]:
        """Mean of the rows' norms."""
        return self._averaged(lambda chunk: chunk.norm(dim=1, dtype=torch.float32).mean())

    def sha256(self) -> str:
        """Digest of the numbers, the same however they are parted."""
        digest = hashlib.sha256()
        for part in self._parts:
            digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def _averaged(self, statistic: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The mean of a statistic of chunks, each weighed by its number of rows."""
        total = torch.zeros((), device=self._parts[0].device)
        for start in range(0, len(self), CHUNK):
            chunk = self._between(start, min(start + CHUNK, len(self)))
            total = total + statistic(chunk) * (len(chunk) / len(self))
        return total

    def _between(self, start: int, stop: int) -> torch.Tensor:
        found, first = [], 0
        for part in self._parts:
            found.append(part[max(0, start - first) : max(0, stop - first)])
            first += len(part)
        return torch.cat(found)


def training_rows(source: Activations, dtype: torch.dtype, n_tokens: int | None) -> Rows:
    """The activations of a source's calibration split; on disk where the source keeps them.

    Args:
        source: the activations.
        dtype: the precision that they are held in.
        n_tokens: only so many, the first; None for all.

    Raises:
        UsageError: there are fewer.
        SourceError: one is too large for the precision.
    """
    kept = source.harvest("calibration", dtype) if isinstance(source, Harvests) else None
    if kept is not None:
        return Rows(_first(kept, n_tokens))
    blocks = (block.activations.to(dtype) for block in source.blocks("calibration"))
    return Rows([torch.cat(_first(blocks, n_tokens))])


def _first(parts: Iterator[torch.Tensor], n_tokens: int | None) -> list[torch.Tensor]:
    """Parts up to so many tokens; no more of them are made than that takes."""
    found: list[torch.Tensor] = []
    n_found = 0
    for part in parts:
        found.append(part if n_tokens is None else part[: n_tokens - n_found])
        n_found += len(found[-1])
        if n_found == n_tokens:
            return found
    if n_tokens is not None:
        raise UsageError(
            f"the calibration split has {n_found:,} tokens, fewer than the {n_tokens:,} to train "
            "on; give a longer text with --text and more of it with --tokens, or ask for fewer"
        )
    return found
