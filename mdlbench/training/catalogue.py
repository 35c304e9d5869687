"""Which architectures there are besides SAELens' own, told from their files alone."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "architectures"


def own_architectures() -> dict[str, str]:
    """What each architecture of this package is, by its name.

    An architecture is a file in the folder `architectures`; the first line of its docstring says
    what it is. Nothing is imported, so that neither torch nor SAELens is.
    """
    paths = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
    return {path.stem: _summary(path) for path in paths}


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
