"""Where an adapter's files are: on this machine, or in a repository of the model hub."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from mdlbench.adapters.checkpoint import require_file
from mdlbench.adapters.protocol import HubPlace, Request
from mdlbench.errors import CheckpointError, UsageError, reason
from mdlbench.hub import hub

HUB = "hf://"


@dataclass(frozen=True)
class HubPath:
    """What `hf://OWNER/REPO@REVISION/PATH` names.

    Attributes:
        repo: "owner/name".
        inside: the names along the path in it.
        revision: a branch, tag or commit; None for the hub's default.
    """

    repo: str
    inside: tuple[str, ...]
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return "/".join([f"{HUB}{self.repo}{revision}", *self.inside])

    def file(self, name: str) -> Path:
        """Local path of a file below it; of itself for an empty name."""
        within = "/".join(filter(None, [*self.inside, name]))
        revision = {"revision": self.revision} if self.revision else {}
        return hub.hub_file(self.repo, within, **revision)

    def files(self) -> list[str]:
        """Names of the repository's files below it, relative to it."""
        prefix = "".join(f"{name}/" for name in self.inside)
        names = hub.hub_files(self.repo, revision=self.revision)
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def place(request: Request, *files: str) -> tuple[Path, ...]:
    """Local paths of files in the folder that the request names; of what it names, if none.

    The argument is a path, or `hf://OWNER/REPO/PATH`, which is fetched if it is not cached.

    Raises:
        CheckpointError: there is no such file.
        HubError: it is on the hub and not available.
        UsageError: the argument begins with hf:// and names no repository.
    """
    if not request.argument.startswith(HUB):
        return tuple(require_file(request.path / file) for file in files or ("",))
    where = hub_path(request.argument)
    return tuple(where.file(file) for file in files or ("",))


def place_if_there(request: Request, file: str) -> Path | None:
    """Local path of a file in the folder that the request names; None if it has no such file."""
    if not request.argument.startswith(HUB):
        path = request.path / file
        return path if path.is_file() else None
    try:
        return hub_path(request.argument).file(file)
    except hub.NoSuchFileError:
        return None


def folder_of(request: Request) -> Request:
    """The same for the folder that holds what the request names."""
    if not request.argument.startswith(HUB):
        return replace(request, argument=str(Path(request.argument).parent))
    where = hub_path(request.argument)
    return replace(request, argument=str(replace(where, inside=where.inside[:-1])))


def folder_with(request: Request, *files: str) -> Request:
    """The same for the folder, where the request names one of some files in it itself."""
    if parts(request)[-1] not in files or request.path.is_dir():
        return request
    return folder_of(request)


def names_in(request: Request) -> list[str]:
    """Sorted names of the files in the folder that the request names, deeper ones on the hub too.

    Raises:
        CheckpointError: it is no folder that can be read.
        HubError: it is on the hub and not available.
    """
    if request.argument.startswith(HUB):
        return hub_path(request.argument).files()
    try:
        return sorted(path.name for path in request.path.iterdir() if path.is_file())
    except OSError as error:
        raise CheckpointError(f"{request.path}: cannot be read: {reason(error)}") from error


def hub_place(request: Request) -> HubPlace | None:
    """What of the hub `hf://OWNER/REPO/PATH` names; None for an argument that does not begin so."""
    if not request.argument.startswith(HUB):
        return None
    where = hub_path(request.argument)
    return HubPlace(where.repo, ("/".join(where.inside),))


def parts(request: Request) -> tuple[str, ...]:
    """The names along the path, some of which tell what an SAE was trained on."""
    if request.argument.startswith(HUB):
        return tuple(hub_parts(request.argument))
    return request.path.resolve().parts


def hub_parts(argument: str) -> list[str]:
    """The owner, the repository and the names along the path of `hf://OWNER/REPO/PATH`.

    Raises:
        UsageError: it names no repository.
    """
    where = hub_path(argument)
    return [*where.repo.split("/"), *where.inside]


def hub_path(argument: str) -> HubPath:
    """What `hf://OWNER/REPO/PATH` names; a revision stands behind the repository or the path.

    Raises:
        UsageError: it names no repository, or two revisions.
    """
    names = [part for part in argument.removeprefix(HUB).split("/") if part]
    if len(names) < 2:
        raise UsageError(f"{argument!r}: a place on the hub is written hf://OWNER/REPO/PATH")
    owner, name, *inside = names
    name, _, revision = name.partition("@")
    if inside:
        inside[-1], _, behind = inside[-1].partition("@")
        if behind and revision:
            raise UsageError(f"{argument!r}: two revisions, {revision!r} and {behind!r}")
        revision = revision or behind
    return HubPath(f"{owner}/{name}", tuple(inside), unquote(revision) or None)
