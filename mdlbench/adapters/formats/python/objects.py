"""An object with encode and decode → a coder."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from mdlbench.adapters.checked import check_spec, check_width
from mdlbench.adapters.formats.python.coder import ForeignCoder
from mdlbench.adapters.formats.python.decoder import decoder_of, probed, reproduces
from mdlbench.adapters.formats.python.digest import digest_of, update
from mdlbench.adapters.formats.python.foreign import Foreign
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import TENSORS, parse_config
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.protocol import CoderSpec, SparseCoder
from mdlbench.adapters.sample import sample
from mdlbench.errors import CoderError, UsageError
from mdlbench.sources.protocol import ActivationSource

VERSION = "2"
"""Version of the way objects are wrapped and digested."""

PROBE_TOKENS = 64


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
    update(digest, target.state_dict())
    identity = CoderIdentity(
        name=name,
        adapter="python",
        version=VERSION,
        arguments=arguments,
        weights_sha256=digest.hexdigest(),
    )
    return build(config, target.state_dict(), identity, name, device)


def _coder(
    foreign: Foreign, source: ActivationSource | None, arguments: dict[str, Any]
) -> ForeignCoder:
    x = sample(foreign.d_in, source, PROBE_TOKENS).to(foreign.device)
    z = foreign.encode(x)
    _refuse_memory(foreign, x, z)
    decoder, origin = decoder_of(foreign, z)
    affine = reproduces(foreign, decoder, z)
    if not affine:
        decoder, origin = probed(foreign, z.shape[1]), "probed one latent at a time"
    d_latents, d_out = decoder.W_dec.shape
    spec = CoderSpec(
        CoderIdentity(
            name=foreign.name,
            adapter="python",
            version=VERSION,
            arguments=arguments,
            weights_sha256=digest_of(foreign, decoder, z),
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
