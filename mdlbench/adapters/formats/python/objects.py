"""An object with encode and decode → a coder."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from mdlbench.adapters.checked import check_some_latents, check_spec, check_width
from mdlbench.adapters.formats.python.coder import ForeignCoder
from mdlbench.adapters.formats.python.decoder import decoder_of, probed, reproduces
from mdlbench.adapters.formats.python.digest import digest_of, update
from mdlbench.adapters.formats.python.foreign import Foreign
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import (
    TENSORS,
    origin_of,
    parse_config,
    refuse_unfolded,
)
from mdlbench.adapters.identity import UNSEEN, CoderIdentity
from mdlbench.adapters.protocol import CoderSpec, Origin, SparseCoder
from mdlbench.adapters.sample import sample
from mdlbench.errors import CheckpointError, CoderError, UsageError
from mdlbench.extensions.foreign import blamed
from mdlbench.sources.protocol import ActivationSource

VERSION = "3"
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
    target = instance_of(found)
    name = name or type(target).__name__
    with blamed(f"{name}: fails", CoderError):
        coder = _coder_of(target, source, device, name, arguments or {})
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
    if isinstance(target, torch.nn.Module):
        target = target.to(device).eval()
    if _is_saelens(target):
        return _saelens_coder(target, name, arguments, device)
    foreign = Foreign.of(target, name, _d_in(target, name, source), torch.device(device))
    return _coder(foreign, source, arguments)


def instance_of(found: Any) -> Any:
    """The object itself; classes and factories are called without arguments first."""
    is_factory = inspect.isclass(found) or inspect.isroutine(found)
    with blamed(f"{found!r} cannot be called without arguments", UsageError):
        target = found() if is_factory else found
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
    """An SAELens SAE, as SAELens computes it, of an architecture that `saelens` reads."""
    if not type(target).__module__.startswith("sae_lens.") or _is_changed(target):
        return False
    tensors = TENSORS.get(target.cfg.architecture(), ())
    return set(target.state_dict()) == set(tensors)


def _is_changed(module: torch.nn.Module) -> bool:
    """Whether somebody has put a method or a hook into it, so that its weights are not all."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "fwd_hooks")
    return bool({"encode", "decode", "forward"} & set(vars(module))) or any(
        getattr(part, hook, None) for part in module.modules() for hook in hooks
    )


def origin_of_object(target: Any, name: str) -> Origin:
    """What an object's own config says of its activations; silent where it has none.

    The config is `cfg` or `config`: a mapping, or an object as SAELens has it.

    Raises:
        CheckpointError: the activations of its training were scaled, and it does not do that.
    """
    if isinstance(target, SparseCoder) and isinstance(target.spec, CoderSpec):
        return target.spec.origin
    with blamed(f"{name}: its config cannot be read", CheckpointError):
        config = _config(target)
        if _is_of_saelens(target):
            refuse_unfolded(config, name)
        return origin_of(config, name)


def _is_of_saelens(target: Any) -> bool:
    """Whether it is one of SAELens' classes, or derived from one."""
    return any(kind.__module__.startswith("sae_lens.") for kind in type(target).__mro__)


def _config(target: Any) -> dict[str, Any]:
    for config in (getattr(target, name, None) for name in ("cfg", "config")):
        if isinstance(config, Mapping):
            return dict(config)
        if callable(to_dict := getattr(config, "to_dict", None)):
            return dict(to_dict())
        if config is not None:
            return dict(getattr(config, "__dict__", {}))
    return {}


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
    foreign, taken = foreign.read(x)
    z = foreign.encode(x)
    check_some_latents(foreign.name, z.shape[1])
    _refuse_memory(foreign, x, z)
    decoder, rows_from = decoder_of(foreign, z)
    affine = reproduces(foreign, decoder, z)
    if not affine:
        decoder, rows_from = probed(foreign, z.shape[1]), "probed one latent at a time"
    d_latents, d_out = decoder.W_dec.shape
    origin = origin_of_object(foreign.target, foreign.name)
    found = digest_of(foreign, decoder, z)
    unseen = {UNSEEN: found.in_words} if found.unseen else {}
    spec = CoderSpec(
        CoderIdentity(
            name=foreign.name,
            adapter="python",
            version=VERSION,
            arguments={**arguments, **unseen},
            weights_sha256=found.digest,
        ),
        architecture=type(foreign.target).__name__,
        hook=origin.hook or "",
        d_in=foreign.d_in,
        d_out=d_out,
        d_latents=d_latents,
        decoder_norms=decoder.norms(),
        affine=affine,
        origin=origin,
        details={
            "arrays": foreign.convention,
            "decoder_rows": rows_from,
            "affine_decoder": affine,
            **({"latents_from": taken} if taken else {}),
        },
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
