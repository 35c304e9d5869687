"""Where activations are taken: as far as a suite or an SAE says it, and settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from mdlbench.errors import UsageError, first_problem
from mdlbench.suite.base import Strict

Scalar = bool | int | float | str
AND = " + "
"""Between the names of hook points, or of SAEs, that are spliced at once."""


class Place(Strict):
    """Where activations are taken and on which contexts; the SAE says what is absent here."""

    hook: str | None = None
    """The hook point that is read; several with ` + ` between them, as crosscoders read."""
    hook_out: str | None = None
    """The hook point that is reconstructed, where it is another one, as for transcoders."""
    context: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a context, BOS included."""
    prepend_bos: bool | None = None
    model_options: dict[str, Scalar] | None = None
    """How the model's weights are processed, e.g. `center_writing_weights`."""


UNSAID = Place()
"""Nothing said about where an SAE is scored."""


def place_said(
    hook: str | None, hook_out: str | None, context: int | None, prepend_bos: bool | None
) -> Place:
    """A place in a user's words; raises `UsageError` for what no place can be."""
    try:
        return Place(hook=hook, hook_out=hook_out, context=context, prepend_bos=prepend_bos)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error


def merged(place: Place, said: Place) -> Place:
    """What either says; raises `UsageError` where both say something else."""
    changes = said.model_dump(exclude_none=True)
    for key, value in changes.items():
        known = getattr(place, key)
        if known is not None and known != value:
            raise UsageError(f"{key} is {value!r} here, but the suite's entry says {known!r}")
    return place.model_copy(update=changes)


@dataclass(frozen=True)
class Origin:
    """What an SAE's config says of the activations it was trained on; None where it is silent.

    Attributes:
        model: the language model's name.
        hook: the hook point it reads, by its TransformerLens name.
        hook_out: the hook point that a transcoder reconstructs; empty if it does not say.
        context: tokens of a context.
        prepend_bos: whether a context begins with the BOS token.
        model_options: how the model was loaded, e.g. `center_writing_weights`.
    """

    model: str | None = None
    hook: str | None = None
    hook_out: str | None = None
    context: int | None = None
    prepend_bos: bool | None = None
    model_options: Mapping[str, Scalar] = field(default_factory=dict)


SILENT = Origin()
"""An SAE whose config says nothing."""


class Site(Strict):
    """One place where activations are taken, every question settled; SAEs are ranked within one.

    For images, the keys that do not apply are absent.
    """

    hook: str
    hook_out: str | None = None
    model: str | None = None
    model_options: dict[str, Scalar] = Field(default={})
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the model; SAEs compute in float32."""
    text: str | None = None
    context: int | None = None
    prepend_bos: bool | None = None
    first_position: int | None = None
    """Positions before it, and special tokens, are excluded from splice, metrics and rate."""

    @property
    def label(self) -> str:
        """Words that tell the sites of a suite apart."""
        parts = [self.hook if self.hook_out is None else f"{self.hook} → {self.hook_out}"]
        if self.context is not None:
            parts += [f"{self.context} tokens", "BOS" if self.prepend_bos else "no BOS"]
        parts += [
            name if value is True else f"{name}={value}"
            for name, value in sorted(self.model_options.items())
        ]
        return ", ".join(parts)
