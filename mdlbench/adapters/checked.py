"""Somebody's coder, held to what `SparseCoder` promises.

A coder may come from any package and fail in any way. Whatever goes wrong in it becomes a
`CoderError` that names it, so that one SAE's failure stops no other's score.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Float32

from mdlbench.adapters.protocol import CoderSpec, SparseCoder
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CheckpointError, CoderError
from mdlbench.extensions.foreign import blamed
from mdlbench.sources.protocol import ActivationSource


def encode(
    coder: SparseCoder, x: Float[torch.Tensor, "token d_in"]
) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
    """The coder's latents and side information of some tokens.

    Raises:
        CoderError: encode fails; latents are not finite, in range and sorted by token, then latent,
            each once; or side information has the wrong length, or is not charged.
    """
    with _blamed(coder, "encode"):
        latents, side = coder.encode(x)
        _check_latents(latents, len(x), coder.spec.d_latents)
        _check_side(np.asarray(side), len(x), coder.spec.side_bits)
    return latents, side


def decode(
    coder: SparseCoder,
    latents: SparseLatents,
    side: Float32[np.ndarray, "token side"],
    device: torch.device,
) -> Float32[torch.Tensor, "token d_out"]:
    """The coder's reconstruction of some tokens, in float32 on `device`.

    Raises:
        CoderError: decode fails, or returns something other than a [token, d_out] tensor.
    """
    with _blamed(coder, "decode"):
        reconstruction = coder.decode(latents, side)
        expected = (latents.n_tokens, coder.spec.d_out)
        if not isinstance(reconstruction, torch.Tensor) or reconstruction.shape != expected:
            found = getattr(reconstruction, "shape", type(reconstruction).__name__)
            raise CoderError(f"expected a tensor of shape {list(expected)}, found {found}")
        return reconstruction.detach().to(device, torch.float32)


def decoder_rows(coder: SparseCoder) -> Float32[np.ndarray, "latent d_out"]:
    """The coder's dictionary; raises `CoderError` if it is not [d_latents, d_out]."""
    with _blamed(coder, "decoder_rows"):
        rows = np.asarray(coder.decoder_rows(), dtype=np.float32)
        expected = (coder.spec.d_latents, coder.spec.d_out)
        if rows.shape != expected:
            raise CoderError(f"expected rows of shape {expected}, found {rows.shape}")
        return rows


def with_decoder_precision(coder: SparseCoder, bits: int) -> SparseCoder | None:
    """The coder with its decoder rounded; raises `CoderError` if it cannot do that."""
    with _blamed(coder, "with_decoder_precision"):
        return coder.with_decoder_precision(bits)


def check_spec(spec: CoderSpec, source: ActivationSource | None) -> None:
    """Raise unless the spec is consistent and the coder reads and writes the source's width.

    Raises:
        CheckpointError: the coder is for another width; names both. Or it has no latents.
        CoderError: its decoder norms are not one finite number a latent, or its parents are not
            a forest.
    """
    if len(spec.decoder_norms) != spec.d_latents or not np.isfinite(spec.decoder_norms).all():
        raise CoderError(
            f"{spec.name}: expected {spec.d_latents} finite decoder norms, found "
            f"{int(np.isfinite(spec.decoder_norms).sum())}"
        )
    _check_parents(spec)
    if not spec.fitted:
        check_some_latents(spec.name, spec.d_latents)
    if source is None:
        return
    check_width(spec.name, spec.d_in, source)
    if spec.d_out != source.d_out:
        raise CheckpointError(
            f"{spec.name}: reconstructs to width {spec.d_out}, but activations at hook "
            f"{source.site.hook_out or source.hook!r} have width {source.d_out}"
        )


def check_some_latents(name: str, d_latents: int) -> None:
    """Raise `CheckpointError` for an SAE of no latents; only a baseline may have none."""
    if not d_latents:
        raise CheckpointError(
            f"{name}: it has no latents, so there is nothing to score; baseline:mean is the score "
            "without latents"
        )


def _check_parents(spec: CoderSpec) -> None:
    if spec.parents is None:
        return
    if len(spec.parents) != spec.d_latents:
        raise CoderError(
            f"{spec.name}: expected the parents of {spec.d_latents} latents, found "
            f"{len(spec.parents)}"
        )
    try:
        Forest.from_parents(spec.parents)
    except CoderError as error:
        raise CoderError(f"{spec.name}: {error}") from error


def check_width(name: str, d_in: int, source: ActivationSource) -> None:
    """Raise `CheckpointError` unless activations of the source are `d_in` wide."""
    if d_in != source.d_in:
        raise CheckpointError(
            f"{name}: reads activations of width {d_in}, but those at hook "
            f"{source.hook!r} have width {source.d_in}"
        )


def model_bits(coder: SparseCoder, weight_bits: int | None) -> float | None:
    """What its adapter says that the decoder takes, at a precision of its weights (maths §3).

    None where that depends on the precision, and there is none; raises `CoderError` if it fails.
    """
    said = coder.spec.model_bits
    if not callable(said):
        return said
    with _blamed(coder, "model_bits"):
        return None if weight_bits is None else float(said(weight_bits))


def _check_latents(latents: object, n_tokens: int, n_latents: int) -> None:
    if not isinstance(latents, SparseLatents):
        raise CoderError(f"expected SparseLatents, found {type(latents).__name__}")
    if (latents.n_tokens, latents.n_latents) != (n_tokens, n_latents):
        raise CoderError(
            f"returned {latents.n_tokens} tokens × {latents.n_latents} latents, "
            f"expected {n_tokens} × {n_latents}"
        )
    if not np.isfinite(latents.value).all():
        raise CoderError("latents are NaN or infinite")
    in_range = (
        ((latents.token >= 0) & (latents.token < n_tokens)).all()
        and ((latents.latent >= 0) & (latents.latent < n_latents)).all()
    )  # fmt: skip
    place = latents.token.astype(np.int64) * n_latents + latents.latent
    if not in_range or not (np.diff(place) > 0).all():
        raise CoderError("latents must be in range and sorted by token, then latent, each once")


def _check_side(side: np.ndarray, n_tokens: int, side_bits: float) -> None:
    if side.ndim != 2 or len(side) != n_tokens or not np.isfinite(side).all():
        raise CoderError(f"side information must be finite, [{n_tokens}, …]; found {side.shape}")
    if side.shape[1] and side_bits <= 0:
        raise CoderError(f"{side.shape[1]} numbers per token of side information cost no bits")


@contextmanager
def _blamed(coder: SparseCoder, method: str) -> Iterator[None]:
    with blamed(f"{coder.spec.name}: {method} failed", CoderError):
        try:
            yield
        except CoderError as error:
            raise CoderError(f"{coder.spec.name}: {method}: {error}") from error
