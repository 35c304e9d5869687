"""`ADAPTER:ARGUMENT?OPTION=VALUE` → a `SparseCoder`.

A path to a folder that an adapter recognises will do as well: `runs/my-sae`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

import numpy as np

from mdlbench.adapters.imports import import_object
from mdlbench.adapters.protocol import (
    Adapter,
    CoderIdentity,
    CoderSpec,
    Expands,
    Identifies,
    KnowsOrigin,
    Origin,
    Request,
    SparseCoder,
    expanded,
)
from mdlbench.adapters.registry import BUILT_IN, AdapterEntry, adapters, find_adapter
from mdlbench.codes.forest import Forest
from mdlbench.errors import CheckpointError, CoderError, MdlbenchError, UsageError, did_you_mean
from mdlbench.sources.protocol import ActivationSource

Answer = TypeVar("Answer")

RECOGNISED = {
    "sae_weights.safetensors": "saelens",
    "sae.safetensors": "sparsify",
    "ae.pt": "dictionary_learning",
    "params.npz": "gemma_scope",
    "cfg.json": "saelens",
}
"""Files that tell a folder's adapter, which need not be named then; the first found decides."""


def load_coder(
    spec: str,
    *,
    device: str = "cpu",
    source: ActivationSource | None = None,
    folder: Path | None = None,
    adapter: str | None = None,
) -> SparseCoder:
    """The coder that `spec` names.

    Args:
        spec: `ADAPTER:ARGUMENT`, or a path.
        device: where it computes.
        source: the activations that it is for; their width is checked.
        folder: what relative paths are relative to; the working folder by default.
        adapter: the adapter's name or `package.module:Class`; `spec` is then its argument alone.

    Raises:
        UsageError: the spec cannot be read, or names no known adapter.
        CheckpointError: there is no such SAE, it is damaged, or it is for another width.
        MdlbenchError: a plugin cannot be imported.
    """
    entry, request = _request(spec, device, source, folder, adapter)
    coder = _guarded(entry, request, import_adapter(entry).load)
    if not isinstance(coder, SparseCoder) or not isinstance(coder.spec, CoderSpec):
        raise MdlbenchError(
            f"adapter {entry.name!r} ({entry.target}) returned a {type(coder).__name__}, "
            "which is not a SparseCoder"
        )
    check_spec(coder.spec, source)
    return coder


def _guarded(entry: AdapterEntry, request: Request, method: Callable[[Request], Answer]) -> Answer:
    """The adapter's answer; however a package's adapter fails, it is an expected error."""
    if entry in BUILT_IN:
        return method(request)
    try:
        return method(request)
    except MdlbenchError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{request.argument}: adapter {entry.name!r} ({entry.target}) fails: "
            f"{type(error).__name__}: {error}"
        ) from error


def identify_coder(
    spec: str,
    *,
    source: ActivationSource | None = None,
    folder: Path | None = None,
    adapter: str | None = None,
) -> CoderIdentity:
    """What `load_coder` would load, without fitting it where its adapter can tell."""
    entry, request = _request(spec, "cpu", source, folder, adapter)
    loader = import_adapter(entry)
    if isinstance(loader, Identifies):
        return _guarded(entry, request, loader.identify)
    return load_coder(spec, source=source, folder=folder, adapter=adapter).spec.identity


def origin_of(spec: str, *, folder: Path | None = None, adapter: str | None = None) -> Origin:
    """Which activations `load_coder` would load an SAE for, as far as its adapter can tell."""
    entry, request = _request(spec, "cpu", None, folder, adapter)
    loader = import_adapter(entry)
    if isinstance(loader, KnowsOrigin):
        return _guarded(entry, request, loader.origin)
    return Origin()


def expand_spec(spec: str, *, folder: Path | None = None, adapter: str | None = None) -> list[str]:
    """The specs that a spec with a pattern stands for; itself where its adapter knows none."""
    entry, request = _request(spec, "cpu", None, folder, adapter)
    loader = import_adapter(entry)
    if not isinstance(loader, Expands):
        return [spec]
    arguments = _guarded(entry, request, loader.expand)
    prefix = "" if adapter else f"{entry.name}:"
    _, mark, query = spec.partition("?")
    return [f"{prefix}{argument}{mark}{query}" for argument in arguments]


