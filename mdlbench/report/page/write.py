"""The pages as files: each is whole in itself, and nothing from a record can run in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.records.record import EvalRecord, References
from mdlbench.records.repetition import Standing
from mdlbench.report.page.content import PageData, coders_of, page_data, title_of
from mdlbench.report.tables import ABSENT, TITLE_LENGTH, limit_name, printable
from mdlbench.statistics.metrics import metric_of

PAGE = "index.html"
SCRIPTS = (
    "data.js",
    "dom.js",
    "style.js",
    "scale.js",
    "paper.js",
    "sketch.js",
    "plot.js",
    "hulls.js",
    "curves.js",
    "table.js",
    "beside.js",
    "controls.js",
    "detail.js",
    "export.js",
    "address.js",
    "main.js",
)
INDEX_ROWS = 5
"""Rows of each board on the page over all suites."""
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})

Links = Sequence[tuple[str, str]]


def suite_page(
    records: Sequence[EvalRecord],
    references: References,
    *,
    boards: Sequence[Leaderboard] | None = None,
    standings: Mapping[str, Standing] = {},
    archive: Sequence[Leaderboard] = (),
    links: Links = (),
    has_records: bool = False,
) -> bytes:
    """One suite's page; the same arguments, the same bytes.

    Args:
        records: of one suite.
        references: of the same suite.
        boards: of the records, where they are built already.
        standings: by record id; a record that is not in it is submitted.
        archive: boards of earlier digests of the suite.
        links: names and addresses of what lies beside the page, and of the project.
        has_records: whether the records lie beside the page, so that it links to them.

    Raises:
        RecordError: the records cannot stand on one board, or are not of the references' suite.
    """
    data = page_data(records, references, standings, boards, has_records)
    script = _script()
    return _render(
        "page.html",
        data=data,
        archive=[_archived(board) for board in archive],
        links=links,
        json=Markup(_inert_json(data)),
        script=Markup(script),
        script_hash=_csp_hash(script),
    )


def index_page(suites: Sequence[tuple[str, Sequence[Leaderboard]]], links: Links = ()) -> bytes:
    """The page over all suites, from the boards of each and the folder that its page is in."""
    return _render("index.html", suites=[_suite_entry(*suite) for suite in suites], links=links)


def _render(template: str, **content: Any) -> bytes:
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined
    )
    style = _asset("page.css")
    text = environment.get_template(template).render(
        style=Markup(style), style_hash=_csp_hash(style), **content
    )
    return text.encode()


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _script() -> str:
    """All scripts as one, whose names are seen by nobody else."""
    parts = "\n".join(map(_asset, SCRIPTS))
    return f"'use strict';\n(() => {{\n{parts}}})();\n"


def _csp_hash(text: str) -> str:
    """How a content security policy names the only script, or style, that may be used."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _inert_json(data: PageData) -> str:
    """JSON in ASCII that no HTML parser sees a tag in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.translate(ESCAPES)


def _suite_entry(folder: str, boards: Sequence[Leaderboard]) -> dict[str, Any]:
    first = boards[0]
    return {
        "address": f"{quote(folder, safe='')}/{PAGE}",
        "title": title_of(first),
        "name": printable(first.suite),
        "digest": printable(first.suite_digest),
        "protocol": first.protocol,
        "n_saes": _counted(boards),
        "boards": [_headline(board, INDEX_ROWS) for board in boards],
    }


def _archived(board: Leaderboard) -> dict[str, Any]:
    return {
        "digest": printable(board.suite_digest),
        "protocol": board.protocol,
        "n_saes": _counted([board]),
        **_headline(board, None),
    }


def _counted(boards: Sequence[Leaderboard]) -> str:
    """How many SAEs they have: baselines are none, and one in several ways is one."""
    records = [row.record for board in boards for row in board.headline.rows]
    n = len(set(coders_of(record for record in records if not record.is_baseline)))
    return f"{n} SAE{'' if n == 1 else 's'}"


def _headline(board: Leaderboard, n: int | None) -> dict[str, Any]:
    """The first rows of a board's headline table, or all of them; baselines after the SAEs."""
    table: Table = board.headline
    rows = sorted(table.rows, key=lambda row: row.record.is_baseline)
    return {
        "site": None if board.site is None else printable(board.site, TITLE_LENGTH),
        "limit": limit_name(table),
        "rows": [_index_row(row) for row in rows[:n]],
    }


def _index_row(row: Row) -> dict[str, str]:
    bits = f"floor {metric_of(row.result.metric).written(row.floor)}"
    if row.result.bits is not None and row.result.bits_ci is not None:
        low, high = row.result.bits_ci
        bits = f"{row.result.bits:.2f} ± {(high - low) / 2:.2f}"
    return {
        "rank": ABSENT if row.ranking.rank is None else str(row.ranking.rank),
        "label": printable(row.label),
        "architecture": printable(row.record.coder.architecture),
        "bits": bits,
    }
