"""Which code ran, and where."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata

from mdlbench.disk.files import PACKAGE
from mdlbench.records.record import Environment, Provenance

_LIBRARIES = (
    "mdlbench",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "constriction",
    "sae-lens",
    "transformer-lens",
    "transformers",
    "datasets",
    "gguf",
)


def provenance() -> Provenance:
    """Commit of the package where it is a git checkout, and the date and time in UTC.

    Dirty means that code or suites differ from that commit; changed results beside them do not
    count.
    """
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--", "mdlbench", "suites") if commit else None
    return Provenance(
        commit=commit,
        dirty=None if status is None else bool(status),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def environment(device: str, threads: int, seconds: float) -> Environment:
    """Where an SAE was scored, by workers of so many threads, and the `seconds` that it took."""
    return Environment(
        device=device,
        dtype="float32",
        threads=threads,
        seconds=seconds,
        versions={"python": platform.python_version()}
        | {library: metadata.version(library) for library in _LIBRARIES},
    )


def _git(*arguments: str) -> str | None:
    """Output of git in the package's own checkout; None where it is not one."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return None
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
