"""What an adapter is asked for and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32

from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import UsageError, did_you_mean
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.site import SILENT
from mdlbench.suite.site import Origin as Origin


@dataclass(frozen=True)
class CoderIdentity:
    """What decides a coder's numbers; known before it is fitted or run.

    Attributes:
        name: what to call it, from the file or the argument; shown, never used as a path.
        adapter, version: which adapter loads it, and that adapter's or its library's version.
        arguments: what it is loaded with, as far as it decides numbers; no path of any machine.
        weights_sha256: digest of everything that was learned, or that a fit is determined by.
    """

    name: str
    adapter: str
    version: str
    arguments: dict[str, Any]
    weights_sha256: str


@dataclass(frozen=True)
class CoderSpec:
    """What a loaded SAE is.

    Attributes:
        name, adapter, version, arguments, weights_sha256: as in `CoderIdentity`.
        architecture: as the field calls it, e.g. "jumprelu", "pca".
        hook: hook point that it was trained on; empty if not known.
        d_in, d_out, d_latents: widths.
        decoder_norms: ‖w_i‖ of each latent's decoder row.
        promised_l0: active latents per token that the checkpoint promises never to exceed.
        side_bits: bits per token that the decoder needs beside the latents.
        details: further facts worth showing, such as the training architecture and k.
        origin: the activations it was trained on, as far as its config says.
        parents: index of each latent's parent, −1 for a root; None where the SAE has no tree.
    """

    name: str
    adapter: str
    version: str
    arguments: dict[str, Any]
    weights_sha256: str
    architecture: str
    hook: str
    d_in: int
    d_out: int
    d_latents: int
    decoder_norms: Float32[np.ndarray, " latent"]
    promised_l0: float | None = None
    side_bits: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    origin: Origin = SILENT
    parents: Int32[np.ndarray, " child"] | None = None

    @property
    def identity(self) -> CoderIdentity:
        return CoderIdentity(
            self.name, self.adapter, self.version, self.arguments, self.weights_sha256
        )


@runtime_checkable
class SparseCoder(Protocol):
    """An SAE as the harness sees it. Normalisation of the input is the coder's own business."""

    @property
    def spec(self) -> CoderSpec: ...

    def encode(
        self, x: Float[torch.Tensor, "token d_in"]
    ) -> tuple[SparseLatents, Float32[np.ndarray, "token side"]]:
        """Nonzero latents and per-token side information (zero columns for most coders)."""
        ...

    def decode(
        self, latents: SparseLatents, side: Float32[np.ndarray, "token side"]
    ) -> Float[torch.Tensor, "token d_out"]:
        """The reconstruction; no latents at all decode to the bias."""
        ...

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        """The dictionary, for pictures and for pricing the decoder."""
        ...

    def with_decoder_precision(self, bits: int) -> SparseCoder | None:
        """The same coder with its decoder rounded to `bits` a weight; None if it has no weights."""
        ...


@dataclass(frozen=True)
class Request:
    """What `ARGUMENT?OPTION=VALUE&…` asks an adapter to load.

    Attributes:
        argument: what stands after `ADAPTER:` and before the first `?`.
        options: what stands after it; an adapter must reject those it does not know.
        folder: what a relative path in the argument is relative to.
        device: where the coder computes.
        source: the activations, for coders that are fitted to data; None if there are none.
    """

    argument: str
    options: dict[str, str]
    folder: Path
    device: str
    source: ActivationSource | None

    @property
    def path(self) -> Path:
        """The argument as a path."""
        return expanded(self.argument, self.folder)

    def reject_unknown_options(self, *known: str) -> None:
        for option in self.options:
            if option not in known:
                raise UsageError(
                    f"{self.argument!r}: unknown option {option!r}. {did_you_mean(option, known)}"
                )

    def integer(self, option: str, default: int, least: int, most: int) -> int:
        """The value of an integer option, within bounds."""
        text = self.options.get(option, str(default))
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise UsageError(
                f"{self.argument!r}: {option} must be an integer from {least} to {most}, "
                f"not {text!r}"
            )
        return int(text)


@runtime_checkable
class Adapter(Protocol):
    """Loads one kind of SAE. Implement it in a package of your own to add a kind.

    An adapter may also have `identify(request) -> CoderIdentity` where it can tell what would be
    loaded without loading it; a finished record is then recognised without fitting anything.
    """

    def load(self, request: Request) -> SparseCoder:
        """The coder that the request names."""
        ...


def expanded(text: str, folder: Path) -> Path:
    """A path as a user writes it, relative to a folder; raises `UsageError` for `~nobody`."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{text!r}: there is no such user: {error}") from error


@runtime_checkable
class Identifies(Protocol):
    """An adapter that knows a coder's identity before it loads it."""

    def identify(self, request: Request) -> CoderIdentity: ...


@runtime_checkable
class KnowsOrigin(Protocol):
    """An adapter that can tell from a config alone which activations a coder is for."""

    def origin(self, request: Request) -> Origin: ...


@runtime_checkable
class Expands(Protocol):
    """An adapter whose arguments may be patterns, such as all SAEs of a release."""

    def expand(self, request: Request) -> list[str]:
        """The arguments that the request's stands for."""
        ...
