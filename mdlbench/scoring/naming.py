"""What an SAE is called in a record, and where the record says that it came from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

from mdlbench.adapters.joint import NamedJoint
from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.protocol import expanded
from mdlbench.errors import MdlbenchError
from mdlbench.suite.site import AND

SHOWN_PARTS = 3
"""Parts of an absolute path that a record has."""


def origin_of(sae: NamedCoder | NamedJoint) -> str:
    """The spec as it was typed, but of an absolute path only the end: a record is to be shared."""
    return AND.join(map(_origin_of, sae.singles))


def _origin_of(sae: NamedCoder) -> str:
    head, colon, path = sae.spec.rpartition(":")
    pure = PurePath(path)
    if not pure.is_absolute() and not path.startswith("~"):
        return sae.spec if colon else os.path.normpath(sae.spec)
    return f"{head}{colon}…/{'/'.join(pure.parts[1:][-SHOWN_PARTS:])}"


def names_of(sae: NamedCoder | NamedJoint, name: str) -> list[str]:
    """Its name, then with the folder that it is in before it, then with that one's, and so on."""
    names, folders, own = [name], _folders(sae), tuple(name.split("/"))
    folders = folders[: -len(own)] if folders[-len(own) :] == own else folders[:-1]
    for folder in reversed(folders):
        names.append(f"{folder}/{names[-1]}")
    return names


def _folders(sae: NamedCoder | NamedJoint) -> tuple[str, ...]:
    """The parts of its path on this machine; none for one that is elsewhere, or several."""
    if isinstance(sae, NamedJoint):
        return ()
    try:
        request = sae.resolved.request
    except MdlbenchError:
        return ()
    path = expanded(request.argument, request.folder)
    return Path(os.path.normpath(path.absolute())).parts[1:] if os.path.exists(path) else ()  # noqa: PTH110


def least_depths(saes: Sequence[NamedCoder | NamedJoint]) -> dict[str, int]:
    """How many folders tell each SAE of a run from the others whose path ends alike, by spec."""
    parts = {sae.spec: _folders(sae) for sae in saes}
    ends = Counter(end for own in set(parts.values()) for end in _ends(own))
    return {
        spec: next((i for i, end in enumerate(_ends(own)) if ends[end] == 1), 0)
        for spec, own in parts.items()
    }


def _ends(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [parts[-n:] for n in range(1, len(parts) + 1)]
