"""What somebody's encode and decode return: an array, or something that has it in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

Path = tuple[str | int, ...]
DEEPEST = 2
"""So deep are containers in containers looked into."""
WRAP = """wrap it in three lines:
class Wrapped:
    def encode(self, x): return sae.encode(x)[0]  # the latents, [token, latent]
    def decode(self, z): return sae.decode(z)     # [token, d_in]"""


@dataclass(frozen=True)
class Reading:
    """Where the latents are in what encode returns.

    Attributes:
        path: of the latents, or of the values of those that are active; empty for all of it.
        index: of the active latents' indices; None where latents are dense.
        n_latents: how many there are, where only the active ones are returned.
    """

    path: Path = ()
    index: Path | None = None
    n_latents: int = 0

    def latents(self, returned: Any) -> Any:
        """The dense latents; what was returned itself where there is nothing to look for."""
        if not self.path:
            return returned
        held = dict(arrays_in(returned))
        values = held.get(self.path)
        if self.index is None or values is None:
            return values
        index = held[self.index].long()
        dense = torch.zeros(len(values), self.n_latents, dtype=values.dtype, device=values.device)
        return dense.scatter_(1, index, values)

    def in_words(self, returned: Any) -> str:
        """What was taken of what was returned."""
        taken = [called(path) for path in (self.path, self.index) if path is not None]
        return f"{' and '.join(taken)} of {described(returned)}"


WHOLE = Reading()


def arrays_in(returned: Any, path: Path = ()) -> Iterator[tuple[Path, torch.Tensor]]:
    """The arrays in what was returned, as tensors, and where they are."""
    if isinstance(returned, torch.Tensor):
        yield path, returned.detach()
    elif isinstance(returned, np.ndarray):
        if returned.dtype.kind in "biuf":
            yield path, torch.from_numpy(np.ascontiguousarray(returned))
    elif len(path) < DEEPEST:
        for key, part in _parts(returned):
            yield from arrays_in(part, (*path, key))


def _parts(returned: Any) -> list[tuple[str | int, Any]]:
    if isinstance(returned, Mapping):
        return [(str(key), value) for key, value in returned.items()]
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return list(zip(returned._fields, returned, strict=True))
    if isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        return list(enumerate(returned))
    if dataclasses.is_dataclass(returned):
        return [(f.name, getattr(returned, f.name)) for f in dataclasses.fields(returned)]
    return list(getattr(returned, "__dict__", {}).items())


def matrices(returned: Any, n_tokens: int) -> dict[Path, Float[torch.Tensor, "token width"]]:
    """Those of the arrays that have a row of real numbers for each token."""
    return {
        path: array.to_dense() if array.layout is not torch.strided else array
        for path, array in arrays_in(returned)
        if array.is_floating_point() and array.ndim == 2 and len(array) == n_tokens
    }


def pairs(returned: Any, n_tokens: int) -> list[tuple[Path, Path]]:
    """Active latents by value and index: a matrix, and whole numbers of the same shape."""
    indices = {
        path: array
        for path, array in arrays_in(returned)
        if array.ndim == 2 and not array.is_floating_point() and array.dtype is not torch.bool
    }
    return [
        (path, other)
        for path, values in matrices(returned, n_tokens).items()
        for other, index in indices.items()
        if index.shape == values.shape
    ]


def is_thinned(
    array: Float[torch.Tensor, "token width"], other: Float[torch.Tensor, "token width"]
) -> bool:
    """Whether an array is another with more of it set to zero, as latents are of what is before."""
    if array.shape != other.shape:
        return False
    kept = array != 0
    fewer = int(kept.sum()) < int((other != 0).sum())
    return fewer and bool((array[kept] == other[kept]).all())


def called(path: Path) -> str:
    """What to call a part in words."""
    return ".".join(f"item {key}" if isinstance(key, int) else key for key in path)


def described(returned: Any) -> str:
    """What was returned, in words."""
    if isinstance(returned, torch.Tensor | np.ndarray):
        return f"an array {list(returned.shape)}"
    kind = type(returned).__name__
    parts = [
        f"{key}: {list(part.shape) if hasattr(part, 'shape') else type(part).__name__}"
        for key, part in _parts(returned)
    ]
    return f"{kind} ({', '.join(parts)})" if parts else kind
