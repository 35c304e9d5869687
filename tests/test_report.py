"""Tables and figures: their values, their determinism, and names that mean harm."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE
from rich.console import Console

from mdlbench.boards.leaderboard import build, to_json
from mdlbench.console.labels import line_inches, place_in
from mdlbench.console.style import colour_of, house_style, png, width_colours
from mdlbench.curves.curve import RateDistortionCurve, RatePoint, gaussian_rate_distortion
from mdlbench.errors import OutputError, RecordError, UsageError
from mdlbench.records.record import parse_record
from mdlbench.report import print_boards, write_report
from mdlbench.report.architectures import (
    architectures_figure,
    has_several,
    sorted_architectures,
)
from mdlbench.report.features import feature_grid, write_feature_grid
from mdlbench.report.figures import curves_figure
from mdlbench.report.tables import (
    escape_markdown,
    inert_cell,
    printable,
    to_csv,
    to_markdown,
    to_rich,
)
from mdlbench.report.view import view_of
from mdlbench.report.widths import (
    best_per_width,
    has_widths,
    sparsity_figure,
    tolerances_figure,
    width_figure,
)
from mdlbench.suite.suite import Headline
from tests.records import (
    HEADLINE,
    MNIST_LIMITS,
    make_distortion,
    make_point,
    make_record,
    make_result,
    make_site_references,
    realistic_references,
    realistic_suite,
)

LIMIT = (HEADLINE.metric, HEADLINE.epsilon)
GATED = {"architecture": "gated"}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def zoo():
    return realistic_suite(widths=(64, 256, 1024), n_replicates=100)


@pytest.fixture(scope="module")
def board(zoo):
    return build(zoo, HEADLINE)


def csv_rows(board):
    return list(csv.DictReader(io.StringIO(to_csv(board))))


def terminal(table, width=100):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(to_rich(table, "mnist"))
    return console.file.getvalue()


def drawn(records):
    """The curves of records of one site."""
    return curves_figure(records, make_site_references(), build(records, HEADLINE))


# --- tables ---------------------------------------------------------------------------------


def test_csv_has_a_row_per_tolerance_and_sae_with_exact_floats(board, zoo):
    rows = csv_rows(board)
    assert len(rows) == len(MNIST_LIMITS) * len(zoo)
    assert (rows[0]["metric"], rows[0]["epsilon"], rows[0]["rank"]) == ("mse", "0.015", "1")
    by_key = {(r["metric"], float(r["epsilon"]), r["id"]): r for r in rows}
    for record in zoo:
        for result in record.tolerances:
            row = by_key[result.metric, result.epsilon, record.id]
            assert row["bits"] == ("" if result.bits is None else repr(result.bits))
            assert float(row["floor"]) == getattr(record.floor, result.metric)
            assert float(row["dead_fraction"]) == record.coder.dead_fraction


def test_csv_keeps_names_exactly_and_ends_lines_with_a_newline():
    name = 'a,"b"\n|c\r`'
    board = build([make_record(name)], HEADLINE)
    text = to_csv(board)
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["name"] == name.replace("\r", "�")
    assert to_csv(build([make_record("a")], HEADLINE)).count("\r") == 0


def test_json_holds_what_csv_holds(board):
    tables = json.loads(to_json([board]))[0]["tables"]
    from_json = [row for table in tables for row in table["rows"]]
    for row, exact in zip(csv_rows(board), from_json, strict=True):
        assert (row["label"], row["status"]) == (exact["label"], exact["status"])
        assert row["bits"] == (repr(exact["bits"]) if "bits" in exact else "")


def test_markdown_rows_by_hand():
    shifts = np.array([-1.0, 0.0, 1.0])
    records = [
        make_record("best", 100 + shifts, coder={"dead_fraction": 0.125}),
        make_record("second", 110 + shifts),
        make_record("hopeless", None, floor=make_distortion(0.0213)),
    ]
    text = to_markdown(build(records, HEADLINE))
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    ]
    header, best, second, infeasible_header, hopeless = cells
    assert dict(zip(header, best, strict=True)) == {
        "Rank": "1",
        "SAE": "best",
        "Architecture": "batchtopk",
        "D": "256",
        "L0": "16.00",
        "Bits/token": "100.00",
        "95% CI": "[99.05, 100.95]",
        "Δ": "0.00",
        "95% CI of Δ": "–",
        "Step": "0.5",
        "Bits at step": "100.00",
        "Coded": "100.30",
        "Floor MSE": "0.012",
        "Dead": "12.5%",
        "Decoder bits": "1.2 M",
        "Break-even": "12 k",
    }
    assert dict(zip(header, second, strict=True))["95% CI of Δ"] == "[10.00, 10.00]"
    assert dict(zip(infeasible_header, hopeless, strict=True))["Floor MSE"] == "0.0213"
    assert "## MSE per dimension ≤ 0.015 (headline)" in text


def test_markdown_has_a_section_per_tolerance(board):
    sections = [line for line in to_markdown(board).splitlines() if line.startswith("## ")]
    assert len(sections) == len(MNIST_LIMITS)
    assert sections[0] == "## MSE per dimension ≤ 0.015 (headline)"
    assert sections[-1] == "## ΔCE ≤ 0.1 nats"


HOSTILE = "a|b`c`<script>&_x_*y*[l](u)$m$\x1b[31m\n# h [red]r[/red]"


def test_hostile_names_are_inert_in_markdown():
    text = to_markdown(build([make_record(HOSTILE), make_record("plain")], HEADLINE))
    assert "<script>" not in text
    assert "\x1b" not in text
    rows = [line for line in text.splitlines() if "script" in line]
    assert len(rows) == 1
    assert len(rows[0].replace("\\|", "").split("|")) == 16 + 2
    assert r"a\|b\`c\`&lt;script&gt;&amp;\_x\_\*y\*\[l\](u)\$m\$" in rows[0]


def test_common_names_are_left_alone_by_escaping():
    for name in ("batchtopk-256-k16", "blocks.8.hook_resid_pre", "baseline:kmeans?k=1024"):
        assert escape_markdown(name) == name


def test_hostile_names_are_inert_on_the_terminal():
    table = build([make_record(HOSTILE)], HEADLINE).headline
    text = terminal(table, width=160)
    assert "\x1b" not in text
    assert "[red]" in text


def test_long_names_keep_both_ends():
    shown = printable("x" * 100 + "-k16")
    assert len(shown) <= 60
    assert shown.startswith("xxx")
    assert shown.endswith("x-k16")


def test_terminal_table_shows_ranks_bits_and_floors_within_80_columns():
    shifts = np.array([-1.0, 0.0, 1.0])
    records = [
        make_record("w256-k16", 100 + shifts),
        make_record("w512-k16", 110 + shifts),
        make_record("w32-k8", None, floor=make_distortion(0.0213)),
    ]
    lines = terminal(build(records, HEADLINE).headline, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    best, second, infeasible = (
        next(line for line in lines if name in line) for name in ("w256", "w512", "w32")
    )
    assert best.split()[:6] == ["1", "w256-k16", "256", "16.0", "100.00", "±"]
    assert "10.00 [10.00, 10.00]" in second
    assert "floor 0.0213" in infeasible
    assert infeasible.split()[0] == "–"


def test_partial_records_alone_are_said_to_be_partial():
    table = build([make_record("a", partial=True, limit=50)], HEADLINE)
    assert "Nothing is ranked: all records are partial" in to_markdown(table)
    assert "Nothing is ranked: all records are partial" in terminal(table.headline)
    assert csv_rows(table)[0]["status"] == "partial"
    assert csv_rows(table)[0]["rank"] == ""


def test_marks_are_explained_where_they_occur():
    marked = make_result(("mse", 0.015), [5.0, 6.0], at_coarsest=True, non_monotone=True)
    text = to_markdown(build([make_record("a", results=[marked])], HEADLINE))
    assert "| ≤ 5.50† |" in text
    assert "≤: no step of the grid exceeds the tolerance" in text
    assert "†: the loss exceeds the tolerance at one step" in text
    assert "†" not in to_markdown(build([make_record("a")], HEADLINE))


def test_print_boards_shows_the_headline_alone_or_every_tolerance(board, capsys):
    print_boards([board])
    assert capsys.readouterr().out.count("bits per token at") == 1
    print_boards([board], every_tolerance=True)
    assert capsys.readouterr().out.count("bits per token at") == len(MNIST_LIMITS)


# --- figures --------------------------------------------------------------------------------


def lines_of(ax):
    return [(line.get_xdata(orig=True), line.get_ydata(orig=True)) for line in ax.get_lines()]


def has_line(ax, x, y):
    return any(
        len(lx) == len(x) and np.allclose(lx, x) and np.allclose(ly, y) for lx, ly in lines_of(ax)
    )


def texts_of(ax):
    return [text.get_text() for text in ax.texts]


def hull_named(ax, name):
    """The line that ends where its name's leader begins: the one in the name's colour."""
    (text,) = [text for text in ax.texts if text.get_text() == name]
    return max(
        (line for line in ax.lines if line.get_color() == text.get_color()),
        key=lambda line: len(line.get_xdata()),
    )


def dashes_of(line):
    """As they were asked for, in widths of the line."""
    return line._unscaled_dash_pattern[1]


def overlaps(boxes):
    return [
        (one, other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
        if one.y0 < other.y1 - 0.5 and other.y0 < one.y1 - 0.5
        if one.x0 < other.x1 and other.x0 < one.x1
    ]


def boxes_of(ax, texts):
    renderer = FigureCanvasAgg(ax.figure).get_renderer()
    return [text.get_window_extent(renderer) for text in texts]


def test_no_sharing_of_a_familys_points_is_cheaper_than_its_hull(zoo):
    figure = drawn(zoo)
    (ax,) = figure.axes
    line = hull_named(ax, "jumprelu")
    rates, losses = line.get_xdata(), line.get_ydata()
    points = [(p.bits.total, p.mse) for r in zoo if not r.is_baseline for p in r.points]
    for (rate, loss), (other_rate, other) in itertools.combinations(points, 2):
        between = (losses >= min(loss, other)) & (losses <= max(loss, other))
        share = (losses[between] - loss) / (other - loss) if other != loss else 0.0
        assert (rates[between] <= rate + share * (other_rate - rate) + 1e-6).all()
    assert line.get_marker() == ""  # it goes on to the right


def test_curves_show_the_members_the_gaussian_and_the_tolerances(zoo):
    references = make_site_references()
    (ax,) = drawn(zoo).axes
    for record in zoo:
        if not record.is_baseline:
            assert has_line(ax, record.curve("mse").rates, record.curve("mse").distortions)
    gaussian = RateDistortionCurve.of(
        (
            RatePoint(float(rate), float(loss), 0.0, 0.0)
            for rate, loss in zip(
                *gaussian_rate_distortion(np.array(references.eigenvalues)), strict=True
            )
        ),
        "",
        "mse",
    )
    (dotted,) = [
        line for line in ax.lines if len(line.get_xdata()) > 2 and dashes_of(line) == (1, 2.5)
    ]
    expected = gaussian.rates_at(dotted.get_ydata())
    np.testing.assert_allclose(dotted.get_xdata(), expected, rtol=2e-4)
    assert {"Gaussian R(D)", "pca", "jumprelu"} <= set(texts_of(ax))
    for metric in ("mse", "delta_ce"):
        (panel,) = curves_figure(zoo, references, build(zoo, HEADLINE), metric).axes
        epsilons = [epsilon for name, epsilon in MNIST_LIMITS if name == metric]
        for epsilon in epsilons:
            assert has_line(panel, [0, 1], [epsilon, epsilon])
        assert [t for t in texts_of(panel) if t.startswith("ε")] == [f"ε = {e:g}" for e in epsilons]
    assert "Gaussian R(D)" not in texts_of(panel)


def test_what_is_not_in_view_is_said_and_has_no_name(zoo):
    figure = drawn(zoo)
    note = note_of(figure)
    assert "Out of view: n bits per dimension." in note
    assert "n bits per dimension" not in texts_of(figure.axes[0])


def family(name, *points, **changes):
    """An SAE of an architecture of its own with these bits and losses."""
    made = [make_point(0.5, bits, mse, 16.0) for bits, mse in points]
    return make_record(name, points=made, coder={"architecture": name}, **changes)


FALLING = family("falling", (10, 0.03), (100, 0.012), (1000, 0.0115))
"""Within the tolerance from 85 bits, so that 1.3 times as many are in view."""


def note_of(figure):
    (note,) = [text.get_text() for text in figure.texts if "Lines:" in text.get_text()]
    return note


def test_a_line_ends_at_the_panels_edge_on_the_chord_that_goes_on():
    figure = drawn([FALLING])
    line = hull_named(figure.axes[0], "falling")
    assert figure.axes[0].get_xlim() == pytest.approx((0, 110.5))
    last = line.get_xdata()[-1], line.get_ydata()[-1]
    assert last == pytest.approx((110.5, 0.012 - 0.0005 * 10.5 / 900))
    assert line.get_marker() == ""
    assert "Dot" not in note_of(figure)


def test_ends_are_explained_where_they_are_drawn():
    floor = family("floor", (20, 0.02), (60, 0.0109))
    below = family("below", (30, 0.02), (70, 0.001))
    figure = drawn([FALLING, floor, below])
    ends = "Dot at a line's end: no finer step lowers the loss. Triangle: the line goes on below."
    assert ends in note_of(figure).splitlines()
    (ax,) = figure.axes
    markers = {name: hull_named(ax, name).get_marker() for name in ("falling", "floor", "below")}
    assert markers == {"falling": "", "floor": "o", "below": "v"}


def test_the_lowest_end_in_view_is_off_the_frame():
    (ax,) = drawn([FALLING, family("floor", (20, 0.02), (60, 0.0109))]).axes
    band = line_inches()  # the Gaussian goes on below
    up = (band + 3.0 * 0.04 / 1.04) / (3.0 + band)
    assert place_in(ax, 60, 0.0109)[1] == pytest.approx(up)


def test_a_line_that_only_cuts_off_a_corner_is_out_of_view():
    figure = drawn([FALLING, family("corner", (108, 0.023), (300, 0.016))])
    assert "corner" not in texts_of(figure.axes[0])
    assert "Out of view: corner, n bits per dimension." in note_of(figure)


def test_a_point_in_another_mode_is_a_ring_around_the_one_in_the_suites_own():
    who = {"adapter": "baseline", "coder": {"architecture": "kmeans", "d_latents": 64}}
    point = [make_point(0.5, 40, 0.014, 1.0)]
    both = [make_record("k", points=point, quantiser=mode, **who) for mode in (None, "tree")]
    figure = drawn([FALLING, *both])
    (ax,) = figure.axes
    marks = [line for line in ax.lines if line.get_xdata()[0] == 40]
    found = {(mark.get_markersize(), mark.get_markerfacecolor()) for mark in marks}
    assert found == {(3.5, "#222222"), (7.0, "none")}
    assert "Dot" not in note_of(figure)


def test_modes_differ_in_colour_and_dashes_as_do_the_ways_to_their_names():
    points = (10, 0.03), (100, 0.012)
    others = [family("falling", *points, quantiser=mode) for mode in ("tree", "rdo-tree")]
    (ax,) = drawn([FALLING, *others]).axes
    found = {}
    for text in ax.texts:
        if text.get_text().startswith("all"):
            lines = [line for line in ax.lines if line.get_color() == text.get_color()]
            hull, _, way = lines
            assert dashes_of(hull) == dashes_of(way)
            found[text.get_text()] = dashes_of(way)
    assert set(found) == {"all [tree]", "all [rdo-tree]"}
    assert len(set(map(tuple, found.values()))) == 2


@pytest.mark.parametrize(("metric", "loss"), [("mse", "MSE"), ("delta_ce", "ΔCE")])
def test_the_title_names_the_loss(zoo, metric, loss):
    figure = curves_figure(zoo, make_site_references(), build(zoo, HEADLINE), metric)
    assert figure.get_suptitle() == f"mnist: {loss} against bits per token"


def many_families(n=12):
    """As many architectures, whose curves lie close to one another."""
    zoo = realistic_suite(widths=(64, 256), sparsities=(8, 16), n_replicates=20)
    source = [record for record in zoo if not record.is_baseline]
    records = []
    for i in range(n):
        record = source[i % len(source)]
        points = []
        for point in record.points:
            bits = point.bits.model_copy(update={"total": point.bits.total * (1 + i / 40)})
            points.append(point.model_copy(update={"bits": bits}))
        made = make_record(
            f"sae-{i}",
            results=record.tolerances,
            points=points,
            floor=record.floor,
            coder={"architecture": f"family_{i:02}", "d_latents": record.coder.d_latents},
        )
        records.append(made)
    return records


def test_a_record_without_points_leaves_the_board_as_it_is():
    bare = make_record("bare", None, points=[], coder=GATED)
    assert view_of([bare], "mse").rates.linear == (0.0, 1.1)
    (ax,) = drawn([bare]).axes
    assert "ε = 0.015" in texts_of(ax)
    assert "gated" not in texts_of(ax)


@pytest.mark.parametrize("metric", ["mse", "delta_ce"])
def test_twelve_families_have_twelve_names_that_do_not_overlap(metric):
    records = many_families()
    board = build(records, HEADLINE)
    (ax,) = curves_figure(records, make_site_references(), board, metric).axes
    names = [text for text in ax.texts if text.get_text().startswith("family")]
    assert len(names) == 12
    assert len({text.get_color() for text in names}) == 12
    assert not overlaps(boxes_of(ax, names))
    limits = [text for text in ax.texts if text.get_text().startswith("ε")]
    assert not overlaps(boxes_of(ax, limits))
    figure_box = ax.figure.bbox
    for box in boxes_of(ax, names):
        assert figure_box.x0 <= box.x0 < box.x1 <= figure_box.x1


def test_near_tolerances_have_names_that_do_not_overlap():
    limits = [("fvu", epsilon) for epsilon in (0.15, 0.19, 0.2, 0.21, 0.4)]
    results = [make_result(limit, (20.0, 21.0)) for limit in limits]
    record = make_record("sae", results=results, coder=GATED)
    board = build([record], Headline(metric="fvu", epsilon=0.19))
    (ax,) = curves_figure([record], make_site_references(), board).axes
    found = [text for text in ax.texts if text.get_text().startswith("ε")]
    assert [text.get_text() for text in found] == [f"ε = {epsilon:g}" for _, epsilon in limits]
    assert not overlaps(boxes_of(ax, found))
    for text, (_, epsilon) in zip(found, limits, strict=True):
        assert text.xy[1] == pytest.approx(place_in(ax, 0, epsilon)[1], abs=0.03)
    assert [text.get_weight() for text in found].index("bold") == 1


def test_curves_view_is_the_neighbourhood_of_the_tolerances(zoo):
    (ax,) = drawn(zoo).axes
    low, high = ax.get_ylim()
    assert low < 0.010 < 0.030 < high
    assert high / low < 20
    feasible = [result.bits for record in zoo for result in record.tolerances if result.feasible]
    assert ax.get_xlim()[0] <= min(feasible)
    assert np.mean(np.array(feasible) <= ax.get_xlim()[1]) > 0.9


def test_a_loss_below_zero_leaves_the_log_panel_at_its_foot(zoo):
    record = max(zoo, key=lambda record: -record.floor.delta_ce)
    assert record.floor.delta_ce < 0
    board = build([record], HEADLINE)
    (ax,) = curves_figure([record], make_site_references(), board, "delta_ce").axes
    assert all((y > 0).all() for _, y in lines_of(ax) if len(y) > 2)
    assert hull_named(ax, "pca").get_marker() == "v"  # it goes on below
    png(ax.figure)


def test_curves_of_saes_that_are_all_infeasible_can_be_drawn():
    record = realistic_suite(widths=(32,), sparsities=(8,), n_replicates=10)[0]
    results = [make_result(limit, None) for limit in MNIST_LIMITS]
    record = record.model_copy(update={"tolerances": results})
    assert png(drawn([record])).startswith(PNG_SIGNATURE)
    board = build([record], HEADLINE)
    for figure in (width_figure(board), sparsity_figure(board), tolerances_figure(board)):
        assert png(figure).startswith(PNG_SIGNATURE)
        assert any("no SAE within ε" in t.get_text() for ax in figure.axes for t in ax.texts)


def test_partial_records_are_drawn_and_said_to_be_partial(zoo):
    partial = make_record("partial", results=zoo[0].tolerances, partial=True, limit=10)
    partial = partial.model_copy(update={"points": zoo[0].points[:5]})
    curve, alone = partial.curve("mse"), drawn([partial])
    assert has_line(alone.axes[0], curve.rates, curve.distortions)
    assert "partial" in alone.get_suptitle()


def test_edited_records_are_drawn_only_where_there_are_no_others(zoo):
    text = make_record("edited", results=zoo[0].tolerances, points=zoo[0].points[:5]).to_json()
    edited = parse_record(text.replace('"threads": 1', '"threads": 2'), "x")
    curve = edited.curve("mse")
    assert not has_line(drawn([*zoo, edited]).axes[0], curve.rates, curve.distortions)
    assert has_line(drawn([edited]).axes[0], curve.rates, curve.distortions)


def test_another_quantiser_has_one_line_of_its_own(zoo):
    identity = zoo[0].identity.model_copy(update={"quantiser": "rdo"})
    other = zoo[0].model_copy(update={"identity": identity, "id": identity.id})

    def dashed_curves(figure):
        lines = figure.axes[0].lines
        return [x for x in lines if x.get_linestyle() == "--" and len(x.get_xdata()) > 2]

    alone, both = drawn(zoo), drawn([*zoo, other])
    assert len(dashed_curves(both)) == len(dashed_curves(alone)) + 1
    assert "all [rdo]" in texts_of(both.axes[0])
    assert "all [rdo]" not in texts_of(alone.axes[0])
    only = drawn([other])
    assert "jumprelu [rdo]" in texts_of(only.axes[0])


def test_baselines_alone_can_be_drawn(zoo):
    baselines = [record for record in zoo if record.identity.coder.adapter == "baseline"]
    assert png(drawn(baselines)).startswith(PNG_SIGNATURE)
    board = build(baselines, HEADLINE)
    for figure in (width_figure, sparsity_figure, tolerances_figure, architectures_figure):
        assert png(figure(board)).startswith(PNG_SIGNATURE)


def width_rows():
    def row_source(name, width, bits, dead, l0=16.0, **changes):
        replicates = None if bits is None else [bits - 1.0, bits, bits + 1.0]
        results = [make_result(LIMIT, replicates)]
        if replicates:
            results = [make_result(LIMIT, replicates, l0=l0)]
        coder = {"d_latents": width, "dead_fraction": dead, **changes}
        return make_record(name, results=results, coder=coder)

    return [
        row_source("w32", 32, None, 0.0),
        row_source("w64-a", 64, 120.0, 0.0),
        row_source("w64-b", 64, 150.0, 0.0),
        row_source("w128", 128, 110.0, 0.05),
        row_source("w256-a", 256, 100.0, 0.1, l0=12.0),
        row_source("w256-b", 256, None, 0.2),
        row_source("w256-c", 256, 101.0, 0.2, l0=14.0),
        row_source("w256-d", 256, 104.0, 0.2, l0=18.0),
        row_source("gated-64", 64, 119.5, 0.0, **GATED),
        row_source("gated-256", 256, 99.5, 0.0, **GATED),
    ]


def test_the_best_of_each_width_by_hand():
    rows = build(width_rows()[:6], HEADLINE).headline.rows
    assert [row.label for row in best_per_width(rows)] == ["w64-a", "w128", "w256-a"]


def joined(ax):
    """What lines join: the places and heights of those of more than one point."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.lines
        if len(line.get_xdata()) > 1
        and line.get_linestyle() not in ("None", "")
        and line.get_clip_on()
        and line.get_marker() != "None"
    ]


