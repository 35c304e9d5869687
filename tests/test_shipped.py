"""The committed leaderboards: rebuilt from their records, audited, and as accurate as promised."""

import shutil
from pathlib import Path

import pytest

from mdlbench.boards.leaderboard import build_all
from mdlbench.records.checks import problems_of_file
from mdlbench.records.repetition import REPETITIONS, repetition_path, standing
from mdlbench.records.store import read_records, read_references, record_paths
from mdlbench.report.page import write_pages
from mdlbench.report.page.project import IN_CHECKOUT
from mdlbench.report.tables import to_csv, to_markdown
from mdlbench.suite.load import load_suite

BOARDS = sorted(path for path in (Path(__file__).parent.parent / "leaderboards").glob("*/"))


@pytest.fixture(params=BOARDS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_tables_are_rebuilt_byte_for_byte_from_the_records(folder):
    boards = build_all(read_records(folder), read_references(folder).headline)
    assert (folder / "table.csv").read_bytes() == to_csv(*boards).encode()
    assert (folder / "table.md").read_bytes() == to_markdown(*boards).encode()


def test_every_record_is_valid(folder):
    problems = {path.name: problems_of_file(path) for path in record_paths(folder)}
    assert {name: found for name, found in problems.items() if found} == {}


def test_pages_are_rebuilt_byte_for_byte_from_the_records(tmp_path):
    committed = BOARDS[0].parent
    drawn = shutil.ignore_patterns("*.png", "index.html", "features")
    copy = shutil.copytree(committed, tmp_path / "leaderboards", ignore=drawn)
    (tmp_path / "docs").mkdir()
    for path in IN_CHECKOUT.values():
        (tmp_path / path).touch()
    pages = write_pages(copy)
    assert {path.relative_to(copy) for path in pages} == {
        path.relative_to(committed) for path in committed.glob("**/index.html")
    }
    for path in pages:
        assert path.read_bytes() == (committed / path.relative_to(copy)).read_bytes(), path


def test_every_repetition_is_of_a_committed_record(folder):
    records = read_records(folder)
    known = {repetition_path(folder, record): record for record in records}
    for path in (folder / REPETITIONS).glob("*.json"):
        assert standing(known[path], folder) == "reproduced", path


def test_records_are_of_the_shipped_suite_and_whole(folder):
    suite = load_suite(folder.name)
    records = read_records(folder)
    assert set(suite.keys) <= {record.name for record in records}
    for record in records:
        assert record.identity.suite_digest == suite.digest, record.name
        assert not record.partial
        if record.name in suite.keys:
            assert record.provenance.commit
            assert record.provenance.dirty is False


def test_every_sae_is_audited_by_real_bytes_within_half_a_percent(folder):
    for record in read_records(folder):
        audited = [point.bits for point in record.points if point.bits.coded is not None]
        assert len(audited) == 1, record.name
        bits = audited[0]
        assert bits.coded == pytest.approx(bits.heldout, rel=0.005, abs=0.01), record.name


def test_the_codebook_costs_at_most_three_percent_over_plugin(folder):
    headline = read_references(folder).headline
    for record in read_records(folder):
        result = record.at(headline.metric, headline.epsilon)
        for point in record.points:
            if point.step == result.step:
                assert point.bits.heldout <= 1.03 * point.bits.plugin, record.name


def test_tight_tolerances_are_those_near_the_smallest_floor(folder):
    """At most 1.5 times the smallest floor of the trained SAEs.

    Known dictionaries and controls are none, and neither are factors that were read off a network's
    weights.
    """
    suite = load_suite(folder.name)
    records = read_records(folder)
    controls = ("linear-256", "best-64", "permuted", "random")
    untrained = ("known", "bilinear-eigen", "bilinear-hosvd", *controls)
    trained = [r for r in records if not (r.is_baseline or r.coder.architecture in untrained)]
    floors = {metric: min(r.floor.loss(metric) for r in trained) for metric in suite.metrics}
    near = {
        (metric, epsilon) for metric, epsilon in suite.limits() if epsilon <= 1.5 * floors[metric]
    }
    assert suite.tight == near
    headline = (suite.headline.metric, suite.headline.epsilon)
    meet_one = [r for r in trained if any(r.result(*limit).feasible for limit in suite.tight)]
    assert headline in suite.tight or 2 * len(meet_one) < len(trained)
