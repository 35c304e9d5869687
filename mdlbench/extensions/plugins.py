"""Plugins of one kind: the modules of a package here, and what installed packages bring.

A built-in plugin is a module, or a package, in the folder of its kind. It is found by being there,
its name is the module's, and the first paragraph of its docstring describes it. An installed one is
an entry point. None of them is imported to be listed.
"""

from __future__ import annotations

import ast
import importlib
import operator
import pkgutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any, NamedTuple

from mdlbench.errors import MdlbenchError, UsageError, did_you_mean, first_line
from mdlbench.extensions.foreign import blamed

HERE = "mdlbench"
"""The distribution of what is built in."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that could be imported.

    Attributes:
        name: what users call it.
        target: where its object is, as `package.module:attribute`.
        description: a line or two.
        distribution: the installed package that brings it; `HERE` for built-in ones, empty for one
            that was named by its target alone.
        version: that package's version; empty for built-in ones.
        usable: False for an installed one that takes the name of a built-in one, or whose package
            does not tell where it is.
    """

    name: str
    target: str
    description: str = ""
    distribution: str = ""
    version: str = ""
    usable: bool = True

    @property
    def is_built_in(self) -> bool:
        return self.distribution == HERE


@dataclass(frozen=True)
class Kind:
    """One kind of plugin, and where they are found.

    Attributes:
        noun: what messages call one.
        package: the package whose modules are the built-in ones.
        attribute: what each of these modules calls its object.
        group: the entry points of installed ones.
        otherwise: what a user can do beside uninstalling one of two rivals, in words.
    """

    noun: str
    package: str
    attribute: str
    group: str
    otherwise: str = ""

    def plugins(self) -> list[Plugin]:
        """The built-in ones by name, then those of installed packages by name."""
        here = self.built_in()
        taken = {plugin.name for plugin in here}
        found = [self._installed(point, taken) for point in _installed(self.group)]
        return [*here, *sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))]

    def built_in(self) -> tuple[Plugin, ...]:
        """The built-in ones by name; for these, no installed package is looked at."""
        return _built_in(self.package, self.attribute)

    def names(self) -> set[str]:
        """Those that can be asked for."""
        return {plugin.name for plugin in self.plugins() if plugin.usable}

    def find(self, name: str) -> Plugin:
        """The one of that name.

        Raises:
            UsageError: there is none; the message names the nearest.
            MdlbenchError: two installed packages bring one of that name.
        """
        found = [plugin for plugin in self.built_in() if plugin.name == name]
        found = found or [p for p in self.plugins() if p.name == name and p.usable]
        if not found:
            raise UsageError(f"unknown {self.noun} {name!r}. {did_you_mean(name, self.names())}")
        if len(found) > 1:
            rivals = " and ".join(f"{plugin.distribution} ({plugin.target})" for plugin in found)
            raise MdlbenchError(
                f"{self.noun} {name!r} is brought by {rivals}; uninstall one{self.otherwise}"
            )
        return found[0]

    def imported(self, plugin: Plugin) -> Any:
        """A plugin's object; raises `MdlbenchError`, which names its package, if it fails."""
        failure = f"{self.called(plugin)} cannot be imported from {plugin.target!r}"
        with blamed(failure, MdlbenchError):
            return import_object(plugin.target)

    def called(self, plugin: Plugin) -> str:
        """What messages call a plugin: its name and its package."""
        owner = f" of package {plugin.distribution!r}" if plugin.distribution else ""
        return f"{self.noun} {plugin.name!r}{owner}"

    def _installed(self, point: EntryPoint, taken: set[str]) -> Plugin:
        package, ignored = _described(point), ""
        if point.name in taken:
            ignored = f"ignored: mdlbench has a built-in {self.noun} of this name"
        elif not point.value:
            ignored = "unreadable: the entry points of this package cannot be read"
        return Plugin(
            point.name,
            point.value,
            ignored or package.summary,
            package.name,
            package.version,
            usable=not ignored,
        )


def import_object(path: str) -> Any:
    """The object at `package.module:attribute`, or the module; the working folder is searched too.

    Raises whatever importing it raises.
    """
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)
    found = importlib.import_module(module)
    return operator.attrgetter(attribute)(found) if attribute else found


@cache
def _built_in(package: str, attribute: str) -> tuple[Plugin, ...]:
    folders = [Path(folder) for folder in importlib.import_module(package).__path__]
    found = sorted(
        (module.name, folder / module.name / "__init__.py")
        if module.ispkg
        else (module.name, folder / f"{module.name}.py")
        for folder in folders
        for module in pkgutil.iter_modules([str(folder)])
        if not module.name.startswith("_")
    )
    return tuple(
        Plugin(name, f"{package}.{name}:{attribute}", _first_paragraph(file), HERE)
        for name, file in found
    )


def _first_paragraph(file: Path) -> str:
    """A module's own description, as plain text."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("`", "")


class _Package(NamedTuple):
    """What the package of an entry point says of itself."""

    name: str
    version: str
    summary: str


def _described(point: EntryPoint) -> _Package:
    """Its package; one whose metadata cannot be read is named by the folder that holds them."""
    if point.dist is None:
        return _Package("", "", "")
    try:
        metadata = point.dist.metadata
        return _Package(
            metadata["Name"] or _folder_of(point.dist),
            point.dist.version or "",
            metadata["Summary"] or "",
        )
    except Exception as error:
        reason = f"unreadable: the metadata of its package: {first_line(error)}"
        return _Package(_folder_of(point.dist), "", reason)


def _folder_of(distribution: object) -> str:
    """The name of a package by its folder NAME-VERSION.dist-info; empty where there is none."""
    folder = getattr(distribution, "_path", None)
    return "" if folder is None else Path(str(folder)).stem.partition("-")[0]


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    """Read once a process: it takes a look into every installed package."""
    try:
        return tuple(entry_points(group=group))
    except Exception:
        return _of_readable_packages(group)


def _of_readable_packages(group: str) -> tuple[EntryPoint, ...]:
    """One by one, so that a package that cannot be read does not hide the others."""
    first = {_folder_of(found).lower(): found for found in reversed(list(distributions()))}
    return tuple(point for name in sorted(first) for point in _points(first[name], group))


def _points(distribution: Distribution, group: str) -> list[EntryPoint]:
    """Its entry points; one without a target, named after it, where they cannot be read."""
    try:
        return list(distribution.entry_points.select(group=group))
    except Exception:
        unread = EntryPoint(_folder_of(distribution), "", group)
        vars(unread)["dist"] = distribution
        return [unread]
