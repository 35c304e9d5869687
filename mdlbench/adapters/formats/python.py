"""`python:PACKAGE.MODULE:ATTRIBUTE` — any object, class or factory with encode and decode.

They are given torch tensors or numpy arrays, whichever they take.
`encode` takes activations [token, d_in] and returns latents [token, latent]; `decode` takes those
and returns activations. Where decode is affine, as it is for nearly all SAEs, the harness decodes
sparsely with the rows it found; where it is not, it calls `decode` on dense blocks.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.checked import check_spec, check_width
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import TENSORS, parse_config
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, block_tokens
from mdlbench.adapters.protocol import CoderSpec, Request, SparseCoder
from mdlbench.adapters.sample import sample
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError, MdlbenchError, UsageError
from mdlbench.plugins import import_object
from mdlbench.sources.protocol import ActivationSource

VERSION = "2"
"""Of the way objects are wrapped and digested."""

PROBE_TOKENS = 64
ROUNDING = 1000
"""Relative rounding error allowed to a decoder that is called affine, in units of its epsilon."""


class PythonAdapter:
    """Imports what its argument names, and so runs that package's code."""

    def load(self, request: Request) -> SparseCoder:
        request.reject_unknown_options()
        found = _imported(request.argument)
        return coder_of(
            found,
            source=request.source,
            device=request.device,
            name=request.argument,
            arguments={"object": request.argument},
        )


ADAPTER = PythonAdapter


def coder_of(
    found: Any,
    *,
    source: ActivationSource | None = None,
    device: str = "cpu",
    name: str = "",
    arguments: dict[str, Any] | None = None,
) -> SparseCoder:
    """A `SparseCoder` of an object with `encode` and `decode`.

    Args:
        found: the object, its class, or a factory without arguments; a coder is returned as it is.
        source: the activations that it is for; its width is asked of the object otherwise.
        device: where it computes, if it can be moved.
        name: what to call it; its type's name by default.
        arguments: what it was made with, as far as that decides numbers.

    Raises:
        UsageError: the object has no encode and decode, or its width cannot be told.
        CheckpointError: it is for activations of another width; names both.
        CoderError: they fail, return other shapes than promised, or remember earlier calls.
    """
    coder = _coder_of(_instance(found), source, device, name, arguments or {})
    check_spec(coder.spec, source)
    return coder


