"""What notebooks show: records, curves, comparisons, progress; and the tutorial does as it says."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mdlbench
from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.compare.contest import compare as contest_of
from mdlbench.boards.leaderboard import unique_labels
from mdlbench.console.stages import shown_on_terminal
from mdlbench.errors import RecordError, UsageError
from mdlbench.records.measured import ACCEPTED
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import RecordStore, read_records
from tests.documentation import REPOSITORY
from tests.notebooks import execute
from tests.records import make_record, make_result, realistic_suite

HOSTILE = "<script>alert(1)</script>&\x1b[31m\u202e"
PICTURE = re.compile(r'src="data:image/png;base64,[^"]+"')


@pytest.fixture(scope="module")
def zoo():
    return realistic_suite(widths=(64, 256), sparsities=(8, 16), n_replicates=60)


class Tags(HTMLParser):
    """The tags of a text, and what stands between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data)


# --- records --------------------------------------------------------------------------------


def test_a_record_is_a_line_and_a_small_table(zoo):
    record = zoo[1]
    met = [result for result in record.tolerances if result.feasible]
    first = met[0]
    assert (
        repr(record)
        == str(record)
        == (
            f"<EvalRecord {record.label} on mnist: {first.bits:.1f} bits per token at "
            f"MSE ≤ {first.epsilon:g}, {len(met)} of {len(record.tolerances)} tolerances met>"
        )
    )
    html = record._repr_html_()
    assert len(html) < 60_000
    assert len(PICTURE.findall(html)) == 1
    parsed = Tags(html)
    assert set(parsed.tags) == {"div", "strong", "table", "tr", "th", "td", "img"}
    for result in met:
        low, high = result.bits_ci
        at = parsed.words.index(
            f"{'MSE' if result.metric == 'mse' else 'ΔCE'} ≤ {result.epsilon:g}"
            f"{'' if result.metric == 'mse' else ' nats'}"
        )
        assert parsed.words[at + 1 : at + 4] == [
            f"{result.bits:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{result.l0:.1f}",
        ]
    assert sum("its floor is" in word for word in parsed.words) == len(record.tolerances) - len(met)


def test_nothing_of_a_record_is_markup():
    record = make_record(HOSTILE, coder={"architecture": HOSTILE})
    html = record._repr_html_()
    assert "script" not in Tags(html).tags
    assert "\x1b" not in html + repr(record)
    assert "\u202e" not in html + repr(record)
    assert "<script>alert(1)</script>&" in "".join(Tags(html).words)


def test_a_record_that_meets_nothing_says_so():
    record = make_record("bare", results=[make_result(("mse", 0.015), None)], points=[])
    assert repr(record) == "<EvalRecord bare on mnist: 0 of 1 tolerances met>"
    assert "img" not in Tags(record._repr_html_()).tags
    assert repr(make_record("part", partial=True)).endswith("1 of 1 tolerances met, partial>")


def test_tab_offers_what_a_record_is_and_nothing_of_pydantic(zoo):
    offered = dir(zoo[0])
    assert {"at", "curve", "to_frame", "to_json", "label", "tolerances", "points"} <= set(offered)
    assert not [name for name in offered if name.startswith(("_", "model_", "parse"))]
    assert not {"copy", "dict", "json", "construct", "validate"} & set(offered)
    assert set(EvalRecord.model_fields) <= set(offered)
    assert "mse_ci" in dir(zoo[0].points[0])  # a key that the table of metrics adds
    for name in offered:
        getattr(zoo[0], name)


# --- curves ---------------------------------------------------------------------------------


def plotted(record, metric="mse", ax=None):
    ax = Figure(figsize=(5, 3.5)).subplots() if ax is None else ax
    return record.curve(metric).plot(ax)


def test_a_plot_has_the_hull_the_tolerances_and_the_accepted_points(zoo):
    record = zoo[1]
    ax = plotted(record)
    hull = record.curve("mse").lower_hull()
    line = ax.lines[0]
    np.testing.assert_allclose(line.get_xdata(), hull.rates_at(line.get_ydata()))
    met = [r for r in record.tolerances if r.metric == "mse" and r.feasible]
    (accepted,) = [line for line in ax.lines if line.get_gid() == ACCEPTED]
    assert accepted.get_xdata().tolist() == [result.bits for result in met]
    assert accepted.get_ydata().tolist() == [result.epsilon for result in met]
    texts = [text.get_text() for text in ax.texts]
    assert texts[0] == record.label
    assert texts[1:] == [f"ε = {epsilon:g}" for epsilon in (0.01, 0.015, 0.02, 0.03)]
    assert ax.get_yscale() == "log"
    FigureCanvasAgg(ax.figure).draw()
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert "0.02" in ticks
    assert not any("10^" in tick for tick in ticks)


