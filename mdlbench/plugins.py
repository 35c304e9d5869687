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
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mdlbench.errors import MdlbenchError, UsageError, did_you_mean
from mdlbench.foreign import blamed

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
        usable: False for an installed one that takes the name of a built-in one.
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
        found = found or [plugin for plugin in self.plugins() if plugin.name == name]
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
        distribution, usable = point.dist, point.name not in taken
        ignored = f"ignored: mdlbench has a built-in {self.noun} of this name"
        summary = distribution.metadata["Summary"] if distribution else ""
        return Plugin(
            point.name,
            point.value,
            (summary or "") if usable else ignored,
            distribution.metadata["Name"] if distribution else "",
            distribution.version if distribution else "",
            usable,
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


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    """Read once a process: it takes a look into every installed package."""
    return tuple(entry_points(group=group))