def test_width_figure_joins_a_sweep_and_nothing_else():
    figure = width_figure(build(width_rows(), HEADLINE))
    ax, dead = figure.axes
    # the widths' bands are 4 wide; the gated SAEs, which are not joined, stand left of the others
    assert joined(ax) == [([6.5, 10.0, 14.5], [120.0, 110.0, 100.0])]
    assert has_line(ax, [5.5, 13.5], [119.5, 99.5])
    assert has_line(ax, [2], [0.965])  # 32 is marked as infeasible along the top
    assert dead.get_ylabel() == "dead"
    assert joined(dead) == [([6.5, 10.0, 14.5], [0.0, 0.05, 0.1])]
    assert has_line(dead, [5.5, 13.5], [0.0, 0.0])
    assert dead.get_xlim() == ax.get_xlim() == (0.0, 16.0)
    assert [tick.get_text() for tick in dead.get_xticklabels()] == ["32", "64", "128", "256"]
    assert list(dead.get_xticks()) == [2.0, 6.0, 10.0, 14.0]
    assert [band.get_x() for band in ax.patches] == [0.0, 8.0]
    assert {"batchtopk", "gated"} <= set(texts_of(ax))
    key = [text.get_text() for text in figure.legends[0].texts]
    assert key == ["rank 1", "no SAE of this width within ε"]
    assert "ε" not in "".join(key[:1])


