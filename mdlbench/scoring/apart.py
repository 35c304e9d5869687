"""SAEs measured apart: each whole by one worker, while other workers measure others.

Where there are as many SAEs as workers, none of them waits for another, and all that is sent is a
recipe and a record. What is left over is measured by all workers together, round by round
(`mdlbench.scoring.rounds`). A record is the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.console.stages import OnStage, labelled
from mdlbench.errors import MdlbenchError
from mdlbench.records.record import Identity
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import Evaluation, evaluate_coder
from mdlbench.scoring.executor import Executor, InProcess, Raised
from mdlbench.scoring.tasks import Identify
from mdlbench.scoring.worker import Sae, Subject, Worker
from mdlbench.statistics.distortion import Reference
from mdlbench.suite.site import Site

Found = TypeVar("Found")
Draw = Callable[
    [
        Path,
        str,
        Float32[np.ndarray, "latent d"],
        tuple[int, int],
        Float64[np.ndarray, " latent"],
    ],
    None,
]
"""Writes a file that shows an SAE: its name, its decoder rows, an image's shape, latents' bits."""


@dataclass(frozen=True)
class Job:
    """An SAE to be measured.

    Attributes:
        sae: the SAE.
        identity: the record's.
        label: what its stages are said of.
        steps: further steps of the refined grid at which to have operating points.
        draw: draws it, where activations are images.
    """

    sae: Sae
    identity: Identity
    label: str
    steps: Sequence[float] = ()
    draw: Draw | None = None


class Measured(NamedTuple):
    """What a worker found, and the content of a picture of the SAE where one was asked for."""

    evaluation: Evaluation
    picture: bytes | None


@dataclass(frozen=True, eq=False)
class MeasureApart:
    """The whole measurement of an SAE at a site, whose reference is known, in some modes.

    Attributes:
        jobs: of one SAE, each in a mode.
    """

    site: Site
    known: Reference
    jobs: Sequence[Job]

    def __call__(self, worker: Worker) -> list[Measured | Raised]:
        bench = worker.holding(self.site, lambda: self._bench(worker))
        return [self._attempted(bench, job, worker.on_stage) for job in self.jobs]

    def _bench(self, worker: Worker) -> Bench:
        return Bench.open(InProcess(worker.opener, worker=worker), self.site, known=self.known)

    def _attempted(self, bench: Bench, job: Job, on_stage: OnStage) -> Measured | Raised:
        try:
            return _measured(bench.in_mode(job.identity.quantiser), job, on_stage)
        except (MdlbenchError, OSError) as error:
            return Raised(error)


def _measured(bench: Bench, job: Job, on_stage: OnStage) -> Measured:
    stage = labelled(on_stage, job.label)
    stage("load")
    evaluation = evaluate_coder(bench, job.sae, job.identity, stage, job.steps)
    return Measured(evaluation, _picture(bench, job, evaluation))


def _picture(bench: Bench, job: Job, evaluation: Evaluation) -> bytes | None:
    if job.draw is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "features.png"
        draw_features(job.draw, bench, job.sae, evaluation, path)
        return path.read_bytes() if path.exists() else None


def draw_features(draw: Draw, bench: Bench, sae: Sae, evaluation: Evaluation, path: Path) -> None:
    """Draw an SAE's decoder rows, if it has any, and activations are images."""
    image_shape, record = bench.source.image_shape, evaluation.record
    if image_shape is not None and record.coder.d_latents:
        rows = bench.decoder_rows(sae)
        draw(path, record.label, rows, image_shape, evaluation.latent_bits)


def n_apart(executor: Executor, n_saes: int) -> int:
    """How many of so many SAEs are measured apart, so that each worker has as many."""
    return 0 if executor.is_one else n_saes - n_saes % executor.n_workers


def apart(executor: Executor, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of the first SAEs, as many as are measured apart."""
    groups = by_sae(jobs)
    return list(chain.from_iterable(groups[: n_apart(executor, len(groups))]))


def identified(bench: Bench, saes: Sequence[Sae]) -> list[CoderIdentity | Raised]:
    """Which SAEs they are, by all workers at once."""
    tasks = [Identify(Subject(bench.source.site, sae)) for sae in saes]
    found = dict(bench.rounds.executor.as_done(tasks))
    return [found[i] for i in range(len(tasks))]


def by_sae(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that follow each other and are of one SAE."""
    return [list(group) for _, group in groupby(jobs, key=attrgetter("sae"))]


def measured_apart(
    bench: Bench, jobs: Sequence[Job], on_stage: OnStage
) -> Iterator[tuple[int, Measured | Raised]]:
    """What workers find in each job, with its number, in the order in which SAEs are done."""
    groups = by_sae(jobs)
    first = [0, *accumulate(map(len, groups))]
    tasks = [MeasureApart(bench.source.site, bench.reference, group) for group in groups]
    for i, found in bench.rounds.executor.as_done(tasks, on_stage):
        outcomes = [found] * len(groups[i]) if isinstance(found, Raised) else found
        yield from enumerate(outcomes, first[i])


def in_order(found: Iterable[tuple[int, Found]]) -> Iterator[Found]:
    """What comes with numbers from 0 on in any order, in theirs."""
    early: dict[int, Found] = {}
    following = 0
    for i, one in found:
        early[i] = one
        while following in early:
            yield early.pop(following)
            following += 1
