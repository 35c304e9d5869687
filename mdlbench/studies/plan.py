"""What a study trains: a file of its settings, and the runs that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from mdlbench.errors import SuiteError, UsageError, first_problem
from mdlbench.suite.base import Key, Strict, repeated
from mdlbench.suite.yaml_file import parse_yaml
from mdlbench.training.settings import Settings, made, merged

if TYPE_CHECKING:
    from mdlbench.training.config import TrainingConfig

OF_THE_GRID = {"width": "widths", "seed": "seeds"}
"""Settings that a study has lists of."""


def _are_settings(settings: Settings) -> Settings:
    for name, grid in OF_THE_GRID.items():
        if name in settings:
            message = f"{name} is no setting of a study's runs: it has {grid}"
            raise PydanticCustomError("of_the_grid", "{message}", {"message": message})
    try:
        return merged(settings)
    except UsageError as error:
        raise PydanticCustomError("options", "{message}", {"message": str(error)}) from error


RunSettings = Annotated[Settings, AfterValidator(_are_settings)]
Width = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class Architecture(Strict):
    """One of those compared."""

    architecture: str | None = None
    """The name of its training class, where that is not its key."""
    settings: RunSettings = Field(default={})
    """Settings of all its runs, over the shared ones."""
    sparsities: Annotated[dict[Key, RunSettings], Field(min_length=1)]
    """Settings of each sparsity, from sparse to dense, by what to call it in names."""
    at_width: dict[str, RunSettings] = Field(default={})
    """Further settings at a width, by the width in quotes."""
    widths: Annotated[list[Width], Field(min_length=1)] | None = None
    """Where they are not the study's; the grid is then not balanced."""
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Where they are not the study's; the grid is then not balanced."""


class Study(Strict):
    """A grid of architecture × width × sparsity × training seed on one suite."""

    name: Key
    suite: str
    """A shipped suite's name, or a path relative to the study's file."""
    shared: RunSettings = Field(default={})
    """Settings of all runs."""
    widths: Annotated[list[Width], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Training seeds; the first one's runs are all done before the second one's begin."""
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the calibration blocks, the last ones, that choose the epoch and train nothing."""
    architectures: Annotated[dict[Key, Architecture], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> Study:
        for kind in ("widths", "seeds"):
            _refuse_repeats(getattr(self, kind), kind)
            for key, architecture in self.architectures.items():
                _refuse_repeats(getattr(architecture, kind) or [], "architectures", key, kind)
        return self

    def runs(self) -> list[Run]:
        """All of them: seed by seed, so that what is there at any time is nearly balanced.

        Raises:
            UsageError: two runs have one name, or settings are for a width that is not there.
        """
        found = [run for key in self.architectures for run in self._runs_of(key)]
        _refuse_one_name([run.key for run in found])
        seeds = list(dict.fromkeys([*self.seeds, *(run.seed for run in found)]))
        return sorted(found, key=lambda run: seeds.index(run.seed))

    def _runs_of(self, key: str) -> Iterator[Run]:
        architecture = self.architectures[key]
        widths = architecture.widths or self.widths
        _refuse_other_widths(key, architecture.at_width, widths)
        for width in widths:
            for level, (label, sparsity) in enumerate(architecture.sparsities.items()):
                settings = merged(
                    self.shared,
                    {"architecture": architecture.architecture or key},
                    architecture.settings,
                    architecture.at_width.get(str(width), {}),
                    sparsity,
                )
                for seed in architecture.seeds or self.seeds:
                    yield Run(key, width, level, label, seed, settings)


@dataclass(frozen=True)
class Run:
    """One SAE to train.

    Attributes:
        architecture: its key in the study.
        width: latents.
        level: which of its architecture's sparsities it has, from 0, sparse to dense.
        label: what that is called.
        seed: of its training.
        settings: all others, merged.
    """

    architecture: str
    width: int
    level: int
    label: str
    seed: int
    settings: Settings

    @property
    def key(self) -> str:
        """Its name, which is that of its folder and its record."""
        return f"{self.architecture}-{self.width}-{self.label}-seed{self.seed}"

    def config(self) -> TrainingConfig:
        """Its settings, checked.

        Raises:
            UsageError: one of them is unknown or impossible; the message names the run.
        """
        from mdlbench.training.config import TrainingConfig

        settings = {**self.settings, "width": self.width, "seed": self.seed}
        return made(TrainingConfig, settings, self.key)


def parse_study(text: str, where: Path) -> Study:
    """A study from its file's text.

    Raises:
        SuiteError: it is not YAML, or does not fit the schema; the message names the line.
    """
    document = parse_yaml(text, str(where))
    try:
        return Study.model_validate(document.content)
    except ValidationError as error:
        item = error.errors()[0]
        place = (*item["loc"], *item.get("ctx", {}).get("at", ()))
        line = document.line_of(place)
        raise SuiteError(f"{where}, line {line}: {first_problem(error, 'study')}") from error


def _refuse_repeats(values: list[int], *place: str) -> None:
    for i, value in enumerate(values):
        if value in values[:i]:
            raise repeated(f"{place[-1].removesuffix('s')} {value}", *place, i)


def _refuse_one_name(keys: list[str]) -> None:
    for key, n in Counter(keys).items():
        if n > 1:
            raise UsageError(f"{n} runs are called {key}: rename an architecture or a sparsity")


def _refuse_other_widths(key: str, found: Mapping[str, Settings], widths: list[int]) -> None:
    for width in found:
        if width not in map(str, widths):
            known = ", ".join(map(str, widths))
            raise UsageError(f"{key}: at_width has {width!r}, but its widths are {known}")