def test_the_band_is_the_interval_of_the_hull_over_draws(zoo):
    record = zoo[1]
    (low, high), losses = record.curve("mse").band()
    at = len(losses) // 3
    rates = []
    for draw in range(60):
        points = [(p.resampled_bits()[draw], p.resampled("mse")[draw]) for p in record.points]
        rates.append(cheapest(points, losses[at]))
    found = np.quantile([rate for rate in rates if np.isfinite(rate)], (0.025, 0.975))
    assert (low[at], high[at]) == pytest.approx(tuple(found), rel=1e-9)
    assert (low <= high).all()
    assert len(plotted(record).collections) == 1
    bare = record.model_copy(
        update={"points": [p.model_copy(update={"resamples": None}) for p in record.points]}
    )
    assert bare.curve("mse").band() is None
    assert len(plotted(bare).collections) == 0


def cheapest(points, loss):
    """The least rate at exactly a loss of any two points that share the tokens."""
    rates = [np.inf]
    for rate, distortion in points:
        for other_rate, other in points:
            if distortion <= loss <= other and other > distortion:
                share = (loss - distortion) / (other - distortion)
                rates.append(rate + share * (other_rate - rate))
    return min(rates)


def test_curves_on_one_axis_have_colours_of_their_own_and_share_the_tolerances(zoo):
    ax = Figure(figsize=(5, 3.5)).subplots()
    for record in zoo[:3]:
        plotted(record, ax=ax)
    hulls = [line for line in ax.lines if line.get_gid() == "curve"]
    assert len({line.get_color() for line in hulls}) == 3
    texts = [text.get_text() for text in ax.texts]
    assert sum(text == "ε = 0.015" for text in texts) == 1
    assert {record.label for record in zoo[:3]} <= set(texts)
    most = max(r.bits for record in zoo[:3] for r in record.tolerances if r.bits)
    assert ax.get_xlim()[0] == 0
    assert ax.get_xlim()[1] >= min(most, *(max(h.get_xdata()) for h in hulls))


def test_plotting_leaves_the_users_style_alone(zoo):
    before = dict(matplotlib.rcParams)
    plotted(zoo[0])
    assert dict(matplotlib.rcParams) == before


# --- the module -----------------------------------------------------------------------------


