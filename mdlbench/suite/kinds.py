"""The kinds of sources, built-in and of installed packages, and their configs by name."""

from __future__ import annotations

import operator
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Any

from mdlbench.errors import MdlbenchError, UsageError, did_you_mean
from mdlbench.suite.source import SourceConfig

ENTRY_POINTS = "mdlbench.sources"
BUILT_IN = "mdlbench.sources.kinds"
"""The package with a module for each built-in kind."""


def built_in_kinds() -> list[str]:
    """By name; none of them is imported."""
    return sorted(module.name for module in iter_modules(import_module(BUILT_IN).__path__))


def config_class(kind: str) -> type[SourceConfig]:
    """The config of a kind of source; a built-in kind's name is never a package's.

    Raises:
        UsageError: there is no such kind; the message names the nearest.
        MdlbenchError: two installed packages bring it, it cannot be imported, or it is no config.
    """
    if kind in built_in_kinds():
        name = "".join(part.capitalize() for part in kind.split("_"))
        return _config(f"{BUILT_IN}.{kind}:{name}Config", f"source kind {kind!r}")
    point = _entry_point(kind)
    package = f" of package {point.dist.metadata['Name']!r}" if point.dist else ""
    return _config(point.value, f"source kind {kind!r}{package}")


def import_target(target: str, what: str) -> Any:
    """The object at `package.module:Class`.

    Raises:
        MdlbenchError: importing it failed in whatever way; the message begins with `what`.
    """
    module, _, attribute = target.partition(":")
    try:
        return operator.attrgetter(attribute)(import_module(module))
    except Exception as error:
        raise MdlbenchError(
            f"{what} cannot be imported from {target!r}: {type(error).__name__}: {error}"
        ) from error


def _config(target: str, what: str) -> type[SourceConfig]:
    found = import_target(target, what)
    if not (isinstance(found, type) and issubclass(found, SourceConfig)):
        raise MdlbenchError(f"{what}: {target!r} is no SourceConfig")
    return found


def _entry_point(kind: str) -> EntryPoint:
    points = entry_points(group=ENTRY_POINTS)
    found = [point for point in points if point.name == kind]
    if not found:
        known = {*built_in_kinds(), *points.names}
        raise UsageError(f"unknown kind {kind!r}. {did_you_mean(kind, known)}")
    if len(found) > 1:
        rivals = " and ".join(sorted(point.value for point in found))
        raise MdlbenchError(f"source kind {kind!r} is brought by {rivals}; uninstall one")
    return found[0]
