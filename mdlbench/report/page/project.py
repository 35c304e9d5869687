"""Where the project is found: links that every page has."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_URLS = {"Paper": "https://arxiv.org/abs/2410.11179"}
"""As in pyproject's `[project.urls]`. An address given there is preferred to the checkout's."""
IN_CHECKOUT = {"Documentation": Path("docs", "index.md"), "Repository": Path("README.md")}
"""What a checkout of the project has, from its root."""
UP = 2
"""Folders that a page may lie below the root of a checkout: `leaderboards/mnist`."""


def project_links(folder: Path) -> list[tuple[str, str]]:
    """Names and addresses for a page in a folder: of its checkout, and elsewhere."""
    return list({**_checkout_links(folder), **PROJECT_URLS}.items())


def _checkout_links(folder: Path) -> dict[str, str]:
    """Relative to the folder; empty outside of a checkout."""
    for up in range(1, UP + 1):
        root = Path(*[os.pardir] * up)
        if all((folder / root / path).is_file() for path in IN_CHECKOUT.values()):
            return {name: (root / path).as_posix() for name, path in IN_CHECKOUT.items()}
    return {}
