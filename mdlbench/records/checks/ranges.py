"""Whether every number of a record lies in a possible range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mdlbench.records.record import EvalRecord
from mdlbench.suite.suite import Suite

LARGEST = 1e30
"""The largest number in a record: tokens to break even are the more, the fewer bits a token has."""
FINEST, COARSEST = 1e-12, 1e12
"""Range of quantiser steps."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    content = record.model_dump(exclude={"identity": {"coder"}, "coder": {"details"}})
    yield from _too_large(content, "record")
    coder = record.coder
    if min(coder.d_in, coder.d_out) < 1 or coder.d_latents < 0:
        yield "coder: a width is not positive"
    if not 0 <= coder.dead_fraction <= 1:
        yield "coder.dead_fraction is not a share"
    if not 2 <= (coder.decoder_weight_bits or 2) <= 32:
        yield "coder.decoder_weight_bits is not between 2 and 32"
    if not all(FINEST <= point.step <= COARSEST for point in record.points):
        yield "a step is out of range"


def _too_large(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _too_large(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _too_large(part, key)
    elif isinstance(value, int | float) and not abs(value) <= LARGEST:
        yield f"{key} is larger than any number of a record"
