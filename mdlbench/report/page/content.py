"""What a suite's page shows, as plain data: rounded, and every text fit to be shown."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypedDict, TypeVar

import numpy as np
from pydantic import BaseModel, JsonValue

from mdlbench.boards.leaderboard import (
    Columns,
    Leaderboard,
    Row,
    Table,
    build_all,
    by_site,
    columns,
    unique_labels,
)
from mdlbench.boards.pairing import intervals_of_pairs
from mdlbench.curves.curve import gaussian_rate_distortion
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import (
    Distortion,
    EvalRecord,
    LatentProfile,
    OperatingPoint,
    Pictures,
    References,
    SiteReferences,
    other_quantisers,
)
from mdlbench.records.repetition import Standing
from mdlbench.records.store import RECORDS, file_name
from mdlbench.report import references_of
from mdlbench.report.page.zipf import zipf_fit
from mdlbench.report.tables import NOTES, TITLE_LENGTH, is_tight, printable
from mdlbench.report.view import Range, view_of
from mdlbench.statistics.metrics import METRICS, Metric, in_order, shown_metrics
from mdlbench.suite.load import shipped_suite
from mdlbench.suite.suite import Suite

DIGITS = 6
"""Significant digits of a number in a plot."""
TABLE_DIGITS = 10
"""Significant digits of a number in a table, which is rounded again where it is written."""
TEXT_LENGTH = 200
REFERENCE_POINTS = 80
"""Points of the Gaussian reference."""
DATA_CHARACTERS = 4_800_000
"""Characters of a page's data; pictures are left out where it would have more."""
PAIR_CHARACTERS = 1_700_000
"""Characters of all paired intervals of a page together."""
CHARACTERS_A_PAIR = 4 / 3 * 8
"""Two floats of 32 bits in base64."""
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
OTHER_LOSSES = {"cosine": "cosine", "ce": "CE (nats)", "ce_recovered": "CE recovered"}
"""What losses that are no metrics are called."""

Part = TypeVar("Part", bound=BaseModel)
Values = dict[str, list[Any]]
"""By name of the column, one an operating point or a row of a table."""


class MetricData(TypedDict):
    """How the page names and writes a metric.

    `name` is short, `label` an axis's; `unit` follows a value, with a space; `digits` are
    significant; `meaning` is a sentence.
    """

    key: str
    name: str
    label: str
    header: str
    unit: str
    digits: int
    meaning: str


class PairsData(TypedDict):
    """Paired differences at one tolerance: the 95% intervals of any two rows.

    `rows` are positions in the table. `ends` is base64 of 32-bit floats, the smallest byte first:
    low and high of the bits of row j minus those of row i, i < j, in the order (0, 1), (0, 2), ….
    """

    rows: list[int]
    ends: str


class TableData(TypedDict):
    """The ranking at one tolerance; `columns["sae"]` are positions among the site's SAEs."""

    metric: str
    epsilon: float
    headline: bool
    tight: bool
    columns: Values
    pairs: PairsData


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
    """One record.

    `file` is where its folder has it; `coder` is equal for records of the same SAE.
    """

    id: str
    file: str
    coder: int
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
    points: Values
    profile: ProfileData | None
    pictures: PicturesData | None
    facts: dict[str, dict[str, JsonValue]]
    commands: list[str]


class ReferenceData(TypedDict):
    """Curves to compare with, as [bits, MSE]; a metric is the MSE times what `of_mse` has for it.

    It has nothing for a metric that is no squared error.
    """

    gaussian: list[list[float]]
    dense: list[list[float]]
    of_mse: dict[str, float]


class RangeData(TypedDict):
    """The ends of an axis, from low to high."""

    linear: list[float]
    log: list[float]


class ViewData(TypedDict):
    """What the plot of the curves shows: bits per token, and each loss."""

    rates: RangeData
    losses: dict[str, RangeData]


class SiteData(TypedDict):
    """All SAEs that are ranked with each other."""

    label: str
    text: str | None
    model: str | None
    test_tokens: int
    tables: list[TableData]
    saes: list[SaeData]
    references: ReferenceData
    view: ViewData


class PageData(TypedDict):
    """A suite's page."""

    suite: str
    title: str
    digest: str
    protocol: int
    quantiser: str | None
    metrics: list[MetricData]
    losses: dict[str, str]
    """What each loss is called where there is room."""
    dashes: dict[str, tuple[float, ...]]
    notes: dict[str, str]
    has_records: bool
    """Whether the records lie beside the page."""
    sites: list[SiteData]


