"""What a suite's page shows, as plain data: rounded, and every text fit to be shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypedDict, TypeVar

import numpy as np
from pydantic import BaseModel, JsonValue

from mdlbench.boards.leaderboard import Leaderboard, Row, Table, build_all, by_site, unique_labels
from mdlbench.curves.curve import gaussian_rate_distortion
from mdlbench.records.record import (
    METRICS,
    EvalRecord,
    LatentProfile,
    OperatingPoint,
    Pictures,
    References,
    SiteReferences,
)
from mdlbench.records.repetition import Standing
from mdlbench.records.store import RECORDS, file_name
from mdlbench.report import references_of
from mdlbench.report.page.zipf import zipf_fit
from mdlbench.report.tables import TITLE_LENGTH, printable
from mdlbench.suite.load import shipped_suite
from mdlbench.suite.suite import Suite

DIGITS = 6
"""Significant digits of a number in a plot."""
TABLE_DIGITS = 10
"""Of a number in a table, which is rounded once more where it is written."""
TEXT_LENGTH = 200
REFERENCE_POINTS = 80
"""Of the Gaussian reference."""
PICTURE_CHARACTERS = 2_500_000
"""Of all pictures of a page together, in base64."""
ROW_FIELDS = (
    "rank",
    "status",
    "bits",
    "bits_low",
    "bits_high",
    "delta",
    "delta_low",
    "delta_high",
    "step",
    "l0",
    "coded",
    "floor",
    "at_coarsest",
    "non_monotone",
)
LOSSES = ("mse", "fvu", "delta_ce")
FLOORS = ("mse", "fvu", "cosine", "ce", "delta_ce", "ce_recovered", "kl")

Part = TypeVar("Part", bound=BaseModel)
Columns = dict[str, list[Any]]
"""Values by name of the column, one an operating point or a row of a table."""


class TableData(TypedDict):
    """The ranking at one tolerance; `columns["sae"]` are positions among the site's SAEs."""

    metric: str
    epsilon: float
    headline: bool
    columns: Columns


class ProfileData(TypedDict):
    """How bits and firing are spread over latents; `half` of the bits are on so many, at most."""

    step: float
    ranks: list[int]
    firing_rates: list[float]
    bits: list[float]
    cumulative_bits: list[float]
    half: int
    zipf: dict[str, float] | None


class PicturesData(TypedDict):
    """Pictures of latents; `png`, in base64, is None where it is left out of the page."""

    latents: list[int]
    png: str | None


class SaeData(TypedDict):
    """One record."""

    id: str
    label: str
    name: str
    architecture: str
    quantiser: str | None
    baseline: bool
    partial: bool
    standing: Standing
    latents: int
    dead: float
    break_even: float | None
    floor: dict[str, float | None]
    points: Columns
    profile: ProfileData | None
    pictures: PicturesData | None
    facts: dict[str, dict[str, JsonValue]]
    commands: list[str]


class ReferenceData(TypedDict):
    """Curves to compare with, as [bits, MSE]; an FVU is the MSE times `fvu_per_mse`."""

    gaussian: list[list[float]]
    dense: list[list[float]]
    fvu_per_mse: float


class SiteData(TypedDict):
    """All SAEs that are ranked with each other."""

    label: str
    text: str | None
    model: str | None
    test_tokens: int
    tables: list[TableData]
    saes: list[SaeData]
    references: ReferenceData


class PageData(TypedDict):
    """A suite's page."""

    suite: str
    title: str
    digest: str
    protocol: int
    quantiser: str | None
    sites: list[SiteData]


def page_data(
    records: Sequence[EvalRecord],
    references: References,
    standings: Mapping[str, Standing] = {},
    boards: Sequence[Leaderboard] | None = None,
) -> PageData:
    """What the page of these records shows; the same records, the same data.

    Args:
        records: of one suite.
        references: of the same suite.
        standings: by record id; a record that is not in it is submitted.
        boards: of the records, where they are built already.

    Raises:
        RecordError: the records cannot stand on one board, or are not of the references' suite.
    """
    boards = build_all(records, references.headline) if boards is None else boards
    first = boards[0]
    suite = current_suite(first)
    sites = [
        _site(board, group, references_of(group[0], references), suite, standings)
        for board, group in zip(boards, by_site(records).values(), strict=True)
    ]
    _leave_out_pictures(sites)
    return {
        "suite": printable(first.suite),
        "title": title_of(first),
        "digest": printable(first.suite_digest),
        "protocol": first.protocol,
        "quantiser": None if suite is None else suite.quantiser,
        "sites": sites,
    }


