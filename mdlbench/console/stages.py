"""How long work says where it is: a function that is called with the name of each stage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    """An `OnStage` that shows the stage on stderr where that is a terminal, and nothing else."""
    from rich.console import Console
    from rich.markup import escape

    from mdlbench.console.terminal import inert

    console = Console(stderr=True, quiet=sys.stderr is None or not sys.stderr.isatty())
    with console.status("") as status:
        yield lambda name: status.update(escape(inert(name)))


def labelled(on_stage: OnStage, label: str) -> OnStage:
    """The same with an SAE's name before each stage."""
    return lambda stage: on_stage(f"{label}: {stage}")
