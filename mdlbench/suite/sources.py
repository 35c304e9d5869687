"""What a suite says about the source of its activations."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mdlbench.suite.base import Key, Positive, Probability, Strict
from mdlbench.suite.site import Place

PIXELS = "pixels"
"""The hook point of an image suite."""

SYNTHETIC = "synthetic"
"""The hook point of a suite with synthetic activations."""


class ImagesConfig(Strict):
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
    """The last `n_test` images are the test split; all others are for calibration."""


class HubModel(Strict):
    """A language model on the model hub."""

    kind: Literal["hub"]
    name: str
    """The name in SAEs' configs, such as `gpt2`; `owner/name` for an owner's repository."""
    revision: str | None = None


class PackagedModel(Strict):
    """A language model as a GGUF file inside a wheel of the package index."""

    kind: Literal["package"]
    name: str
    """The name in SAEs' configs."""
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
    """A path relative to the suite's folder."""
    column: str = "text"
    wikitext_spacing: bool = False


class PythonDocs(Strict):
    """The language reference that every Python carries; it differs between versions."""

    kind: Literal["python-docs"]
    name: Key


Model = Annotated[HubModel | PackagedModel, Field(discriminator="kind")]

Text = Annotated[HubText | FileText | PythonDocs, Field(discriminator="kind")]


class TokenBudget(Strict):
    """Tokens of each split, rounded down to whole contexts."""

    calibration: Annotated[int, Field(gt=0)]
    test: Annotated[int, Field(gt=0)]


class LanguageConfig(Strict):
    """Activations of a language model; the spliced-in loss is its next-token cross-entropy."""

    kind: Literal["language"]
    model: Model
    texts: Annotated[list[Text], Field(min_length=1)]
    """The first one that is available is used, unless the user names one."""
    place: Place = Place()
    tokens: TokenBudget
    first_position: Annotated[int, Field(ge=1)] = 1
    """Positions before it, like special tokens, are excluded from splice, metrics and rate."""


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
        """The least and the greatest q that any correlation gives."""
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
    """Probability that the parent fires."""
    child: Probability
    """Probability that the child fires where the parent does."""


Features = Annotated[
    LoneFeature | PairOfFeatures | ParentAndChild,
    Field(discriminator="kind"),
]


class SyntheticConfig(Strict):
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
    """The read-out's logits are the activation's projections times this."""

    @property
    def n_features(self) -> int:
        return sum(group.n_features for group in self.features)

    @model_validator(mode="after")
    def _fits(self) -> SyntheticConfig:
        if self.n_features > self.d:
            raise ValueError(
                f"{self.n_features} features have no orthonormal directions in d = {self.d} "
                "dimensions"
            )
        return self


Source = Annotated[
    ImagesConfig | SyntheticConfig | LanguageConfig,
    Field(discriminator="kind"),
]
