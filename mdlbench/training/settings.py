"""Settings of a training run as people write them: known, of the right kind, finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from mdlbench.errors import UsageError, did_you_mean, first_problem

Config = TypeVar("Config")
Settings = dict[str, Any]
"""By name; `options` is a mapping within."""
OPTIONS = "options"


def merged(*parts: object) -> Settings:
    """Settings, those that come later over those before; so are their options, one by one.

    Raises:
        UsageError: a part, or its options, are no mapping.
    """
    settings: Settings = {}
    options: Settings = {}
    for part in parts:
        own = _mapping("settings", part)
        settings = {**settings, **own}
        options = {**options, **_mapping(OPTIONS, own.get(OPTIONS, {}))}
    return {**settings, **({OPTIONS: options} if options else {})}


def _mapping(what: str, found: object) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise UsageError(f"{what} are a mapping of names to values, not {found!r}")
    return found


def made(kind: type[Config], settings: Mapping[str, Any], where: str) -> Config:
    """A config of these settings.

    Args:
        kind: its class, a dataclass.
        settings: by name.
        where: what errors begin with.

    Raises:
        UsageError: a setting is unknown, missing, of another kind, or impossible.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in settings:
        if name not in known:
            raise UsageError(f"{where}: unknown setting {name!r}. {did_you_mean(name, known)}")
    for name, item in known.items():
        needs = item.default is MISSING and item.default_factory is MISSING
        if needs and name not in settings:
            raise UsageError(f"{where}: it has no {name}")
    try:
        require_types(kind, settings)
        return kind(**settings)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def require_types(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise `UsageError` where a setting is of another type than its field of a dataclass."""
    hints = get_type_hints(kind)
    for name, value in settings.items():
        require_type(name, value, hints[name])


def require_type(name: str, value: object, hint: Any) -> None:
    """Raise `UsageError` where a setting is of another type."""
    try:
        _adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise UsageError(f"{name}: {first_problem(error, root=repr(value))}") from error


def require_finite(name: str, value: object) -> None:
    """Raise `UsageError` where a setting is infinite or NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} must be finite, not {value}")


@cache
def _adapter(hint: Any) -> Any:
    return TypeAdapter(hint)