def test_sparsity_figure_joins_one_architecture_at_one_width():
    (ax,) = sparsity_figure(build(width_rows(), HEADLINE)).axes
    assert joined(ax) == [([12.0, 14.0, 18.0], [100.0, 101.0, 104.0])]
    assert "batchtopk, 256" in texts_of(ax)
    low, high = ax.get_ylim()
    assert [tick for tick in ax.get_yticks() if low <= tick <= high] == [*range(100, 151, 10)]


def test_each_width_has_a_mark_in_the_sparsity_figure():
    figure = sparsity_figure(build(width_rows(), HEADLINE))
    (ax,) = figure.axes
    marks = {
        (line.get_marker(), float(bits))
        for line in ax.lines
        if line.get_marker() in ("o", "s", "^") and line.get_markerfacecolor() != "none"
        for bits in line.get_ydata()
    }
    assert marks == {
        *(("o", bits) for bits in (119.5, 120.0, 150.0)),
        ("s", 110.0),
        *(("^", bits) for bits in (99.5, 100.0, 101.0, 104.0)),
    }
    key = dict(zip(*reversed(key_of(figure)), strict=True))
    assert {name: key[name].get_marker() for name in key if name.startswith("width")} == {
        "width 64": "o",
        "width 128": "s",
        "width 256": "^",
    }


