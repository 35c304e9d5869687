"""How long work says where it is: a function that is called with the name of each stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

OnStage = Callable[[str], None]
"""Called with the name of each stage of a long piece of work as it begins."""


DONE = "done"
"""The last stage of an SAE that is measured while others are: its record is kept."""
OnNotice = Callable[[str], None]
"""Called with what a reader of the results must know and would not see in them."""


def silent(said: str) -> None:
    """The `OnStage` and `OnNotice` of somebody who does not listen."""


@contextmanager
def shown_on_terminal() -> Iterator[OnStage]:
    """An `OnStage` that shows the stage on stderr where somebody watches, and nothing elsewhere.

    That is a terminal, or the cell of a notebook, where one line changes and is gone at the end.
    """
    from rich.console import Console
    from rich.markup import escape

    from mdlbench.console.terminal import inert

    if is_notebook(sys.stderr):
        line = _CellLine(sys.stderr)
        try:
            yield line.show
        finally:
            line.clear()
        return
    console = Console(stderr=True, quiet=sys.stderr is None or not sys.stderr.isatty())
    with console.status("") as status:
        yield lambda name: status.update(escape(inert(name)))


def is_notebook(stream: object) -> bool:
    """Whether what is written to a stream appears below a notebook's cell."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"


class _CellLine:
    """A line below a cell that says the stage and for how long the work has run."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._since, self._length = stream, time.perf_counter(), 0

    def show(self, name: str) -> None:
        from mdlbench.console.terminal import inert

        seconds = time.perf_counter() - self._since
        self._write(f"{inert(name)} ({seconds:.0f} s)")

    def clear(self) -> None:
        self._write("")
        self._stream.write("\r")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r{text.ljust(self._length)}")
        self._stream.flush()
        self._length = len(text)


def labelled(on_stage: OnStage, label: str) -> OnStage:
    """The same with an SAE's name before each stage."""
    return lambda stage: on_stage(f"{label}: {stage}")
