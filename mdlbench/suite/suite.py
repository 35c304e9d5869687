"""Suites: what is measured, on which data, within which tolerances; data only, never code."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from mdlbench.errors import SuiteError, UsageError, did_you_mean
from mdlbench.files import PACKAGE

Metric = Literal["mse", "fvu", "delta_ce"]
Quantiser = Literal["normalised", "uniform", "per-feature", "rdo", "tree"]
"""Modes of measuring (maths §2, §3)."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]

SUITE_FILE = "suite.yaml"
PIXELS = "pixels"
"""The hook point of an image suite."""
SYNTHETIC = "synthetic"
"""The hook point of a suite whose activations are made."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImagesSource(Strict):
    """Images as activations; the spliced-in loss is a classifier's cross-entropy."""

    hook: ClassVar[str] = PIXELS

    kind: Literal["images"]
    images: str
    """xz-compressed `.npy` of uint8 [image, row, column], relative to the suite's folder."""
    labels: str
    """xz-compressed `.npy` of uint8 [image]."""
    classifier: str
    """safetensors of the classifier that reads the reconstructions."""
    n_test: Annotated[int, Field(gt=0)]
    """The last `n_test` images are the test split; all before them are for calibration."""


class HubModel(Strict):
    """A language model on the model hub."""

    kind: Literal["hub"]
    name: str
    """As SAEs' configs call it, such as `gpt2`; an owner's repository as `owner/name`."""
    revision: str | None = None


class PackagedModel(Strict):
    """A language model as a GGUF file inside a wheel of the package index."""

    kind: Literal["package"]
    name: str
    """As SAEs' configs call it."""
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")]
    file: Annotated[str, Field(pattern=r"^\w[\w.+-]*(/\w[\w.+-]*)*$")]
    """Path inside the wheel, with `/` between folders."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class HubText(Strict):
    """A text dataset that `datasets` can load."""

    kind: Literal["hub"]
    name: Key
    dataset: str
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    wikitext_spacing: bool = False
    """Undo the spacing of wikitext's tokenisation (` @-@ `, ` ,`), and drop its `<unk>`."""


class FileText(Strict):
    """Text, JSON lines or Parquet in a file, or in all files of a folder."""

    kind: Literal["file"]
    name: Key
    path: str
    """Relative to the suite's folder."""
    column: str = "text"
    wikitext_spacing: bool = False


class PythonDocs(Strict):
    """The language reference that every Python carries; it differs between versions."""

    kind: Literal["python-docs"]
    name: Key


Model = Annotated[HubModel | PackagedModel, Field(discriminator="kind")]
Text = Annotated[HubText | FileText | PythonDocs, Field(discriminator="kind")]
Scalar = bool | int | float | str


class TokenBudget(Strict):
    """Tokens of each split, rounded down to whole contexts."""

    calibration: Annotated[int, Field(gt=0)]
    test: Annotated[int, Field(gt=0)]


class Place(Strict):
    """Where activations are taken and on which contexts; what is absent is the SAE's to say."""

    hook: str | None = None
    hook_out: str | None = None
    """What is reconstructed, where that is another hook point: a transcoder's."""
    context: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a context, BOS included."""
    prepend_bos: bool | None = None
    model_options: dict[str, Scalar] | None = None
    """How TransformerLens loads the model, e.g. `center_writing_weights`."""


class Site(Strict):
    """One place where activations are taken, every question settled; SAEs are ranked within one.

    What does not apply to images is absent for them.
    """

    hook: str
    hook_out: str | None = None
    model: str | None = None
    model_options: dict[str, Scalar] = {}
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model; SAEs compute in float32."""
    text: str | None = None
    context: int | None = None
    prepend_bos: bool | None = None
    first_position: int | None = None
    """Positions before it, and special tokens, are excluded from splice, metrics and rate."""

    @property
    def label(self) -> str:
        """In words, as much as tells the sites of a suite apart."""
        parts = [self.hook if self.hook_out is None else f"{self.hook} → {self.hook_out}"]
        if self.context is not None:
            parts += [f"{self.context} tokens", "BOS" if self.prepend_bos else "no BOS"]
        parts += [
            name if value is True else f"{name}={value}"
            for name, value in sorted(self.model_options.items())
        ]
        return ", ".join(parts)


class LanguageSource(Strict):
    """Activations of a language model; the spliced-in loss is its next-token cross-entropy."""

    kind: Literal["language"]
    model: Model
    texts: Annotated[list[Text], Field(min_length=1)]
    """The first one that can be had is measured on, unless one is asked for."""
    place: Place = Place()
    tokens: TokenBudget
    first_position: Annotated[int, Field(ge=1)] = 1
    """Positions before it are excluded, as special tokens are: from splice, metrics and rate."""


