"""The kinds of sources, built-in and of installed packages, and their configs by name."""

from __future__ import annotations

from typing import TypeVar

from mdlbench.errors import MdlbenchError
from mdlbench.extensions.plugins import Kind, Plugin
from mdlbench.suite.source import SourceConfig

Base = TypeVar("Base")

SOURCES = Kind(
    noun="source kind",
    package="mdlbench.sources.kinds",
    attribute="CONFIG",
    group="mdlbench.sources",
)


def built_in_kinds() -> list[str]:
    """By name; none of them is imported."""
    return [plugin.name for plugin in SOURCES.built_in()]


def config_class(kind: str) -> type[SourceConfig]:
    """The config of a kind of source; a built-in kind's name is never a package's.

    Raises:
        UsageError: there is no such kind; the message names the nearest.
        MdlbenchError: two installed packages bring it, it cannot be imported, or it is no config.
    """
    return subclass_of(SourceConfig, SOURCES.find(kind))  # type: ignore[type-abstract]


def subclass_of(base: type[Base], plugin: Plugin) -> type[Base]:
    """The class that is at a plugin's target; raises `MdlbenchError` unless it has that base."""
    found = SOURCES.imported(plugin)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise MdlbenchError(f"{SOURCES.called(plugin)}: {plugin.target!r} is no {base.__name__}")
    return found
