"""A suite: what is measured, on which data, within which tolerances."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mdlbench.errors import SuiteError, UsageError, did_you_mean, first_line
from mdlbench.suite.base import AT, Key, MetricName, Positive, Strict, repeated
from mdlbench.suite.folders import shipped_folder
from mdlbench.suite.of_kind import OfKind
from mdlbench.suite.site import AND, Place
from mdlbench.suite.source import SourceConfig


class Steps(Strict):
    """The dyadic grid of quantiser steps: finest · 2^j for j = 0 … octaves − 1."""

    finest: Positive
    octaves: Annotated[int, Field(ge=1, le=16)]
    unit: Literal["absolute", "latent_rms"] = "absolute"
    """`latent_rms`: steps are multiples of the root mean square of the SAE's own active latents
    (scaled as the quantiser scales them) on the first four blocks of calibration tokens."""

    @property
    def grid(self) -> list[float]:
        return [self.finest * 2.0**j for j in range(self.octaves)]


class Tolerance(Strict):
    """Limits on one total distortion after quantisation, each ranked on its own."""

    metric: MetricName
    epsilons: Annotated[list[Positive], Field(min_length=1)]
    tight: list[Positive] = Field(default=[])
    """Those of them that are at most 1.5 times the smallest floor of the suite's trained SAEs."""

    @model_validator(mode="after")
    def _tight_ones_are_among_them(self) -> Tolerance:
        others = [epsilon for epsilon in self.tight if epsilon not in self.epsilons]
        if others:
            problem = {"message": f"{others[0]:g} is not among the epsilons", AT: ("tight",)}
            raise PydanticCustomError("tight", "{message}", problem)
        return self


class Headline(Strict):
    """The one tolerance that figures and the README show."""

    metric: MetricName
    epsilon: Positive


class Agreement(Strict):
    """How far a repetition may lie from the first measurement."""

    bits: Positive = 1e-3
    """Relative difference of a rate at the same step."""
    loss: Positive = 1e-3
    """Relative difference of MSE, FVU, CE or KL at the same step."""
    positions: Annotated[int, Field(ge=0)] = 1
    """Steps of an eighth of an octave by which the step accepted at a tolerance may differ."""


class Costs(Strict):
    """What a run of all the suite's SAEs takes, roughly; it decides no number."""

    download_gb: Annotated[float, Field(ge=0)] | None = None
    """Model and SAEs, in 10⁹ bytes, where they are fetched."""
    memory_gb: Positive | None = None
    """What the model in float32, the widest SAE and what they compute take, in 10⁹ bytes."""


def several(spec: str) -> list[str]:
    """The SAEs that a text names with ` + ` between them."""
    return [word.strip() for word in f" {spec} ".split(AND)]


def is_spec(word: str) -> bool:
    """Whether a word of a suite is a spec or a path: a key has no such characters."""
    return bool(set(word) & set(":/"))


class SuiteEntry(Strict):
    """One SAE of the suite."""

    key: Key
    spec: str
    """`ADAPTER:ARGUMENT`; a relative path in the argument is relative to the suite's folder."""
    splice: Literal["all"] | None = None
    """`all`: the spec names several SAEs at different hook points, by keys of this suite or specs
    with ` + ` between them, which are spliced in at once and scored as one."""
    place: Place = Place()
    """What the SAE's own config leaves open or gets wrong."""

    @field_validator("spec")
    @classmethod
    def _names_no_code(cls, spec: str) -> str:
        if any(one.startswith("python:") for one in several(spec)):
            raise ValueError("a suite is data only; name code of your own with --sae")
        return spec

    @property
    def words(self) -> list[str]:
        """What is spliced in at once, by keys of the suite or specs; else the spec alone."""
        return several(self.spec) if self.splice else [self.spec]

    @model_validator(mode="after")
    def _names_several(self) -> SuiteEntry:
        if self.splice and (len(self.words) < 2 or "" in self.words):
            problem = {"message": "does not name several SAEs, as in A + B", AT: ("spec",)}
            raise PydanticCustomError("splice", "{message}", problem)
        return self


BESIDES = {"title", "saes", "agreement", "costs"}
"""Keys of a suite that decide no number."""
OwnQuantiser = Literal["normalised", "uniform"]
"""Modes that a suite may be measured in by itself: nothing about them is fitted."""