def test_tab_offers_the_module_and_imports_nothing_heavy():
    probe = (
        "import sys, mdlbench\n"
        "print(dir(mdlbench))\n"
        "print({'torch', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules))\n"
        "mdlbench.compare, mdlbench.load_suite\n"
        "print('torch' in sys.modules, isinstance(mdlbench.__version__, str))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    offered, heavy, rest = run.stdout.splitlines()
    assert offered == "['__version__', 'compare', 'evaluate', 'load_suite']"
    assert heavy == "set()"
    assert rest == "False True"
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = mdlbench.evalute


# --- comparisons ----------------------------------------------------------------------------


def test_compare_is_a_frame_and_a_figure(zoo):
    comparison = mdlbench.compare(zoo[:3])
    expected = contest_of([Contender(r.label, (r,)) for r in zoo[:3]], "mse")
    frame = comparison.frame
    assert list(frame.columns) == [
        *("sae", "epsilon", "bits", "low", "high"),
        *("rank", "delta", "delta_low", "delta_high"),
    ]
    assert len(frame) == 3 * len(expected.tolerances)
    for at in expected.tolerances:
        for placing in at.placings:
            (row,) = frame[(frame.sae == placing.name) & (frame.epsilon == at.epsilon)].itertuples()
            if placing.bits is None:
                assert np.isnan(row.bits)
                continue
            assert (row.bits, row.rank) == (placing.bits, placing.rank)
            if placing.to_anchor:
                assert row.delta == placing.to_anchor.bits
                assert row.delta_low <= row.delta <= row.delta_high
    curves = comparison.curves
    assert curves.sae.tolist() == [record.label for record in zoo[1:3]]
    bits = [None if c.bd_bits is None else c.bd_bits.value for c in expected.comparisons]
    pd.testing.assert_series_equal(
        curves.bd_bits, pd.Series(bits, name="bd_bits"), check_dtype=False
    )
    assert len(comparison.figure().axes) == 3
    html = comparison._repr_html_()
    assert {"ul", "table", "img"} <= set(Tags(html).tags)
    assert len(html) < 250_000
    assert repr(comparison).startswith("<Comparison: mnist: bits per token at equal MSE; ")


def test_compare_takes_names_and_families_of_a_folder(zoo, tmp_path):
    for record in zoo:
        RecordStore(tmp_path).save(record)
    comparison = mdlbench.compare(
        [zoo[0], "all jumprelu"], metric="delta_ce", epsilon=0.05, folder=tmp_path
    )
    assert comparison.frame.epsilon.unique().tolist() == [0.05]
    assert set(comparison.frame.sae) == {zoo[0].label, "all jumprelu"}
    with pytest.raises(UsageError, match="at least two"):
        mdlbench.compare(zoo[:1])
    other = make_record("other", data_sha256="ee" * 32)
    with pytest.raises(RecordError):
        mdlbench.compare([zoo[0], other])


def renamed(record, name):
    coder = record.identity.coder.model_copy(update={"name": name})
    identity = record.identity.model_copy(update={"coder": coder})
    return record.model_copy(update={"identity": identity, "id": identity.id})


def test_saes_of_one_name_are_told_apart_wherever_they_are_from(zoo, tmp_path):
    twin = renamed(zoo[1], zoo[0].name)
    path = RecordStore(tmp_path).save(twin)
    labels = unique_labels([zoo[0], twin])
    assert len(set(labels.values())) == 2
    for other in (twin, path, str(path)):
        frame = mdlbench.compare([zoo[0], other]).frame
        assert set(frame.sae) == set(labels.values())


def test_an_edited_record_is_compared_with_nothing(zoo, tmp_path):
    path = RecordStore(tmp_path).save(zoo[0])
    path.write_text(path.read_text().replace('"threads": ', '"threads": 1'))
    (edited,) = read_records(tmp_path)
    with pytest.raises(RecordError) as error:
        mdlbench.compare([zoo[1], edited])
    assert str(error.value) == (
        f"{zoo[0].name} (edited): changed after it was written (its checksum does not match); it "
        "is compared with nothing"
    )


def test_nothing_of_a_compared_name_is_markup(zoo):
    html = mdlbench.compare([renamed(zoo[0], HOSTILE), zoo[1]])._repr_html_()
    assert "script" not in Tags(html).tags
    assert "\x1b" not in html


# --- progress -------------------------------------------------------------------------------


def test_a_cell_shows_one_line_that_is_gone_at_the_end(monkeypatch):
    stream_class = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", stream := stream_class())
    with shown_on_terminal() as on_stage:
        on_stage("encode")
        on_stage("rate\x1b[31m")
    parts = stream.getvalue().split("\r")
    assert re.fullmatch(r"encode \(\d+ s\)", parts[1])
    assert re.fullmatch(r"rate�\[31m \(\d+ s\) *", parts[2])
    assert parts[-2].strip() == parts[-1] == ""
    assert len(parts[-2]) >= len(parts[2].rstrip())


def test_a_file_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with shown_on_terminal() as on_stage:
        on_stage("encode")
    assert stream.getvalue() == ""


# --- the tutorial ---------------------------------------------------------------------------

TUTORIAL = REPOSITORY / "docs" / "tutorial.ipynb"


def shown(outputs):
    """Outputs without pictures, which depend on fonts' versions."""
    text = json.dumps(outputs, ensure_ascii=False)
    return re.sub(r'("image/png": )"[^"]+"|base64,[^"\\]+', r"\1", text)


def test_the_tutorial_shows_what_it_says(monkeypatch, tmp_path):
    content = json.loads(TUTORIAL.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    kept = [cell["outputs"] for cell in cells]
    assert TUTORIAL.stat().st_size < 400_000
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    monkeypatch.chdir(tmp_path)
    found = execute(content)
    assert [shown(outputs) for outputs in found] == [shown(outputs) for outputs in kept]
