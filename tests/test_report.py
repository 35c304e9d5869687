"""Tables and figures: their values, their determinism, and names that mean harm."""

from __future__ import annotations

import csv
import io
import json
import random

import matplotlib
import numpy as np
import pytest
from rich.console import Console

from mdlbench.boards.leaderboard import build, to_json
from mdlbench.curves.curve import gaussian_rate_distortion
from mdlbench.errors import OutputError, RecordError, UsageError
from mdlbench.records.record import parse_record
from mdlbench.report import print_boards, write_report
from mdlbench.report.architectures import architectures_figure, families, has_several
from mdlbench.report.features import feature_grid, write_feature_grid
from mdlbench.report.figures import curves_figure
from mdlbench.report.style import colour_of, house_style, png, width_colours
from mdlbench.report.tables import (
    escape_markdown,
    inert_cell,
    printable,
    to_csv,
    to_markdown,
    to_rich,
)
from mdlbench.report.widths import (
    best_per_width,
    infeasible_widths,
    tolerances_figure,
    width_figure,
)
from mdlbench.suite.suite import Headline
from tests.records import (
    HEADLINE,
    MNIST_LIMITS,
    make_distortion,
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


def axes_titled(figure, title):
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left") == title)
    return ax


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


def test_curves_show_every_sae_the_gaussian_and_the_tolerances(zoo):
    references = make_site_references()
    figure = drawn(zoo)
    ax = axes_titled(figure, "MSE after quantisation")
    for record in zoo:
        curve = record.curve("mse")
        assert has_line(ax, curve.rates, curve.distortions)
    assert has_line(ax, *gaussian_rate_distortion(np.array(references.eigenvalues)))
    for metric, epsilon in MNIST_LIMITS:
        panel = {"mse": "MSE", "delta_ce": "ΔCE"}[metric]
        ax = axes_titled(figure, f"{panel} after quantisation")
        assert has_line(ax, [0, 1], [epsilon, epsilon])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Gaussian R(D), a reference" in labels
    assert "pca: PCA transform codec" in labels
    assert "off scale: fixed-length code, n bits per dimension" in labels


def test_curves_view_is_the_neighbourhood_of_the_tolerances(zoo):
    ax = axes_titled(drawn(zoo), "MSE after quantisation")
    low, high = ax.get_ylim()
    assert low < 0.010 < 0.030 < high
    assert high / low < 10
    feasible = [result.bits for record in zoo for result in record.tolerances if result.feasible]
    assert ax.get_xlim()[0] <= min(feasible)
    assert np.mean(np.array(feasible) <= ax.get_xlim()[1]) > 0.9


def test_a_loss_below_zero_leaves_the_log_panel_at_its_foot(zoo):
    record = max(zoo, key=lambda record: -record.floor.delta_ce)
    assert record.floor.delta_ce < 0
    ax = axes_titled(drawn([record]), "ΔCE after quantisation")
    assert all((y > 0).all() for _, y in lines_of(ax) if len(y) > 2)
    png(ax.figure)


def test_curves_of_saes_that_are_all_infeasible_can_be_drawn():
    record = realistic_suite(widths=(32,), sparsities=(8,), n_replicates=10)[0]
    results = [make_result(limit, None) for limit in MNIST_LIMITS]
    record = record.model_copy(update={"tolerances": results})
    assert png(drawn([record])).startswith(PNG_SIGNATURE)
    board = build([record], HEADLINE)
    for figure in (width_figure(board), tolerances_figure(board)):
        assert png(figure).startswith(PNG_SIGNATURE)
        assert any("no SAE is feasible" in t.get_text() for ax in figure.axes for t in ax.texts)


def test_partial_records_are_drawn_and_said_to_be_partial(zoo):
    partial = make_record("partial", results=zoo[0].tolerances, partial=True, limit=10)
    partial = partial.model_copy(update={"points": zoo[0].points[:5]})
    curve, alone = partial.curve("mse"), drawn([partial])
    assert has_line(axes_titled(alone, "MSE after quantisation"), curve.rates, curve.distortions)
    assert "partial" in alone.get_suptitle()


def test_edited_records_are_drawn_only_where_there_are_no_others(zoo):
    text = make_record("edited", results=zoo[0].tolerances, points=zoo[0].points[:5]).to_json()
    edited = parse_record(text.replace('"threads": 1', '"threads": 2'), "x")
    curve, title = edited.curve("mse"), "MSE after quantisation"
    both = axes_titled(drawn([*zoo, edited]), title)
    assert not has_line(both, curve.rates, curve.distortions)
    assert has_line(axes_titled(drawn([edited]), title), curve.rates, curve.distortions)


def test_another_quantiser_has_its_own_line_and_says_so(zoo):
    identity = zoo[0].identity.model_copy(update={"quantiser": "rdo"})
    other = zoo[0].model_copy(update={"identity": identity, "id": identity.id})

    def dashed_curves(figure):
        lines = figure.axes[0].lines
        return [x for x in lines if x.get_linestyle() == "--" and len(x.get_xdata()) > 2]

    def labels(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    alone, both = drawn(zoo), drawn([*zoo, other])
    assert len(dashed_curves(both)) == len(dashed_curves(alone)) + 1
    assert "by the quantiser rdo" in labels(both)
    assert "by the quantiser rdo" not in labels(alone)


def test_baselines_alone_can_be_drawn(zoo):
    baselines = [record for record in zoo if record.identity.coder.adapter == "baseline"]
    assert png(drawn(baselines)).startswith(PNG_SIGNATURE)
    assert png(width_figure(build(baselines, HEADLINE))).startswith(PNG_SIGNATURE)


def width_rows():
    def row_source(name, width, bits, dead):
        replicates = None if bits is None else [bits - 1.0, bits, bits + 1.0]
        return make_record(name, replicates, coder={"d_latents": width, "dead_fraction": dead})

    return [
        row_source("w32", 32, None, 0.0),
        row_source("w64-a", 64, 120.0, 0.0),
        row_source("w64-b", 64, 150.0, 0.0),
        row_source("w256-a", 256, 100.0, 0.1),
        row_source("w256-b", 256, None, 0.2),
    ]


def test_best_and_infeasible_widths_by_hand():
    rows = build(width_rows(), HEADLINE).headline.rows
    assert [row.label for row in best_per_width(rows)] == ["w64-a", "w256-a"]
    assert infeasible_widths(rows) == [32]


def test_width_figure_joins_the_best_of_each_width():
    figure = width_figure(build(width_rows(), HEADLINE))
    ax = axes_titled(figure, "Bits against width, best sparsity of each")
    assert has_line(ax, [64, 256], [120.0, 100.0])
    assert has_line(ax, [32], [0.965])  # marked as infeasible along the top
    assert has_line(ax, [256], [100.0])  # the first rank
    (dead,) = (ax for ax in figure.axes if ax.get_ylabel() == "dead latents")
    assert has_line(dead, [64, 256], [0.0, 0.1])
    assert dead.get_xlim() == ax.get_xlim()
    l0 = axes_titled(figure, "Bits against sparsity")
    assert has_line(l0, [16.0, 16.0], [120.0, 150.0])


def test_near_baselines_are_lines_and_far_ones_are_named():
    near = make_record("pca", [129.0, 130.0, 131.0], adapter="baseline")
    far = make_record("dense", [799.0, 800.0, 801.0], adapter="baseline")
    figure = width_figure(build([*width_rows(), near, far], HEADLINE))
    ax = axes_titled(figure, "Bits against width, best sparsity of each")
    assert has_line(ax, [0, 1], [130.0, 130.0])
    assert not has_line(ax, [0, 1], [800.0, 800.0])
    texts = [text.get_text() for text in ax.texts]
    assert "pca: 130" in texts
    assert "off scale: dense 800 bits" in texts
    assert ax.get_ylim()[0] < 99 < 151 < ax.get_ylim()[1] < 200


def test_error_bars_are_the_intervals():
    figure = width_figure(build(width_rows(), HEADLINE))
    ax = axes_titled(figure, "Bits against width, best sparsity of each")
    (bars,) = (c for c in ax.collections if hasattr(c, "get_segments"))
    low, high = np.quantile([119.0, 120.0, 121.0], [0.025, 0.975])
    np.testing.assert_allclose(bars.get_segments()[0], [[64, low], [64, high]])


def test_tolerances_figure_has_a_panel_per_tolerance(board):
    titles = [ax.get_title(loc="left") for ax in tolerances_figure(board).axes]
    assert titles == [
        *(f"MSE per dimension ≤ {e}" for e in (0.01, 0.015, 0.02, 0.03)),
        *(f"ΔCE ≤ {e} nats" for e in (0.01, 0.02, 0.05, 0.1)),
    ]


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
    some = [*zoo[:3], zoo[-1]]
    shuffled = random.Random(3).sample(some, len(some))
    assert shuffled != some
    paths = write_report(some, realistic_references(), tmp_path / "a")
    again = write_report(shuffled, realistic_references(), tmp_path / "b")
    names = ["table.csv", "table.md", "curves.png", "width.png", "tolerances.png"]
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


def test_the_shortest_sae_of_each_architecture():
    records = [
        make_record("wide", (60.0, 61.0), coder={"architecture": "topk"}),
        make_record("narrow", (50.0, 51.0), coder={"architecture": "topk"}),
        make_record("gates", None, results=[make_result(LIMIT, None)], coder=GATED),
        make_record("narrow", (45.0, 46.0), coder={"architecture": "topk"}, quantiser="rdo"),
        make_record("k", (10.0, 10.5), coder={"architecture": "kmeans"}, adapter="baseline"),
    ]
    board = build(records, HEADLINE)
    assert has_several(board)
    assert not has_several(build([records[0], records[-1]], HEADLINE))
    assert families(board) == ["gated", "topk", "topk [rdo]", "kmeans"]
    (panel,) = [ax for ax in architectures_figure(board).axes if ax.get_visible()]
    assert [label.get_text() for label in panel.get_yticklabels()] == families(board)
    shown = {round(line.get_ydata()[0]): line for line in panel.lines if line.get_marker() == "o"}
    assert {at: line.get_xdata()[0] for at, line in shown.items()} == {1: 50.5, 2: 45.5}
    written = {text.get_text() for text in panel.texts}
    assert {"misses ε", "← 10 bits", "50.5", "45.5"} <= written


def test_panels_of_one_loss_stand_together():
    limits = [("fvu", 0.01), ("delta_ce", 0.05), ("fvu", 0.3)]
    records = [
        make_record(name, results=[make_result(limit, (50.0, 51.0)) for limit in limits], coder=who)
        for name, who in (("one", GATED), ("other", {"architecture": "topk"}))
    ]
    board = build(records, Headline(metric="delta_ce", epsilon=0.05))
    titles = [ax.get_title(loc="left") for ax in architectures_figure(board).axes]
    assert titles[:3] == ["FVU ≤ 0.01", "FVU ≤ 0.3", "ΔCE ≤ 0.05 nats"]


def test_an_sae_without_latents_has_the_colour_of_the_narrowest():
    colours = width_colours([0, 16])
    assert colour_of(0, colours) == colour_of(1, colours) != colour_of(16, colours)


@pytest.mark.parametrize("text", ["=1+1", " =1+1", "\u00a0@SUM(A1)", "\t1", "-1+1", "\n+1"])
def test_a_text_that_a_spreadsheet_would_run_begins_with_an_apostrophe(text):
    assert inert_cell(text) == f"'{text}"
    assert inert_cell("a =1") == "a =1"
    assert inert_cell(-1.5) == -1.5
