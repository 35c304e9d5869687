"""Trains the SAEs that a suite is shipped with: `python -m mdlbench.training.zoo`.

The recipe is `zoo.yaml` in the suite's folder: settings shared by all SAEs, and for each key those
of its own. They are trained in the recipe's order; finished ones are skipped, an unfinished one is
continued.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml

from mdlbench.adapters.protocol import Origin
from mdlbench.errors import MdlbenchError, SuiteError, UsageError, did_you_mean
from mdlbench.sites import site_of
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite import load_suite
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train

OWN_TEXT = Setting()
RECIPE_FILE = "zoo.yaml"
SAES_FOLDER = "saes"


def load_recipe(path: Path) -> dict[str, TrainingConfig]:
    """The settings of every SAE of a recipe, by key.

    Raises:
        SuiteError: the file cannot be read, or holds something other than training settings.
        UsageError: a setting has an impossible value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        shared = content["shared"]
        return {key: TrainingConfig(**_merged(shared, own)) for key, own in content["saes"].items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise SuiteError(f"{path}: not a training recipe: {error}") from error


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """An SAE's settings over those shared by all; so are its options, one by one."""
    options = {**shared.get("options", {}), **own.get("options", {})}
    return {**shared, **own, "options": options}


def train_zoo(
    suite_name: str, keys: list[str], output: Path | None = None, setting: Setting = OWN_TEXT
) -> None:
    """Train the SAEs of a suite's recipe, all of them or those named, into its folder or another.

    A language suite's SAEs are trained on the text and the number of tokens of `setting`.

    Raises:
        UsageError: a key is not in the recipe.
    """
    suite = load_suite(suite_name)
    recipe = load_recipe(suite.path(RECIPE_FILE))
    for key in keys:
        if key not in recipe:
            raise UsageError(f"{RECIPE_FILE} has no SAE {key!r}. {did_you_mean(key, recipe)}")
    opener = Opener(suite, setting)
    source = opener.open(site_of(opener, Origin()))
    folder = output or suite.folder / SAES_FOLDER
    for key in keys or recipe:
        train(recipe[key], source, folder / key)


def main(
    keys: Annotated[list[str] | None, typer.Argument(help="SAEs to train; all by default.")] = None,
    suite: Annotated[str, typer.Option(help="A suite with a recipe.")] = "mnist",
    text: Annotated[str | None, typer.Option(help="Text of a language suite.")] = None,
    tokens: Annotated[int | None, typer.Option(help="To train on, of a language suite.")] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Instead of the suite's saes/.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; weights depend on it.")] = 1,
) -> None:
    """Train the SAEs that a suite is shipped with."""
    torch.set_num_threads(threads)
    try:
        train_zoo(suite, keys or [], output, Setting(text=text, calibration_tokens=tokens))
    except MdlbenchError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
