"""The names of adapters, built-in and of installed packages; none of them is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from mdlbench.errors import MdlbenchError, UsageError, did_you_mean

ENTRY_POINTS = "mdlbench.adapters"


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter that could be imported.

    Attributes:
        name: what stands before the colon of a SPEC.
        target: the class, as `package.module:Class`.
        description: one line.
        distribution: the installed package that brings it; "mdlbench" for the built-in ones.
        version: that package's version; empty for the built-in ones, which carry their own.
    """

    name: str
    target: str
    description: str
    distribution: str = "mdlbench"
    version: str = ""


BUILT_IN = (
    AdapterEntry(
        "saelens",
        "mdlbench.adapters.saelens:SAELensAdapter",
        "saelens:FOLDER — cfg.json and sae_weights.safetensors as SAELens saves them",
    ),
    AdapterEntry(
        "baseline",
        "mdlbench.adapters.baselines:BaselineAdapter",
        "baseline:pca, baseline:kmeans?k=N, baseline:dense?bits=N, baseline:mean — fitted on the "
        "calibration split",
    ),
    AdapterEntry(
        "python",
        "mdlbench.adapters.python:PythonAdapter",
        "python:PACKAGE.MODULE:ATTRIBUTE — any object, class or factory with encode and decode",
    ),
)


def adapters() -> list[AdapterEntry]:
    """The built-in adapters, then those of installed packages by name.

    A package that takes a built-in adapter's name is not among them: see `shadowing`.
    """
    built_in = {entry.name for entry in BUILT_IN}
    plugins = [_entry(point) for point in _entry_points() if point.name not in built_in]
    return [*BUILT_IN, *sorted(plugins, key=lambda entry: (entry.name, entry.distribution))]


def shadowing() -> list[AdapterEntry]:
    """Adapters of installed packages that are ignored because their name is a built-in one's."""
    built_in = {entry.name for entry in BUILT_IN}
    return [_entry(point) for point in _entry_points() if point.name in built_in]


def find_adapter(name: str) -> AdapterEntry:
    """The adapter of that name, or the one at `package.module:Class`.

    Raises:
        UsageError: there is none; the message names the nearest.
        MdlbenchError: two installed packages bring one of that name.
    """
    known = adapters()
    found = [entry for entry in known if entry.name == name]
    if not found and ":" in name:
        return AdapterEntry(name, name, "", distribution="")
    if not found:
        raise UsageError(
            f"unknown adapter {name!r}. {did_you_mean(name, {entry.name for entry in known})}"
        )
    if len(found) > 1:
        rivals = " and ".join(f"{entry.distribution} ({entry.target})" for entry in found)
        raise MdlbenchError(
            f"adapter {name!r} is brought by {rivals}; uninstall one, or name the class itself "
            "with --adapter package.module:Class"
        )
    return found[0]


def _entry_points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _entry(point: EntryPoint) -> AdapterEntry:
    distribution = point.dist
    if distribution is None:
        return AdapterEntry(point.name, point.value, "", distribution="")
    return AdapterEntry(
        point.name,
        point.value,
        distribution.metadata["Summary"] or "",
        distribution.metadata["Name"],
        distribution.version,
    )
