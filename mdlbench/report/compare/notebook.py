"""A comparison in a notebook: `mdlbench.compare`, a frame and a figure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlbench.boards.compare import contest
from mdlbench.boards.compare.choice import Choice, choose, told_apart
from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.compare.contest import Contest, Placing
from mdlbench.console.terminal import inert
from mdlbench.errors import RecordError
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import EDITED
from mdlbench.report.compare.words import answer, curve_notes, title_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DPI = 90


def compare(
    saes: Sequence[EvalRecord | str | Path],
    *,
    metric: str | None = None,
    epsilon: float | None = None,
    folder: str | Path | None = None,
) -> Comparison:
    """Compare SAEs with the first of them: over whole curves, and at each tolerance.

    Args:
        saes: at least two. Each is a record, or what `mdlbench compare` takes: a record file, a
            name on a board, an id, or a family such as "all topk".
        metric: the loss; the headline's by default, or that of the first tolerance where only
            records are given.
        epsilon: one tolerance of the suite; all of them by default.
        folder: the results folder that names are looked up in.

    Returns:
        The comparison. `frame` and `curves` are its tables, `figure()` draws it.

    Raises:
        UsageError: fewer than two SAEs, one given twice, a name that no SAE has, an unknown
            metric or tolerance.
        RecordError: a record was edited, or they do not measure the same thing on the same data.
    """
    where = None if folder is None else Path(folder)
    found = told_apart([one for sae in saes for one in _contenders(sae, where)])
    only_records = all(isinstance(sae, EvalRecord) for sae in saes)
    loss = metric or Choice(found, None if only_records else where).metric
    return Comparison(contest.compare(found, loss, epsilon))


def _contenders(sae: EvalRecord | str | Path, folder: Path | None) -> Sequence[Contender]:
    if not isinstance(sae, EvalRecord):
        return choose([str(sae)], folder).contenders
    if sae.is_edited:
        raise RecordError(f"{sae.label}: {EDITED}; it is compared with nothing")
    return [Contender(sae.label, (sae,))]


@dataclass(frozen=True, repr=False)
class Comparison:
    """SAEs against the first of them.

    Attributes:
        contest: everything that was found.
    """

    contest: Contest

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each SAE at each tolerance.

        Columns are `sae`, `epsilon`, `bits` per token with its 95% interval (`low`, `high`), `rank`
        among these SAEs, and `delta`, bits above the first SAE's, with its paired interval
        (`delta_low`, `delta_high`). What is not within ε has no numbers.
        """
        import pandas as pd

        tolerances = self.contest.tolerances
        rows = [_placing(placing, at.epsilon) for at in tolerances for placing in at.placings]
        return pd.DataFrame(rows, columns=list(_placing(Placing(""), 0.0)))

    @property
    def curves(self) -> pd.DataFrame:
        """One row for each SAE but the first: differences of whole curves (maths §8).

        Columns are `sae`, the share of quality that both curves have (`overlap`), `bd_bits` with
        its interval (`bd_bits_low`, `bd_bits_high`), `bd_rate_percent`, and `reason`, which says
        why numbers are missing.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for one in self.contest.comparisons:
            bits, rate = one.bd_bits, one.bd_rate
            rows.append(
                {
                    "sae": one.test,
                    "overlap": one.overlap,
                    "bd_bits": None if bits is None else bits.value,
                    "bd_bits_low": None if bits is None else bits.low,
                    "bd_bits_high": None if bits is None else bits.high,
                    "bd_rate_percent": None if rate is None else rate.value,
                    "reason": one.reason,
                }
            )
        return pd.DataFrame(rows)

    def figure(self) -> Figure:
        """Hulls over a logarithmic and a linear loss, and differences to the first SAE."""
        from mdlbench.report.compare.figure import comparison_figure

        return comparison_figure(self.contest)

    def __repr__(self) -> str:
        return inert(f"<Comparison: {'; '.join(self._sentences())}>")

    def _sentences(self) -> list[str]:
        answers = [answer(self.contest, at) for at in self.contest.tolerances]
        return [title_of(self.contest), *answers, *curve_notes(self.contest)]

    def _repr_html_(self) -> str:
        """What it says, its frame and its figure, as notebooks show it."""
        from mdlbench.console.style import png

        figure = self.figure()
        figure.set_dpi(DPI)
        said = "".join(f"<li>{escape(inert(text))}</li>" for text in self._sentences())
        table = self.frame.map(lambda v: inert(v) if isinstance(v, str) else v).to_html(
            index=False, escape=True, na_rep="–", float_format="{:.4g}".format, border=0
        )
        data = base64.b64encode(png(figure)).decode()
        image = f'<img alt="curves that are compared" src="data:image/png;base64,{data}">'
        return f"<div><ul>{said}</ul>{table}{image}</div>"


def _placing(placing: Placing, epsilon: float) -> dict[str, Any]:
    low, high = placing.interval or (None, None)
    gap = placing.to_anchor
    return {
        "sae": placing.name,
        "epsilon": epsilon,
        "bits": placing.bits,
        "low": low,
        "high": high,
        "rank": placing.rank,
        "delta": None if gap is None else gap.bits,
        "delta_low": None if gap is None else gap.low,
        "delta_high": None if gap is None else gap.high,
    }
