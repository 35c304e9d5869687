"""When a suite changes, its old rows move aside, are ranked apart, and come back with it."""

import json

import pytest

from mdlbench.boards.leaderboard import build_archive
from mdlbench.errors import OutputError
from mdlbench.records.store import RecordStore, read_archive, read_records, read_references
from mdlbench.report import write_report
from tests.records import HEADLINE, make_record, make_result, realistic_references
from tests.test_cli import mdlbench
from tests.tiny import write_tiny_suite


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A folder that was scored with two versions of a suite, the second in force."""
    root = tmp_path_factory.mktemp("versions")
    saes = [{"key": "mean", "spec": "baseline:mean"}, {"key": "pca", "spec": "baseline:pca"}]
    versions = {
        "first": write_tiny_suite(root / "first", saes=saes),
        "second": write_tiny_suite(root / "second", saes=saes, replicates=150),
    }
    folder = root / "results"
    for suite in versions.values():
        run = mdlbench("eval", "--suite", suite, "-o", folder)
        assert run.returncode == 0, run.stderr
    return folder, versions


def test_old_rows_are_archived_and_nothing_is_lost(changed):
    folder, _ = changed
    current, old = read_records(folder), read_archive(folder)
    assert [record.name for record in current] == [record.name for record in old] == ["mean", "pca"]
    digests = {record.identity.suite_digest for record in current}
    assert digests == {read_references(folder).suite_digest}
    assert digests.isdisjoint(record.identity.suite_digest for record in old)
    archived = (folder / "archive.md").read_text()
    assert old[0].identity.suite_digest[:12] in archived
    assert old[0].identity.suite_digest[:12] not in (folder / "table.md").read_text()
    assert (folder / "archive.csv").read_text().count(old[1].id) == 3


def test_a_version_in_force_again_has_its_rows_back_without_measuring(changed):
    folder, versions = changed
    before = {record.id: record.environment.seconds for record in read_archive(folder)}
    for name in ("first", "second"):
        run = mdlbench("eval", "--suite", versions[name], "-o", folder, "--json")
        assert run.returncode == 0, run.stderr
        if name == "first":
            found = {
                r["id"]: r["environment"]["seconds"] for r in json.loads(run.stdout)["records"]
            }
            assert found == before
    assert {record.id for record in read_archive(folder)} == set(before)


def test_nothing_is_moved_over_another_record(tmp_path):
    store, old = RecordStore(tmp_path), make_record("a", suite_digest="e0" * 32)
    current = make_record("b")
    (tmp_path / "archive").mkdir()
    for record in (old, current):
        store.save(record)
    taken = tmp_path / "archive" / store.path(old.identity).name
    taken.write_text("{}")
    with pytest.raises(OutputError, match="is in its place"):
        store.keep_only(current.measurement)
    assert store.path(old.identity).read_text() == old.to_json()
    taken.unlink()
    assert store.keep_only(current.measurement) == (1, 0)
    assert read_records(tmp_path) == [current]
    assert read_archive(tmp_path) == [old]


def test_files_of_any_name_are_archived_under_their_own(tmp_path):
    store, current = RecordStore(tmp_path), make_record("b")
    (tmp_path / "archive").mkdir()
    store.prepare()
    for place, digest in (("archive", "a0"), ("records", "b0")):
        record = make_record("a", suite_digest=digest * 32)
        (tmp_path / place / "mine.json").write_text(record.to_json())
    (tmp_path / "archive" / "older.json").write_text('{"schema_version": 1}')
    assert store.keep_only(current.measurement) == (1, 0)
    assert {r.identity.suite_digest[:2] for r in read_archive(tmp_path)} == {"a0", "b0"}


def test_the_page_shows_the_archive(changed):
    folder, _ = changed
    assert mdlbench("leaderboard", folder, "--html").returncode == 0
    digest = read_archive(folder)[0].identity.suite_digest
    assert digest[:12] in (folder / "index.html").read_text()


def test_each_version_is_ranked_apart():
    old = [make_record(name, suite_digest="e0" * 32) for name in "ab"]
    older = make_record("a", suite_digest="d0" * 32)
    boards = build_archive([*old, older], HEADLINE)
    assert [board.suite_digest[:2] for board in boards] == ["d0", "e0"]
    assert [len(board.headline.rows) for board in boards] == [1, 2]


def test_a_version_without_the_headline_leads_with_its_first_tolerance():
    result = make_result(("fvu", 0.2), [1.0, 1.1])
    (board,) = build_archive([make_record("a", results=[result])], HEADLINE)
    assert (board.headline.metric, board.headline.epsilon) == ("fvu", 0.2)


def test_archive_tables_are_written_only_where_there_is_one(tmp_path):
    records, references = [make_record("a")], realistic_references()
    old = make_record("b", suite_digest="e0" * 32)
    assert not {"archive.md"} & {p.name for p in write_report(records, references, tmp_path)}
    names = {path.name for path in write_report(records, references, tmp_path, [old])}
    assert {"archive.md", "archive.csv", "table.md"} <= names