def page_data(
    records: Sequence[EvalRecord],
    references: References,
    standings: Mapping[str, Standing] = {},
    boards: Sequence[Leaderboard] | None = None,
    has_records: bool = False,
) -> PageData:
    """What the page of these records shows; the same records, the same data.

    Args:
        records: of one suite.
        references: of the same suite.
        standings: by record id; a record that is not in it is submitted.
        boards: of the records, where they are built already.
        has_records: whether the records lie beside the page.

    Raises:
        RecordError: the records cannot stand on one board, or are not of the references' suite.
    """
    boards = build_all(records, references.headline) if boards is None else boards
    first = boards[0]
    suite = current_suite(first)
    metrics = shown_metrics({metric for record in records for metric in record.metrics})
    n_paired = most_paired(sum(len(board.tables) for board in boards))
    sites = [
        _site(board, group, references_of(group[0], references), suite, standings, n_paired)
        for board, group in zip(boards, by_site(records).values(), strict=True)
    ]
    data: PageData = {
        "suite": printable(first.suite),
        "title": title_of(first),
        "digest": printable(first.suite_digest),
        "protocol": first.protocol,
        "quantiser": None if suite is None else suite.quantiser,
        "metrics": [_metric(metric) for metric in metrics],
        "losses": {key: _loss_name(key) for key in _losses(metrics)},
        "dashes": {name: mode_of(name).dash for name in other_quantisers(records)},
        "notes": _notes(records),
        "has_records": has_records,
        "sites": sites,
    }
    _leave_out_pictures(data)
    return data


def most_paired(n_tables: int) -> int:
    """The number of SAEs in each of so many tables of which any two have their interval in a page.

    It is the largest n whose n·(n − 1)/2 pairs have room.
    """
    pairs = PAIR_CHARACTERS / CHARACTERS_A_PAIR / n_tables
    return int((1 + math.sqrt(1 + 8 * pairs)) / 2)


def _notes(records: Iterable[EvalRecord]) -> dict[str, str]:
    """Those of the table, but what the heading of the baselines says."""
    edited = any(record.is_edited for record in records)
    left_out = {"baseline"} if edited else {"baseline", "edited"}
    return {key: note for key, note in NOTES.items() if key not in left_out}


def _metric(metric: Metric) -> MetricData:
    return {
        "key": metric.name,
        "name": metric.label,
        "label": metric.axis,
        "header": metric.header,
        "unit": metric.after,
        "digits": metric.digits,
        "meaning": metric.meaning,
    }


def _losses(metrics: Sequence[Metric]) -> list[str]:
    """Keys of all losses before quantisation: those of every record, and of the suite's metrics."""
    return list(dict.fromkeys([*Distortion.model_fields, *(metric.name for metric in metrics)]))


def _loss_name(key: str) -> str:
    return METRICS[key].full_header if key in METRICS else OTHER_LOSSES[key]


def current_suite(board: Leaderboard) -> Suite | None:
    """The shipped suite of that name and digest; None if there is none."""
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
    n_paired: int,
) -> SiteData:
    labels, site = unique_labels(records), records[0].site
    coders = coders_of(records)
    tables = sorted(board.tables, key=lambda table: (in_order(table.metric), table.epsilon))
    metrics, readers = shown_metrics(records[0].metrics), columns([board])
    return {
        "label": printable(site.label, TITLE_LENGTH),
        "text": None if site.text is None else printable(site.text),
        "model": None if site.model is None else printable(site.model),
        "test_tokens": records[0].n_tokens.test,
        "tables": [_table(board, table, records, readers, n_paired) for table in tables],
        "saes": [
            _sae(record, labels[record.id], coder, metrics, suite, standing)
            for record, coder in zip(records, coders, strict=True)
            for standing in (standings.get(record.id, "submitted"),)
        ],
        "references": _references(references, metrics),
        "view": _view(records, metrics),
    }


def coders_of(records: Iterable[EvalRecord]) -> list[int]:
    """For each record the number of its SAE: equal where only the quantiser differs."""
    numbers: dict[str, int] = {}
    names = [json.dumps(record.identity.coder.model_dump(), sort_keys=True) for record in records]
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _leave_out_pictures(data: PageData) -> None:
    """Drop the pictures that the page has no room for, beginning with the last at the headline."""
    saes = list(_by_headline(data["sites"]))
    size = len(json.dumps(data, separators=(",", ":")))
    pictured = sum(len(sae["pictures"]["png"] or "") for sae in saes if sae["pictures"])
    room = DATA_CHARACTERS - (size - pictured)
    for sae in saes:
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


