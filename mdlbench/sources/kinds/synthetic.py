"""What a suite of made activations says of the dictionary that they are made from."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mdlbench.suite.base import Positive, Probability, Strict
from mdlbench.suite.site import Site
from mdlbench.suite.source import SourceConfig, TokenBudget

SYNTHETIC = "synthetic"
"""The hook point of a suite with synthetic activations."""


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
    """The parent fires with this probability."""
    child: Probability
    """The child fires with this probability where the parent does."""


Features = Annotated[
    LoneFeature | PairOfFeatures | ParentAndChild,
    Field(discriminator="kind"),
]


class SyntheticConfig(SourceConfig):
    """Activations made from a known dictionary; the spliced-in loss is a linear read-out's.

    An activation is the sum of the directions of the features that fire, each times its magnitude,
    plus noise. Groups fire independently of each other. `sources/synthetic.py` says how all this
    is drawn.
    """

    opener: ClassVar[str] = "mdlbench.sources.synthetic:SyntheticOpener"

    kind: Literal["synthetic"]
    seed: Annotated[int, Field(ge=0)] = 0
    d: Annotated[int, Field(gt=0, le=1 << 16)]
    """Width of an activation; directions of features are orthonormal, so it bounds their number."""
    tokens: TokenBudget
    """Every token is a document of its own."""
    features: Annotated[list[Features], Field(min_length=1)]
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """A feature that fires has a magnitude drawn uniformly from 1 ± spread."""
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the Gaussian noise in each dimension."""
    sharpness: Positive = 8.0
    """How sharp the read-out is: its logits are the activation's projections times this."""

    @property
    def fixed_site(self) -> dict[str, Any]:
        return Site(hook=SYNTHETIC).model_dump()

    @property
    def exact_tokens(self) -> dict[str, int]:
        return dict(self.tokens)

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


CONFIG = SyntheticConfig
