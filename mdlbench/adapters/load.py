"""`ADAPTER:ARGUMENT?OPTION=VALUE` → a `SparseCoder`.

A path to a folder that an adapter recognises will do as well: `runs/my-sae`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from mdlbench.adapters import places
from mdlbench.adapters.checked import check_spec
from mdlbench.adapters.checkpoint import PICKLES
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.protocol import (
    FORMAT,
    TENSORS,
    Adapter,
    CoderSpec,
    Expands,
    HubPlace,
    Identifies,
    KnowsOrigin,
    NamesMeant,
    NeedsNetwork,
    OnHub,
    Origin,
    Recognises,
    RecognisesContent,
    Request,
    SparseCoder,
    WritesSpecs,
    expanded,
)
from mdlbench.adapters.registry import ADAPTERS, find_adapter
from mdlbench.errors import CheckpointError, MdlbenchError, UsageError, did_you_mean
from mdlbench.extensions.foreign import blamed
from mdlbench.extensions.plugins import Plugin
from mdlbench.sources.protocol import ActivationSource

Answer = TypeVar("Answer")
Asked = TypeVar("Asked", Request, CoderIdentity)

FILE_ADAPTERS = ("state_dict", "openai", "gemma_scope")
"""Adapters of single files, to be named for one that is not recognised."""
WEIGHTS = {*PICKLES, ".npz", ".safetensors"}
"""Endings of files that may hold an SAE."""
NAMED = 8
"""How many files of a folder on the hub a message names."""


class Resolved(NamedTuple):
    """What a spec comes to: an adapter, and what it is asked for."""

    plugin: Plugin
    adapter: Adapter
    request: Request


@dataclass(frozen=True)
class NamedCoder:
    """A coder by its spec; nothing of it is read until it is asked for.

    The spec is resolved once, by the first question, which raises:

        UsageError: the spec cannot be read, or names no known adapter.
        CheckpointError: it is a path, and there is no such SAE.
        MdlbenchError: a plugin cannot be imported.

    Attributes:
        spec: `ADAPTER:ARGUMENT`, or a path.
        folder: what relative paths are relative to; the working folder by default.
        adapter: the adapter's name or `package.module:Class`; `spec` is then its argument alone.
    """

    spec: str
    folder: Path = Path()
    adapter: str | None = None

    @property
    def singles(self) -> tuple[NamedCoder, ...]:
        """Itself: `mdlbench.adapters.joint.NamedJoint` is several."""
        return (self,)

    @cached_property
    def resolved(self) -> Resolved:
        """The adapter of the spec, and the request that it makes."""
        name, text = (self.adapter, self.spec) if self.adapter else _split(self.spec, self.folder)
        argument, _, query = text.partition("?")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise UsageError(
                f"{self.spec!r}: options are written ?name=value&name=value"
            ) from error
        plugin = find_adapter(name)
        adapter = import_adapter(plugin)
        request = Request(argument, dict(pairs), self.folder, "cpu", None)
        if isinstance(adapter, Recognises):
            request = places.folder_with(request, *adapter.recognised_by)
        return Resolved(plugin, adapter, request)

    def __reduce__(self) -> tuple[Any, ...]:
        """What it is called, without what was found under that name here."""
        return NamedCoder, (self.spec, self.folder, self.adapter)

    def expand(self) -> list[NamedCoder]:
        """The coders that a pattern stands for; itself where its adapter knows none."""
        plugin, adapter, request = self.resolved
        if not isinstance(adapter, Expands):
            return [self]
        arguments = _guarded(plugin, request, adapter.expand)
        if arguments == [request.argument]:
            return [self]
        prefix = "" if self.adapter else f"{plugin.name}:"
        _, mark, query = self.spec.partition("?")
        return [replace(self, spec=f"{prefix}{one}{mark}{query}") for one in arguments]

    def origin(self) -> Origin:
        """Which activations it was trained on, as far as its adapter can tell."""
        plugin, adapter, request = self.resolved
        if isinstance(adapter, KnowsOrigin):
            return _guarded(plugin, request, adapter.origin)
        return Origin()

    def at(self, source: ActivationSource | None = None, device: str = "cpu") -> CoderAt:
        """It for a source's activations, whose width is checked, computing on a device."""
        return CoderAt(self, source, device)

    def identify(self, source: ActivationSource | None = None) -> CoderIdentity:
        """See `CoderAt.identity`."""
        return self.at(source).identity

    def load(self, source: ActivationSource | None = None, device: str = "cpu") -> SparseCoder:
        """See `CoderAt.coder`."""
        return self.at(source, device).coder

    def hub_place(self) -> HubPlace | None:
        """Where the model hub keeps it; None for one that is on this machine."""
        plugin, adapter, request = self.resolved
        ask = adapter.hub_place if isinstance(adapter, OnHub) else places.hub_place
        return _guarded(plugin, request, ask)

    def fetch(self) -> None:
        """Get all that a later run asks for, in a run's order, into the caches.

        A download may move the cache to a newer commit, so the order counts.

        Raises:
            HubError: it is not available, or a run without a network could not load it.
        """
        self.origin()
        self.identify()
        plugin, adapter, request = self.resolved
        if isinstance(adapter, NeedsNetwork):
            _guarded(plugin, request, adapter.check_offline)


