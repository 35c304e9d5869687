"""The SAEs that SAELens can fetch by name, from the directory that its package carries.

Releases in SAELens' own layout are read as files. Those in another layout go through SAELens'
loader for it, which gives a config and tensors; only then is SAELens imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from mdlbench.adapters.checkpoint import only_tensors
from mdlbench.adapters.formats.saelens.config import (
    METADATA,
    SAELensConfig,
    overridden,
    parse_config,
)
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.errors import (
    CheckpointError,
    HubError,
    MdlbenchError,
    first_line,
    heed_shortage,
    nearest_paths,
)
from mdlbench.hub import hub

DIRECTORY_FILE = "pretrained_saes.yaml"
CROSS_LAYER = "mntss_clt_layer_transcoder"
LIVE = "gemma_3"
"""The layout whose configs SAELens asks the network for, whatever is cached."""
NEAREST = 3
"""How many of hundreds of names a message suggests."""
PATTERN = frozenset("*[")
"""Characters that make an ID a pattern; `?` begins options."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Release:
    """SAEs that were published together.

    Attributes:
        name: SAELens' name for them.
        repo: their repository on the hub.
        converter: SAELens' name for their layout; None if it is SAELens' own.
        overrides: keys of their configs that the directory corrects.
        saes: what the directory says of each, by ID.
    """

    name: str
    repo: str
    converter: str | None
    overrides: dict[str, Any]
    saes: dict[str, dict[str, Any]]

    @classmethod
    def parse(cls, name: str, content: dict[str, Any]) -> Release:
        return cls(
            name,
            content["repo_id"],
            content.get("conversion_func"),
            content.get("config_overrides") or {},
            {str(sae["id"]): sae for sae in content["saes"]},
        )

    def matching(self, pattern: str) -> list[str]:
        """The IDs that a pattern stands for; raises `CheckpointError` if there are none."""
        found = [id for id in self.saes if fnmatchcase(id, pattern)]
        if not found:
            raise CheckpointError(
                f"release {self.name!r} has no SAE {pattern!r}. {_nearest(pattern, self.saes)}"
            )
        return found

    def published(self, id: str) -> Published:
        """The SAE of that ID; raises `CheckpointError` if there is none."""
        if id not in self.saes:
            which = f"no SAE {id!r}" if id else f"several SAEs: name one, or all as {self.name}/*"
            raise CheckpointError(f"release {self.name!r} has {which}. {_nearest(id, self.saes)}")
        if self.converter == CROSS_LAYER:
            raise CheckpointError(
                f"{self.name}/{id}: a layer of a cross-layer transcoder: it writes to all layers "
                "after it, and SAELens sums its decoders, which reconstructs none of them"
            )
        return Published(self, id)


