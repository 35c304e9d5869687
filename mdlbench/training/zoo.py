"""Trains SAEs on a suite's activations: those of the suite's recipe, or one of your own.

The recipe is `zoo.yaml` in the suite's folder: settings shared by all SAEs, and for each key those
of its own. They are trained in the recipe's order; finished ones are skipped, an unfinished one is
continued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mdlbench.errors import SuiteError, UsageError
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.executor import kept
from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite
from mdlbench.suite.yaml_file import parse_yaml, read_yaml
from mdlbench.training.config import TrainingConfig
from mdlbench.training.recipe import chosen
from mdlbench.training.settings import made, merged
from mdlbench.training.trainer import train

RECIPE_FILE = "zoo.yaml"
SAES_FOLDER = "saes"


def load_recipe(path: Path) -> dict[str, TrainingConfig]:
    """The settings of every SAE of a recipe, by key.

    Raises:
        SuiteError: the file cannot be read, or holds something other than training settings.
        UsageError: a setting is unknown, of another kind, or impossible.
    """
    content = read_yaml(path).content
    try:
        settings = {key: merged(content["shared"], own) for key, own in content["saes"].items()}
    except (KeyError, TypeError, AttributeError, UsageError) as error:
        raise SuiteError(f"{path}: not a training recipe: {error}") from error
    return {key: made(TrainingConfig, own, f"{path}: {key}") for key, own in settings.items()}


def chosen_recipe(suite: Suite, keys: Sequence[str]) -> dict[str, TrainingConfig]:
    """The suite's recipe, whole or of the keys that are named.

    Raises:
        UsageError: the suite has no recipe, or a key is not in it.
    """
    if not (suite.folder / RECIPE_FILE).is_file():
        raise UsageError(
            f"suite {suite.name!r} has no recipe ({RECIPE_FILE}); train an SAE of your own with "
            "--width"
        )
    recipe = load_recipe(suite.path(RECIPE_FILE))
    return chosen(recipe, keys, f"{RECIPE_FILE} has no SAE")


@dataclass(frozen=True)
class TrainSae:
    """Train one SAE in its own folder; one that was begun there goes on from its checkpoint.

    Attributes:
        threads: of the CPU; the weights depend on it. None leaves them as they are.
    """

    site: Site
    config: TrainingConfig
    folder: Path
    threads: int | None = None
    progress: bool = False

    def __call__(self, worker: Worker) -> Path:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        source = worker.source(self.site)
        return train(self.config, source, self.folder, progress=self.progress)


def train_zoo(
    opener: Opener,
    keys: Sequence[str] = (),
    output: Path | None = None,
    *,
    threads: int | None = None,
    progress: bool = True,
    engine: Engine = THIS_PROCESS,
) -> Iterator[Path]:
    """Train the SAEs of a suite's recipe, all of them or those named, each in its own folder.

    A language suite's SAEs are trained on the text and the number of tokens of the opener's
    setting.

    Args:
        opener: of the suite.
        keys: of the recipe.
        output: where the SAEs' folders are; by default the suite's own `saes`.
        threads: of the CPU, for each SAE; the weights depend on it.
        progress: show a bar on stderr, where that is a terminal and SAEs are trained here.
        engine: has the workers; each trains one SAE after the other.

    Yields:
        Each SAE's folder as soon as it is finished.

    Raises:
        UsageError: the suite has no recipe, or a key is not in it; as `train` raises else.
        WorkerError: the engine's workers cannot be had.
    """
    recipe = chosen_recipe(opener.suite, keys)
    folder = output or opener.suite.folder / SAES_FOLDER
    site = training_site(opener)
    tasks = [
        TrainSae(site, config, folder / key, threads, progress) for key, config in recipe.items()
    ]
    with engine.workers(opener) as executor:
        for _, trained in executor.as_done(tasks):
            yield kept(trained)


def training_site(opener: Opener) -> Site:
    """The place that the suite fixes; raises `UsageError` if it fixes none."""
    return opener.site_of(name=f"suite {opener.suite.name!r}")


def parse_options(settings: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` settings, a value as YAML writes it: a number, true, a word, [a, list].

    Raises:
        UsageError: one is not of that form.
    """
    options = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        value = parse_yaml(text, f"--set {setting}").content
        if not equals or not name or isinstance(value, dict):
            raise UsageError(f"--set {setting}: write NAME=VALUE, a value or [a, list, of, them]")
        options[name] = value
    return options
