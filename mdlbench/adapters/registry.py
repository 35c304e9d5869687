"""The names of adapters, built-in and of installed packages; none of them is imported."""

from __future__ import annotations

from mdlbench.extensions.plugins import Kind, Plugin

ADAPTERS = Kind(
    noun="adapter",
    package="mdlbench.adapters.formats",
    attribute="ADAPTER",
    group="mdlbench.adapters",
    otherwise=", or name the class itself with --adapter package.module:Class",
)


def find_adapter(name: str) -> Plugin:
    """The adapter of that name, or the one at `package.module:Class`; raises as `Kind.find`."""
    if ":" in name and name not in ADAPTERS.names():
        return Plugin(name, name)
    return ADAPTERS.find(name)
