"""What an adapter is asked for and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CoderError, UsageError, did_you_mean
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.site import SILENT
from mdlbench.suite.site import Origin as Origin


@dataclass(frozen=True)
class CoderSpec:
    """What a loaded SAE is.

    Attributes:
        identity: which one; its name, adapter and digest can be asked of the spec as well.
        architecture: as the field calls it, e.g. "jumprelu", "pca".
        hook: hook point that it was trained on; empty if not known.
        d_in, d_out, d_latents: widths.
        decoder_norms: ‖w_i‖ of each latent's decoder row.
        promised_l0: active latents per token that the checkpoint promises never to exceed.
        trained_l0: active latents per token that it was trained to have, if it tells.
        measured_l0: active latents per token that it had in the end, if training tells.
        measured_mse: its squared error per dimension then, on tokens held out, if training tells.
        side_bits: bits per token that the decoder needs beside the latents.
        model_bits: where the decoder is not one row a latent and a bias, the bits that it takes to
            send it (maths §3): a number, or a function of the bits a weight.
        row_widths: how many weights each latent's row has, where that is not d_out: the others
            are zero by construction, and are not sent.
        affine: whether decode is the bias plus the rows weighted by the latents.
        input_scale: the factor by which the activations were multiplied in training so that
            their norm was √d on average, now folded into the weights; None if there was none.
        fitted: whether it was fitted to the calibration split rather than trained elsewhere.
        origin: the activations it was trained on, as far as its config says.
        parents: index of each latent's parent, −1 for a root; None where the SAE has no tree.
        details: further facts worth showing, such as the training architecture; nothing else
            is done with them.
    """

    identity: CoderIdentity
    architecture: str
    hook: str
    d_in: int
    d_out: int
    d_latents: int
    decoder_norms: Float32[np.ndarray, " latent"]
    promised_l0: float | None = None
    trained_l0: float | None = None
    measured_l0: float | None = None
    measured_mse: float | None = None
    side_bits: float = 0.0
    model_bits: float | Callable[[int], float] | None = None
    row_widths: Int32[np.ndarray, " latent"] | None = None
    affine: bool = True
    input_scale: float | None = None
    fitted: bool = False
    origin: Origin = SILENT
    parents: Int32[np.ndarray, " child"] | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def adapter(self) -> str:
        return self.identity.adapter

    @property
    def weights_sha256(self) -> str:
        return self.identity.weights_sha256

    def require_width(self, x: Float[torch.Tensor, "token d"]) -> None:
        """Raise `CoderError` where activations are not as wide as those that it reads."""
        if x.shape[1] != self.d_in:
            raise CoderError(
                f"{self.name}: given activations of width {x.shape[1]}, reads width {self.d_in}"
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
        identity: what the adapter's `identify` has answered to this request, if it was asked; its
            `load` need not hash the weights again.
    """

    argument: str
    options: dict[str, str]
    folder: Path
    device: str
    source: ActivationSource | None
    identity: CoderIdentity | None = None

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

    Only `load` is required. What else an adapter knows, it says by methods of the protocols below:
    `identify`, `origin`, `expand`, `spec_of`, `hub_place`, `check_offline`, `recognised_by`,
    `recognises`, `meant`.
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
    """An adapter that knows a coder's identity before it loads it.

    A finished record is then recognised without loading or fitting anything.
    """

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


@runtime_checkable
class WritesSpecs(Protocol):
    """An adapter that can tell from an identity alone how to ask for that coder again."""

    def spec_of(self, identity: CoderIdentity) -> str | None:
        """What to write after `ADAPTER:`; None where the identity does not say where it is."""
        ...


@dataclass(frozen=True)
class HubPlace:
    """Where a repository of the model hub keeps an SAE.

    Attributes:
        repo: "owner/name".
        beginnings: how the paths of the SAE's files in it may begin.
    """

    repo: str
    beginnings: tuple[str, ...]


@runtime_checkable
class OnHub(Protocol):
    """An adapter whose SAEs may be on the hub otherwise than as `hf://OWNER/REPO/PATH` alone."""

    def hub_place(self, request: Request) -> HubPlace | None:
        """Where the hub keeps the SAE; None for one on this machine."""
        ...


@runtime_checkable
class NeedsNetwork(Protocol):
    """An adapter some of whose SAEs cannot be loaded from the cache alone."""

    def check_offline(self, request: Request) -> None:
        """Raise `HubError` if a run without a network cannot load it, whatever is cached."""
        ...


@runtime_checkable
class Recognises(Protocol):
    """An adapter that need not be named for a folder, because the folder's files tell it.

    Only built-in adapters are asked: no installed package is imported to look at a folder.
    """

    @property
    def recognised_by(self) -> tuple[str, ...]:
        """Names of files, the surest first; a folder that has one of them is such an SAE."""
        ...


TENSORS, FORMAT = 1, 2
"""How surely an adapter reads something: its tensors will do; it is of the adapter's format."""


@runtime_checkable
class RecognisesContent(Protocol):
    """An adapter that can tell by more than a file's name whether it reads something.

    As with `Recognises`, only built-in adapters are asked.
    """

    def recognises(self, path: Path) -> int:
        """0 for what it does not read, or `TENSORS` or `FORMAT`; may raise `CheckpointError`."""
        ...


@runtime_checkable
class NamesMeant(Protocol):
    """An adapter that knows SAEs by names, and can tell what a text without an adapter means."""

    def meant(self, text: str) -> str | None:
        """What to write after `ADAPTER:` instead; None for a text that names no SAE of its."""
        ...
