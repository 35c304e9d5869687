"""SAEs as SAELens saves them, in a folder, or as it fetches them from the hub by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from mdlbench.adapters.checkpoint import (
    PICKLES,
    blamed_on,
    digest_files,
    load_json,
    load_safetensors,
)
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import (
    SCALER_FILE,
    SAELensConfig,
    is_scaled,
    parse_config,
    scaling_factor,
)
from mdlbench.adapters.formats.saelens.releases import (
    PATTERN,
    Published,
    digest_converted,
    find_release,
    release_and_id,
    releases,
)
from mdlbench.adapters.formats.saelens.told import Told, told_in
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import LinearCoder
from mdlbench.adapters.places import HUB, hub_place, parts, place, place_if_there
from mdlbench.adapters.protocol import HubPlace, Origin, Request
from mdlbench.errors import CheckpointError

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
NAME = "saelens"
VERSION = "1"
"""Version of this reader: it changes when the same files come to mean other numbers."""


class SAELensAdapter:
    """`saelens:FOLDER`, or `saelens:RELEASE/ID`; a folder of that name comes first.

    FOLDER may be `hf://OWNER/REPO/PATH`.
    """

    recognised_by = (WEIGHTS_FILE, CONFIG_FILE)

    def identify(self, request: Request) -> CoderIdentity:
        return _identity(_checkpoint(request))

    def origin(self, request: Request) -> Origin:
        return _checkpoint(request).config.origin

    def expand(self, request: Request) -> list[str]:
        """The SAEs of a release whose IDs match a pattern, in the release's order."""
        name, pattern = release_and_id(request.argument)
        if not PATTERN & set(pattern) or _is_folder(request):
            return [request.argument]
        return [f"{name}/{id}" for id in find_release(name, request.path).matching(pattern)]

    def load(self, request: Request) -> LinearCoder:
        found = _checkpoint(request)
        config, identity = found.config, request.identity or _identity(found)
        with blamed_on(found.where):
            coder = build(config, found.tensors, identity, found.where, request.device)
        told = told_in(request.path) if request.path.is_dir() else Told()
        return replace(coder, spec=replace(coder.spec, measured_l0=told.l0, measured_mse=told.mse))

    def spec_of(self, identity: CoderIdentity) -> str | None:
        """That of a release's SAE; a folder's identity does not say where it is."""
        if not {"release", "id"} <= set(identity.arguments):
            return None
        return f"{identity.arguments['release']}/{identity.arguments['id']}"

    def meant(self, text: str) -> str | None:
        """The SAE of a release, as SAELens' own functions are given it: `RELEASE ID`."""
        name, id = release_and_id(text)
        return f"{name}/{id}" if id and name in releases() else None

    def hub_place(self, request: Request) -> HubPlace | None:
        if _is_folder(request):
            return hub_place(request)
        sae = _published(request)
        return HubPlace(sae.release.repo, (sae.path.removesuffix(".pt"),))

    def check_offline(self, request: Request) -> None:
        """SAELens itself asks the network for some layouts."""
        if not _is_folder(request) and (sae := _published(request)).is_live:
            raise sae.live_error("it cannot be loaded without one")


class Checkpoint(Protocol):
    """An SAE that has been found; each part is read when it is asked for.

    Attributes:
        where: names it in errors.
    """

    @property
    def where(self) -> str: ...

    @property
    def identity(self) -> CoderIdentity: ...

    @property
    def config(self) -> SAELensConfig: ...

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]: ...


@dataclass(frozen=True)
class NamedFolder:
    """A folder in SAELens' layout that the request names, on this machine or on the hub."""

    request: Request

    @property
    def where(self) -> str:
        return str(self._file(WEIGHTS_FILE))

    @property
    def identity(self) -> CoderIdentity:
        scaler = [self._scaler] if self._scaler else []
        digest = digest_files(self._file(CONFIG_FILE), self._file(WEIGHTS_FILE), *scaler)
        return CoderIdentity(
            name=parts(self.request)[-1],
            adapter=NAME,
            version=VERSION,
            arguments={},
            weights_sha256=digest,
        )

    @cached_property
    def config(self) -> SAELensConfig:
        file, scaler = self._file(CONFIG_FILE), self._scaler
        content = load_json(file)
        factor = scaling_factor(load_json(scaler), str(scaler)) if scaler else None
        with blamed_on(file):
            return parse_config(content, str(file), factor)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return load_safetensors(self._file(WEIGHTS_FILE))

    @cached_property
    def _scaler(self) -> Path | None:
        """What training noted of the scale of the activations, where the weights need it."""
        if not is_scaled(load_json(self._file(CONFIG_FILE))):
            return None
        return place_if_there(self.request, SCALER_FILE)

    def _file(self, name: str) -> Path:
        path = self.request.path
        if path.is_file():
            reason = "a pickle can run code and is not read" if path.suffix in PICKLES else "a file"
            raise CheckpointError(
                f"{path}: {reason}; saelens reads a folder with {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
        return place(self.request, name)[0]


@dataclass(frozen=True)
class HubFolder:
    """A release's SAE in SAELens' layout."""

    sae: Published

    @property
    def where(self) -> str:
        return f"{self.sae.name}: {WEIGHTS_FILE}"

    @property
    def identity(self) -> CoderIdentity:
        digest = digest_files(self.sae.file(CONFIG_FILE), self.sae.file(WEIGHTS_FILE))
        return self.sae.identity(NAME, VERSION, digest)

    @cached_property
    def config(self) -> SAELensConfig:
        content = load_json(self.sae.file(CONFIG_FILE))
        with blamed_on(self.sae.name):
            return self.sae.parse(content)

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return load_safetensors(self.sae.file(WEIGHTS_FILE))


@dataclass(frozen=True)
class Converted:
    """A release's SAE in another layout, as SAELens' loader for it gives it."""

    sae: Published

    @property
    def where(self) -> str:
        return self.sae.name

    @property
    def identity(self) -> CoderIdentity:
        digest = digest_converted(self.config, self.tensors)
        return self.sae.identity(NAME, VERSION, digest)

    @cached_property
    def config(self) -> SAELensConfig:
        return self.sae.converted_config()

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        return self.sae.converted_tensors()


def _checkpoint(request: Request) -> Checkpoint:
    request.reject_unknown_options()
    if _is_folder(request):
        return NamedFolder(request)
    sae = _published(request)
    return Converted(sae) if sae.release.converter else HubFolder(sae)


def _identity(found: Checkpoint) -> CoderIdentity:
    """Its identity; weights are not hashed before the config is accepted."""
    _ = found.config
    with blamed_on(found.where):
        return found.identity


def _published(request: Request) -> Published:
    """The SAE of a release that the request names."""
    name, id = release_and_id(request.argument)
    return find_release(name, request.path).published(id)


def _is_folder(request: Request) -> bool:
    """Whether it names a folder, on this machine or on the hub, rather than a release."""
    if request.argument.startswith(HUB) or request.path.exists():
        return True
    return request.argument.partition("/")[0] in ("", ".", "..", "~")
