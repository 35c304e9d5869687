"""Several coders as one: their latents side by side, their reconstructions added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32

from mdlbench.adapters import checked
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.protocol import CoderSpec, Origin, SparseCoder
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CoderError


@dataclass(frozen=True)
class Part:
    """A coder of the whole, and where it reads and writes.

    Attributes:
        coder: the coder.
        reads, writes: the first dimension of what it is given, and of what it adds to.
    """

    coder: SparseCoder
    reads: int
    writes: int

    @property
    def given(self) -> slice:
        """The dimensions that it reads."""
        return slice(self.reads, self.reads + self.coder.spec.d_in)

    @property
    def made(self) -> slice:
        """The dimensions that it writes."""
        return slice(self.writes, self.writes + self.coder.spec.d_out)


@dataclass(frozen=True)
class JointCoder:
    """The `SparseCoder` of several: SAEs at several hook points, or a cross-layer transcoder.

    Attributes:
        spec: of the whole.
        parts: the coders.
        columns: numbers of side information of each.
    """

    spec: CoderSpec
    parts: tuple[Part, ...]
    columns: tuple[int, ...]

    @torch.no_grad()
    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """See `SparseCoder`; raises `CoderError` for another width."""
        self.spec.require_width(x)
        found = [checked.encode(part.coder, x[:, part.given]) for part in self.parts]
        latents, sides = zip(*found, strict=True)
        return _side_by_side(latents), np.concatenate(sides, axis=1)

    @torch.no_grad()
    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        sides = np.split(side, np.cumsum(self.columns)[:-1], axis=1)
        total: torch.Tensor | None = None
        for part, own, told in zip(self.parts, self._apart(latents), sides, strict=True):
            made = part.coder.decode(own, told)
            if total is None:
                total = made.new_zeros(latents.n_tokens, self.spec.d_out)
            total[:, part.made] += made
        if total is None:
            raise CoderError(f"{self.spec.name}: it has no parts")
        return total

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        rows = np.zeros((self.spec.d_latents, self.spec.d_out), dtype=np.float32)
        start = 0
        for part in self.parts:
            stop = start + part.coder.spec.d_latents
            rows[start:stop, part.made] = part.coder.decoder_rows()
            start = stop
        return rows

    def with_decoder_precision(self, bits: int) -> JointCoder | None:
        """Each part's decoder rounded by itself; None where one has no weights."""
        parts = []
        for part in self.parts:
            coder = part.coder.with_decoder_precision(bits)
            if coder is None:
                return None
            parts.append(replace(part, coder=coder))
        norms = np.concatenate([part.coder.spec.decoder_norms for part in parts])
        details = {**self.spec.details, "decoder_precision": bits}
        spec = replace(self.spec, decoder_norms=norms, details=details)
        return replace(self, spec=spec, parts=tuple(parts))

    def _apart(self, latents: SparseLatents) -> Iterator[SparseLatents]:
        """The latents of each part."""
        start = 0
        for part in self.parts:
            n = part.coder.spec.d_latents
            own = (latents.latent >= start) & (latents.latent < start + n)
            yield SparseLatents(
                latents.token[own],
                latents.latent[own] - np.int32(start),
                latents.value[own],
                latents.n_tokens,
                n,
            )
            start += n


def join(
    identity: CoderIdentity,
    parts: Sequence[Part],
    *,
    architecture: str,
    origin: Origin,
    device: str,
    details: dict[str, Any] | None = None,
) -> JointCoder:
    """The coder of several.

    Its decoder is priced by the weights that there are: what a part does not write is no weight.

    Args:
        identity: of the whole.
        parts: the coders; together they read and write every dimension.
        architecture: what to call it.
        origin: the activations that it is for.
        device: where the parts compute.
        details: further facts worth showing.

    Raises:
        CoderError: a part's decoder is priced by its adapter, not by its rows.
    """
    specs = [part.coder.spec for part in parts]
    for spec in specs:
        if spec.model_bits is not None:
            raise CoderError(
                f"{spec.name}: its decoder has no row for each latent, so it cannot be spliced in "
                "with others"
            )
    spec = CoderSpec(
        identity,
        architecture=architecture,
        hook=origin.hook or "",
        d_in=max(part.given.stop for part in parts),
        d_out=max(part.made.stop for part in parts),
        d_latents=sum(spec.d_latents for spec in specs),
        decoder_norms=np.concatenate([spec.decoder_norms for spec in specs]),
        promised_l0=_sum([spec.promised_l0 for spec in specs]),
        trained_l0=_sum([spec.trained_l0 for spec in specs]),
        side_bits=sum(spec.side_bits for spec in specs),
        row_widths=np.concatenate([_row_widths(spec) for spec in specs]),
        affine=all(spec.affine for spec in specs),
        fitted=all(spec.fitted for spec in specs),
        origin=origin,
        parents=_parents(specs),
        details=details or {},
    )
    return JointCoder(spec, tuple(parts), tuple(_columns(part.coder, device) for part in parts))


def _row_widths(spec: CoderSpec) -> Int32[np.ndarray, " latent"]:
    if spec.row_widths is not None:
        return spec.row_widths
    return np.full(spec.d_latents, spec.d_out, dtype=np.int32)


def _parents(specs: Sequence[CoderSpec]) -> Int32[np.ndarray, " child"] | None:
    """Every part's forest; latents of parts without one are roots."""
    if all(spec.parents is None for spec in specs):
        return None
    forests, start = [], 0
    for spec in specs:
        own = np.full(spec.d_latents, -1) if spec.parents is None else spec.parents
        forests.append(np.where(own < 0, -1, own + start))
        start += spec.d_latents
    return np.concatenate(forests).astype(np.int32)


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum, if all are known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _columns(coder: SparseCoder, device: str) -> int:
    """Numbers of side information of a coder, as it answers to one token of zeros."""
    _, side = checked.encode(coder, torch.zeros(1, coder.spec.d_in, device=device))
    return int(side.shape[1])


def _side_by_side(parts: Sequence[SparseLatents]) -> SparseLatents:
    """The latents of several coders of the same tokens as those of one dictionary."""
    starts = np.cumsum([0, *(part.n_latents for part in parts)]).astype(np.int32)
    token = np.concatenate([part.token for part in parts])
    order = np.argsort(token, kind="stable")
    latent = np.concatenate([p.latent + s for p, s in zip(parts, starts, strict=False)])
    value = np.concatenate([part.value for part in parts])
    return SparseLatents(
        token[order], latent[order], value[order], parts[0].n_tokens, int(starts[-1])
    )