def import_adapter(entry: AdapterEntry) -> Adapter:
    """An instance of the adapter's class.

    Raises:
        MdlbenchError: it cannot be imported, or is no adapter; names its package and target.
    """
    owner = f" of package {entry.distribution!r}" if entry.distribution else ""
    try:
        adapter = import_object(entry.target)()
    except Exception as error:
        raise MdlbenchError(
            f"adapter {entry.name!r}{owner} cannot be imported from {entry.target!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(adapter, Adapter):
        raise MdlbenchError(f"adapter {entry.name!r}{owner}: {entry.target!r} has no method load")
    return adapter


def check_spec(spec: CoderSpec, source: ActivationSource | None) -> None:
    """Raise unless the spec is consistent and the coder reads and writes the source's width.

    Raises:
        CheckpointError: the coder is for another width; names both.
        CoderError: its decoder norms are not one finite number a latent, or its parents are not
            a forest.
    """
    if len(spec.decoder_norms) != spec.d_latents or not np.isfinite(spec.decoder_norms).all():
        raise CoderError(
            f"{spec.name}: expected {spec.d_latents} finite decoder norms, found "
            f"{int(np.isfinite(spec.decoder_norms).sum())}"
        )
    _check_parents(spec)
    if source is None:
        return
    check_width(spec.name, spec.d_in, source)
    if spec.d_out != source.d_out:
        raise CheckpointError(
            f"{spec.name}: reconstructs to width {spec.d_out}, but activations at hook "
            f"{source.site.hook_out or source.hook!r} have width {source.d_out}"
        )


def _check_parents(spec: CoderSpec) -> None:
    if spec.parents is None:
        return
    if len(spec.parents) != spec.d_latents:
        raise CoderError(
            f"{spec.name}: expected the parents of {spec.d_latents} latents, found "
            f"{len(spec.parents)}"
        )
    try:
        Forest.from_parents(spec.parents)
    except CoderError as error:
        raise CoderError(f"{spec.name}: {error}") from error


def check_width(name: str, d_in: int, source: ActivationSource) -> None:
    """Raise `CheckpointError` unless activations of the source are `d_in` wide."""
    if d_in != source.d_in:
        raise CheckpointError(
            f"{name}: reads activations of width {d_in}, but those at hook "
            f"{source.hook!r} have width {source.d_in}"
        )


def _request(
    spec: str,
    device: str,
    source: ActivationSource | None,
    folder: Path | None,
    adapter: str | None,
) -> tuple[AdapterEntry, Request]:
    folder = folder or Path()
    name, text = (adapter, spec) if adapter else _split(spec, folder)
    argument, _, query = text.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise UsageError(f"{spec!r}: options are written ?name=value&name=value") from error
    return find_adapter(name), Request(argument, dict(pairs), folder, device, source)


def _split(spec: str, folder: Path) -> tuple[str, str]:
    """Adapter and argument of a SPEC."""
    known = {entry.name for entry in adapters() if entry.usable}
    name, colon, argument = spec.partition(":")
    if colon and name in known:
        return name, argument
    path = expanded(spec, folder)
    if path.exists():
        return _recognised(path), spec
    if colon:
        raise UsageError(f"{spec!r}: unknown adapter {name!r}. {did_you_mean(name, known)}")
    if len(Path(spec).parts) > 1:
        raise CheckpointError(f"{path}: no such file or folder")
    raise UsageError(
        f"{spec!r} is neither a folder nor ADAPTER:ARGUMENT. {did_you_mean(spec, known)}"
    )


def _recognised(path: Path) -> str:
    for file, name in RECOGNISED.items():
        if (path / file).is_file():
            return name
    expected = ", ".join(f"{file} ({name})" for file, name in RECOGNISED.items())
    raise CheckpointError(
        f"{path}: not a checkpoint that is recognised by its files (expected {expected}); "
        "name its adapter: ADAPTER:PATH"
    )
