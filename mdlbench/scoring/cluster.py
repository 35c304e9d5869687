"""Workers in other processes, on this machine or on others, by Ray.

An actor is a worker: it loads the model once and keeps what it has made. Tasks carry their recipes,
so an actor that dies is replaced by an empty one, which makes again what its tasks need.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mdlbench.console.stages import OnNotice, OnStage, silent
from mdlbench.errors import MdlbenchError, UsageError, WorkerError, first_line
from mdlbench.extensions.foreign import blamed
from mdlbench.scoring.executor import Executor, Found, Raised, Task, kept
from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import available_device
from mdlbench.suite.suite import Suite

LIBRARIES = ("mdlbench", "torch", "numpy", "scipy", "transformers")
"""What computes; its versions are the same at every worker."""
ATTEMPTS = 5
"""How often a task is given to a new worker before it is blamed for the deaths."""
ANSWER_SECONDS = 10.0
"""How long a cluster may take to answer at all."""
START_SECONDS = 120.0
"""How long workers may take to come up."""
ASKED_SECONDS = 0.5
"""How often workers are asked what they are at, where somebody listens."""
TALK = "talk"
"""Workers answer in this concurrency group while they work on a task in their own."""
PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the environment that hold for workers elsewhere, too."""


@dataclass(frozen=True)
class Workers:
    """Workers in other processes.

    Attributes:
        n_workers: how many; None for as many as a cluster has room for.
        address: of a running Ray cluster, or "auto" for the one that this machine belongs to; None
            starts one on this machine for the run.
        gpus: of each worker; less than one is shared.
    """

    n_workers: int | None = None
    address: str | None = None
    gpus: float = 0.0


@dataclass(frozen=True)
class Versions:
    """What a worker runs on."""

    python: str
    libraries: dict[str, str]
    threads: int = field(compare=False)

    @classmethod
    def here(cls) -> Versions:
        return cls(
            platform.python_version(),
            {name: metadata.version(name) for name in LIBRARIES},
            torch.get_num_threads(),
        )

    def difference(self, other: Versions) -> str | None:
        """The first thing that differs, in words."""
        mine = {"python": self.python, **self.libraries}
        theirs = {"python": other.python, **other.libraries}
        for name, version in mine.items():
            if theirs[name] != version:
                return f"{name} is {version} here, but {theirs[name]} there"
        return None


class RayEngine:
    """The `Engine` whose workers are Ray's actors.

    Args:
        wanted: which workers.
        on_notice: told of workers that die.

    Raises:
        UsageError: Ray is not installed, or there is no room for so many workers.
        WorkerError: no cluster answers.
    """

    def __init__(self, wanted: Workers, on_notice: OnNotice = silent) -> None:
        self._ray, self._gpus, self._on_notice = _ray(), wanted.gpus, on_notice
        _connect(self._ray, wanted)
        try:
            self._n_workers = _with_room(self._ray, wanted)
        except UsageError:
            self.close()
            raise

    @contextmanager
    def workers(self, opener: Opener) -> Iterator[Executor]:
        """Workers for a suite; raises `WorkerError` where they run other versions than here."""
        options = {
            "num_cpus": 1,
            "num_gpus": self._gpus,
            "max_restarts": 0,
            "concurrency_groups": {TALK: 1},
        }
        actor = self._ray.remote(**options)(_Actor)
        workers = RayWorkers(self._ray, actor, self._n_workers, opener, self._on_notice)
        try:
            workers.start()
            yield workers
        finally:
            workers.close()

    def close(self) -> None:
        """Leave the cluster; one that was started for this process ends."""
        self._ray.shutdown()


