"""What the parts of a suite have in common: strictness, and kinds of values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from mdlbench.errors import UsageError
from mdlbench.statistics.metrics import METRICS, metric_of


def _known_metric(name: str) -> str:
    try:
        return metric_of(name).name
    except UsageError as error:
        message = str(error)
        raise PydanticCustomError("unknown_metric", "{message}", {"message": message}) from error


def _one_of_metrics(schema: dict[str, Any]) -> None:
    schema["enum"] = list(METRICS)


MetricName = Annotated[str, AfterValidator(_known_metric), Field(json_schema_extra=_one_of_metrics)]
"""A key of the table of metrics."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Probability = Annotated[float, Field(ge=1e-9, lt=1)]

Key = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,79}$")]


AT = "at"
"""In the context of a problem: where it stands, below what was validated."""


def repeated(what: str, *place: str | int) -> PydanticCustomError:
    """The problem that something is there twice.

    Args:
        what: it, in words.
        place: keys and positions from what is validated to its second occurrence.
    """
    return PydanticCustomError("repeated", "{message}", {"message": f"repeated {what}", AT: place})


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
