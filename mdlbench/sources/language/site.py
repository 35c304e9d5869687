"""Where an SAE of a language model is scored: what is said of it, settled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mdlbench.errors import CheckpointError, UsageError
from mdlbench.sources.kinds.language import LanguageConfig
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.load import same_model
from mdlbench.suite.site import Origin, Place, Scalar, Site


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
            reconstructs is given nowhere.
    """
    _refuse_other_model(config, origin, name)
    sources = (config.place, place, origin)
    model = config.model.name
    hook = _agreed("hook", [_parsed(s.hook, model, name) for s in sources], name)
    if hook is None:
        raise _unsaid(name, "hook")
    hook_out = _agreed("hook_out", [_parsed(s.hook_out, model, name) for s in sources], name)
    if hook_out is None and origin.hook_out is not None:
        raise _unsaid(name, "hook_out")
    return Site(
        hook=hook.name,
        hook_out=None if hook_out is None or hook_out.tensor == hook.tensor else hook_out.name,
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


def _parsed(hook: str | None, model: str, name: str) -> Hook | None:
    try:
        return Hook.parse(hook, model) if hook else None
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def _agreed(what: str, values: list[Hook | None], name: str) -> Hook | None:
    """The first that is said; all must be of one tensor, whatever it is called."""
    said = [value for value in values if value is not None]
    if len({value.tensor for value in said}) > 1:
        raise CheckpointError(
            f"{name}: its {what} is {said[-1].name!r}, but the suite's is {said[0].name!r}"
        )
    return said[0] if said else None


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