@pytest.mark.parametrize(("widest", "scale"), [(20.0, "linear"), (200.0, "log")])
def test_sparsities_that_differ_much_are_on_a_logarithmic_axis(widest, scale):
    records = [
        make_record(str(l0), results=[make_result(LIMIT, (50.0, 51.0), l0=l0)])
        for l0 in (10.0, widest)
    ]
    assert sparsity_figure(build(records, HEADLINE)).axes[0].get_xscale() == scale


def key_of(figure):
    """The artists of the key, and their names."""
    (legend,) = figure.legends
    return legend.legend_handles, [text.get_text() for text in legend.texts]


def in_mode(record, mode, shorter=0.0):
    """The record in another mode, some bits shorter at every tolerance that it meets."""
    identity = record.identity.model_copy(update={"quantiser": mode})
    results = [
        result
        if result.bits is None
        else make_result(
            (result.metric, result.epsilon), [bits - shorter for bits in result.replicates]
        )
        for result in record.tolerances
    ]
    changes = {"identity": identity, "id": identity.id, "tolerances": results}
    return record.model_copy(update=changes)


def test_another_quantisers_marks_are_hollow_and_its_lines_its_own():
    sources = [row for row in width_rows() if row.coder.architecture == "batchtopk"]
    others = [in_mode(record, "tree") for record in sources]
    figure = width_figure(build([*sources, *others], HEADLINE))
    marks = [
        line
        for line in figure.axes[0].lines
        if list(line.get_ydata()) == [120, 110, 100] and line.get_marker() in ("o", "^")
    ]
    assert [list(line.get_xdata()) for line in marks] == [[5.5, 9.5, 13.5], [6.5, 10.5, 14.5]]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]
    assert [line.get_marker() for line in marks] == ["o", "^"]
    assert {"batchtopk", "batchtopk [tree]"} <= set(texts_of(figure.axes[0]))
    key = [text.get_text() for text in figure.legends[0].texts]
    assert key[:2] == ["the suite's own mode", "[tree]"]


