"""Coders whose latents are an activation of one affine map and whose decoder is another.

Nearly all published SAEs are of this kind; they differ in `Activation` and `Normalisation` only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64

from mdlbench.adapters.protocol import CoderIdentity, CoderSpec, Origin
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError, UsageError

BLOCK_BYTES = 1 << 24
"""No dense [token, latent] matrix is larger than this."""

SPARSE_SHARE = 1 / 8
"""Share of active latents above which the decoder is a dense product.

Measured on a 2-core x86 CPU at d = 784: the two cost the same at 0.35 for D ≤ 1,024, whose rows
stay in cache, and at 0.08 for D = 24,576.
"""


class Nonzeros(NamedTuple):
    """The nonzero latents of a block, sorted by token, then by latent."""

    token: Int64[torch.Tensor, " nnz"]
    latent: Int64[torch.Tensor, " nnz"]
    value: Float32[torch.Tensor, " nnz"]


Activation = Callable[[Float32[torch.Tensor, "token latent"]], Nonzeros]
"""Pre-activations → nonzero latents."""


def _nonzeros(
    dense: Float32[torch.Tensor, "token latent"], active: torch.Tensor | None = None
) -> Nonzeros:
    token, latent = torch.nonzero(dense if active is None else active, as_tuple=True)
    return Nonzeros(token, latent, dense[token, latent])


@dataclass(frozen=True)
class JumpReLU:
    """relu(a)·(a > θ), strictly (arXiv:2407.14435). ReLU where θ = 0."""

    threshold: Float32[torch.Tensor, " latent"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        return _nonzeros(a, a > self.threshold.clamp(min=0))


@dataclass(frozen=True)
class TopK:
    """ReLU of the k largest of each token (arXiv:2406.04093); without it if not `rectified`.

    With `signed`, the k largest in magnitude, signs kept (AbsTopK, arXiv:2510.00404).
    """

    k: int
    signed: bool = False
    rectified: bool = True

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        ranked = a.abs() if self.signed else a
        chosen = ranked.topk(self.k, dim=1, sorted=False).indices.sort(dim=1).values
        value = a.gather(1, chosen)
        positive = self.rectified and not self.signed
        token, place = torch.nonzero(value > 0 if positive else value, as_tuple=True)
        return Nonzeros(token, chosen[token, place], value[token, place])


@dataclass(frozen=True)
class GroupMax:
    """ReLU of the largest of each of k groups of neighbouring latents, all of one size."""

    k: int

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        size = a.shape[1] // self.k
        value, place = a.reshape(len(a), self.k, size).max(dim=2)
        token, group = torch.nonzero(value > 0, as_tuple=True)
        latent = group * size + place[token, group]
        return Nonzeros(token, latent, value[token, group])


@dataclass(frozen=True)
class Gated:
    """(a + b_gate > 0)·relu(a·exp(r_mag) + b_mag), a = x W_enc (arXiv:2404.16014)."""

    b_gate: Float32[torch.Tensor, " latent"]
    r_mag: Float32[torch.Tensor, " latent"]
    b_mag: Float32[torch.Tensor, " latent"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        magnitude = torch.addcmul(self.b_mag, a, self.r_mag.exp())
        return _nonzeros(magnitude, (a + self.b_gate > 0) & (magnitude > 0))


@dataclass(frozen=True)
class Unrectified:
    """The pre-activations themselves: an orthonormal transform."""

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        return _nonzeros(a)


@dataclass(frozen=True)
class OneHot:
    """1 for the largest of each token, 0 for all others: vector quantisation."""

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        token = torch.arange(len(a), device=a.device)
        return Nonzeros(token, a.argmax(dim=1), torch.ones(len(a), device=a.device))


@dataclass(frozen=True)
class GroupNorm:
    """Whole groups of neighbouring latents, signed, whose norm exceeds the group's θ."""

    threshold: Float32[torch.Tensor, " group"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        norms = a.reshape(len(a), len(self.threshold), -1).norm(dim=2)
        active = (norms > self.threshold).repeat_interleave(a.shape[1] // len(self.threshold), 1)
        return _nonzeros(a, active & (a != 0))


class Normalisation(Protocol):
    """What is done to each token before the encoder and undone after the decoder."""

    @property
    def bits(self) -> float:
        """Bits per token of the side information."""
        ...

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token side"]]:
        """The normalised tokens, and the side information that undoes it."""
        ...

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token side"]
    ) -> Float32[torch.Tensor, "token d"]: ...


class Unnormalised:
    """No normalisation, no side information."""

    bits = 0.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 0"]]:
        return x, x[:, :0]

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 0"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x


class LayerNorm:
    """(x − mean)/(std + 1e-5), unbiased std; undone by ·std + mean, two floats a token."""

    bits = 64.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 2"]]:
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        std = centred.std(dim=1, keepdim=True)
        return centred / (std + 1e-5), torch.cat([mean, std], dim=1)

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 2"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x * side[:, 1:] + side[:, :1]


class ConstantNorm:
    """Every token scaled to norm √d; undone by ‖x‖/√d, one float a token."""

    bits = 32.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 1"]]:
        scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
        return x / scale.clamp(min=torch.finfo(x.dtype).tiny), scale

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 1"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x * side


@dataclass(frozen=True)
class Skip:
    """The linear path around the latents of a skip transcoder (arXiv:2501.18823).

    The latents say nothing of W_skip x, so it is side information: d_out floats a token, added to
    what the decoder makes of the latents.
    """

    W_skip: Float32[torch.Tensor, "d_out d_in"]

    @property
    def bits(self) -> float:
        return 32.0 * len(self.W_skip)

    def apply(
        self, x: Float32[torch.Tensor, "token d_in"]
    ) -> tuple[Float32[torch.Tensor, "token d_in"], Float32[torch.Tensor, "token d_out"]]:
        return x, x @ self.W_skip.T

    def undo(
        self, x: Float32[torch.Tensor, "token d_out"], side: Float32[torch.Tensor, "token d_out"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        return x + side


class SparseEncoder(Protocol):
    """Normalised activations of width `d_in` → latents."""

    @property
    def d_in(self) -> int: ...

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents: ...


@dataclass(frozen=True)
class Encoder:
    """activation((x − centre) W_enc + b_enc)."""

    W_enc: Float32[torch.Tensor, "d_in latent"]
    b_enc: Float32[torch.Tensor, " latent"]
    centre: Float32[torch.Tensor, " d_in"]
    activation: Activation

    @property
    def d_in(self) -> int:
        return len(self.W_enc)

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        """Latents of all tokens, in blocks that keep [token, latent] below `BLOCK_BYTES`."""
        block = max(1, BLOCK_BYTES // (4 * max(1, len(self.b_enc))))
        return concatenate([self._block(part) for part in torch.split(x, block)])

    def _block(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        a = torch.addmm(self.b_enc, x - self.centre, self.W_enc)
        if a.numel() and not torch.stack(torch.aminmax(a)).isfinite().all():
            raise CoderError("encode: pre-activations are NaN or infinite")
        found = self.activation(a)
        return SparseLatents(
            found.token.int().cpu().numpy(),
            found.latent.int().cpu().numpy(),
            found.value.cpu().numpy(),
            n_tokens=a.shape[0],
            n_latents=a.shape[1],
        )


@dataclass(frozen=True)
class Decoder:
    """z W_dec + b_dec."""

    W_dec: Float32[torch.Tensor, "latent d_out"]
    b_dec: Float32[torch.Tensor, " d_out"]

    def __call__(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        """The reconstruction of all tokens; the cost is that of the active latents' rows."""
        if latents.n_latents != len(self.W_dec):
            raise CoderError(
                f"decode: {latents.n_latents} latents given to a dictionary of {len(self.W_dec)}"
            )
        if latents.nnz == 0:
            return self.b_dec.expand(latents.n_tokens, -1).clone()
        if latents.nnz > SPARSE_SHARE * latents.n_tokens * latents.n_latents:
            return self._dense(latents)
        return self._sparse(latents)

    def _sparse(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        first = np.searchsorted(latents.token, np.arange(latents.n_tokens)).astype(np.int32)
        device = self.W_dec.device
        weighted = torch.nn.functional.embedding_bag(
            torch.from_numpy(latents.latent).to(device),
            self.W_dec,
            torch.from_numpy(first).to(device),
            mode="sum",
            per_sample_weights=torch.from_numpy(latents.value).to(device),
        )
        return weighted.add_(self.b_dec)

    def _dense(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        block = max(1, BLOCK_BYTES // (4 * latents.n_latents))
        device = self.W_dec.device
        parts = []
        for start in range(0, latents.n_tokens, block):
            z = latents.rows(start, min(start + block, latents.n_tokens)).to_dense()
            parts.append(torch.addmm(self.b_dec, torch.from_numpy(z).to(device), self.W_dec))
        return torch.cat(parts)

    def norms(self) -> Float32[np.ndarray, " latent"]:
        """‖w_i‖ of every row."""
        norms: np.ndarray = self.W_dec.double().norm(dim=1).float().cpu().numpy()
        return norms

    def rounded(self, bits: int) -> Decoder:
        """Every weight w as s·round(w/s), s = max|w| / (2^(bits−1) − 1) over W_dec and b_dec."""
        if not 2 <= bits <= 32:
            raise UsageError(f"decoder precision must be from 2 to 32 bits, not {bits}")
        largest = max(
            float(weights.abs().max()) for weights in (self.W_dec, self.b_dec) if weights.numel()
        )
        step = largest / (2 ** (bits - 1) - 1)
        if step == 0.0:
            return self

        W_dec, b_dec = (
            ((weights.double() / step).round() * step).float()
            for weights in (self.W_dec, self.b_dec)
        )
        return replace(self, W_dec=W_dec, b_dec=b_dec)


@dataclass(frozen=True)
class TreeEncoder:
    """An encoder whose latents are off where their parent is."""

    encoder: SparseEncoder
    forest: Forest

    @property
    def d_in(self) -> int:
        return self.encoder.d_in

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        return self.forest.gated(self.encoder(x))


@dataclass(frozen=True)
class TreeDecoder(Decoder):
    """A decoder that ignores latents whose parent is off."""

    forest: Forest

    def __call__(self, latents: SparseLatents) -> Float32[torch.Tensor, "token d_out"]:
        return super().__call__(self.forest.gated(latents))


@dataclass(frozen=True)
class LinearCoder:
    """The `SparseCoder` of an encoder and an affine decoder."""

    spec: CoderSpec
    encoder: SparseEncoder
    decoder: Decoder
    normalisation: Normalisation

    @torch.no_grad()
    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """See `SparseCoder`; raises `CoderError` for another width or for non-finite values."""
        if x.shape[1] != self.spec.d_in:
            raise CoderError(
                f"{self.spec.name}: given activations of width {x.shape[1]}, "
                f"reads width {self.spec.d_in}"
            )
        normalised, side = self.normalisation.apply(x.float())
        return self.encoder(normalised), side.cpu().numpy()

    @torch.no_grad()
    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        reconstruction = self.decoder(latents)
        return self.normalisation.undo(
            reconstruction, torch.from_numpy(side).to(reconstruction.device)
        )

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        rows: np.ndarray = self.decoder.W_dec.cpu().numpy()
        return rows

    def with_decoder_precision(self, bits: int) -> LinearCoder:
        """See `Decoder.rounded`; decoder norms are those of the rounded rows."""
        decoder = self.decoder.rounded(bits)
        spec = replace(
            self.spec,
            decoder_norms=decoder.norms(),
            details={**self.spec.details, "decoder_precision": bits},
        )
        return replace(self, spec=spec, decoder=decoder)


def assemble(
    identity: CoderIdentity,
    encoder: SparseEncoder,
    decoder: Decoder,
    normalisation: Normalisation,
    *,
    architecture: str,
    origin: Origin,
    promised_l0: int | None,
    details: dict[str, Any],
    forest: Forest | None = None,
) -> LinearCoder:
    """The coder of these parts; its widths, decoder norms and side bits are theirs."""
    spec = CoderSpec(
        **vars(identity),
        architecture=architecture,
        hook=origin.hook or "",
        d_in=encoder.d_in,
        d_out=decoder.W_dec.shape[1],
        d_latents=len(decoder.W_dec),
        decoder_norms=decoder.norms(),
        promised_l0=None if promised_l0 is None else float(promised_l0),
        side_bits=normalisation.bits,
        details=details,
        origin=origin,
        parents=None if forest is None else forest.parents,
    )
    return LinearCoder(spec, encoder, decoder, normalisation)