class Suite(Strict):
    """A named, versioned measurement and the SAEs that come with it."""

    name: Key
    title: str
    source: Annotated[SerializeAsAny[SourceConfig], OfKind()]
    quantiser: OwnQuantiser = "normalised"
    steps: Steps
    tolerances: Annotated[list[Tolerance], Field(min_length=1)]
    headline: Headline
    seed: Annotated[int, Field(ge=0)] = 0
    replicates: Annotated[int, Field(ge=100, le=10_000)] = 500
    agreement: Agreement = Agreement()
    costs: Costs = Costs()
    saes: list[SuiteEntry] = Field(default=[])
    _folder: Path = PrivateAttr(Path())

    @field_validator("quantiser", mode="before")
    @classmethod
    def _may_be_its_own(cls, quantiser: object) -> object:
        choices = get_args(OwnQuantiser)
        if quantiser not in choices:
            raise ValueError(
                f"{quantiser!r} cannot be a suite's own. {did_you_mean(str(quantiser), choices)} "
                "Others are for `eval --quantiser`."
            )
        return quantiser

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        for i, key in enumerate(self.keys):
            if key in self.keys[:i]:
                raise repeated(f"key {key!r}", "saes", i, "key")
        for i, entry in enumerate(self.saes):
            if entry.splice:
                self._refuse_other_keys(entry, i)
            else:
                self._refuse_several(entry, i)
        self._refuse_repeated_limits()
        if (self.headline.metric, self.headline.epsilon) not in list(self.limits()):
            problem = {"message": "not among the tolerances", AT: ("headline",)}
            raise PydanticCustomError("headline", "{message}", problem)
        return self

    def _refuse_other_keys(self, entry: SuiteEntry, position: int) -> None:
        """What is spliced in at once is one SAE each; what could be a key is one."""
        splicing = {one.key for one in self.saes if one.splice}
        for word in entry.words:
            if word in splicing:
                message = f"{word!r} is several SAEs itself"
            elif not is_spec(word) and word not in self.keys:
                message = f"{word!r} is no key of the suite. {did_you_mean(word, self.keys)}"
            else:
                continue
            problem = {"message": message, AT: ("saes", position, "spec")}
            raise PydanticCustomError("splice", "{message}", problem)

    def _refuse_several(self, entry: SuiteEntry, position: int) -> None:
        """Where `splice` was forgotten; a path may have ` + ` in it, but names no adapter twice."""
        words = several(entry.spec)
        if len(words) > 1 and all(":" in word or word in self.keys for word in words):
            message = "names several SAEs: write `splice: all` beside it"
            problem = {"message": message, AT: ("saes", position, "spec")}
            raise PydanticCustomError("splice", "{message}", problem)

    def _refuse_repeated_limits(self) -> None:
        seen = set()
        for i, tolerance in enumerate(self.tolerances):
            for j, epsilon in enumerate(tolerance.epsilons):
                limit = (tolerance.metric, epsilon)
                if limit in seen:
                    what = f"tolerance {tolerance.metric} {epsilon:g}"
                    raise repeated(what, "tolerances", i, "epsilons", j)
                seen.add(limit)

    def limits(self) -> Iterator[tuple[MetricName, float]]:
        """Every (metric, epsilon) of the suite, in order."""
        for tolerance in self.tolerances:
            for epsilon in tolerance.epsilons:
                yield tolerance.metric, epsilon

    @property
    def tight(self) -> set[tuple[MetricName, float]]:
        """The (metric, epsilon) that it states to be tight (maths §6)."""
        return {(one.metric, epsilon) for one in self.tolerances for epsilon in one.tight}

    @property
    def metrics(self) -> list[MetricName]:
        """Those that it sets tolerances on, in order."""
        return list(dict.fromkeys(metric for metric, _ in self.limits()))

    @property
    def digest(self) -> str:
        """SHA-256 of what decides a number: all but `BESIDES`, and which tolerances are tight."""
        content = self.model_dump(mode="json", exclude=BESIDES)
        for tolerance in content["tolerances"]:
            del tolerance["tight"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where the suite's files are."""
        return self._folder

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.saes]

    def entry(self, key: str) -> SuiteEntry:
        """The SAE of that key; raises `UsageError` naming the nearest one."""
        for entry in self.saes:
            if entry.key == key:
                return entry
        raise UsageError(f"suite {self.name!r} has no SAE {key!r}. {did_you_mean(key, self.keys)}")

    def path(self, name: str) -> Path:
        """A file of the suite, or one of a shipped suite, which is written `SUITE:FILE`.

        Raises:
            SuiteError: it is missing or lies outside the suite's folder, or there is no such suite.
        """
        folder, relative = self._place(name)
        try:
            path = (folder / relative).resolve()
            exists = path.exists()
        except (OSError, ValueError, RuntimeError) as error:
            raise SuiteError(f"suite {self.name!r}: {name!r:.80}: {first_line(error)}") from error
        if not path.is_relative_to(folder.resolve()):
            raise SuiteError(f"suite {self.name!r}: {name!r} lies outside {folder}")
        if not exists:
            raise SuiteError(f"suite {self.name!r}: {path} does not exist")
        return path

    def _place(self, name: str) -> tuple[Path, str]:
        """The folder of the suite that a file belongs to, and its path there."""
        other, colon, relative = name.partition(":")
        if not colon:
            return self.folder, name
        try:
            return shipped_folder(other), relative
        except UsageError as error:
            raise SuiteError(f"suite {self.name!r}: {name!r:.80}: {error}") from error