@dataclass(frozen=True)
class Published:
    """One SAE of a release."""

    release: Release
    id: str

    @property
    def name(self) -> str:
        return f"{self.release.name}/{self.id}"

    @property
    def path(self) -> str:
        """Where the repository keeps it."""
        return str(self.release.saes[self.id]["path"])

    @property
    def norm_scaling_factor(self) -> float | None:
        factor: float | None = self.release.saes[self.id].get("norm_scaling_factor")
        return factor

    def parse(self, content: dict[str, Any]) -> SAELensConfig:
        """Its config, with what the directory adds to it or corrects in it."""
        content = overridden(content, self.release.overrides)
        config = parse_config(content, self.name, self.norm_scaling_factor)
        if not self.release.saes[self.id].get("l0"):
            return config
        told = {"average_l0": self.release.saes[self.id]["l0"]}
        return config.model_copy(update={"metadata": config.metadata.model_copy(update=told)})

    def file(self, name: str) -> Path:
        """A file of its folder."""
        return hub.hub_file(self.release.repo, f"{self.path}/{name}")

    def identity(self, adapter: str, version: str, weights_sha256: str) -> CoderIdentity:
        """With everything of the directory that decides numbers."""
        computed = {k: v for k, v in self.release.overrides.items() if k not in METADATA}
        if self.norm_scaling_factor is not None:
            computed["norm_scaling_factor"] = self.norm_scaling_factor
        arguments = {"release": self.release.name, "id": self.id, **computed}
        return CoderIdentity(
            name=self.name,
            adapter=adapter,
            version=version,
            arguments=arguments,
            weights_sha256=weights_sha256,
        )

    def converted_config(self) -> SAELensConfig:
        """The config of a release in another layout, as SAELens knows it without the weights."""
        loaders = self._loaders()
        getter = loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[self.release.converter]
        return self.parse(self._called(lambda: getter(**self._arguments())))

    def converted_tensors(self) -> dict[str, torch.Tensor]:
        """The weights of a release in another layout."""
        loader = self._loaders().NAMED_PRETRAINED_SAE_LOADERS[self.release.converter]
        return only_tensors(self._called(lambda: loader(**self._arguments()))[1], self.name)

    def _loaders(self) -> Any:
        """SAELens' loaders; it may be there for another version of TransformerLens only."""
        try:
            from sae_lens.loading import pretrained_sae_loaders
        except ImportError as error:
            raise CheckpointError(
                f"{self.name}: only SAELens can read this release, and it cannot be imported here: "
                f"{first_line(error)}; install the version of transformer-lens that it asks for"
            ) from error
        return pretrained_sae_loaders

    def _arguments(self) -> dict[str, Any]:
        return {
            "repo_id": self.release.repo,
            "folder_name": self.path,
            "device": "cpu",
            "force_download": False,
            "cfg_overrides": {**self.release.overrides, "device": "cpu", "dtype": "float32"},
        }

    @property
    def is_live(self) -> bool:
        """Whether SAELens cannot load it from the cache alone."""
        return self.release.converter == LIVE

    def live_error(self, reason: str) -> HubError:
        """What stops an SAE that is live, or will."""
        return HubError(
            f"{self.name}: SAELens itself asks the network for the config of such a release "
            f"({LIVE}), even where everything is cached: {reason}"
        )

    def _called(self, loader: Callable[[], Answer]) -> Answer:
        """Where nothing is cached the hub is asked first: a loader would try for minutes."""
        if self.is_live and hub.is_offline():
            raise self.live_error(hub.OFFLINE)
        if not hub.cached_files(self.release.repo):
            hub.hub_files(self.release.repo)
        try:
            return loader()
        except Exception as error:
            if hub.is_hub_error(error):
                raise self._unavailable(error) from error
            heed_shortage(error)
            raise CheckpointError(
                f"{self.name}: SAELens' loader {self.release.converter!r} fails: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _unavailable(self, error: Exception) -> HubError:
        found = hub.explained(error, self.release.repo)
        if self.is_live and isinstance(found, hub.HubUnreachableError):
            return self.live_error(found.reason)
        return found


@cache
def releases() -> dict[str, Release]:
    """SAELens' directory of releases, by name."""
    package = importlib.util.find_spec("sae_lens")
    if package is None or package.origin is None:
        raise MdlbenchError("the package sae_lens, which knows the releases, is not installed")
    file = Path(package.origin).parent / DIRECTORY_FILE
    try:
        with file.open(encoding="utf-8") as stream:
            content = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return {name: Release.parse(name, release) for name, release in content.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise MdlbenchError(
            f"{file}: SAELens' directory of releases cannot be read: "
            f"{type(error).__name__}: {error}"
        ) from error


def release_and_id(text: str) -> tuple[str, str]:
    """The parts of `RELEASE/ID`; also of `RELEASE ID`, the order of SAELens' own arguments."""
    name, *rest = re.split(r"[\s,]+|/", text.strip(), maxsplit=1)
    return name, "".join(rest)


def find_release(name: str, folder: Path) -> Release:
    """The release of that name; raises `CheckpointError` if there is none, nor such a folder."""
    if name not in releases():
        raise CheckpointError(
            f"{folder}: no such folder, and {name!r} is no release that SAELens knows. "
            f"{_nearest(name, releases())}"
        )
    return releases()[name]


def digest_converted(config: SAELensConfig, tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over what a loader made: the config that decides numbers, and every tensor."""
    said = config.model_dump(mode="json", exclude={"metadata", "norm_scaling_factor"})
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    nearest = nearest_paths(name, known, NEAREST) or known[:NEAREST]
    return f"The nearest of {len(known)}: {', '.join(nearest)}"
