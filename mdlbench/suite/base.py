"""What the parts of a suite have in common: strictness, and kinds of values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Metric = Literal["mse", "fvu", "delta_ce"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Probability = Annotated[float, Field(gt=0, lt=1)]

Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
