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
        usable: False for a package's adapter that takes the name of a built-in one.
    """

    name: str
    target: str
    description: str
    distribution: str = "mdlbench"
    version: str = ""
    usable: bool = True


BUILT_IN = (
    AdapterEntry(
        "saelens",
        "mdlbench.adapters.formats.saelens.adapter:SAELensAdapter",
        "saelens:FOLDER, saelens:RELEASE/ID — cfg.json and sae_weights.safetensors as SAELens "
        "saves them, or whatever it fetches by that name; RELEASE/* are all of a release",
    ),
    AdapterEntry(
        "openai",
        "mdlbench.adapters.formats.openai:OpenAIAdapter",
        "openai:PATH.pt — a state dict of OpenAI's sparse_autoencoder",
    ),
    AdapterEntry(
        "dictionary_learning",
        "mdlbench.adapters.formats.dictionary_learning:DictionaryLearningAdapter",
        "dictionary_learning:FOLDER — config.json and ae.pt as dictionary_learning saves them",
    ),
    AdapterEntry(
        "sparsify",
        "mdlbench.adapters.formats.sparsify:SparsifyAdapter",
        "sparsify:FOLDER — cfg.json and sae.safetensors as sparsify saves them",
    ),
    AdapterEntry(
        "gemma_scope",
        "mdlbench.adapters.formats.gemma_scope:GemmaScopeAdapter",
        "gemma_scope:FOLDER — params.npz of Gemma Scope",
    ),
    AdapterEntry(
        "baseline",
        "mdlbench.adapters.formats.baseline:BaselineAdapter",
        "baseline:pca, baseline:kmeans?k=N, baseline:dense?bits=N, baseline:mean — fitted on the "
        "calibration split",
    ),
    AdapterEntry(
        "python",
        "mdlbench.adapters.formats.python:PythonAdapter",
        "python:PACKAGE.MODULE:ATTRIBUTE — any object, class or factory with encode and decode",
    ),
)


def adapters() -> list[AdapterEntry]:
    """The built-in adapters, then those of installed packages by name."""
    plugins = [_entry(point) for point in entry_points(group=ENTRY_POINTS)]
    return [*BUILT_IN, *sorted(plugins, key=lambda entry: (entry.name, entry.distribution))]


def find_adapter(name: str) -> AdapterEntry:
    """The adapter of that name, or the one at `package.module:Class`.

    Raises:
        UsageError: there is none; the message names the nearest.
        MdlbenchError: two installed packages bring one of that name.
    """
    known = [entry for entry in adapters() if entry.usable]
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


def _entry(point: EntryPoint) -> AdapterEntry:
    distribution = point.dist
    usable = point.name not in {entry.name for entry in BUILT_IN}
    summary = distribution.metadata["Summary"] if distribution else ""
    return AdapterEntry(
        point.name,
        point.value,
        (summary or "") if usable else "ignored: mdlbench has a built-in adapter of this name",
        distribution.metadata["Name"] if distribution else "",
        distribution.version if distribution else "",
        usable,
    )