class RayWorkers:
    """The `Executor` of a Ray cluster."""

    def __init__(
        self, ray: Any, actor: Any, n_workers: int, opener: Opener, on_notice: OnNotice
    ) -> None:
        self.suite, self.setting, self.n_workers = opener.suite, opener.settled(), n_workers
        self.threads, self.is_one = 1, False
        self._ray, self._actor, self._on_notice = ray, actor, on_notice
        self._actors = [self._new_actor() for _ in range(n_workers)]

    def start(self) -> None:
        """Wait for the workers, and compare their versions with those here."""
        versions = [actor.versions.remote() for actor in self._actors]
        ready, late = self._ray.wait(versions, num_returns=len(versions), timeout=START_SECONDS)
        if late:
            raise WorkerError(
                f"{len(late)} of {len(versions)} workers did not start within "
                f"{START_SECONDS:.0f} s: the cluster has no room for them; ask for fewer"
            )
        here = Versions.here()
        for found in self._answers(ready):
            if (difference := here.difference(found)) is not None:
                raise WorkerError(f"a worker runs other versions: {difference}")
            self.threads = found.threads

    def _answers(self, ready: Sequence[Any]) -> list[Versions]:
        try:
            answers: list[Versions] = self._ray.get(list(ready))
        except self._ray.exceptions.RayError as error:
            raise WorkerError(
                f"a worker cannot run mdlbench: {_cause(error)}; install the same mdlbench there"
            ) from error
        return answers

    def run(self, tasks: Sequence[Task[Found]]) -> list[Found]:
        given = [(i, i % self.n_workers) for i in range(len(tasks))]
        found = dict(self._found(tasks, given, iter(()), silent))
        return [kept(found[i]) for i in range(len(tasks))]

    def as_done(
        self, tasks: Sequence[Task[Found]], on_stage: OnStage = silent
    ) -> Iterator[tuple[int, Found | Raised]]:
        given = [(i, i) for i in range(min(self.n_workers, len(tasks)))]
        yield from self._found(tasks, given, iter(range(len(given), len(tasks))), on_stage)

    def _found(
        self,
        tasks: Sequence[Task[Any]],
        given: Sequence[tuple[int, int]],
        more: Iterator[int],
        on_stage: OnStage,
    ) -> Iterator[tuple[int, Any]]:
        """Outcomes as they come.

        Args:
            tasks: all of them.
            given: tasks to begin with, and the places of their workers.
            more: tasks of which a worker is given one whenever it is done with another.
            on_stage: told what workers are at; nobody asks them where it is `silent`.
        """
        deaths: Counter[int] = Counter()
        waiting = dict(self._send(tasks, i, place) for i, place in given)
        while waiting:
            ready = self._first_of(list(waiting), on_stage)
            i, place, actor = waiting.pop(ready)
            try:
                outcome = self._ray.get(ready)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self._ray.exceptions.RayError as error:
                deaths[i] += 1
                self._replace(place, actor, error, deaths[i])
                waiting.update([self._send(tasks, i, place)])
            else:
                waiting.update(self._send(tasks, following, place) for following in islice(more, 1))
                yield i, outcome

    def _first_of(self, waiting: list[Any], on_stage: OnStage) -> Any:
        """Whichever is ready first; meanwhile, workers are asked what they are at."""
        seconds = None if on_stage is silent else ASKED_SECONDS
        while True:
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
            if ready:
                return ready[0]
            for stage in self._stages():
                on_stage(stage)

    def _stages(self) -> Iterator[str]:
        """What those workers are at that answer at once."""
        asked = [actor.stage.options(concurrency_group=TALK).remote() for actor in self._actors]
        answered, _ = self._ray.wait(asked, num_returns=len(asked), timeout=ASKED_SECONDS)
        for answer in answered:
            with suppress(self._ray.exceptions.RayError):
                if stage := self._ray.get(answer):
                    yield stage

    def forget_latents(self) -> None:
        for actor in self._actors:
            actor.forget_latents.remote()

    def close(self) -> None:
        """End the workers."""
        for actor in self._actors:
            self._ray.kill(actor)

    def _send(
        self, tasks: Sequence[Task[Any]], i: int, place: int
    ) -> tuple[Any, tuple[int, int, Any]]:
        """What stands for a task's outcome, with its number and who was given it."""
        actor = self._actors[place]
        return actor.run.remote(tasks[i]), (i, place, actor)

    def _replace(self, place: int, dead: Any, error: Exception, deaths: int) -> None:
        """A new worker in the place of one that died, unless there is one already.

        Raises:
            WorkerError: too many died of one task.
        """
        if deaths == ATTEMPTS:
            raise WorkerError(
                f"{ATTEMPTS} workers died of one task ({_cause(error)}); give them more memory, "
                "or ask for fewer"
            ) from error
        if self._actors[place] is not dead:
            return
        self._on_notice(
            f"worker {place + 1} of {self.n_workers} died ({_cause(error)}); another one makes "
            "its part again"
        )
        self._ray.kill(dead)
        self._actors[place] = self._new_actor()

    def _new_actor(self) -> Any:
        return self._actor.remote(self.suite, self.setting, Path.cwd(), sys.path)