def current_suite(board: Leaderboard) -> Suite | None:
    """The shipped suite that the board is of; None where it is another, or has another digest."""
    suite = shipped_suite(board.suite)
    return None if suite is None or suite.digest != board.suite_digest else suite


def title_of(board: Leaderboard) -> str:
    """The suite's title where it is a shipped one, else its name."""
    suite = current_suite(board)
    return printable(board.suite if suite is None else suite.title, TITLE_LENGTH)


def rounded(value: float, digits: int = DIGITS) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def _site(
    board: Leaderboard,
    records: Sequence[EvalRecord],
    references: SiteReferences,
    suite: Suite | None,
    standings: Mapping[str, Standing],
) -> SiteData:
    labels, site = unique_labels(records), records[0].site
    tables = sorted(board.tables, key=lambda table: (METRICS.index(table.metric), table.epsilon))
    return {
        "label": printable(site.label, TITLE_LENGTH),
        "text": None if site.text is None else printable(site.text),
        "model": None if site.model is None else printable(site.model),
        "test_tokens": records[0].n_tokens.test,
        "tables": [_table(table, records, table is board.headline) for table in tables],
        "saes": [
            _sae(record, labels[record.id], suite, standings.get(record.id, "submitted"))
            for record in records
        ],
        "references": _references(references),
    }


def _leave_out_pictures(sites: Sequence[SiteData]) -> None:
    """Of the SAEs that come last at the headline, as many as the page has no room for."""
    room = PICTURE_CHARACTERS
    for sae in _by_headline(sites):
        if (pictures := sae["pictures"]) and pictures["png"]:
            room -= len(pictures["png"])
            pictures["png"] = pictures["png"] if room >= 0 else None


def _by_headline(sites: Sequence[SiteData]) -> Iterator[SaeData]:
    """The first SAE of every site at the headline, then the second of each, and so on."""
    orders = [
        [site["saes"][i] for i in table["columns"]["sae"]]
        for site in sites
        for table in site["tables"]
        if table["headline"]
    ]
    for saes in zip_longest(*orders):
        yield from (sae for sae in saes if sae is not None)


def _table(table: Table, records: Sequence[EvalRecord], headline: bool) -> TableData:
    positions = {record.id: i for i, record in enumerate(records)}
    columns: Columns = {name: _column(table.rows, name) for name in ROW_FIELDS}
    columns["loss"] = _column(table.rows, table.metric)
    columns["sae"] = [positions[row.id] for row in table.rows]
    columns["point"] = [_accepted(row, records[positions[row.id]]) for row in table.rows]
    return {
        "metric": table.metric,
        "epsilon": table.epsilon,
        "headline": headline,
        "columns": columns,
    }


def _column(rows: Iterable[Row], name: str) -> list[Any]:
    return [_shown(getattr(row, name), TABLE_DIGITS) for row in rows]


def _accepted(row: Row, record: EvalRecord) -> int | None:
    """Which of the record's points, by rising step, the row is at."""
    steps = [point.step for point in by_step(record.points)]
    return steps.index(row.step) if row.step in steps else None


