"""A mode is one file and one row: a made-up one goes from suite to page, unknown ones nowhere."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from mdlbench.boards.compare.choice import choose
from mdlbench.boards.compare.contest import compare
from mdlbench.boards.leaderboard import build_all, by_site
from mdlbench.codes import bitstream
from mdlbench.errors import RecordError, SuiteError, UsageError
from mdlbench.papers.sweep import gains
from mdlbench.papers.sweep_figures import mode_gains
from mdlbench.quantisers.files import decoded_values
from mdlbench.quantisers.modes import MODES, Mode
from mdlbench.records.checks import problems_of_file
from mdlbench.records.record import parse_record
from mdlbench.records.store import read_records, read_references, record_paths
from mdlbench.report import write_report
from mdlbench.report.citation import methods
from mdlbench.report.compare import write_comparison
from mdlbench.report.figures import curves_figure
from mdlbench.report.page.write import suite_page
from mdlbench.scoring import suite_run
from mdlbench.scoring.single import encode_target, evaluate
from mdlbench.scoring.targets import in_modes, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from tests.tiny import tiny_suite, write_sae, write_tiny_suite

MADE_UP = Mode(
    name="made-up",
    module="tests.made_up_mode",
    help="a little larger",
    methods="Each latent is made up",
    line=(0, (3, 5, 1, 5)),
    dash=(3, 5, 1, 5),
    marker="p",
)
LABELS = "sae", "sae [made-up]", "pca", "pca [made-up]"


@pytest.fixture(scope="module", autouse=True)
def _made_up():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(MODES, MADE_UP.name, MADE_UP)
        yield


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A results folder with an SAE and a baseline, in the suite's own mode and in the made-up."""
    folder = tmp_path_factory.mktemp("results")
    suite = tiny_suite(tmp_path_factory.mktemp("suite"))
    sae = write_sae(tmp_path_factory.mktemp("saes") / "sae")
    opener = Opener(suite, Setting("cpu", None, None))
    wanted = targets(suite, [str(sae), "pca"], None)
    modes = (suite.quantiser, MADE_UP.name)
    outcomes = list(suite_run.run(opener, in_modes(suite, wanted, modes), folder))
    assert [outcome.target.label for outcome in outcomes] == [
        str(sae),
        f"{sae} [made-up]",
        "pca",
        "pca [made-up]",
    ]
    assert all(isinstance(outcome, suite_run.Scored) for outcome in outcomes)
    records = {record.label: record for record in read_records(folder)}
    return SimpleNamespace(
        folder=folder, suite=suite, opener=opener, wanted=wanted, records=records, sae=sae
    )


def test_records_are_read_and_valid(scored):
    assert set(scored.records) == set(LABELS)
    record = scored.records["sae [made-up]"]
    assert record.identity.quantiser == "made-up"
    assert all(point.quantiser == "made-up" for point in record.points)
    assert all(point.header_bits >= 8.0 for point in record.points)
    assert parse_record(record.to_json(), "here") == record
    for path in record_paths(scored.folder):
        assert problems_of_file(path, scored.suite) == []


def test_evaluate_measures_what_eval_does(scored):
    again = evaluate(str(scored.sae), scored.suite, quantiser="made-up")
    record = scored.records["sae [made-up]"]
    assert [point.mse for point in again.points] == [point.mse for point in record.points]
    plain = scored.records["sae"]
    assert [point.mse for point in again.points] != [point.mse for point in plain.points]


def test_a_file_says_what_its_decoder_needs(scored):
    decoded = bitstream.decode(encode_target(scored.opener, scored.wanted[0], 0.25, "made-up"))
    assert decoded.quantiser == bitstream.QuantiserHeader(mode="made-up", columns={"parts": [1]})
    expected = decoded.symbols.symbol * 0.25 * (1 + 1 / 256)
    assert decoded_values(decoded).value == pytest.approx(expected, rel=1e-6)


def test_board_and_figures_have_it(scored):
    references, records = read_references(scored.folder), list(scored.records.values())
    paths = write_report(records, references, scored.folder)
    for table in ("table.md", "table.csv"):
        text = (scored.folder / table).read_text().replace("\\", "")
        assert all(label in text for label in LABELS)
    assert "curves.png" in {path.name for path in paths}
    (board,), (group,) = build_all(records, references.headline), by_site(records).values()
    figure = curves_figure(group, references.sites[0], board)
    assert "all [made-up]" in [text.get_text() for text in figure.axes[0].texts]
    curves = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert (3, 5, 1, 5) in map(_dashes, curves)


