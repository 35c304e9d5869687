"""How long work says where it is: a function that is called with the name of each stage."""

from __future__ import annotations

from collections.abc import Callable

OnStage = Callable[[str], None]
"""Called with the name of each stage of a long piece of work as it begins."""


OnNotice = Callable[[str], None]
"""Called with what a reader of the results must know and would not see in them."""


def silent(said: str) -> None:
    """The `OnStage` and `OnNotice` of somebody who does not listen."""


def labelled(on_stage: OnStage, label: str) -> OnStage:
    """The same with an SAE's name before each stage."""
    return lambda stage: on_stage(f"{label}: {stage}")