def by_step(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Operating points from the finest step to the coarsest."""
    return sorted(points, key=lambda point: point.step)


def _sae(record: EvalRecord, label: str, suite: Suite | None, standing: Standing) -> SaeData:
    coder, latents = record.coder, record.latents
    return {
        "id": record.id,
        "label": printable(label),
        "name": printable(record.name),
        "architecture": printable(coder.architecture),
        "quantiser": record.identity.quantiser,
        "baseline": record.is_baseline,
        "partial": record.partial or record.identity.limit is not None,
        "standing": standing,
        "latents": coder.d_latents,
        "dead": rounded(coder.dead_fraction),
        "break_even": _shown(coder.break_even_tokens),
        "floor": {name: _shown(getattr(record.floor, name)) for name in FLOORS},
        "points": _points(record.points),
        "profile": None if latents is None else _profile(latents),
        "pictures": None if latents is None else _pictures(latents.pictures),
        "facts": _facts(record),
        "commands": _commands(record, suite),
    }


def _points(points: Sequence[OperatingPoint]) -> Columns:
    ordered = by_step(points)
    columns: Columns = {
        name: [rounded(getattr(point, name)) for point in ordered]
        for name in ("step", "l0", *LOSSES)
    }
    for column, name in (("bits", "total"), ("support", "support"), ("magnitude", "magnitude")):
        columns[column] = [rounded(getattr(point.bits, name)) for point in ordered]
    return columns


def _profile(latents: LatentProfile) -> ProfileData:
    fit = zipf_fit(latents)
    cumulative = np.array(latents.cumulative_bits, dtype=np.float64)
    half = int(np.argmax(cumulative >= cumulative[-1] / 2))
    return {
        "step": rounded(latents.step),
        "ranks": latents.ranks,
        "firing_rates": [rounded(rate) for rate in latents.firing_rates],
        "bits": [rounded(bits) for bits in latents.bits],
        "cumulative_bits": [rounded(bits) for bits in latents.cumulative_bits],
        "half": latents.ranks[half],
        "zipf": None if fit is None else {k: rounded(v) for k, v in fit._asdict().items()},
    }


def _pictures(pictures: Pictures | None) -> PicturesData | None:
    return None if pictures is None else {"latents": [*pictures.latents], "png": pictures.png}


def _facts(record: EvalRecord) -> dict[str, dict[str, JsonValue]]:
    """Tables of names and values, by their headings.

    Names that a record chooses are never in one table with the names of its own fields.
    """
    identity, coder = record.identity, record.coder
    tables: dict[str, dict[str, Any]] = {
        "SAE": {
            **_dump(coder, "architecture", "d_in", "d_out", "d_latents", "hook", "l0"),
            **_dump(coder, "decoder_weight_bits", "decoder_bits", "codebook_bits"),
        },
        "Record": {
            "id": record.id,
            "weights_sha256": identity.coder.weights_sha256,
            "data_sha256": identity.data_sha256,
            "adapter": f"{identity.coder.adapter} {identity.coder.version}",
            **_dump(identity, "seed", "limit", "quantiser"),
            "calibration_tokens": record.n_tokens.calibration,
            "test_tokens": record.n_tokens.test,
        },
        "Provenance and environment": {
            **_dump(record.provenance, "commit", "dirty", "date"),
            **_dump(record.environment, "device", "dtype", "threads", "seconds"),
        },
        "From the SAE's config": coder.details,
        "Arguments of the SAE": identity.coder.arguments,
        "Versions": dict(record.environment.versions),
    }
    return {
        heading: {printable(key): _shown(value) for key, value in table.items()}
        for heading, table in tables.items()
        if table
    }


def _dump(part: Part, *names: str) -> dict[str, Any]:
    return {name: getattr(part, name) for name in names}


def _commands(record: EvalRecord, suite: Suite | None) -> list[str]:
    """How to measure the record again, where the shipped suite has this SAE, and to check it."""
    verify = shlex.join(["mdlbench", "verify", f"{RECORDS}/{file_name(record.identity)}"])
    if suite is None or record.name not in suite.keys:
        return [verify]
    command = ["mdlbench", "eval", "--suite", suite.name, "--sae", record.name]
    options = {
        "--quantiser": record.identity.quantiser,
        "--limit": record.identity.limit,
        "--text": record.site.text if record.site.text in suite.source.text_names else None,
        "--dtype": None if record.site.dtype == "float32" else record.site.dtype,
    }
    for option, value in options.items():
        command += [] if value is None else [option, str(value)]
    return [shlex.join(command), verify]


def _references(references: SiteReferences) -> ReferenceData:
    eigenvalues = np.array(references.eigenvalues, dtype=np.float64)
    rates, distortions = gaussian_rate_distortion(eigenvalues, REFERENCE_POINTS)
    variance = float(eigenvalues.sum())
    return {
        "gaussian": [
            [rounded(rate), rounded(loss)] for rate, loss in zip(rates, distortions, strict=True)
        ],
        "dense": [[float(n * references.d), rounded(loss)] for n, loss in references.dense],
        "fvu_per_mse": rounded(references.d / variance) if variance else 0.0,
    }


def _shown(value: Any, digits: int = DIGITS) -> Any:
    """A number rounded, a text of a bounded length; nested values as text."""
    if isinstance(value, float):
        return rounded(value, digits)
    if value is None or isinstance(value, bool | int):
        return value
    return printable(str(value), TEXT_LENGTH)