@dataclass(frozen=True)
class CoderAt:
    """A named coder for some activations; it is identified once, and loaded once.

    Attributes:
        named: the coder by its spec.
        source: the activations that it is for; None if there are none.
        device: where it computes.
    """

    named: NamedCoder
    source: ActivationSource | None
    device: str

    @cached_property
    def identity(self) -> CoderIdentity:
        """What is loaded, found without loading or fitting it where its adapter can tell.

        It is the same on every device: a coder that must be run to be told is run on the CPU.
        """
        plugin, adapter, request = self.named.resolved
        if isinstance(adapter, Identifies):
            return _guarded(plugin, replace(request, source=self.source), adapter.identify)
        here = self if self.device == "cpu" else replace(self, device="cpu")
        return here.coder.spec.identity

    @cached_property
    def coder(self) -> SparseCoder:
        """The coder.

        Raises:
            CheckpointError: it is damaged, or for another width.
            CoderError: what its adapter says of it contradicts itself.
        """
        plugin, adapter, request = self.named.resolved
        known = self.identity if isinstance(adapter, Identifies) else None
        request = replace(request, source=self.source, device=self.device, identity=known)

        def loaded(request: Request) -> SparseCoder:
            coder = adapter.load(request)
            if not isinstance(coder, SparseCoder) or not isinstance(coder.spec, CoderSpec):
                raise MdlbenchError(
                    f"adapter {plugin.name!r} ({plugin.target}) returned a "
                    f"{type(coder).__name__}, which is not a SparseCoder"
                )
            check_spec(coder.spec, self.source)
            return coder

        return _guarded(plugin, request, loaded)


def load_coder(
    spec: str,
    *,
    device: str = "cpu",
    source: ActivationSource | None = None,
    folder: Path | None = None,
    adapter: str | None = None,
) -> SparseCoder:
    """The coder that `spec` names; see `NamedCoder`."""
    return NamedCoder(spec, folder or Path(), adapter).load(source, device)


def spec_of(identity: CoderIdentity) -> str | None:
    """How to ask for the coder of an identity; None if that does not tell where it is."""
    if identity.adapter not in ADAPTERS.names():
        return None
    plugin = find_adapter(identity.adapter)
    adapter = import_adapter(plugin)
    if not isinstance(adapter, WritesSpecs):
        return None
    text = _guarded(plugin, identity, adapter.spec_of)
    return None if text is None else f"{identity.adapter}:{text}"


def import_adapter(plugin: Plugin) -> Adapter:
    """An instance of the adapter's class.

    Raises:
        MdlbenchError: it cannot be imported, or is no adapter; names its package and target.
    """
    found = ADAPTERS.imported(plugin)
    failure = f"{ADAPTERS.called(plugin)}: {plugin.target!r} cannot be made without arguments"
    with blamed(failure, MdlbenchError):
        adapter = found()
    if not isinstance(adapter, Adapter):
        raise MdlbenchError(f"{ADAPTERS.called(plugin)}: {plugin.target!r} has no method load")
    return adapter


def _guarded(plugin: Plugin, asked: Asked, method: Callable[[Asked], Answer]) -> Answer:
    """The adapter's answer; however a package's adapter fails, it is an expected error."""
    if plugin.is_built_in:
        return method(asked)
    subject = asked.argument if isinstance(asked, Request) else asked.name
    with blamed(f"{subject}: adapter {plugin.name!r} ({plugin.target}) fails", CheckpointError):
        return method(asked)


