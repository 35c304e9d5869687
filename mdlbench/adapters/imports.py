"""Python objects that a user names on the command line."""

from __future__ import annotations

import importlib
import operator
import sys
from pathlib import Path
from typing import Any


def import_object(path: str) -> Any:
    """The object at `package.module:attribute`, or the module; the working folder is searched too.

    Raises whatever importing it raises.
    """
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.append(here)
    found = importlib.import_module(module)
    return operator.attrgetter(attribute)(found) if attribute else found