class _Actor:
    """A worker in a process of its own; it is made when its first task comes."""

    def __init__(self, suite: Suite, setting: Setting, folder: Path, paths: list[str]) -> None:
        if folder.is_dir():
            os.chdir(folder)
        sys.path.extend(path for path in paths if path not in sys.path)
        self._suite, self._setting = suite, setting
        self._worker: Worker | None = None
        self._stage = ""

    def versions(self) -> Versions:
        return Versions.here()

    def stage(self) -> str:
        """What it is at; answered while it works."""
        return self._stage

    def _say(self, stage: str) -> None:
        self._stage = stage

    def forget_latents(self) -> None:
        if self._worker is not None:
            self._worker.forget_latents()

    def run(self, task: Task[Any]) -> Any:
        try:
            if self._worker is None:
                available_device(self._setting.device)
                opener = Opener(self._suite, self._setting, self._say)
                self._worker = Worker(opener, self._say)
            return task(self._worker)
        except (MdlbenchError, OSError) as error:
            return Raised(error)
        finally:
            self._stage = ""


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError('workers need Ray: pip install "mdlbench[ray]"') from error
    return ray


def _connect(ray: Any, wanted: Workers) -> None:
    """Join the cluster, or start one that ends with this process."""
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    usual = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "runtime_env": {"env_vars": variables},
    }
    where = f"at {wanted.address}"
    if wanted.address in (None, "auto"):
        where = "on this machine"
    else:
        _refuse_silent(str(wanted.address))
    with blamed(f"no Ray cluster answers {where}", WorkerError):
        if wanted.address is None:
            room = {"num_cpus": wanted.n_workers, "include_dashboard": False}
            ray.init(address="local", **room, **usual)
        else:
            ray.init(address=wanted.address, **usual)


def _refuse_silent(address: str) -> None:
    """Raise where nobody listens, which Ray would wait minutes for.

    Raises:
        UsageError: it is no address.
        WorkerError: nothing answers there.
    """
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^:/\s]+):(?P<port>\d{1,5})", address)
    if found is None:
        raise UsageError(f"--ray {address}: write HOST:PORT, or auto")
    try:
        socket.create_connection((found["host"], int(found["port"])), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(f"no Ray cluster answers at {address}: {first_line(error)}") from error


def _with_room(ray: Any, wanted: Workers) -> int:
    """How many workers there are: as asked, or as many as have room; raises `UsageError`."""
    room = ray.cluster_resources()
    needs = {"CPU": 1.0} | ({"GPU": wanted.gpus} if wanted.gpus else {})
    most = min(int(room.get(what, 0.0) / each) for what, each in needs.items())
    n_workers = wanted.n_workers or most
    if not 0 < n_workers <= most:
        has = " and ".join(f"{room.get(what, 0.0):g} {what}s" for what in needs)
        raise UsageError(
            f"no room for {max(n_workers, 1)} workers: the cluster has {has}; ask for fewer with "
            "--workers, or for a smaller share of a GPU with --gpus-per-worker"
        )
    return n_workers


def _cause(error: Exception) -> str:
    """The first line of what a death was of."""
    return first_line(error).rstrip(".")
