"""Calls of somebody's encode and decode, and the arrays that their object holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.sample import sample
from mdlbench.errors import CoderError
from mdlbench.foreign import blamed


@dataclass(frozen=True)
class Foreign:
    """Somebody's encode and decode as functions of float32 tensors.

    Attributes:
        target: the object.
        name: what to call it in errors.
        convention: the arrays that it takes.
        dtype: the dtype that it takes: that of its weights.
        device: where its results are wanted.
    """

    target: Any
    name: str
    convention: Literal["torch", "numpy"]
    dtype: torch.dtype
    d_in: int
    device: torch.device

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
            preferred.encode(probe)
        except CoderError as error:
            try:
                other.encode(probe)
            except CoderError:
                raise error from error.__cause__
            return other
        return preferred

    def encode(self, x: Float[torch.Tensor, "token d_in"]) -> Float32[torch.Tensor, "token latent"]:
        return self._call("encode", x)

    def decode(
        self, z: Float32[torch.Tensor, "token latent"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        return self._call("decode", z)

    @torch.no_grad()
    def _call(
        self, method: str, x: Float[torch.Tensor, "token width"]
    ) -> Float32[torch.Tensor, "token other_width"]:
        given = x.to(self.dtype) if self.convention == "torch" else x.cpu().numpy()
        failure = f"{self.name}: {method} fails on {self.convention} {list(x.shape)}"
        with blamed(failure, CoderError):
            result = getattr(self.target, method)(given)
        if isinstance(result, np.ndarray):
            result = torch.from_numpy(np.ascontiguousarray(result))
        if not isinstance(result, torch.Tensor) or result.ndim != 2 or len(result) != len(x):
            shape = list(getattr(result, "shape", [])) or type(result).__name__
            raise CoderError(
                f"{self.name}: {method} of {list(x.shape)} returned {shape}, "
                f"expected an array [{len(x)}, …]"
            )
        dense = (result.to_dense() if result.is_sparse else result).detach()
        if not dense.isfinite().all():
            raise CoderError(f"{self.name}: {method} returned NaN or infinite values")
        return dense.to(self.device, torch.float32)


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
