"""Where an adapter's files are: on this machine, or in a repository of the model hub."""

from __future__ import annotations

from pathlib import Path

from mdlbench import hub
from mdlbench.adapters.checkpoint import require_file
from mdlbench.adapters.protocol import HubPlace, Request
from mdlbench.errors import UsageError

HUB = "hf://"


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
    owner, name, *inside = hub_parts(request.argument)
    within = ["/".join([*inside, file]) for file in files] or ["/".join(inside)]
    return tuple(hub.hub_file(f"{owner}/{name}", file) for file in within)


def hub_place(request: Request) -> HubPlace | None:
    """What of the hub `hf://OWNER/REPO/PATH` names; None for an argument that does not begin so."""
    if not request.argument.startswith(HUB):
        return None
    owner, name, *inside = hub_parts(request.argument)
    return HubPlace(f"{owner}/{name}", ("/".join(inside),))


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
    found = [part for part in argument.removeprefix(HUB).split("/") if part]
    if len(found) < 2:
        raise UsageError(f"{argument!r}: a place on the hub is written hf://OWNER/REPO/PATH")
    return found
