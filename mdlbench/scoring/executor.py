"""Who does the tasks of a measurement: workers in this process, or those of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from mdlbench.console.stages import OnStage, silent
from mdlbench.errors import MdlbenchError
from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import available_device
from mdlbench.suite.suite import Suite

Found = TypeVar("Found", covariant=True)
Kept = TypeVar("Kept")


class Task(Protocol[Found]):
    """Something to be found; any worker finds the same."""

    def __call__(self, worker: Worker) -> Found: ...


@dataclass(frozen=True)
class Raised:
    """What a task raised instead of finding something."""

    error: MdlbenchError | OSError


def kept(outcome: Kept | Raised) -> Kept:
    """What a task found; raises what it raised."""
    if isinstance(outcome, Raised):
        raise outcome.error
    return outcome


class Executor(Protocol):
    """Workers that tasks on a suite are given to.

    Attributes:
        suite: what is measured on.
        setting: how it is run.
        n_workers: into how many ranges a split is cut.
        threads: of each worker.
        is_one: whether all work is done here, by one worker, so that nothing can be shared out.
    """

    suite: Suite
    setting: Setting
    n_workers: int
    threads: int
    is_one: bool

    def run(self, tasks: Sequence[Task[Found]]) -> list[Found]:
        """What tasks find, in their order; the i-th is given to worker i where that is alive.

        Raises:
            MdlbenchError: as a task does, or no worker can be had.
        """
        ...

    def as_done(
        self, tasks: Sequence[Task[Found]], on_stage: OnStage = silent
    ) -> Iterator[tuple[int, Found | Raised]]:
        """What tasks find, each with its number, as soon as it is found, by whoever is free.

        Args:
            tasks: each is done by one worker, which others do not wait for.
            on_stage: called with the stages that workers come to, as far as they are heard of.
        """
        ...

    def forget_latents(self) -> None:
        """The latents of the last tasks are done with."""
        ...


class InProcess:
    """Workers of this process, one after the other; one is enough but for tests.

    Args:
        opener: opens the suite's activations.
        n_workers: how many.
        worker: the only one, where there is one already.

    Raises:
        UsageError: the device is not available.
    """

    def __init__(self, opener: Opener, n_workers: int = 1, worker: Worker | None = None) -> None:
        self.suite, self.setting = opener.suite, opener.setting
        available_device(opener.setting.device)
        self.n_workers, self.threads = n_workers, torch.get_num_threads()
        self.is_one = n_workers == 1
        self._workers = [worker] if worker else [Worker(opener) for _ in range(n_workers)]

    def run(self, tasks: Sequence[Task[Found]]) -> list[Found]:
        return [task(self._workers[i % self.n_workers]) for i, task in enumerate(tasks)]

    def as_done(
        self, tasks: Sequence[Task[Found]], on_stage: OnStage = silent
    ) -> Iterator[tuple[int, Found | Raised]]:
        for i, task in enumerate(tasks):
            worker = self._workers[i % self.n_workers]
            worker.on_stage = on_stage
            try:
                yield i, task(worker)
            except (MdlbenchError, OSError) as error:
                yield i, Raised(error)

    def forget_latents(self) -> None:
        for worker in self._workers:
            worker.forget_latents()