def _coder_of(
    target: Any,
    source: ActivationSource | None,
    device: str,
    name: str,
    arguments: dict[str, Any],
) -> SparseCoder:
    if isinstance(target, SparseCoder) and isinstance(target.spec, CoderSpec):
        return target
    name = name or type(target).__name__
    if isinstance(target, torch.nn.Module):
        target = target.to(device).eval()
    if _is_saelens(target):
        return _saelens_coder(target, name, arguments, device)
    foreign = Foreign.of(target, name, _d_in(target, name, source), torch.device(device))
    return _coder(foreign, source, arguments)


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
        arrays = [value for _, value in _arrays(target)]
        tensors = [array for array in arrays if isinstance(array, torch.Tensor)]
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
        try:
            result = getattr(self.target, method)(given)
        except Exception as error:
            raise CoderError(
                f"{self.name}: {method} fails on {self.convention} {list(x.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
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


@dataclass(frozen=True)
class ForeignCoder:
    """The `SparseCoder` of a foreign object.

    Attributes:
        decoder: its rows and bias, declared or probed.
        affine: whether `decoder` is what its decode computes.
    """

    spec: CoderSpec
    foreign: Foreign
    decoder: Decoder
    affine: bool

    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        block = block_tokens(self.spec.d_latents)
        runs = [self._sparse(part) for part in torch.split(x, block)]
        return concatenate(runs), np.zeros((len(x), 0), dtype=np.float32)

    def _sparse(self, x: Float[torch.Tensor, "token d_in"]) -> SparseLatents:
        z = self.foreign.encode(x)
        if z.shape[1] != self.spec.d_latents:
            raise CoderError(
                f"{self.spec.name}: encode returned {z.shape[1]} latents, "
                f"and {self.spec.d_latents} before"
            )
        return SparseLatents.from_dense(z.cpu().numpy())

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        if self.affine:
            return self.decoder(latents)
        parts = [
            self.foreign.decode(torch.from_numpy(run.to_dense()).to(self.foreign.device))
            for run in _runs(latents)
        ]
        return torch.cat(parts)

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        rows: np.ndarray = self.decoder.W_dec.cpu().numpy()
        return rows

    def with_decoder_precision(self, bits: int) -> ForeignCoder | None:
        """See `Decoder.rounded`; None where decode is not affine, and so has no such weights."""
        if not self.affine:
            return None
        decoder = self.decoder.rounded(bits)
        details = {**self.spec.details, "decoder_precision": bits}
        spec = replace(self.spec, decoder_norms=decoder.norms(), details=details)
        return replace(self, spec=spec, decoder=decoder)


def _coder(
    foreign: Foreign, source: ActivationSource | None, arguments: dict[str, Any]
) -> ForeignCoder:
    x = sample(foreign.d_in, source, PROBE_TOKENS).to(foreign.device)
    z = foreign.encode(x)
    _refuse_memory(foreign, x, z)
    decoder, origin = _decoder(foreign, z)
    affine = _reproduces(foreign, decoder, z)
    if not affine:
        decoder, origin = _probed(foreign, z.shape[1]), "probed one latent at a time"
    d_latents, d_out = decoder.W_dec.shape
    spec = CoderSpec(
        CoderIdentity(
            name=foreign.name,
            adapter="python",
            version=VERSION,
            arguments=arguments,
            weights_sha256=_digest(foreign, decoder, z),
        ),
        architecture=type(foreign.target).__name__,
        hook="",
        d_in=foreign.d_in,
        d_out=d_out,
        d_latents=d_latents,
        decoder_norms=decoder.norms(),
        affine=affine,
        details={"arrays": foreign.convention, "decoder_rows": origin, "affine_decoder": affine},
    )
    return ForeignCoder(spec, foreign, decoder, affine)


def _imported(path: str) -> Any:
    try:
        return import_object(path)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise UsageError(f"python:{path}: {error}") from error
    except Exception as error:
        raise MdlbenchError(
            f"python:{path}: importing it fails: {type(error).__name__}: {error}"
        ) from error


def _instance(found: Any) -> Any:
    """The object itself; classes and factories are called without arguments first."""
    is_factory = inspect.isclass(found) or inspect.isroutine(found)
    try:
        target = found() if is_factory else found
    except Exception as error:
        raise UsageError(
            f"{found!r} cannot be called without arguments: {type(error).__name__}: {error}"
        ) from error
    missing = [m for m in ("encode", "decode") if not callable(getattr(target, m, None))]
    if missing:
        raise UsageError(f"{type(target).__name__} has no method {' and no '.join(missing)}")
    return target


def _d_in(target: Any, name: str, source: ActivationSource | None) -> int:
    """The width that the object declares, which must be the source's; else the source's."""
    declared = _declared_width(target)
    if declared is not None:
        if source is not None:
            check_width(name, declared, source)
        return declared
    if source is None:
        raise UsageError(
            f"{type(target).__name__} does not say its width: give it an attribute d_in, "
            "or name a suite"
        )
    return source.d_in


def _declared_width(target: Any) -> int | None:
    for owner in (target, getattr(target, "cfg", None), getattr(target, "config", None)):
        if isinstance(width := getattr(owner, "d_in", None), int):
            return width
    if isinstance(rows := getattr(target, "W_dec", None), torch.Tensor | np.ndarray):
        return int(rows.shape[-1])
    return None


def _refuse_memory(
    foreign: Foreign,
    x: Float32[torch.Tensor, "token d_in"],
    z: Float32[torch.Tensor, "token latent"],
) -> None:
    """Raise unless decode is a function of the latents alone."""
    before = foreign.decode(z)
    foreign.encode(x.flip(0) * 2)
    if not torch.equal(before, foreign.decode(z)):
        raise CoderError(
            f"{foreign.name}: decode depends on what was encoded before it; what it keeps per "
            "token is side information, which must be charged: write an adapter that returns it"
        )


def _decoder(foreign: Foreign, z: Float32[torch.Tensor, "token latent"]) -> tuple[Decoder, str]:
    """Rows and bias, from the object's own matrix if that is what decode computes."""
    bias = foreign.decode(torch.zeros_like(z[:1]))[0]
    for name, rows in _declared_rows(foreign.target):
        if rows.shape == (z.shape[1], len(bias)):
            decoder = Decoder(rows.to(foreign.device, torch.float32).contiguous(), bias)
            if _reproduces(foreign, decoder, z):
                return decoder, name
    return _probed(foreign, z.shape[1]), "probed one latent at a time"


def _declared_rows(target: Any) -> Iterator[tuple[str, torch.Tensor]]:
    linear = getattr(getattr(target, "decoder", None), "weight", None)
    candidates = {"W_dec": getattr(target, "W_dec", None), "decoder.weight": linear}
    for name, weights in candidates.items():
        if isinstance(weights, torch.Tensor | np.ndarray) and weights.ndim == 2:
            rows = torch.as_tensor(weights).detach()
            yield name, rows if name == "W_dec" else rows.T


def _probed(foreign: Foreign, d_latents: int) -> Decoder:
    """Row i is decode(one-hot i) − decode(0)."""
    bias = foreign.decode(torch.zeros(1, d_latents, device=foreign.device))[0]
    rows = [
        foreign.decode(_one_hots(start, d_latents, foreign.device)) - bias
        for start in range(0, d_latents, block_tokens(d_latents))
    ]
    return Decoder(torch.cat(rows), bias)


def _one_hots(
    start: int, d_latents: int, device: torch.device
) -> Float32[torch.Tensor, "block latent"]:
    stop = min(start + block_tokens(d_latents), d_latents)
    block = torch.zeros(stop - start, d_latents, device=device)
    block[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
    return block


def _reproduces(
    foreign: Foreign, decoder: Decoder, z: Float32[torch.Tensor, "token latent"]
) -> bool:
    """Whether decode agrees with rows and bias on encoded and on random latents."""
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(z.shape, generator=generator).to(z) * 3 * (z.abs().max() + 1)
    epsilon = max(torch.finfo(foreign.dtype).eps, torch.finfo(torch.float32).eps)
    tolerance = min(0.02, ROUNDING * epsilon)
    for latents in (z, z / 8, random):
        expected = latents.double() @ decoder.W_dec.double()
        error = (foreign.decode(latents).double() - decoder.b_dec.double() - expected).abs().max()
        magnitude = (latents.abs() @ decoder.W_dec.abs()).max() + decoder.b_dec.abs().max()
        if not error <= tolerance * magnitude:
            return False
    return True


def _is_saelens(target: Any) -> bool:
    """An SAELens SAE whose weights are those of an architecture that `saelens` reads."""
    if not type(target).__module__.startswith("sae_lens."):
        return False
    tensors = TENSORS.get(target.cfg.architecture(), ())
    return set(target.state_dict()) == set(tensors)


def _saelens_coder(target: Any, name: str, arguments: dict[str, Any], device: str) -> SparseCoder:
    """An SAELens SAE in memory goes the way of its folder, which charges its normalisation."""
    config = parse_config(target.cfg.to_dict(), name)
    digest = hashlib.sha256(config.model_dump_json().encode())
    _update(digest, target.state_dict())
    identity = CoderIdentity(
        name=name,
        adapter="python",
        version=VERSION,
        arguments=arguments,
        weights_sha256=digest.hexdigest(),
    )
    return build(config, target.state_dict(), identity, name, device)


def _arrays(target: Any) -> Iterator[tuple[str, torch.Tensor | np.ndarray]]:
    """The arrays that an object holds, by name."""
    if isinstance(target, torch.nn.Module):
        yield from sorted(target.state_dict().items())
        return
    for name, value in sorted(getattr(target, "__dict__", {}).items()):
        if isinstance(value, torch.Tensor | np.ndarray):
            yield name, value
        elif isinstance(value, torch.nn.Module):
            yield from ((f"{name}.{key}", part) for key, part in _arrays(value))


def _digest(foreign: Foreign, decoder: Decoder, z: Float32[torch.Tensor, "token latent"]) -> str:
    """SHA-256 of the object's type, plain settings and arrays, and of what they do.

    Its code counts by the rows of its decoder and by what became of the sample, `z`.
    """
    target = foreign.target
    kind = target if isinstance(target, ModuleType) else type(target)
    settings = {
        name: value
        for name, value in sorted(getattr(target, "__dict__", {}).items())
        if isinstance(value, bool | int | float | str) and not name.startswith("__")
    }
    described = [getattr(kind, "__module__", ""), kind.__name__, settings]
    digest = hashlib.sha256(json.dumps(described).encode())
    _update(digest, dict(_arrays(target)))
    _update(digest, {"rows": decoder.W_dec, "bias": decoder.b_dec})
    _update(digest, {"encoded": z, "decoded": foreign.decode(z)})
    return digest.hexdigest()


def _update(digest: Any, arrays: dict[str, Any]) -> None:
    for name, array in sorted(arrays.items()):
        tensor = torch.as_tensor(array).detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _runs(latents: SparseLatents) -> Iterator[SparseLatents]:
    block = block_tokens(latents.n_latents)
    for start in range(0, max(1, latents.n_tokens), block):
        yield latents.rows(start, min(start + block, latents.n_tokens))
