"""Which workers a run has: this process itself, or those of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from mdlbench.console.stages import OnNotice, silent
from mdlbench.scoring.cluster import RayEngine, Workers
from mdlbench.scoring.executor import Executor, InProcess
from mdlbench.sources.open import Opener


class Engine(Protocol):
    """Has workers for one suite after the other."""

    def workers(self, opener: Opener) -> AbstractContextManager[Executor]:
        """Workers for a suite, as it is to be run."""
        ...


class ThisProcess:
    """The engine that is no other process."""

    @contextmanager
    def workers(self, opener: Opener) -> Iterator[Executor]:
        yield InProcess(opener)


THIS_PROCESS = ThisProcess()


@contextmanager
def engine_of(wanted: Workers | None, on_notice: OnNotice = silent) -> Iterator[Engine]:
    """The engine that is asked for; without workers, this process.

    Raises:
        UsageError: Ray is not installed, or there is no room for so many workers.
        WorkerError: no cluster answers.
    """
    if wanted is None:
        yield THIS_PROCESS
        return
    engine = RayEngine(wanted, on_notice)
    try:
        yield engine
    finally:
        engine.close()
