"""Train and score the runs of a study, resumable at any point.

A study's folder holds its file, `runs/KEY/` for each training run (its settings, log and SAE, as
`mdlbench train` leaves them), and records as `mdlbench eval` leaves them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import torch
from sae_lens.constants import SAE_WEIGHTS_FILENAME

from mdlbench.adapters.checkpoint import load_json
from mdlbench.adapters.load import NamedCoder
from mdlbench.console.stages import OnStage, silent
from mdlbench.disk.files import read_regular, write_atomically
from mdlbench.errors import (
    CheckpointError,
    OutputError,
    SuiteError,
    TrainingError,
    UsageError,
    reason,
)
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import RECORDS, read_records
from mdlbench.scoring import suite_run
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.executor import Raised
from mdlbench.scoring.suite_run import Failed, Scored
from mdlbench.scoring.targets import Target
from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener
from mdlbench.studies.held_out import HeldOut
from mdlbench.studies.plan import Study, parse_study
from mdlbench.suite.folders import suite_names
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite
from mdlbench.suite.yaml_file import LARGEST_FILE
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train
from mdlbench.training.zoo import training_site

STUDY_FILE, RUNS, DIVERGED = "study.yaml", "runs", "diverged.json"


@dataclass(frozen=True)
class Trained:
    """A run whose SAE is in its folder."""

    key: str


@dataclass(frozen=True)
class Diverged:
    """A run whose loss became infinite or NaN, and what was said of it."""

    key: str
    reason: str


Outcome = Trained | Diverged | Scored | Failed
"""What became of a run: first trained or diverged, then scored or failed."""


@dataclass(frozen=True)
class TrainRun:
    """Train one run; one that was begun goes on from its checkpoint.

    Attributes:
        snapshots: steps after which the SAE is kept as it is then.
        threads: of the CPU; the weights depend on it.
    """

    site: Site
    key: str
    config: TrainingConfig
    folder: Path
    validation: float
    snapshots: tuple[int, ...] = ()
    threads: int = 1
    progress: bool = False

    def __call__(self, worker: Worker) -> Trained | Diverged:
        torch.set_num_threads(self.threads)
        source = HeldOut(worker.source(self.site), self.validation)
        try:
            train(
                self.config,
                source,
                self.folder,
                progress=self.progress,
                snapshots=self.snapshots,
            )
        except TrainingError as error:
            reason = f"the loss became {str(error).partition('the loss became ')[2]}"
            content = json.dumps({"reason": reason.partition(";")[0]}) + "\n"
            write_atomically(self.folder / DIVERGED, content.encode())
            return Diverged(self.key, reason.partition(";")[0])
        return Trained(self.key)


def read_study(file: Path) -> tuple[Study, str]:
    """A study and the text of its file; raises `SuiteError` where it is none."""
    try:
        text = read_regular(file, LARGEST_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file}: cannot be read: {reason(error)}") from error
    return parse_study(text, file), text


def suite_of_study(study: Study, file: Path) -> Suite:
    """The suite that a study names: a shipped one, or a path relative to its file."""
    return load_suite(study.suite if study.suite in suite_names() else file.parent / study.suite)


def claim(folder: Path, study: Study, text: str) -> None:
    """Take a folder for a study, or for one with more runs than that which it holds.

    Args:
        folder: the study's.
        study: what is to be run.
        text: of its file, which is kept.

    Raises:
        UsageError: the folder holds another study.
        SuiteError: what it holds is none.
        OutputError: it cannot be written.
    """
    kept = folder / STUDY_FILE
    if kept.is_file():
        earlier, earlier_text = read_study(kept)
        if earlier_text == text:
            return
        if not _has_all_of(earlier, study):
            raise UsageError(
                f"{folder}: holds another study, or this one with other settings: choose another "
                "folder, or make the settings of its runs equal"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {reason(error)}") from error
    write_atomically(kept, text.encode())


def _has_all_of(earlier: Study, study: Study) -> bool:
    """Whether a study has the runs of an earlier one, with the same settings and data."""
    runs = {run.key: run.settings for run in study.runs()}
    same_data = (earlier.suite, earlier.validation) == (study.suite, study.validation)
    return same_data and all(runs.get(run.key) == run.settings for run in earlier.runs())


def run_study(
    study: Study,
    opener: Opener,
    folder: Path,
    on_stage: OnStage = silent,
    *,
    progress: bool = False,
    engine: Engine = THIS_PROCESS,
    training: Opener | None = None,
    snapshots: tuple[int, ...] = (),
) -> Iterator[Outcome]:
    """Train and score all runs, one training seed after the other, and keep them in `folder`.

    What is finished is not done again, and an unfinished training run goes on from its last
    checkpoint, to the same numbers. A run that has its record is finished, though its weights are
    deleted. No training run sees the suite's test split.

    Args:
        study: what to run.
        opener: of its suite.
        folder: where it is kept; see `claim`.
        on_stage: told what is done.
        progress: show a bar on stderr for each training run.
        engine: has the workers; each trains one SAE after the other.
        training: of the data that runs are trained on, where those are more than the suite's.
        snapshots: steps after which each SAE is kept as it is then.

    Raises:
        UsageError: a run's settings are impossible, or the suite has no training data.
        WorkerError: the engine's workers cannot be had.
        OutputError: something cannot be written.
    """
    trained_on = training or opener
    tasks = _tasks(study, trained_on, folder, progress, snapshots)
    for seed, group in groupby(study.runs(), key=attrgetter("seed")):
        keys = [run.key for run in group]
        on_stage(f"train seed {seed}")
        yield from _trained(trained_on, folder, [tasks[key] for key in keys], engine)
        finished = [_target(folder, key) for key in keys if _has_weights(folder, key)]
        if finished:
            yield from suite_run.run(opener, finished, folder, on_stage, engine=engine)


def _tasks(
    study: Study, opener: Opener, folder: Path, progress: bool, snapshots: tuple[int, ...]
) -> dict[str, TrainRun]:
    """How to train each run; all settings are checked before the first one is trained."""
    site = training_site(opener)
    return {
        run.key: TrainRun(
            site,
            run.key,
            run.config(),
            folder / RUNS / run.key,
            study.validation,
            snapshots,
            progress=progress,
        )
        for run in study.runs()
    }


def _trained(
    opener: Opener, folder: Path, tasks: Sequence[TrainRun], engine: Engine
) -> Iterator[Trained | Diverged]:
    """Train what is neither scored nor diverged; the latter are named again."""
    scored = {record.name for record in records_of(folder)}
    missing = []
    for task in tasks:
        reason = diverged(folder, task.key)
        if reason is not None:
            yield Diverged(task.key, reason)
        elif task.key not in scored:
            missing.append(task)
    if missing:
        with engine.workers(opener) as executor:
            for _, outcome in executor.as_done(missing):
                if isinstance(outcome, Raised):
                    raise outcome.error
                yield outcome


def records_of(folder: Path) -> list[EvalRecord]:
    """The records of a study's folder; none before the first run is scored."""
    return read_records(folder) if (folder / RECORDS).is_dir() else []


def diverged(folder: Path, key: str) -> str | None:
    """Why a run has no SAE, where it diverged; raises `CheckpointError` for a damaged file."""
    file = folder / RUNS / key / DIVERGED
    if not file.is_file():
        return None
    content = load_json(file)
    if "reason" not in content:
        raise CheckpointError(f"{file}: gives no reason; delete it, and the run is trained again")
    return str(content["reason"])


def _has_weights(folder: Path, key: str) -> bool:
    """Whether a run that did not diverge has its SAE, and not its record alone."""
    weights = folder / RUNS / key / SAE_WEIGHTS_FILENAME
    return diverged(folder, key) is None and weights.is_file()


def _target(folder: Path, key: str) -> Target:
    return Target(NamedCoder(f"saelens:{folder.absolute() / RUNS / key}"), key)
