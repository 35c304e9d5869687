"""The table of metrics: everything that a loss on which a suite may set a tolerance is.

One row a metric. Suites, search, records, boards, tables, figures, pages and citations read it;
none of them knows a metric by name. `docs/maths.md` §5 has the definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mdlbench.errors import UsageError, did_you_mean

Sums = Callable[[Any, Any], Any]
"""From the sums of a reconstruction (`ErrorSums`, or `DistortionSums` where a splice is needed) and
the `Reference` to a float64 array, one sum a document."""


@dataclass(frozen=True, eq=False)
class Metric:
    """One loss of a reconstruction after quantisation.

    Attributes:
        name: its key in suites, records and files.
        label: its short name, as tables have it.
        axis: what an axis of it says.
        meaning: a sentence for people who do not know it.
        spliced: whether it is a loss of the model, which takes a splice to measure.
        sums: per document, whose mean over tokens is the metric.
        drawn_as: the metric whose bootstrap draws serve it, itself or one that it is proportional
            to; a record keeps draws and intervals of those that serve themselves.
        share_of: the loss that a kept draw is a share of: by so much of it the draw lies above the
            point.
        per: what the mean is over beside tokens, as in "MSE per dimension".
        unit: after a value.
        digits: significant digits of a value in a table.
        least: no value is smaller, but for rounding.
        of_mse: what an MSE of 1 is in this metric, from the dimensions and the variance summed over
            them; None where it is not a squared error, so that no codec of the activations alone
            is a reference for it.
        always: whether every record keeps its draws and every table has it, or only those of suites
            with a tolerance on it.
    """

    name: str
    label: str
    axis: str
    meaning: str
    spliced: bool
    sums: Sums
    drawn_as: str
    share_of: str
    per: str = ""
    unit: str = ""
    digits: int = 4
    least: float = -math.inf
    of_mse: Callable[[int, float], float] | None = None
    always: bool = False

    @property
    def quantity(self) -> str:
        """What is measured, as "MSE per dimension"."""
        return f"{self.label} {self.per}".rstrip()

    @property
    def header(self) -> str:
        """The head of a column of values, with their unit: "ΔCE (nats)"."""
        return self._with_unit(self.label)

    @property
    def full_header(self) -> str:
        """The same where there is room: "MSE per dimension"."""
        return self._with_unit(self.quantity)

    def _with_unit(self, text: str) -> str:
        return f"{text} ({self.unit})" if self.unit else text

    @property
    def in_words(self) -> str:
        """The quantity and its unit in a sentence: "ΔCE in nats"."""
        return f"{self.quantity} in {self.unit}" if self.unit else self.quantity

    def limit(self, epsilon: float) -> str:
        """A tolerance in words: "MSE per dimension ≤ 0.015"."""
        return f"{self.quantity} ≤ {epsilon:g}{self.after}"

    def short_limit(self, epsilon: float) -> str:
        """A tolerance with the label alone: "MSE ≤ 0.015"."""
        return f"{self.label} ≤ {epsilon:g}{self.after}"

    @property
    def after(self) -> str:
        """What follows a value: a space and the unit, if there is one."""
        return f" {self.unit}" if self.unit else ""

    def written(self, value: float) -> str:
        """A value as tables have it."""
        return f"{value:.{self.digits}g}"

    def written_short(self, value: float) -> str:
        """A value with one digit less, where there is little room."""
        return f"{value:.{self.digits - 1}g}"

    @property
    def keeps_draws(self) -> bool:
        """Whether a record has draws and an interval under this metric's own name."""
        return self.drawn_as == self.name


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="mse",
            label="MSE",
            per="per dimension",
            axis="MSE per dimension",
            meaning="MSE is the mean squared error of the reconstruction per dimension.",
            spliced=False,
            sums=lambda errors, reference: errors.squared_error / reference.d,
            drawn_as="mse",
            share_of="mse",
            least=0.0,
            of_mse=lambda d, variance: 1.0,
            always=True,
        ),
        Metric(
            name="fvu",
            label="FVU",
            axis="fraction of variance unexplained",
            meaning="FVU is the MSE as a fraction of the variance.",
            spliced=False,
            sums=lambda errors, reference: (
                errors.squared_error * (reference.tokens.sum() / reference.variation)
            ),
            drawn_as="mse",
            share_of="fvu",
            least=0.0,
            of_mse=lambda d, variance: d / variance if variance else 0.0,
            always=True,
        ),
        Metric(
            name="delta_ce",
            label="ΔCE",
            axis="ΔCE of the model (nats)",
            meaning="ΔCE is what counts for the model: by how many nats its cross-entropy rises "
            "when it reads the reconstruction instead of the activation.",
            unit="nats",
            spliced=True,
            sums=lambda losses, reference: losses.added_ce(reference),
            drawn_as="delta_ce",
            share_of="ce",
            always=True,
        ),
        Metric(
            name="kl",
            label="KL",
            axis="KL of the model's predictions (nats)",
            meaning="KL is how far the model's predictions move, whichever of them was right: "
            "KL(clean ‖ spliced) of its output distributions, in nats per token.",
            unit="nats",
            spliced=True,
            sums=lambda losses, reference: losses.kl,
            drawn_as="kl",
            share_of="kl",
            least=-1e-5,
        ),
    )
}
"""All metrics by name, in the order in which tables and pages have them."""


def metric_of(name: str) -> Metric:
    """The metric of a name; raises `UsageError` naming the nearest one."""
    if name not in METRICS:
        raise UsageError(f"no metric {name!r}. {did_you_mean(name, METRICS)}")
    return METRICS[name]


def shown_metrics(names: Iterable[str]) -> list[Metric]:
    """What tables and pages have where a suite sets tolerances on these metrics."""
    wanted = set(names)
    return [metric for metric in METRICS.values() if metric.always or metric.name in wanted]


def drawn_metrics(names: Iterable[str]) -> list[Metric]:
    """Those whose draws a record keeps where its suite sets tolerances on these metrics."""
    keys = {metric.drawn_as for metric in shown_metrics(names)}
    return [metric for metric in METRICS.values() if metric.name in keys]


def in_order(name: str) -> int:
    """The place of a metric in the table."""
    return list(METRICS).index(name)
