"""Calls of somebody's encode and decode, and the arrays that their object holds."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.formats.python.returned import (
    WHOLE,
    WRAP,
    Path,
    Reading,
    described,
    is_thinned,
    matrices,
    pairs,
)
from mdlbench.adapters.sample import sample
from mdlbench.errors import CoderError, heed_shortage
from mdlbench.extensions.foreign import blamed

MUCH_BETTER = 0.8
"""One of two readings is taken if its error is no more than this share of the other's."""


@dataclass(frozen=True)
class Foreign:
    """Somebody's encode and decode as functions of float32 tensors.

    Attributes:
        target: the object.
        name: what to call it in errors.
        convention: the arrays that it takes.
        dtype: the dtype that it takes: that of its weights.
        device: where its results are wanted.
        reading: where the latents are in what encode returns.
    """

    target: Any
    name: str
    convention: Literal["torch", "numpy"]
    dtype: torch.dtype
    d_in: int
    device: torch.device
    reading: Reading = WHOLE

    @classmethod
    def of(cls, target: Any, name: str, d_in: int, device: torch.device) -> Foreign:
        """Finds out whether the object takes tensors or numpy arrays by trying both."""
        held = [value for _, value in arrays(target)]
        tensors = [array for array in held if isinstance(array, torch.Tensor)]
        dtypes = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        dtype = dtypes[0] if dtypes else torch.float32
        as_torch = cls(target, name, "torch", dtype, d_in, device)
        as_numpy = cls(target, name, "numpy", torch.float32, d_in, device)
        preferred, other = (as_torch, as_numpy) if tensors else (as_numpy, as_torch)
        probe = sample(d_in, None, 2).to(device)
        try:
            preferred._try(probe)
        except CoderError as error:
            try:
                other._try(probe)
            except CoderError:
                raise error from error.__cause__
            return other
        return preferred

    def _try(self, x: Float[torch.Tensor, "token d_in"]) -> None:
        """Raise `CoderError` unless encode takes this and returns something with latents in it."""
        returned = self._returned("encode", self._given(x))
        if isinstance(returned, torch.Tensor | np.ndarray):
            self._array("encode", x, returned)
        elif not matrices(returned, len(x)):
            raise self._unreadable("encode", x, returned)

    def read(self, x: Float[torch.Tensor, "token d_in"]) -> tuple[Foreign, str]:
        """It with the latents found in what encode returns for some tokens, and where, in words.

        Of arrays that decode takes, those that are another one with more zeros are the latents;
        of several, the one that decodes back best.

        Raises:
            CoderError: none is, or two may be; says what was returned and how to wrap it.
        """
        returned = self._returned("encode", self._given(x))
        if isinstance(returned, torch.Tensor | np.ndarray):
            return self, ""
        found = self._with_pair(x, returned) or self._with_matrix(x, returned)
        return found, found.reading.in_words(returned)

    def _with_pair(self, x: Float[torch.Tensor, "token d_in"], returned: Any) -> Foreign | None:
        """It where encode returns active latents by value and index."""
        found = pairs(returned, len(x))
        n_latents = declared_latents(self.target)
        if len(found) != 1 or n_latents is None:
            return None
        reading = Reading(*found[0], n_latents)
        return replace(self, reading=reading)

    def _with_matrix(self, x: Float[torch.Tensor, "token d_in"], returned: Any) -> Foreign:
        decoded: dict[Path, float] = {}
        found = matrices(returned, len(x))
        for path, array in found.items():
            try:
                error = self.decode(array.to(self.device, torch.float32)) - x
            except (CoderError, RuntimeError) as failed:
                heed_shortage(failed)
                continue
            decoded[path] = float(error.square().sum())
        ends = [
            path
            for path in decoded
            if not any(is_thinned(found[other], found[path]) for other in decoded)
        ]
        ends.sort(key=lambda path: decoded[path])
        if not ends or (len(ends) > 1 and decoded[ends[0]] > MUCH_BETTER * decoded[ends[1]]):
            raise self._unreadable("encode", x, returned)
        return replace(self, reading=Reading(ends[0]))

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float32[torch.Tensor, "token latent"]:
        returned = self.reading.latents(self._returned("encode", self._given(x)))
        return self._array("encode", x, returned)

    def decode(
        self, z: Float32[torch.Tensor, "token latent"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        given = self._pair_of(z) if self._decodes_pairs() else self._given(z)
        returned = self._returned("decode", given)
        if isinstance(returned, torch.Tensor | np.ndarray):
            return self._array("decode", z, returned)
        found = list(matrices(returned, len(z)).values())
        wanted = [array for array in found if array.shape[1] == self.d_in] or found
        if len(wanted) != 1:
            raise self._unreadable("decode", z, returned)
        return self._array("decode", z, wanted[0])

    def _decodes_pairs(self) -> bool:
        """Whether decode takes values and indices, as encode returns them."""
        if self.reading.index is None:
            return False
        return len(_required(self.target.decode)) == 2

    def _pair_of(self, z: Float32[torch.Tensor, "token latent"]) -> tuple[Any, ...]:
        """The active latents by value and index, in the order in which decode takes them."""
        most = max(1, int((z != 0).sum(dim=1).max())) if len(z) else 1
        index = z.abs().topk(most, dim=1).indices
        pair = (self._given(z.gather(1, index))[0], self._given_index(index))
        first, _ = _required(self.target.decode)
        return pair[::-1] if "ind" in first else pair

    def _given(self, x: Float[torch.Tensor, "token width"]) -> tuple[Any, ...]:
        return (x.to(self.dtype) if self.convention == "torch" else x.cpu().numpy(),)

    def _given_index(self, index: torch.Tensor) -> Any:
        return index if self.convention == "torch" else index.cpu().numpy()

    @torch.no_grad()
    def _returned(self, method: str, given: tuple[Any, ...]) -> Any:
        shape = list(given[0].shape)
        with blamed(f"{self.name}: {method} fails on {self.convention} {shape}", CoderError):
            return getattr(self.target, method)(*given)

    def _array(
        self, method: str, x: Float[torch.Tensor, "token width"], result: Any
    ) -> Float32[torch.Tensor, "token other_width"]:
        if isinstance(result, np.ndarray):
            result = torch.from_numpy(np.ascontiguousarray(result))
        if not isinstance(result, torch.Tensor) or result.ndim != 2 or len(result) != len(x):
            raise self._unreadable(method, x, result)
        dense = (result.to_dense() if result.is_sparse else result).detach()
        if not dense.isfinite().all():
            raise CoderError(f"{self.name}: {method} returned NaN or infinite values")
        return dense.to(self.device, torch.float32)

    def _unreadable(self, method: str, x: torch.Tensor, returned: Any) -> CoderError:
        return CoderError(
            f"{self.name}: {method} of {list(x.shape)} returned {described(returned)}, expected "
            f"an array [{len(x)}, …], or something that holds only one that can be meant; {WRAP}"
        )


def _required(method: Any) -> list[str]:
    """The names of the arguments that a method cannot be called without."""
    return [
        parameter.name
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]


def declared_latents(target: Any) -> int | None:
    """How many latents an object says that it has."""
    owners = [target, *(getattr(target, name, None) for name in ("cfg", "config"))]
    for name in ("d_sae", "num_latents", "n_latents", "d_latents", "dict_size", "n_features"):
        for owner in owners:
            if isinstance(width := getattr(owner, name, None), int) and width > 0:
                return width
    rows = getattr(target, "W_dec", None)
    if isinstance(rows, torch.Tensor | np.ndarray) and rows.ndim == 2:
        return int(rows.shape[0])
    linear = getattr(getattr(target, "decoder", None), "weight", None)
    return int(linear.shape[1]) if isinstance(linear, torch.Tensor) and linear.ndim == 2 else None


def arrays(target: Any) -> Iterator[tuple[str, torch.Tensor | np.ndarray]]:
    """The arrays that an object holds, by name."""
    if isinstance(target, torch.nn.Module):
        yield from sorted(target.state_dict().items())
        return
    for name, value in sorted(getattr(target, "__dict__", {}).items()):
        if isinstance(value, torch.Tensor | np.ndarray):
            yield name, value
        elif isinstance(value, torch.nn.Module):
            yield from ((f"{name}.{key}", part) for key, part in arrays(value))