def test_the_page_has_its_line(scored):
    records = list(scored.records.values())
    page = suite_page(records, read_references(scored.folder)).decode()
    assert '"dashes":{"made-up":[3,5,1,5]}' in page
    assert "sae [made-up]" in page


def test_compare_pairs_it(scored):
    contest = compare(choose(["sae", "sae [made-up]"], scored.folder).contenders, "mse")
    (comparison,) = contest.comparisons
    assert comparison.bd_bits is not None
    written = write_comparison(contest, scored.folder / "compared")
    assert {path.suffix for path in written} >= {".png", ".json", ".csv"}
    families = choose(["all", "all [made-up]"], scored.folder).contenders
    assert [one.name for one in families[-2:]] == ["all jumprelu [made-up]", "all pca [made-up]"]


def test_a_paper_says_what_it_is(scored):
    paragraph = methods(scored.records["sae [made-up]"], scored.suite)
    assert "Each latent is made up; the rate is" in paragraph
    assert "each latent given whether its parent is on" in paragraph
    assert "Each latent is made up" not in methods(scored.records["sae"], scored.suite)


def test_the_papers_experiments_draw_it(scored):
    found = gains([scored.records["sae"]], [scored.records["sae [made-up]"]])
    others = [mode for mode in MODES if mode != "normalised"] + ["normalised"]
    figure = mode_gains(dict.fromkeys(others, found), "normalised")
    drawn = [line for line in figure.axes[0].lines if line.get_fillstyle() == "none"]
    assert [line.get_marker() for line in drawn] == [MODES[mode].marker for mode in others]
    assert [text.get_text() for text in figure.legends[0].texts] == others


def _dashes(line) -> tuple[float, ...]:
    """As they were asked for, in widths of the line."""
    _, dashes = line._unscaled_dash_pattern
    return tuple(dashes or ())


class TestUnknownNames:
    """Each is refused, with the nearest."""

    MESSAGE = "Did you mean 'made-up'"

    def test_on_the_command_line(self):
        arguments = ["eval", "--suite", "toy", "--quantiser", "rdq"]
        run = subprocess.run(
            [sys.executable, "-m", "mdlbench", *arguments], capture_output=True, text=True
        )
        assert run.returncode == 2
        assert "no quantiser 'rdq'. Did you mean 'rdo'?" in run.stderr

    def test_in_python(self, scored):
        with pytest.raises(UsageError, match=self.MESSAGE):
            evaluate(str(scored.sae), scored.suite, quantiser="made-yp")
        with pytest.raises(UsageError, match=self.MESSAGE):
            in_modes(scored.suite, scored.wanted, ["made-yp"])

    def test_in_a_record(self, scored):
        content = json.loads(scored.records["sae [made-up]"].to_json())
        content["identity"]["quantiser"] = "made-yp"
        with pytest.raises(RecordError, match=self.MESSAGE):
            parse_record(json.dumps(content), "here")

    def test_in_a_file(self, scored):
        data = encode_target(scored.opener, scored.wanted[0], 0.25, "made-up")
        told = bitstream.QuantiserHeader(mode="made-yp", columns={"parts": [1]})
        decoded = replace(bitstream.decode(data), quantiser=told)
        with pytest.raises(RecordError, match=self.MESSAGE):
            decoded_values(decoded)

    def test_of_a_family(self, scored):
        with pytest.raises(UsageError, match=self.MESSAGE):
            choose(["all", "all [made-yp]"], scored.folder)

    def test_in_a_suite(self, tmp_path):
        folder = write_tiny_suite(tmp_path, quantiser="unifrom")
        with pytest.raises(SuiteError, match=r"quantiser: .*Did you mean 'uniform'"):
            load_suite(folder)
        content = yaml.safe_load((folder / "suite.yaml").read_text())
        (folder / "suite.yaml").write_text(yaml.safe_dump(content | {"quantiser": "rdo"}))
        with pytest.raises(SuiteError, match="'rdo' cannot be a suite's own"):
            load_suite(folder)
