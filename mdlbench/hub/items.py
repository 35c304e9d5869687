"""What a run needs beyond its suite's folder, and where the caches keep it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """Something that a suite needs.

    Attributes:
        label: what it is, in words.
        get: obtains it, from the caches or else downloaded; raises `MdlbenchError`.
        places: where it is kept: folders of snapshots, and how the paths in a snapshot begin.
        instead: what a run can use if it is not available.
        installed: whether an installed package has it.
    """

    label: str
    get: Callable[[], object]
    places: tuple[tuple[Path, str], ...] = ()
    instead: str | None = None
    installed: bool = False

    @property
    def is_here(self) -> bool:
        """Whether some of it is here, so that it need not be downloaded as a whole."""
        return self.installed or bool(self.files())

    def files(self) -> list[Path]:
        """Those that are here."""
        return sorted(
            file
            for folder, beginning in self.places
            for file in folder.rglob("*")
            if file.is_file()
            and file.suffix != ".lock"
            and file.name != "dataset_info.json"
            and "/".join(file.relative_to(folder).parts[1:]).startswith(beginning)
        )


def hub_cache() -> Path:
    """Where the hub's client keeps repositories."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def datasets_cache() -> Path:
    """Where `datasets` keeps what it prepared."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE)


def snapshots(repo: str, repo_type: str = "model") -> Path:
    """The folder of a hub repository's snapshots, one for each commit."""
    return repo_cache(repo, repo_type) / "snapshots"


def repo_cache(repo: str, repo_type: str = "model") -> Path:
    """The folder of a hub repository in the client's cache."""
    return hub_cache() / f"{repo_type}s--{repo.replace('/', '--')}"
