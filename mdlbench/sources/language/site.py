"""Where an SAE of a language model is scored: what is said of it, settled."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from mdlbench.errors import CheckpointError, UsageError
from mdlbench.sources.kinds.language import LanguageConfig
from mdlbench.sources.language.hooks import Hook, joined, parsed, tensors
from mdlbench.sources.language.load import same_model
from mdlbench.suite.site import Origin, Place, Scalar, Site

Hooks = tuple[Hook, ...]
"""One hook point, or several whose activations are replaced at once."""


def site_of(
    config: LanguageConfig,
    text: str,
    dtype: Literal["float32", "bfloat16"],
    origin: Origin,
    place: Place,
    name: str,
) -> Site:
    """The site at which an SAE is scored.

    What the suite fixes comes first, then what its entry for the SAE says (`place`), then the
    SAE's own config. On hook points and models all must agree. Options that are off are left out,
    so that equal sites compare as equal.

    Args:
        config: what the suite fixes.
        text: name of the text that is measured on.
        dtype: the model's.
        origin: the SAE's own config.
        place: the suite's entry for the SAE.
        name: the SAE, in messages.

    Raises:
        CheckpointError: the SAE is for another hook point or model than the suite's.
        UsageError: the hook, the context, the BOS rule, or the hook that a transcoder
            reconstructs is given nowhere; or of several hooks, two are one, or not in order.
    """
    _refuse_other_model(config, origin, name)
    sources = (config.place, place, origin)
    model = config.model.name
    hooks = _agreed("hook", [_parsed(s.hook, model, name) for s in sources], name)
    if hooks is None:
        raise _unsaid(name, "hook")
    out = _agreed("hook_out", [_parsed(s.hook_out, model, name) for s in sources], name)
    if out is None and origin.hook_out is not None:
        raise _unsaid(name, "hook_out")
    _refuse_disorder(out or hooks, name)
    return Site(
        hook=joined(hooks),
        hook_out=None if out is None or tensors(out) == tensors(hooks) else joined(out),
        model=model,
        model_options=_switched_on(_first(sources, "model_options") or {}),
        dtype=dtype,
        text=text,
        context=_said(sources, "context", name),
        prepend_bos=_said(sources, "prepend_bos", name),
        first_position=config.first_position,
    )


def _refuse_other_model(config: LanguageConfig, origin: Origin, name: str) -> None:
    wanted, found = config.model.name, origin.model
    if found is None or same_model(found, wanted):
        return
    raise CheckpointError(f"{name}: was trained on model {found!r}, but the suite's is {wanted!r}")


def _parsed(hook: str | None, model: str, name: str) -> Hooks | None:
    try:
        return parsed(hook, model) if hook else None
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _agreed(what: str, values: list[Hooks | None], name: str) -> Hooks | None:
    """The first that is said; all must be of the same tensors, whatever they are called."""
    said = [value for value in values if value is not None]
    if any(tensors(value) != tensors(said[0]) for value in said):
        raise CheckpointError(
            f"{name}: its {what} is {joined(said[-1])!r}, but the suite's is {joined(said[0])!r}"
        )
    return said[0] if said else None


def _refuse_disorder(replaced: Hooks, name: str) -> None:
    """Raise `UsageError` unless hook points that are replaced at once are in the model's order."""
    for one, other in pairwise(replaced):
        if one.tensor == other.tensor:
            raise UsageError(f"{name}: only one SAE can be spliced in at hook {other.name!r}")
        if one.place > other.place:
            raise UsageError(
                f"{name}: name hook points in the order in which the model comes to them: "
                f"{other.name!r} before {one.name!r}"
            )


def _switched_on(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Options that are on; 1 and true are the same."""
    return {name: True if value == 1 else value for name, value in options.items() if value}


def _said(sources: tuple[Place | Origin, ...], what: str, name: str) -> Any:
    value = _first(sources, what)
    if value is None:
        raise _unsaid(name, what)
    return value


def _first(sources: tuple[Place | Origin, ...], what: str) -> Any:
    return next((value for s in sources if (value := getattr(s, what)) is not None), None)


def _unsaid(name: str, what: str) -> UsageError:
    return UsageError(
        f"{name}: neither its config nor the suite says its {what}; write `place: {{{what}: …}}` "
        "into the suite, or give it to evaluate()"
    )