def test_a_tie_is_named_only_where_there_is_one():
    def key(records):
        figure = width_figure(build(records, HEADLINE))
        return [text.get_text() for text in figure.legends[0].texts]

    apart = [make_record("a", (50.0, 50.1)), make_record("b", (60.0, 60.1), coder=GATED)]
    tied = [make_record("a", (50.0, 52.0)), make_record("b", (52.0, 50.0), coder=GATED)]
    assert key(apart) == ["rank 1"]
    assert key(tied) == ["rank 1, shared"]


def test_near_baselines_are_lines_and_far_ones_are_named():
    near = make_record("pca", [129.0, 130.0, 131.0], adapter="baseline")
    far = make_record("dense", [799.0, 800.0, 801.0], adapter="baseline")
    figure = width_figure(build([*width_rows(), near, far], HEADLINE))
    ax = figure.axes[0]
    assert has_line(ax, [0, 1], [130.0, 130.0])
    assert not has_line(ax, [0, 1], [800.0, 800.0])
    assert "pca: 130" in texts_of(ax)
    assert "dense: 800 ↑" in texts_of(ax)
    assert ax.get_ylim()[0] < 99 < 131 < ax.get_ylim()[1] < 200


def test_error_bars_are_the_intervals():
    figure = width_figure(build(width_rows(), HEADLINE))
    bars = [c for c in figure.axes[0].collections if hasattr(c, "get_segments")]
    low, high = np.quantile([119.0, 120.0, 121.0], [0.025, 0.975])
    np.testing.assert_allclose(bars[0].get_segments()[0], [[6.5, low], [6.5, high]])


def test_tolerances_figure_has_a_panel_per_tolerance(board):
    titles = [ax.get_title(loc="left") for ax in tolerances_figure(board).axes]
    assert titles == [f"MSE ≤ {e}" for e in (0.01, 0.015, 0.02, 0.03)]
    titles = [ax.get_title(loc="left") for ax in tolerances_figure(board, "delta_ce").axes]
    assert titles == [f"ΔCE ≤ {e} nats" for e in (0.01, 0.02, 0.05, 0.1)]


LOOSE = ("mse", 0.02)


def at_two_tolerances(name, width, bits, loose, **coder):
    """A record with bits at the headline and at a looser tolerance; None misses it."""
    results = [
        make_result(limit, None if value is None else [value - 0.5, value, value + 0.5])
        for limit, value in ((LIMIT, bits), (LOOSE, loose))
    ]
    adapter = coder.pop("adapter", "saelens")
    return make_record(name, results=results, coder={"d_latents": width, **coder}, adapter=adapter)


def two_tolerances():
    """A sweep at the looser tolerance only, another architecture, and PCA, which is shorter."""
    return build(
        [
            at_two_tolerances("w64", 64, 120.0, 60.0),
            at_two_tolerances("w128", 128, 110.0, 50.0),
            at_two_tolerances("w256", 256, None, 40.0),
            at_two_tolerances("gated", 64, None, 55.0, **GATED),
            at_two_tolerances("pca", 300, 80.0, 400.0, adapter="baseline"),
            in_mode(at_two_tolerances("dense", 300, 81.0, 41.0, adapter="baseline"), "tree"),
        ],
        HEADLINE,
    )


