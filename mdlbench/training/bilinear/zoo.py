"""The bilinear networks of a suite's recipe, `bilinear.yaml` in its folder.

The recipe has settings that all networks share, and a grid: lists of values of further settings.
There is a network for each combination.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

from mdlbench.errors import SuiteError, UsageError
from mdlbench.suite.suite import Suite
from mdlbench.suite.yaml_file import read_yaml
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task
from mdlbench.training.bilinear.trainer import train_bilinear
from mdlbench.training.recipe import chosen
from mdlbench.training.settings import made

RECIPE_FILE = "bilinear.yaml"
NETWORKS_FOLDER = "bilinear"


def load_bilinear_recipe(path: Path) -> dict[str, BilinearConfig]:
    """The settings of every network of a recipe, by key.

    Raises:
        SuiteError: the file cannot be read, or holds something other than training settings.
        UsageError: a setting is unknown, of another kind, or impossible.
    """
    content = read_yaml(path).content
    try:
        shared, grid = content["shared"], content["grid"]
        if twice := sorted(set(shared) & set(grid)):
            raise ValueError(f"{twice[0]} is shared, and in the grid")
        settings = [
            {**shared, **dict(zip(grid, values, strict=True))} for values in product(*grid.values())
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SuiteError(f"{path}: not a recipe of bilinear networks: {error}") from error
    found = [made(BilinearConfig, own, str(path)) for own in settings]
    return {config.key: config for config in found}


def chosen_networks(suite: Suite, keys: Sequence[str]) -> dict[str, BilinearConfig]:
    """The suite's recipe, whole or of the keys that are named.

    Raises:
        UsageError: the suite has no recipe, or a key is not in it.
    """
    if not (suite.folder / RECIPE_FILE).is_file():
        raise UsageError(
            f"suite {suite.name!r} has no recipe of bilinear networks ({RECIPE_FILE}); train one "
            "of your own with --width"
        )
    recipe = load_bilinear_recipe(suite.path(RECIPE_FILE))
    return chosen(recipe, keys, f"{RECIPE_FILE} has no network")


def train_networks(
    recipe: Mapping[str, BilinearConfig], task: Task, folder: Path, *, progress: bool = True
) -> Iterator[Path]:
    """Train each network in its own folder, in order; finished ones are skipped.

    Yields:
        Each network's folder as soon as it is finished; raises as `train_bilinear` does.
    """
    for key, config in recipe.items():
        yield train_bilinear(config, task, folder / key, progress=progress)
