"""The committed leaderboards: rebuilt from their records, audited, and as accurate as promised."""

from pathlib import Path

import pytest

from mdlbench.leaderboard import build_all
from mdlbench.report.tables import to_csv, to_markdown
from mdlbench.store import read_records, read_references
from mdlbench.suite import load_suite

BOARDS = sorted(path for path in (Path(__file__).parent.parent / "leaderboards").iterdir())


@pytest.fixture(params=BOARDS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_tables_are_rebuilt_byte_for_byte_from_the_records(folder):
    boards = build_all(read_records(folder), read_references(folder).headline)
    assert (folder / "table.csv").read_bytes() == to_csv(*boards).encode()
    assert (folder / "table.md").read_bytes() == to_markdown(*boards).encode()


def test_records_are_of_the_shipped_suite_and_whole(folder):
    suite = load_suite(folder.name)
    records = read_records(folder)
    assert {record.name for record in records} == set(suite.keys)
    for record in records:
        assert record.identity.suite_digest == suite.digest, record.name
        assert not record.partial
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