def test_a_sweep_keeps_its_colour_at_tolerances_where_it_is_none():
    figure = tolerances_figure(two_tolerances())
    tight, loose = figure.axes
    marks = [
        next(line for line in ax.lines if len(line.get_xdata()) == n and line.get_marker() == "o")
        for ax, n in ((tight, 2), (loose, 3))
    ]
    assert {line.get_color() for line in marks} == {"#0072B2"}
    assert [line.get_linestyle() for line in marks] == ["None", "-"]
    pale = [line for line in loose.lines if list(line.get_ydata()) == [55.0]]
    assert [line.get_color() for line in pale] == ["#b0b0b0"]
    handles, names = key_of(figure)
    assert names[:2] == ["batchtopk", "other SAEs"]
    assert [handle.get_color() for handle in handles[:2]] == ["#0072B2", "#b0b0b0"]


def test_every_baseline_is_named_at_every_tolerance_in_the_mode_of_the_saes():
    tight, loose = tolerances_figure(two_tolerances()).axes
    assert texts_of(tight) == ["pca: 80"]
    assert has_line(tight, [0, 1], [80.0, 80.0])
    assert tight.get_ylim()[0] < 80
    assert texts_of(loose) == ["pca: 400 ↑"]
    assert not has_line(loose, [0, 1], [400.0, 400.0])


def test_a_panel_without_saes_has_its_baselines():
    board = build(
        [
            at_two_tolerances("w64", 64, None, 60.0),
            at_two_tolerances("w128", 128, None, 50.0),
            at_two_tolerances("pca", 300, 80.0, 70.0, adapter="baseline"),
        ],
        HEADLINE,
    )
    tight = tolerances_figure(board).axes[0]
    assert texts_of(tight) == ["no SAE within ε", "pca: 80"]
    assert has_line(tight, [0, 1], [80.0, 80.0])
    assert len(tight.get_yticks()) > 1


def test_bits_are_drawn_against_width_where_several_widths_meet_a_tolerance():
    def tables(*rows):
        return build([at_two_tolerances(*row) for row in rows], HEADLINE).tables

    assert has_widths(tables(("w64", 64, None, 60.0), ("w128", 128, None, 50.0)))
    assert not has_widths(tables(("w64", 64, None, 60.0), ("w128", 128, 50.0, None)))
    assert not has_widths(tables(("a", 64, 61.0, 60.0), ("b", 64, 51.0, 50.0)))


def test_a_report_of_one_width_has_no_figure_against_width(zoo, tmp_path):
    one = [r for r in zoo if r.is_baseline or r.coder.d_latents == 256]
    names = {path.name for path in write_report(one, realistic_references(), tmp_path)}
    assert "sparsity.png" in names
    assert not {name for name in names if name.startswith(("width", "tolerances"))}


def test_what_is_first_in_another_mode_is_said_where_it_is_not_drawn():
    sources = width_rows()[3:5]
    other = in_mode(sources[1], "tree", shorter=20.0)
    board = build([*sources, other], HEADLINE)
    width, sparsity = width_figure(board), sparsity_figure(board)
    first = "rank 1, in another mode: w256-a [tree] 80.0 bits"
    assert first in [text.get_text() for text in width.texts]
    assert key_of(width)[1] == ["the suite's own mode"]
    said = [text.get_text() for text in sparsity.texts]
    assert f"in the suite's own mode\n{first}" in said
    assert "in the suite's own mode" in [text.get_text() for text in tolerances_figure(board).texts]


@pytest.mark.parametrize("draw", [width_figure, sparsity_figure, tolerances_figure])
def test_no_axis_name_is_cut_or_touches_its_numbers(draw):
    rows = [
        at_two_tolerances(f"w{w}", w, 1e5 + w, 1e4 + w, dead_fraction=0.99) for w in (8, 16, 32)
    ]
    figure = draw(build(rows, HEADLINE))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for ax in figure.axes:
        name = ax.yaxis.label.get_window_extent(renderer)
        numbers = [
            tick.label1.get_window_extent(renderer)
            for tick in ax.yaxis.get_major_ticks()
            if tick.label1.get_text()
        ]
        if ax.get_ylabel():
            assert name.x0 > 0
            assert name.x1 <= min(box.x0 for box in numbers)


def test_widths_are_upright_where_they_do_not_fit():
    def turns(widths):
        rows = [at_two_tolerances(f"w{w}", w, 50.0, 40.0) for w in widths]
        ax = tolerances_figure(build(rows, HEADLINE)).axes[0]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == [str(w) for w in widths]
        return {tick.get_rotation() for tick in ax.get_xticklabels()}

    assert turns((64, 128, 256)) == {0.0}
    assert turns([2**k for k in range(5, 13)]) == {90.0}


def test_widths_have_different_colours_and_one_width_has_one():
    colours = width_colours([32, 256, 4096])
    assert len({colour_of(w, colours) for w in (32, 256, 4096)}) == 3
    assert len(colour_of(64, width_colours([64]))) == 4


def test_the_style_leaves_matplotlib_as_it_was(zoo):
    before = dict(matplotlib.rcParams)
    backend = matplotlib.get_backend()
    with house_style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    png(drawn(zoo[:2]))
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


def test_a_figure_drawn_once_is_what_savefig_writes(zoo):
    found, saved = png(width_figure(build(zoo, HEADLINE))), io.BytesIO()
    with house_style():
        figure = width_figure(build(zoo, HEADLINE))
        figure.savefig(saved, format="png", metadata={"Software": None})
    assert found == saved.getvalue()


def test_the_users_own_style_does_not_change_the_picture(zoo):
    plain = png(width_figure(build(zoo, HEADLINE)))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "figure.dpi": 50}):
        assert png(width_figure(build(zoo, HEADLINE))) == plain


# --- decoder rows ---------------------------------------------------------------------------