class LoneFeature(Strict):
    """A feature that fires on its own."""

    n_features: ClassVar[int] = 1

    kind: Literal["lone"]
    probability: Probability


class PairOfFeatures(Strict):
    """Two features whose firing is correlated."""

    n_features: ClassVar[int] = 2

    kind: Literal["pair"]
    probabilities: tuple[Probability, Probability]
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Pearson's ρ of the two firing indicators (maths §9)."""

    @property
    def both(self) -> float:
        """q, the probability that both fire: p_A p_B + ρ√(p_A(1−p_A)p_B(1−p_B)) (maths §9)."""
        least, most = self._bounds
        return min(max(self._independent + self.correlation * self._spread, least), most)

    @property
    def _independent(self) -> float:
        return self.probabilities[0] * self.probabilities[1]

    @property
    def _spread(self) -> float:
        a, b = self.probabilities
        return math.sqrt(a * (1 - a) * b * (1 - b))

    @property
    def _bounds(self) -> tuple[float, float]:
        """Between which q lies, whatever the correlation."""
        return max(0.0, sum(self.probabilities) - 1), min(self.probabilities)

    @model_validator(mode="after")
    def _possible(self) -> PairOfFeatures:
        a, b = self.probabilities
        least, most = ((q - self._independent) / self._spread for q in self._bounds)
        if not least - 1e-9 <= self.correlation <= most + 1e-9:
            raise ValueError(
                f"features that fire with probabilities {a:g} and {b:g} have a correlation from "
                f"{least:.3g} to {most:.3g}, not {self.correlation:g}"
            )
        return self


class ParentAndChild(Strict):
    """A feature, and one that fires only if the first does: animal and bird."""

    n_features: ClassVar[int] = 2

    kind: Literal["hierarchy"]
    probability: Probability
    """Of the parent."""
    child: Probability
    """Of the child where the parent fires."""


Features = Annotated[
    LoneFeature | PairOfFeatures | ParentAndChild,
    Field(discriminator="kind"),
]


class SyntheticSource(Strict):
    """Activations made from a known dictionary; the spliced-in loss is a linear read-out's.

    An activation is the sum of the directions of the features that fire, each times its magnitude,
    plus noise. Groups fire independently of each other. `sources/synthetic.py` says how all this
    is drawn.
    """

    hook: ClassVar[str] = SYNTHETIC

    kind: Literal["synthetic"]
    seed: Annotated[int, Field(ge=0)] = 0
    d: Annotated[int, Field(gt=0)]
    """Width of an activation; directions of features are orthonormal, so it bounds their number."""
    tokens: TokenBudget
    """Every token is a document of its own."""
    features: Annotated[list[Features], Field(min_length=1)]
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A feature that fires has a magnitude drawn uniformly from 1 ± spread."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the Gaussian noise in each dimension."""
    sharpness: Positive = 8.0
    """Of the read-out: its logits are the activation's projections times this."""

    @property
    def n_features(self) -> int:
        return sum(group.n_features for group in self.features)

    @model_validator(mode="after")
    def _fits(self) -> SyntheticSource:
        if self.n_features > self.d:
            raise ValueError(
                f"{self.n_features} features have no orthonormal directions in d = {self.d} "
                "dimensions"
            )
        return self


Source = Annotated[
    ImagesSource | SyntheticSource | LanguageSource,
    Field(discriminator="kind"),
]


class Steps(Strict):
    """The dyadic grid of quantiser steps: finest · 2^j for j = 0 … octaves − 1."""

    finest: Positive
    octaves: Annotated[int, Field(ge=1, le=16)]
    unit: Literal["absolute", "latent_rms"] = "absolute"
    """`latent_rms`: steps are multiples of the root mean square of the SAE's own active latents
    (scaled as the quantiser scales them) on the first block of calibration tokens."""

    @property
    def grid(self) -> list[float]:
        return [self.finest * 2.0**j for j in range(self.octaves)]


class Tolerance(Strict):
    """Limits on one total distortion after quantisation, each ranked on its own."""

    metric: Metric
    epsilons: Annotated[list[Positive], Field(min_length=1)]


class Headline(Strict):
    """The one tolerance that figures and the README show."""

    metric: Metric
    epsilon: Positive


class Agreement(Strict):
    """How far a measurement that is repeated elsewhere may lie from the first."""

    bits: Positive = 1e-3
    """Relative difference of a rate at the same step."""
    loss: Positive = 1e-3
    """Relative difference of MSE, FVU, CE or KL at the same step."""
    positions: Annotated[int, Field(ge=0)] = 1
    """Steps of 0.05 octave by which the step accepted at a tolerance may differ."""


