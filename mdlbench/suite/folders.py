"""Where the shipped suites are."""

from __future__ import annotations

from pathlib import Path

from mdlbench.disk.files import PACKAGE
from mdlbench.errors import UsageError, did_you_mean

SUITE_FILE = "suite.yaml"


def suites_folder() -> Path:
    """Where the shipped suites are: inside the wheel, or beside the package in a checkout."""
    shipped = PACKAGE / "_suites"
    return shipped if shipped.is_dir() else PACKAGE.parent / "suites"


def suite_names() -> list[str]:
    return sorted(path.parent.name for path in suites_folder().glob(f"*/{SUITE_FILE}"))


def shipped_folder(name: str) -> Path:
    """The folder of a shipped suite; raises `UsageError` that names the nearest."""
    if name not in suite_names():
        raise UsageError(f"unknown suite {name!r}. {did_you_mean(name, suite_names())}")
    return suites_folder() / name