def test_feature_grid_shows_the_heaviest_rows_first_each_on_its_own_scale():
    rows = np.zeros((3, 6), dtype=np.float32)
    rows[0, 1], rows[1, 2] = 0.5, -8.0  # row 2 is dead
    figure = feature_grid("sae", rows, (2, 3), np.array([1.0, 3.0, 0.0]))
    image = figure.axes[0].get_images()[0]
    mosaic = np.asarray(image.get_array().filled(np.nan))
    tiles = mosaic[~np.isnan(mosaic).all(axis=1)]
    tiles = tiles[:, ~np.isnan(tiles).all(axis=0)]
    expected = [[0, 0, -1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(tiles, expected)
    assert image.get_clim() == (-1.0, 1.0)
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert captions == ["1: 75.0%", "0: 25.0%", "2: 0.0%"]
    assert figure.texts[0].get_text() == (
        "sae\n3 of 3 decoder rows (latent: share of bits; shown: 100%)"
    )


def test_feature_grid_takes_at_most_n_and_norms_by_default():
    rows = np.diag(np.arange(1.0, 101.0)).astype(np.float32)
    figure = feature_grid("sae", rows, (10, 10), n=64)
    captions = [text.get_text() for text in figure.axes[0].texts]
    assert len(captions) == 64
    assert captions[0] == f"99: {100 / 5050:.1%}"
    assert captions[-1].startswith("36:")


def test_feature_grid_file_is_deterministic_and_its_name_harmless(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 784)).astype(np.float32)
    for name in ("one.png", "two.png"):
        write_feature_grid(tmp_path / "new" / name, "$\\bad{$ <b>", rows, (28, 28))
    one, two = ((tmp_path / "new" / name).read_bytes() for name in ("one.png", "two.png"))
    assert one == two
    assert one.startswith(PNG_SIGNATURE)


# --- the whole report -----------------------------------------------------------------------


def test_report_is_the_same_bytes_for_any_order_of_records(zoo, tmp_path):
    some = [zoo[2], zoo[6], zoo[9], zoo[-1]]
    shuffled = random.Random(3).sample(some, len(some))
    assert shuffled != some
    paths = write_report(some, realistic_references(), tmp_path / "a")
    again = write_report(shuffled, realistic_references(), tmp_path / "b")
    of_losses = ("curves", "tolerances", "curves-delta_ce", "tolerances-delta_ce")
    drawn_names = [f"{name}.png" for name in (*of_losses, "width", "sparsity")]
    names = ["table.csv", "table.md", *drawn_names]
    assert [path.name for path in paths] == [path.name for path in again] == names
    for one, other in zip(paths, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(names)
    assert b"Software" not in (tmp_path / "a" / "curves.png").read_bytes()


def test_report_of_hostile_names_is_written(tmp_path):
    record = realistic_suite(widths=(64,), sparsities=(16,), n_replicates=10)[0]
    hostile = make_record(
        "_$\\frac{$`|<b>",
        results=record.tolerances,
        points=record.points,
        adapter="baseline",
        coder={"architecture": "$x_{"},
    )
    own = make_record(
        "$y_{", results=record.tolerances, points=record.points, coder={"architecture": "$z_{"}
    )
    paths = write_report([hostile, own], realistic_references(), tmp_path)
    assert all(path.stat().st_size > 0 for path in paths)


def test_report_in_an_unwritable_place_is_an_output_error(zoo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"table\.csv: cannot be written"):
        write_report(zoo[:2], realistic_references(), tmp_path / "file")


@pytest.mark.parametrize("key", ["suite", "suite_digest"])
def test_report_refuses_references_of_another_suite(zoo, tmp_path, key):
    other = realistic_references().model_copy(update={key: "e2" * 32})
    with pytest.raises(RecordError, match=f"{key} is e2e2e2e2e2e2 there and"):
        write_report(zoo[:2], other, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_report_refuses_references_of_other_data(zoo, tmp_path):
    elsewhere = make_site_references(data_sha256="e2" * 32)
    other = realistic_references().model_copy(update={"sites": [elsewhere]})
    with pytest.raises(
        RecordError, match=r"none was computed from data dadadadadada of batchtopk-64-k16; run"
    ):
        write_report(zoo[:2], other, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_report_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no records"):
        write_report([], realistic_references(), tmp_path)


def architecture_records():
    return [
        make_record("wide", (60.0, 61.0), coder={"architecture": "topk"}),
        make_record("narrow", (50.0, 51.0), coder={"architecture": "topk"}),
        make_record("short", (40.0, 41.0), coder={"architecture": "mdl"}),
        make_record("gates", None, results=[make_result(LIMIT, None)], coder=GATED),
        make_record("narrow", (45.0, 46.0), coder={"architecture": "topk"}, quantiser="rdo"),
        make_record("k", (5.0, 6.0), coder={"architecture": "kmeans"}, adapter="baseline"),
        make_record("p", (200.0, 210.0), coder={"architecture": "pca"}, adapter="baseline"),
    ]


def test_the_shortest_sae_of_each_architecture_sorted_by_bits():
    records = architecture_records()
    board = build(records, HEADLINE)
    assert has_several(board)
    assert not has_several(build([records[0], records[5]], HEADLINE))
    assert sorted_architectures(board, "mse") == ["mdl", "topk", "kmeans", "pca"]
    figure = architectures_figure(board)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "mdl",
        "topk",
        "kmeans",
        "pca",
    ]
    low, high = panel.get_xlim()
    assert (low, high) == pytest.approx((40.025 - 0.06 * 10.95, 50.975 + 0.06 * 10.95))
    assert marks_of(panel) == {
        (0, "o"): 40.5,
        (1, "o"): 50.5,
        (1, "s"): 45.5,
        (2, CARETLEFTBASE): low,
        (3, CARETRIGHTBASE): high,
    }
    (key,) = figure.legends
    assert [text.get_text() for text in key.texts] == [
        "the suite's own mode",
        "[rdo]",
        "rank 1",
        "out of view",
    ]


def marks_of(panel):
    """The bits of each mark, by its architecture's line and its marker."""
    return {
        (round(line.get_ydata()[0]), line.get_marker()): line.get_xdata()[0]
        for line in panel.lines
        if line.get_marker() != "None"
    }


def test_what_has_no_bits_in_the_suites_own_mode_comes_last_of_its_kind():
    gates = make_record("gates", (30.0, 31.0), coder=GATED, quantiser="rdo")
    records = [record for record in architecture_records() if record.identity.coder.name != "gates"]
    board = build([*records, gates], HEADLINE)
    assert sorted_architectures(board, "mse") == ["mdl", "topk", "gated", "kmeans", "pca"]
    (panel,) = architectures_figure(board).axes
    assert texts_of(panel) == ["40.5", "50.5", "–", "5.5", "205.0"]
    assert marks_of(panel)[2, "s"] == 30.5


def test_numbers_end_at_one_place_between_their_panel_and_the_next():
    limits = [("mse", 0.01), LIMIT]
    records = [
        make_record(name, results=[make_result(limit, bits) for limit in limits], coder=coder)
        for name, bits, coder in (
            ("one", (900.0, 1100.0), {"architecture": "topk"}),
            ("other", (300.0, 310.0), GATED),
        )
    ]
    figure = architectures_figure(build(records, HEADLINE))
    left, right = figure.axes
    for panel, end in ((left, right.bbox.x0), (right, figure.bbox.x1)):
        short, long = boxes_of(figure, panel.texts)
        assert texts_of(panel) == ["305.0", "1000.0"]
        assert short.x1 == pytest.approx(long.x1)
        assert panel.bbox.x1 + 5 < long.x0
        assert long.x1 < end - 5


def test_an_interval_that_leaves_its_panel_ends_in_a_caret():
    records = [
        make_record("short", (40.0, 41.0), coder={"architecture": "topk"}),
        make_record("gates", (50.0, 51.0), coder=GATED),
        make_record("p", (20.0, 80.0), coder={"architecture": "pca"}, adapter="baseline"),
        make_record(
            "p", (45.0, 80.0), coder={"architecture": "pca"}, adapter="baseline", quantiser="rdo"
        ),
    ]
    (panel,) = architectures_figure(build(records, HEADLINE)).axes
    high = panel.get_xlim()[1]
    assert high < 62.5
    assert marks_of(panel) == {
        (0, "o"): 40.5,
        (1, "o"): 50.5,
        (2, "o"): 50.0,
        (2, CARETRIGHTBASE): high,
    }
    assert texts_of(panel)[2] == "50.0"
    assert all(line.get_xdata()[-1] <= high for line in panel.lines)


def test_saes_of_up_to_five_times_the_shortests_bits_are_in_view():
    records = [
        make_record(name, (bits, bits), coder={"architecture": name})
        for name, bits in (("topk", 10.0), ("mdl", 49.0), ("relu", 60.0))
    ]
    (panel,) = architectures_figure(build(records, HEADLINE)).axes
    high = panel.get_xlim()[1]
    assert high == pytest.approx(49 + 0.06 * 39)
    assert marks_of(panel) == {(0, "o"): 10.0, (1, "o"): 49.0, (2, CARETRIGHTBASE): high}


def test_an_architectures_modes_lie_closer_together_than_architectures():
    records = [
        make_record(name, (40.0, 41.0), coder={"architecture": name}, quantiser=mode)
        for name in ("mdl", "topk")
        for mode in (None, "rdo")
    ]
    (panel,) = architectures_figure(build(records, HEADLINE)).axes
    at = [line.get_ydata()[0] for line in panel.lines if line.get_marker() != "None"]
    inches = np.diff(at) * panel.get_position().height * panel.figure.get_figheight() / 2
    np.testing.assert_allclose(inches, [0.06, 0.14, 0.06], rtol=0.2)


def test_the_title_names_the_content_and_the_foot_says_what_sorts():
    figure = architectures_figure(build(architecture_records(), HEADLINE))
    title = " ".join(figure.get_suptitle().split())
    assert title == "mnist: the shortest SAE of each architecture"
    _, note = figure.texts
    assert note.get_text().replace("\n", " ") == (
        "Numbers: bits in the suite's own mode (–: none within ε). Rows are sorted by those at "
        "MSE\N{NO-BREAK SPACE}≤\N{NO-BREAK SPACE}0.015, baselines last. Bars: 95% intervals."
    )
    (box,) = boxes_of(figure, [note])
    assert box.x1 < figure.bbox.x1


def test_lines_of_panels_are_as_long_as_one_another():
    limits = [("mse", epsilon) for epsilon in (0.01, 0.011, 0.012, 0.015)]
    records = [
        make_record(name, results=[make_result(limit, (50.0, 51.0)) for limit in limits], coder=who)
        for name, who in (("one", GATED), ("other", {"architecture": "topk"}))
    ]
    axes = architectures_figure(build(records, HEADLINE)).axes
    lefts = [ax.get_position().x0 for ax in axes]
    assert lefts == [lefts[0], lefts[1]] * 2


def test_an_sae_of_no_bits_leaves_the_others_their_place():
    silent = make_record("silent", (0.0, 0.0), coder={"architecture": "relu"})
    records = [*architecture_records(), silent]
    (panel,) = architectures_figure(build(records, HEADLINE)).axes
    low = panel.get_xlim()[0]
    assert low == pytest.approx(40.025 - 0.06 * 10.95)
    assert marks_of(panel)[0, CARETLEFTBASE] == low
    assert texts_of(panel)[0] == "0.0"


@pytest.mark.parametrize(
    ("bits", "reach"),
    [(0.0, (1 - 0.06, 2 + 0.06)), (40.0, (40 - 0.06 * 40, 40 + 0.06 * 40))],
    ids=["no bits", "every draw alike"],
)
def test_a_panel_of_one_mark_has_two_ends(bits, reach):
    record = make_record("alone", (bits, bits), coder={"architecture": "topk"})
    (panel,) = architectures_figure(build([record], HEADLINE)).axes
    assert panel.get_xlim() == pytest.approx(reach)


def test_a_loss_whose_tolerances_all_miss_has_an_empty_panel():
    records = [
        make_record(name, results=[make_result(LIMIT, None)], coder={"architecture": name})
        for name in ("mdl", "topk")
    ]
    figure = architectures_figure(build(records, HEADLINE))
    assert texts_of(figure.axes[0]) == []
    assert png(figure).startswith(PNG_SIGNATURE)


def test_panels_are_of_one_loss_the_tightest_first():
    limits = [("fvu", 0.3), ("fvu", 0.01), ("delta_ce", 0.05)]
    records = [
        make_record(name, results=[make_result(limit, (50.0, 51.0)) for limit in limits], coder=who)
        for name, who in (("one", GATED), ("other", {"architecture": "topk"}))
    ]
    board = build(records, Headline(metric="delta_ce", epsilon=0.05))

    def titles(metric):
        return [ax.get_title(loc="left") for ax in architectures_figure(board, metric).axes]

    assert titles("fvu") == ["FVU ≤ 0.01", "FVU ≤ 0.3"]
    assert titles(None) == ["ΔCE ≤ 0.05 nats"]


def test_an_sae_without_latents_has_the_colour_of_the_narrowest():
    colours = width_colours([0, 16])
    assert colour_of(0, colours) == colour_of(1, colours) != colour_of(16, colours)


@pytest.mark.parametrize("text", ["=1+1", " =1+1", "\u00a0@SUM(A1)", "\t1", "-1+1", "\n+1"])
def test_a_text_that_a_spreadsheet_would_run_begins_with_an_apostrophe(text):
    assert inert_cell(text) == f"'{text}"
    assert inert_cell("a =1") == "a =1"
    assert inert_cell(-1.5) == -1.5