class SuiteEntry(Strict):
    """One SAE of the suite."""

    key: Key
    spec: str
    """`ADAPTER:ARGUMENT`; a relative path in the argument is relative to the suite's folder."""
    place: Place = Place()
    """What the SAE's own config leaves open, or gets wrong."""

    @field_validator("spec")
    @classmethod
    def _names_no_code(cls, spec: str) -> str:
        if spec.startswith("python:"):
            raise ValueError("a suite is data only; name code of your own with --sae")
        return spec


class Suite(Strict):
    """A named, versioned measurement and the SAEs it is shipped with."""

    name: Key
    title: str
    source: Source
    quantiser: Literal["normalised", "uniform"] = "normalised"
    steps: Steps
    tolerances: Annotated[list[Tolerance], Field(min_length=1)]
    headline: Headline
    seed: int = 0
    replicates: Annotated[int, Field(ge=100, le=10_000)] = 500
    agreement: Agreement = Agreement()
    saes: list[SuiteEntry] = []
    _folder: Path = PrivateAttr(Path())

    @model_validator(mode="after")
    def _consistent(self) -> Suite:
        if repeated := {key for key in self.keys if self.keys.count(key) > 1}:
            raise ValueError(f"saes: repeated key {sorted(repeated)[0]!r}")
        if isinstance(self.source, LanguageSource):
            names = [text.name for text in self.source.texts]
            if len(set(names)) < len(names):
                raise ValueError("source.texts: repeated name")
        if (self.headline.metric, self.headline.epsilon) not in list(self.limits()):
            raise ValueError("headline: not among the tolerances")
        return self

    def limits(self) -> Iterator[tuple[Metric, float]]:
        """Every (metric, epsilon) of the suite, in order."""
        for tolerance in self.tolerances:
            for epsilon in tolerance.epsilons:
                yield tolerance.metric, epsilon

    @property
    def digest(self) -> str:
        """SHA-256 of what decides a number: all but its title, list of SAEs and `agreement`."""
        content = self.model_dump(mode="json", exclude={"title", "saes", "agreement"})
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

    def path(self, relative: str) -> Path:
        """A file of the suite; raises `SuiteError` if it is missing or lies outside its folder."""
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise SuiteError(f"suite {self.name!r}: {relative!r} lies outside {self.folder}")
        if not path.exists():
            raise SuiteError(f"suite {self.name!r}: {path} does not exist")
        return path


def suites_folder() -> Path:
    """Where the shipped suites are: inside the wheel, or beside the package in a checkout."""
    shipped = PACKAGE / "_suites"
    return shipped if shipped.is_dir() else PACKAGE.parent / "suites"


def suite_names() -> list[str]:
    return sorted(path.parent.name for path in suites_folder().glob(f"*/{SUITE_FILE}"))


@cache
def shipped_suite(name: str) -> Suite | None:
    """The shipped suite of a name that a record gives, which is never read as a path; else None."""
    return load_suite(suites_folder() / name) if name in suite_names() else None


def load_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or one of yours by the path of its folder or file.

    Raises:
        UsageError: no such suite; the message names the nearest one.
        SuiteError: the file is not YAML data or does not fit the schema.
    """
    path = _suite_file(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read: {error}") from error
    except yaml.constructor.ConstructorError as error:
        raise SuiteError(
            f"{path}: a suite is data only, and this file asks for code: {error.problem}"
        ) from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise SuiteError(f"{path}: a suite is a mapping of keys, not a {type(content).__name__}")
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise SuiteError(f"{path}: {_first_problems(error)}") from error
    suite._folder = path.parent
    return suite


def _suite_file(name: str | Path) -> Path:
    path = Path(name)
    if path.is_dir() and (path / SUITE_FILE).is_file():
        return path / SUITE_FILE
    if path.is_file():
        return path
    shipped = suites_folder() / str(name) / SUITE_FILE
    if str(name) in suite_names():
        return shipped
    raise UsageError(f"unknown suite {str(name)!r}. {did_you_mean(str(name), suite_names())}")


def _first_problems(error: ValidationError, limit: int = 3) -> str:
    problems = []
    for item in error.errors()[:limit]:
        where = ".".join(map(str, item["loc"])) or "suite"
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            known = Suite.model_fields if len(item["loc"]) == 1 else ()
            message = "unknown key. " + (did_you_mean(str(item["loc"][-1]), known) if known else "")
        problems.append(f"{where}: {message.strip()}")
    return "; ".join(problems)