def _table(
    board: Leaderboard,
    table: Table,
    records: Sequence[EvalRecord],
    readers: Columns,
    n_paired: int,
) -> TableData:
    positions = {record.id: i for i, record in enumerate(records)}
    values: Values = {name: _column(table.rows, readers[name]) for name in ROW_FIELDS}
    values["loss"] = _column(table.rows, readers[table.metric])
    values["sae"] = [positions[row.record.id] for row in table.rows]
    values["point"] = [_accepted(row) for row in table.rows]
    return {
        "metric": table.metric,
        "epsilon": table.epsilon,
        "headline": table is board.headline,
        "tight": is_tight(board, table),
        "columns": values,
        "pairs": _pairs(table.rows, n_paired),
    }


def _pairs(rows: Sequence[Row], most: int) -> PairsData:
    """Intervals of any two of the first rows with bits, unedited, of as many draws each."""
    found = [
        i for i, row in enumerate(rows) if row.result.bits is not None and row.status != "edited"
    ]
    drawn = {i: rows[i].result.replicates for i in found}
    paired = [i for i in found if drawn[i] and len(drawn[i]) == len(drawn[found[0]])][:most]
    replicates = np.array([drawn[i] for i in paired], dtype=np.float64)
    ends = intervals_of_pairs(replicates) if paired else np.empty(0)
    return {"rows": paired, "ends": base64.b64encode(ends.astype("<f4").tobytes()).decode()}


def _column(rows: Iterable[Row], read: Callable[[Row], Any]) -> list[Any]:
    return [_shown(read(row), TABLE_DIGITS) for row in rows]


def _accepted(row: Row) -> int | None:
    """Which of the record's points, by rising step, the row is at."""
    steps = [point.step for point in by_step(row.record.points)]
    return steps.index(row.result.step) if row.result.step in steps else None


def by_step(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Operating points from the finest step to the coarsest."""
    return sorted(points, key=lambda point: point.step)


def _sae(
    record: EvalRecord,
    label: str,
    number: int,
    metrics: Sequence[Metric],
    suite: Suite | None,
    standing: Standing,
) -> SaeData:
    coder, latents, floor = record.coder, record.latents, record.floor.losses
    return {
        "id": record.id,
        "file": f"{RECORDS}/{file_name(record.identity)}",
        "coder": number,
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
        "floor": {key: _shown(floor.get(key)) for key in _losses(metrics)},
        "points": _points(record.points, metrics),
        "profile": None if latents is None else _profile(latents),
        "pictures": None if latents is None else _pictures(latents.pictures),
        "facts": _facts(record),
        "commands": _commands(record, suite),
    }


def _points(points: Sequence[OperatingPoint], metrics: Sequence[Metric]) -> Values:
    ordered = by_step(points)
    values: Values = {
        "step": [rounded(point.step) for point in ordered],
        "l0": [rounded(point.l0) for point in ordered],
        **{m.name: [rounded(point.loss(m.name)) for point in ordered] for m in metrics},
    }
    for column, name in (("bits", "total"), ("support", "support"), ("magnitude", "magnitude")):
        values[column] = [rounded(getattr(point.bits, name)) for point in ordered]
    return values


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


def _references(references: SiteReferences, metrics: Sequence[Metric]) -> ReferenceData:
    eigenvalues = np.array(references.eigenvalues, dtype=np.float64)
    rates, distortions = gaussian_rate_distortion(eigenvalues, REFERENCE_POINTS)
    variance = float(eigenvalues.sum())
    return {
        "gaussian": [
            [rounded(rate), rounded(loss)] for rate, loss in zip(rates, distortions, strict=True)
        ],
        "dense": [[float(n * references.d), rounded(loss)] for n, loss in references.dense],
        "of_mse": {
            metric.name: rounded(metric.of_mse(references.d, variance))
            for metric in metrics
            if metric.of_mse is not None
        },
    }


def _view(records: Sequence[EvalRecord], metrics: Sequence[Metric]) -> ViewData:
    intact = [record for record in records if not record.is_edited] or records
    views = {metric.name: view_of(intact, metric.name) for metric in metrics}
    return {
        "rates": _range(next(iter(views.values())).rates),
        "losses": {metric: _range(view.losses) for metric, view in views.items()},
    }


def _range(ends: Range) -> RangeData:
    return {
        "linear": [rounded(end) for end in ends.linear],
        "log": [rounded(end) for end in ends.log],
    }


def _shown(value: Any, digits: int = DIGITS) -> Any:
    """A number rounded, a text of a bounded length; nested values as text."""
    if isinstance(value, float):
        return rounded(value, digits)
    if value is None or isinstance(value, bool | int):
        return value
    return printable(str(value), TEXT_LENGTH)
