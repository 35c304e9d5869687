"""What a suite of features in superposition says of the world that its activations come from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mdlbench.suite.base import Probability, Strict
from mdlbench.suite.site import Site
from mdlbench.suite.source import SourceConfig, TokenBudget

SUPERPOSED = "superposed"
"""The hook point of a suite with features in superposition."""

MOST_NUMBERS = 1 << 28
"""The most numbers that directions may have: two gigabytes."""
MOST_READ = 1 << 16
"""The most features that a read-out tells apart: half a gigabyte for a block's logits."""
LARGEST = 1e6
"""No size is larger, so that activations are far from what 32 bits hold."""
Size = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]


class ZipfRates(Strict):
    """Firing rates that fall from feature to feature as i^(−exponent), between two ends."""

    exponent: Annotated[float, Field(ge=1e-3, le=1e3)] = 0.5
    most: Probability
    """The rate of the first feature."""
    least: Probability
    """The rate of the last."""

    @model_validator(mode="after")
    def _fall(self) -> ZipfRates:
        if not self.least < self.most:
            raise ValueError(
                f"rates fall from most to least, so least = {self.least:g} must be below "
                f"most = {self.most:g}"
            )
        return self


class Magnitudes(Strict):
    """A feature that fires has the magnitude max(0, mean + deviation · a standard normal draw)."""

    first: Size = 5.0
    """The mean of the first feature; those of the others lie on a line to the last one's."""
    last: Size = 4.0
    deviation: NotNegative = 0.5
    """Each feature's standard deviation is |deviation + deviation_spread · a normal draw|."""
    deviation_spread: NotNegative = 0.5


class Hierarchy(Strict):
    """Complete trees over the first features; a child is off where its parent is."""

    roots: Annotated[int, Field(ge=1)]
    branching: Annotated[int, Field(ge=2, le=1024)] = 4
    """Children of each feature that is not a leaf."""
    depth: Annotated[int, Field(ge=1, le=20)] = 3
    """Edges from a root to a leaf."""
    exclusive: bool = True
    """At most one child of a feature fires on a token; which one is drawn where several would."""
    scaled: bool = True
    """A child's magnitude is multiplied by its parent's, as a share of the parent's mean."""
    compensated: bool = True
    """Features are drawn more often, so that they still fire at their rates, as far as possible."""

    @property
    def tree_features(self) -> int:
        """Features of one tree."""
        return sum(self.branching**level for level in range(self.depth + 1))


class Correlation(Strict):
    """Firing is decided by Gaussians that share `rank` factors, each with a weight of `scale`."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    scale: NotNegative


class SuperposedConfig(SourceConfig):
    """Activations made of more features than dimensions; a read-out of features prices a splice.

    `sources/superposed.py` says how all this is drawn.
    """

    opener: ClassVar[str] = "mdlbench.sources.superposed:SuperposedOpener"
    knows_features: ClassVar[bool] = True

    kind: Literal["superposed"]
    seed: Annotated[int, Field(ge=0)] = 0
    d: Annotated[int, Field(ge=1, le=1 << 16)]
    """Width of an activation."""
    features: Annotated[int, Field(ge=2, le=1 << 20)]
    """How many features there are; more than d."""
    tokens: TokenBudget
    """Every token is a document of its own."""
    rates: ZipfRates
    magnitudes: Magnitudes = Magnitudes()
    hierarchy: Hierarchy | None = None
    correlation: Correlation | None = None
    offset: NotNegative = 0.5
    """Norm of what is added to every activation."""
    sharpness: Size = 2.0
    """How sharp the read-out is: its logits are the activation's projections times this."""
    read_out: Annotated[int, Field(ge=1, le=MOST_READ)] = 256
    """The read-out tells so many features apart, the most frequent ones."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The data's digest, where a machine that draws other data is to be refused."""

    @property
    def fixed_site(self) -> dict[str, Any]:
        return Site(hook=SUPERPOSED).model_dump()

    @property
    def exact_tokens(self) -> dict[str, int]:
        return dict(self.tokens)

    @model_validator(mode="after")
    def _possible(self) -> SuperposedConfig:
        if self.features <= self.d:
            raise ValueError(
                f"{self.features} features in d = {self.d} dimensions are not in superposition: "
                "take more features, or kind: synthetic"
            )
        if self.features * self.d > MOST_NUMBERS:
            raise ValueError(
                f"{self.features:,} directions of {self.d:,} numbers are more than the "
                f"{MOST_NUMBERS:,} numbers that are drawn at once"
            )
        if self.correlation and self.features * self.correlation.rank > MOST_NUMBERS:
            raise ValueError(
                f"{self.correlation.rank:,} factors of {self.features:,} features are more than "
                f"the {MOST_NUMBERS:,} numbers that are drawn at once: take a smaller rank"
            )
        if self.read_out > self.features:
            raise ValueError(
                f"read_out is {self.read_out}, but there are only {self.features} features"
            )
        if self.hierarchy is not None:
            self._fits(self.hierarchy)
        return self

    def _fits(self, hierarchy: Hierarchy) -> None:
        needed = hierarchy.roots * hierarchy.tree_features
        if needed > self.features:
            raise ValueError(
                f"a hierarchy of {hierarchy.roots} trees of {hierarchy.tree_features} features "
                f"needs {needed} features, and there are {self.features}"
            )


CONFIG = SuperposedConfig
