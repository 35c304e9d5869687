"""A folder that belongs to one training run, of whatever is trained: claimed, logged, resumed."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError

from mdlbench.adapters.checkpoint import load_json
from mdlbench.adapters.formats.saelens.told import TRAINING_FILE
from mdlbench.disk.files import UNFINISHED, write_atomically
from mdlbench.errors import (
    CheckpointError,
    OutputError,
    TrainingError,
    UsageError,
    heed_shortage,
    reason,
)

LOG_FILE = "log.csv"
PACKAGES = ("mdlbench", "sae-lens", "torch")
Precision = Literal["float16", "float32"]
"""In which weights are kept on disk."""


def csv_text(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A log as it is written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def csv_rows(path: Path) -> list[list[str]]:
    """The rows of a log below its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def epoch_seed(seed: int, epoch: int) -> int:
    """What the order of an epoch is drawn by: of the run's seed and the epoch alone."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


class ClaimedFolder:
    """A folder that belongs to one training run. Every file in it is written whole or not at all.

    Attributes:
        path: of the folder.
        settings: of the run, as JSON has them.
        defaults: values of settings that are younger than some recorded runs, which lack them.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.defaults = defaults

    def require_finite(self, loss: float, epoch: int, lr: float) -> None:
        """Raise `TrainingError`, which says what to do, where a loss is not finite."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.path}: the loss became {loss} in epoch {epoch}; lower lr (now {lr:g}) and "
                "train into another folder. The last checkpoint is kept."
            )

    def claim(self) -> bool:
        """Take the folder for this run, and say whether the run is finished already.

        Raises:
            UsageError: the folder is another run's, or holds something else.
            OutputError: the folder is a file, or cannot be read or written.
        """
        file = self.path / TRAINING_FILE
        if file.exists():
            content = _read_json(file)
            self._refuse_other_settings(content["settings"])
            finished = "result" in content
            self._remove(self._unfinished() + (self._checkpoints() if finished else []))
            return finished
        if self._is_taken():
            raise UsageError(
                f"{self.path}: not empty and not a training run: choose another folder"
            )
        self._remove(self._unfinished())
        self._write_training({})
        return False

    def _is_taken(self) -> bool:
        """Whether there is more than what a run that was killed at its first write leaves."""
        try:
            return self.path.exists() and set(self.path.iterdir()) > set(self._unfinished())
        except OSError as error:
            raise OutputError(
                f"{self.path}: not a folder that can be read: {reason(error)}"
            ) from error

    def _refuse_other_settings(self, found: Mapping[str, Any]) -> None:
        known = {**self.defaults, **found}
        for name, asked in self.settings.items():
            if known.get(name) != asked:
                raise UsageError(
                    f"{self.path}: holds a run with {name} = {known.get(name)!r}, not {asked!r}: "
                    "choose another folder, or delete this one to train afresh"
                )

    def _write_training(self, result: Mapping[str, Any]) -> None:
        content: dict[str, Any] = {"settings": self.settings}
        if result:
            content["result"] = result
            content["versions"] = {name: version(name) for name in PACKAGES}
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        write_atomically(self.path / TRAINING_FILE, text.encode())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record the result; the checkpoints go."""
        self._write_training(result)
        self._remove(self._checkpoints())

    def write_log(self, rows: str) -> None:
        """The log, as CSV."""
        write_atomically(self.path / LOG_FILE, rows.encode())

    @contextmanager
    def new_checkpoint(self, epochs: int) -> Iterator[Path]:
        """A folder to fill with the state after some epochs; then earlier checkpoints go."""
        earlier = self._checkpoints()
        with _whole_folder(self.path / f"checkpoint-{epochs:06d}") as partial:
            yield partial
        self._remove(earlier)

    def last_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint; None where there is none."""
        return next(reversed(self._checkpoints()), None)

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-*"))

    def _unfinished(self) -> list[Path]:
        """What a run that was killed while it wrote has left."""
        return [*self.path.glob(f".*{UNFINISHED}"), *self.path.glob(".checkpoint-*")]

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def reading_checkpoint(checkpoint: Path) -> Iterator[None]:
    """Whatever an unreadable checkpoint raises in the block, as a `CheckpointError`."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        heed_shortage(error)
        raise CheckpointError(
            f"{checkpoint}: not a readable checkpoint; delete it to train afresh: {reason(error)}"
        ) from error


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `path` once it is filled."""
    partial = path.with_name(f".{path.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        partial.rename(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason(error)}") from error


def _read_json(path: Path) -> dict[str, Any]:
    content = load_json(path)
    if not isinstance(content.get("settings"), dict):
        raise CheckpointError(f"{path}: not the record of a training run: it has no settings")
    return content
