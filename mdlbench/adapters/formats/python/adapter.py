"""Python objects by the name of their module."""

from __future__ import annotations

from typing import Any

from mdlbench.adapters.formats.python.objects import coder_of, instance_of, origin_of_object
from mdlbench.adapters.protocol import Origin, Request, SparseCoder
from mdlbench.errors import MdlbenchError, UsageError
from mdlbench.extensions.foreign import blamed
from mdlbench.extensions.plugins import import_object


class PythonAdapter:
    """Imports what its argument names, and so runs that package's code.

    A class or factory is called once, whatever is asked of it afterwards.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def origin(self, request: Request) -> Origin:
        return origin_of_object(self._object(request), request.argument)

    def load(self, request: Request) -> SparseCoder:
        return coder_of(
            self._object(request),
            source=request.source,
            device=request.device,
            name=request.argument,
            arguments={"object": request.argument},
        )

    def _object(self, request: Request) -> Any:
        request.reject_unknown_options()
        path = request.argument
        if path not in self._made:
            self._made[path] = instance_of(_imported(path))
        return self._made[path]


def _imported(path: str) -> Any:
    with blamed(f"python:{path}: importing it fails", MdlbenchError):
        try:
            return import_object(path)
        except (ModuleNotFoundError, AttributeError, ValueError) as error:
            raise UsageError(f"python:{path}: {error}") from error
