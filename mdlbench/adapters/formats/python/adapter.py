"""Python objects by the name of their module."""

from __future__ import annotations

from typing import Any

from mdlbench.adapters.formats.python.objects import coder_of
from mdlbench.adapters.protocol import Request, SparseCoder
from mdlbench.errors import MdlbenchError, UsageError
from mdlbench.plugins import import_object


class PythonAdapter:
    """Imports what its argument names, and so runs that package's code."""

    def load(self, request: Request) -> SparseCoder:
        request.reject_unknown_options()
        found = _imported(request.argument)
        return coder_of(
            found,
            source=request.source,
            device=request.device,
            name=request.argument,
            arguments={"object": request.argument},
        )


def _imported(path: str) -> Any:
    try:
        return import_object(path)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise UsageError(f"python:{path}: {error}") from error
    except Exception as error:
        raise MdlbenchError(
            f"python:{path}: importing it fails: {type(error).__name__}: {error}"
        ) from error
