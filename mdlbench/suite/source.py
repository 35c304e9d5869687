"""What a suite says of where its activations come from, whatever the kind of source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import Field

from mdlbench.suite.base import Strict


class SourceConfig(Strict, ABC):
    """The `source` of a suite; each kind of source has a config of its own.

    It is data, and answers what can be known without opening the source. Its class is imported to
    read a suite, so it should import nothing large.

    Attributes:
        opener: what opens such a source, as `package.module:Class`, a `SourceOpener`
            (`mdlbench.sources.protocol`). It is imported when a source is opened.
        knows_features: whether the true features are known (`KnowsFeatures` there), so that
            records say how well an SAE finds them.
    """

    opener: ClassVar[str]
    knows_features: ClassVar[bool] = False

    kind: str

    @property
    @abstractmethod
    def fixed_site(self) -> dict[str, Any]:
        """What the suite settles of the site: fields of `Site`.

        Fields that it leaves to the SAE or to the command line are absent.
        """

    @property
    def exact_tokens(self) -> dict[str, int]:
        """Tokens of each split, all of them documents, where the suite says so."""
        return {}

    @property
    def most_tokens(self) -> dict[str, int]:
        """Tokens of each split that no measurement exceeds, where the suite says so."""
        return {}

    @property
    def text_names(self) -> list[str]:
        """What a text may be asked for by."""
        return []


class TokenBudget(Strict):
    """Tokens of each split, rounded down to whole contexts."""

    calibration: Annotated[int, Field(gt=0)]
    test: Annotated[int, Field(gt=0)]
