"""Which SAE it is: what an adapter says before it loads one, and what a record keeps of it."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue


def _finite(facts: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(facts, allow_nan=False)
    return facts


Facts = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""Whatever JSON can hold; no NaN."""


BASELINE = "baseline"
"""The adapter of coders that are fitted rather than trained: PCA, k-means, dense, mean."""
JOINT, SAES = "joint", "saes"
"""What stands for an adapter where several SAEs are spliced in at once, and the argument that has
their identities."""
UNSEEN = "unseen"
"""The argument that says what of an SAE its digest does not cover; absent where it covers all."""


class CoderIdentity(BaseModel):
    """Which SAE, as far as it decides numbers; known before it is fitted or run."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """What to call it; shown, never used as a path."""
    adapter: str
    """Which adapter loads it."""
    version: str
    """Version of that adapter, or of its library."""
    arguments: Facts
    """What it is loaded with, as far as that decides numbers; no path of any machine."""
    weights_sha256: str
    """Digest of everything that was learned, or that determines a fit."""

    @property
    def unseen(self) -> str:
        """What of it the digest does not cover, in words; empty where it covers all."""
        return str(self.arguments.get(UNSEEN, ""))

    @property
    def is_baseline(self) -> bool:
        """Whether nothing in it is trained: a baseline, or several of them at once."""
        saes = self.arguments.get(SAES)
        if self.adapter == JOINT and isinstance(saes, list) and saes:
            return all(isinstance(sae, dict) and sae.get("adapter") == BASELINE for sae in saes)
        return self.adapter == BASELINE

    def named(self, name: str | None) -> CoderIdentity:
        """The same under another name, if there is one."""
        return self.model_copy(update={"name": name}) if name else self
