"""Who does the tasks of a measurement: workers in this process, or those of an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch

from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import available_device
from mdlbench.suite.suite import Suite

Found = TypeVar("Found", covariant=True)


class Task(Protocol[Found]):
    """Something to be found; any worker finds the same."""

    def __call__(self, worker: Worker) -> Found: ...


class Executor(Protocol):
    """Workers that tasks on a suite are given to.

    Attributes:
        suite: what is measured on.
        setting: how it is run.
        n_workers: into how many ranges a split is cut.
        threads: of each worker.
    """

    suite: Suite
    setting: Setting
    n_workers: int
    threads: int

    def run(self, tasks: Sequence[Task[Found]]) -> list[Found]:
        """What tasks find, in their order; the i-th is given to worker i where that is alive.

        Raises:
            MdlbenchError: as a task does, or no worker can be had.
        """
        ...

    def as_done(self, tasks: Sequence[Task[Found]]) -> Iterator[tuple[int, Found]]:
        """What tasks find, each with its number, as soon as it is found, by whoever is free.

        Raises:
            MdlbenchError: as `run` does; what was found before is given first.
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

    Raises:
        UsageError: the device is not available.
    """

    def __init__(self, opener: Opener, n_workers: int = 1) -> None:
        self.suite, self.setting = opener.suite, opener.setting
        available_device(opener.setting.device)
        self.n_workers, self.threads = n_workers, torch.get_num_threads()
        self._workers = [Worker(opener) for _ in range(n_workers)]

    def run(self, tasks: Sequence[Task[Found]]) -> list[Found]:
        return [task(self._workers[i % self.n_workers]) for i, task in enumerate(tasks)]

    def as_done(self, tasks: Sequence[Task[Found]]) -> Iterator[tuple[int, Found]]:
        for i, task in enumerate(tasks):
            yield i, task(self._workers[i % self.n_workers])

    def forget_latents(self) -> None:
        for worker in self._workers:
            worker.forget_latents()