def _split(spec: str, folder: Path) -> tuple[str, str]:
    """Adapter and argument of a SPEC."""
    known = ADAPTERS.names()
    name, colon, argument = spec.partition(":")
    if colon and name in known:
        return name, argument
    bare = spec.partition("?")[0]
    if bare.startswith(places.HUB):
        return _recognised_on_hub(bare), spec
    path = expanded(bare, folder)
    if path.exists():
        return _recognised(path), spec
    if meant := _meant(spec):
        raise UsageError(f"{spec!r}: write {meant!r}")
    if colon:
        raise UsageError(f"{spec!r}: unknown adapter {name!r}. {did_you_mean(name, known)}")
    if len(Path(spec).parts) > 1:
        raise CheckpointError(f"{path}: no such file or folder")
    raise UsageError(
        f"{spec!r} is neither a folder nor ADAPTER:ARGUMENT. {did_you_mean(spec, known)}"
    )


def _recognised(path: Path) -> str:
    """The adapter of a folder or a file: whose format it is, who calls a file so, who reads it.

    Raises:
        CheckpointError: it is none's, or several are as sure; names them.
    """
    sure, files = _sure_of(path), list(_telling_files())
    for found in (
        [name for name, surety in sure.items() if surety == FORMAT],
        [name for file, name in files if _has(path, file)][:1],
        [name for name, surety in sure.items() if surety == TENSORS],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            named = " or ".join(f"{name}:{path}" for name in found)
            raise CheckpointError(f"{path}: more than one adapter reads it; name one: {named}")
    raise CheckpointError(f"{path}: {_unrecognised(path, files)}")


def _has(path: Path, file: str) -> bool:
    return (path / file).is_file() or (path.is_file() and path.name == file)


def _unrecognised(path: Path, files: list[tuple[str, str]]) -> str:
    if path.is_file():
        named = " or ".join(f"{name}:{path}" for name in FILE_ADAPTERS)
        return f"its adapter is not known by its content; name it: {named}"
    expected = ", ".join(f"{file} ({name})" for file, name in files)
    weights = [file.name for file in sorted(path.iterdir()) if file.suffix in WEIGHTS][:NAMED]
    return (
        f"not a checkpoint that is recognised by its files (expected {expected}); "
        "name its adapter: ADAPTER:PATH"
        + (f", or the file itself: {', '.join(weights)}" if weights else "")
    )


def _sure_of(path: Path) -> dict[str, int]:
    """The built-in adapters that read something, and how surely."""
    found: dict[str, int] = {}
    for name, adapter in _built_in():
        if isinstance(adapter, RecognisesContent):
            with suppress(CheckpointError):
                found[name] = adapter.recognises(path)
    return {name: surety for name, surety in found.items() if surety}


def _recognised_on_hub(argument: str) -> str:
    """The adapter of `hf://OWNER/REPO/PATH`, by the names of its files.

    Raises:
        CheckpointError: no file tells.
        HubError: the hub does not say which files it has.
    """
    where = places.hub_path(argument)
    names = set(where.files())
    for file, name in _telling_files():
        if file in names or where.inside[-1:] == (file,):
            return name
    raise CheckpointError(
        f"{argument}: not recognised by its files ({', '.join(sorted(names)[:NAMED]) or 'none'}); "
        f"name its adapter, as in saelens:{argument}"
    )


def _meant(spec: str) -> str | None:
    """What to write for a text that names an SAE which an adapter knows."""
    for name, adapter in _built_in():
        if isinstance(adapter, NamesMeant) and (argument := adapter.meant(spec)):
            return f"{name}:{argument}"
    return None


def _built_in() -> Iterator[tuple[str, Adapter]]:
    for plugin in ADAPTERS.built_in():
        yield plugin.name, import_adapter(plugin)


def _telling_files() -> Iterator[tuple[str, str]]:
    """File and adapter: the surest file of every built-in adapter, then their next ones."""
    told = [
        [(file, name) for file in adapter.recognised_by]
        for name, adapter in _built_in()
        if isinstance(adapter, Recognises)
    ]
    for rank in zip_longest(*told):
        yield from (found for found in rank if found is not None)
