"""What a record looks like in a notebook: a small table and one curve."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from mdlbench.console.terminal import inert
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from mdlbench.records.record import EvalRecord, ToleranceResult

LENGTH = 80
"""Characters of a text from a record that are shown."""
PANEL = 3.2, 2.1
"""Inches of the curve's panel."""
DPI = 90
LEFT, RIGHT = (f'style="text-align: {side}; padding: 0.1em 0.6em"' for side in ("left", "right"))


def line_of(record: EvalRecord) -> str:
    """The record in one line: the SAE, the suite, and its bits at the first tolerance it meets."""
    feasible = [result for result in record.tolerances if result.bits is not None]
    met = f"{len(feasible)} of {len(record.tolerances)} tolerances met"
    if feasible:
        first = feasible[0]
        limit = metric_of(first.metric).short_limit(first.epsilon)
        met = f"{first.bits:.1f} bits per token at {limit}, {met}"
    partial = ", partial" if record.partial else ""
    return inert(f"<EvalRecord {_short(record.label)} on {record.identity.suite}: {met}{partial}>")


def html_of(record: EvalRecord) -> str:
    """A table of facts and tolerances, and the curve over the first tolerance's loss.

    All that the record says is shown as text.
    """
    coder = record.coder
    facts = {
        "suite": record.identity.suite,
        "site": record.site.label,
        "architecture": coder.architecture,
        "latents": f"{coder.d_latents:,} ({coder.dead_fraction:.1%} dead), L0 {coder.l0:.1f}",
        "tokens": f"{record.n_tokens.test:,} of the test split",
    }
    if record.partial:
        facts["partial"] = "made with a limit, and never ranked"
    rows = "".join(_row(name, value) for name, value in facts.items())
    limits = "".join(_limit_row(record, result) for result in record.tolerances)
    head = "".join(
        f"<th {RIGHT}>{name}</th>" for name in ("", "bits per token", "95% interval", "L0")
    )
    return (
        f"<div><strong>{_text(record.label)}</strong>"
        f"<table>{rows}</table>"
        f"<table><tr>{head}</tr>{limits}</table>"
        f"{_picture(record)}</div>"
    )


def _text(value: object) -> str:
    return escape(_short(inert(str(value))))


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"


def _row(name: str, value: str) -> str:
    return f"<tr>{_head(name)}<td {LEFT}>{_text(value)}</td></tr>"


def _head(text: str) -> str:
    return f"<th {LEFT}>{text}</th>"


def _limit_row(record: EvalRecord, result: ToleranceResult) -> str:
    metric = metric_of(result.metric)
    if result.bits is None:
        floor = metric.written_short(record.floor.loss(result.metric))
        words = f"<td colspan=3 {LEFT}>missed at the finest step; its floor is {floor}</td>"
    else:
        low, high = result.bits_ci or (result.bits, result.bits)
        l0 = "" if result.l0 is None else f"{result.l0:.1f}"
        cells = [f"{result.bits:.1f}", f"{low:.1f} to {high:.1f}", l0]
        words = "".join(f"<td {RIGHT}>{cell}</td>" for cell in cells)
    limit = _head(_text(metric.short_limit(result.epsilon)))
    return f"<tr>{limit}{words}</tr>"


def _picture(record: EvalRecord) -> str:
    """The curve as an image; empty where nothing was measured."""
    from mdlbench.console.labels import text_inches
    from mdlbench.console.style import Margins, house_style, panels, png

    metric = record.metrics[0] if record.metrics else "mse"
    if not record.points:
        return ""
    curve = record.curve(metric)
    with house_style():
        margins = Margins(left=0.7, right=0.3 + text_inches([curve.shown_name]), below=0.5)
        figure, (ax,) = panels(PANEL[0], [PANEL[1]], margins, "")
        curve.plot(ax)
        figure.set_dpi(DPI)
    data = base64.b64encode(png(figure)).decode()
    words = _text(f"rate-distortion curve of {record.label}")
    return f'<img alt="{words}" src="data:image/png;base64,{data}">'
