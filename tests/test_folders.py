"""Results folders as people have them: edited records, stray files, several runs at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.boards.compare.choice import choose
from mdlbench.boards.leaderboard import build_all
from mdlbench.disk import files
from mdlbench.errors import MdlbenchWarning, RecordError, UsageError
from mdlbench.records import seal
from mdlbench.records.checks import problems_of_files
from mdlbench.records.record import PROTOCOL, EvalRecord, Measurement, References, parse_record
from mdlbench.records.store import (
    REFERENCES,
    RecordStore,
    read_records,
    read_references,
    record_paths,
)
from mdlbench.report.features import write_feature_grid
from mdlbench.report.page.content import page_data
from mdlbench.report.tables import to_csv, to_markdown
from mdlbench.scoring import suite_run
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from tests.crashes import every_crash
from tests.records import (
    HEADLINE,
    SUITE_DIGEST,
    make_record,
    make_site_references,
    realistic_references,
)
from tests.test_cli import mdlbench
from tests.tiny import write_tiny_suite

CHEAP = [1.0, 1.5]


def write_folder(folder: Path, *records: EvalRecord) -> Path:
    store = RecordStore(folder)
    for record in records:
        store.save(record)
    (folder / REFERENCES).write_text(realistic_references().to_json())
    return folder


def edit(folder: Path, name: str, old: str = '"threads": 1', new: str = '"threads": 2') -> Path:
    (path,) = (folder / "records").glob(f"{name}-*.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two honest SAEs, and one whose record was edited into the first rank."""
    written = write_folder(
        tmp_path / "out",
        make_record("honest", [10.0, 11.0]),
        make_record("other", [20.0, 21.0]),
        make_record("cheat", CHEAP),
    )
    edit(written, "cheat")
    return written


# Edited records


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_a_record_is_intact_as_written_and_edited_after_any_change(name: str) -> None:
    """Names with quotes, backslashes, spaces, colons and line ends, too."""
    text = make_record(name).to_json()
    assert not parse_record(text, "x").is_edited
    reordered = json.dumps(dict(reversed(json.loads(text).items())))
    assert not parse_record(reordered, "x").is_edited
    assert parse_record(text.replace('"threads": 1', '"threads": 2'), "x").is_edited
    unsealed = {k: v for k, v in json.loads(text).items() if k != seal.CHECKSUM}
    assert parse_record(json.dumps(unsealed), "x").is_edited


@pytest.mark.parametrize("name", ['": x', "a  b", ' ":', "a\nb", "é", 'a\\": ', " "])
def test_spaces_in_names_are_sealed_too(name: str) -> None:
    text = make_record(f"x{name}y").to_json()
    assert seal.is_intact(text)
    content = json.loads(text)
    content["environment"]["device"] = "c pu"
    resealed = content | {seal.CHECKSUM: seal.checksum_of(content)}
    written = json.dumps(resealed, sort_keys=True, indent=1) + "\n"
    assert seal.is_intact(written)
    assert not seal.is_intact(written.replace('"c pu"', '"cpu"'))


def test_an_edited_record_has_no_rank_and_is_marked_in_tables_and_on_the_page(folder: Path) -> None:
    with pytest.warns(MdlbenchWarning, match=r"cheat-.*json: changed after it was written"):
        records = read_records(folder)
    (board,) = build_all(records, HEADLINE)
    rows = [(row.ranking.rank, row.label, row.status) for row in board.headline.rows]
    assert rows == [
        (1, "honest", "ranked"),
        (2, "other", "ranked"),
        (None, "cheat (edited)", "edited"),
    ]
    assert "Edited: the record was changed after it was written" in to_markdown(board)
    assert "edited,cheat" not in to_csv(board).partition("\n")[0]
    assert ",cheat (edited),edited," in to_csv(board)
    data = page_data(records, realistic_references())
    columns = data["sites"][0]["tables"][0]["columns"]
    assert columns["status"] == ["ranked", "ranked", "edited"]
    assert columns["rank"] == [1, 2, None]
    assert "cheat (edited)" in [sae["label"] for sae in data["sites"][0]["saes"]]


def test_the_terminal_says_once_on_stderr_that_a_record_was_edited(folder: Path) -> None:
    ran = mdlbench("leaderboard", folder, "-o", folder.parent / "report")
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("mdlbench: ")
    assert "changed after it was written" in line
    assert "edited" in ran.stdout
    listed = json.loads(mdlbench("ls", "records", folder, "--json").stdout)
    assert {row["SAE"]: row["state"] for row in listed} == {
        "cheat": "edited",
        "honest": "complete",
        "other": "complete",
    }


@pytest.mark.filterwarnings("ignore::mdlbench.errors.MdlbenchWarning")
def test_compare_and_cite_refuse_an_edited_record(folder: Path) -> None:
    (path,) = (folder / "records").glob("cheat-*.json")
    for word in ("cheat", "cheat (edited)", str(path), make_record("cheat").id[:12]):
        with pytest.raises(RecordError, match="changed after it was written"):
            choose(["honest", word], folder)
    (family,) = choose(["all batchtopk"], folder).contenders
    assert {member.name for member in family.members} == {"honest", "other"}
    ran = mdlbench("cite", path)
    assert ran.returncode == 1
    assert "changed after it was written" in ran.stderr


def test_an_edited_record_is_not_kept_as_finished(folder: Path) -> None:
    with pytest.raises(RecordError, match="changed after it was written"):
        RecordStore(folder).find(make_record("cheat").identity)


# Stray files


def test_stray_files_never_block_a_board(tmp_path: Path) -> None:
    honest = make_record("honest")
    folder = write_folder(tmp_path, honest)
    records = folder / "records"
    (original,) = record_paths(folder)
    (records / "._x.json").write_bytes(b"\x00\x05\x16\x07\xb0")
    (records / "notes.json").write_text('{"todo": 1}')
    (records / "empty.json").touch()
    (records / "folder.json").mkdir()
    os.mkfifo(records / "fifo.json")
    (records / "device.json").symlink_to("/dev/zero")
    with (records / "huge.json").open("wb") as file:
        file.truncate(1 << 40)
    copy = records / f"{original.stem}.sync-conflict-20260101-x.json"
    shutil.copy(original, copy)
    shutil.copy(original, records / "a (conflicted copy).json")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read_records(folder)
    assert found == [honest]
    said = {Path(str(w.message).partition(": ")[0]).name: str(w.message) for w in caught}
    expected = {
        "._x.json": "cannot be read",
        "notes.json": "not written by mdlbench",
        "empty.json": "not JSON",
        "folder.json": "not a regular file, but a folder",
        "fifo.json": "not a regular file, but a FIFO",
        "device.json": "not a regular file, but a device",
        "huge.json": "larger than 16,777,216 bytes",
        copy.name: f"holds the same record as {original}",
        "a (conflicted copy).json": f"holds the same record as {original}",
    }
    assert set(said) == set(expected)
    for name, reason in expected.items():
        assert reason in said[name]
        assert said[name].endswith("; left out")
    problems = problems_of_files(record_paths(folder))
    for name, reason in expected.items():
        assert any(reason in problem for problem in problems[records / name]), name


def test_of_two_copies_the_intact_one_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, make_record("honest"))
    (original,) = record_paths(folder)
    shutil.copy(original, original.with_name("copy.json"))
    edit(folder, "honest")
    with pytest.warns(MdlbenchWarning, match="holds the same record as .*copy.json; left out"):
        (found,) = read_records(folder)
    assert not found.is_edited


def test_stray_files_do_not_stop_an_archive(tmp_path: Path) -> None:
    old, new = make_record("old", suite_digest="e0" * 32), make_record("new")
    folder = write_folder(tmp_path, old)
    (folder / "records" / "empty.json").touch()
    assert RecordStore(folder).keep_only(new.measurement).away == 1
    assert [path.name for path in record_paths(folder)] == ["empty.json"]


def test_a_folder_of_nothing_but_stray_files_says_why(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "notes.json").write_text("{}")
    with pytest.raises(RecordError, match=r"notes.json: not written by mdlbench"):
        read_records(tmp_path)


def test_a_stray_repetition_counts_for_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, make_record("honest"))
    (folder / "reproductions").mkdir()
    (original,) = record_paths(folder)
    (folder / "reproductions" / original.name).touch()
    ran = mdlbench("leaderboard", folder, "--html")
    assert ran.returncode == 0, ran.stderr
    assert "not JSON" in ran.stderr


# Several runs at once


MEASURED = Measurement(suite="mnist", suite_digest=SUITE_DIGEST, protocol=PROTOCOL)


def add(folder: Path, site: int, measured: Measurement = MEASURED, data: str = "") -> str | None:
    """Add a site as `eval` does; what was refused."""
    references = make_site_references(Site(hook=f"layer {site}"), data or f"{site:064x}")
    try:
        store = RecordStore(folder)
        store.prepare()
        if not store.has_site(measured, references.site.label, references.data_sha256):
            store.add_site(measured, HEADLINE, references)
    except UsageError as error:
        return str(error)
    return None


def at_once(*calls: tuple[object, ...]) -> list[str | None]:
    with multiprocessing.get_context("fork").Pool(len(calls)) as pool:
        return pool.starmap(add, calls, chunksize=1)


@pytest.mark.parametrize("attempt", range(8))
def test_many_processes_lose_no_site(tmp_path: Path, attempt: int) -> None:
    assert at_once(*((tmp_path, site) for site in range(12))) == [None] * 12
    alone = References.model_validate_json((tmp_path / REFERENCES).read_text())
    expected = {f"layer {site}" for site in range(12)}
    assert {site.site.hook for site in alone.sites} == expected
    assert {site.site.hook for site in read_references(tmp_path).sites} == expected
    assert len(read_references(tmp_path).sites) == 12


def test_a_site_that_the_main_file_lacks_is_still_read(tmp_path: Path) -> None:
    for site in range(3):
        assert add(tmp_path, site) is None
    first = References.model_validate_json((tmp_path / REFERENCES).read_text())
    stale = first.model_copy(update={"sites": first.sites[:1]})
    (tmp_path / REFERENCES).write_text(stale.to_json())
    found = read_references(tmp_path)
    assert sorted(site.site.hook for site in found.sites) == ["layer 0", "layer 1", "layer 2"]
    assert all(site in first.sites for site in found.sites)
    assert add(tmp_path, 3) is None
    assert len(References.model_validate_json((tmp_path / REFERENCES).read_text()).sites) == 4


@pytest.mark.parametrize("attempt", range(5))
def test_of_runs_with_several_limits_one_has_the_folder(tmp_path: Path, attempt: int) -> None:
    limits = [None, 10, 20, None, 10, 20]
    calls = [
        (tmp_path, site, MEASURED.model_copy(update={"limit": limit}))
        for site, limit in enumerate(limits)
    ]
    refused = at_once(*calls)
    (kept,) = {limit for limit, said in zip(limits, refused, strict=True) if said is None}
    assert read_references(tmp_path).limit == kept
    for limit, said in zip(limits, refused, strict=True):
        assert (said is None) == (limit == kept)
        assert said is None or "choose another folder with -o" in said


@pytest.mark.parametrize("first", [True, False])
def test_of_runs_on_two_texts_one_has_the_site(tmp_path: Path, first: bool) -> None:
    if not first:
        assert add(tmp_path, 0) is None
    calls = [(tmp_path, 1, MEASURED, f"{text:064x}") for text in range(5, 11)]
    refused = at_once(*calls)
    assert refused.count(None) == 1
    assert all("on other data; choose another folder" in said for said in refused if said)
    assert [site.site.hook for site in read_references(tmp_path).sites].count("layer 1") == 1


def test_validate_says_that_a_folder_mixes_limits(tmp_path: Path) -> None:
    write_folder(tmp_path, make_record("whole"), make_record("part", limit=10, partial=True))
    ran = mdlbench("validate", tmp_path)
    assert ran.returncode == 1
    assert ran.stdout.count("but the folder also has suite mnist") == 2
    assert "limited to 10 documents" in ran.stdout
    ran = mdlbench("leaderboard", tmp_path)
    assert ran.returncode == 1
    assert "cannot be compared: their limit differs" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


# Killed runs


def evaluated(suite: Path, folder: Path) -> None:
    """As `mdlbench eval`, in this process."""
    opener = Opener(load_suite(suite), Setting("cpu", 20, None))
    wanted = targets(opener.suite, [], None)
    outcomes = list(run(opener, wanted, folder, draw=write_feature_grid))
    assert all(isinstance(outcome, Scored) for outcome in outcomes)


def content(folder: Path) -> dict[str, object]:
    """All files, records without what differs from run to run."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data: object = path.read_bytes()
        if path.parent.name == "records" and path.suffix == ".json":
            data = {
                key: value
                for key, value in json.loads(path.read_bytes()).items()
                if key not in ("environment", "checksum", "provenance")
            }
        found[str(path.relative_to(folder))] = data
    return found


def crash_suite(folder: Path) -> Path:
    return write_tiny_suite(
        folder,
        saes=[{"key": "pca", "spec": "baseline:pca"}],
        replicates=100,
        steps={"finest": 0.25, "octaves": 1},
        tolerances=[{"metric": "mse", "epsilons": [0.004]}],
    )


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_folder(tmp_path: Path) -> None:
    suite = crash_suite(tmp_path / "suite")
    evaluated(suite, tmp_path / "whole")
    whole, killed = content(tmp_path / "whole"), tmp_path / "killed"
    assert {Path(name).suffix for name in whole} == {".json", ".png"}
    n_crashes = 0
    for _ in every_crash(lambda: evaluated(suite, killed)):
        n_crashes += 1
        evaluated(suite, killed)
        assert content(killed) == whole
        shutil.rmtree(killed)
    assert n_crashes > 15


def test_a_lost_picture_is_drawn_again_without_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, folder = crash_suite(tmp_path / "suite"), tmp_path / "out"
    evaluated(suite, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (picture,) = (folder / "features").glob("*.png")
    picture.unlink()
    monkeypatch.setattr(suite_run, "evaluate_coder", None)
    evaluated(suite, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_lost_references_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, folder = crash_suite(tmp_path / "suite"), tmp_path / "out"
    evaluated(suite, folder)
    before = (folder / REFERENCES).read_bytes()
    (folder / REFERENCES).unlink()
    monkeypatch.setattr(suite_run, "evaluate_coder", None)
    evaluated(suite, folder)
    assert (folder / REFERENCES).read_bytes() == before


def test_only_what_the_dead_left_is_cleared(tmp_path: Path) -> None:
    def dead() -> None:
        path = tmp_path / "killed.json"
        with files._written_beside(path, b"half"):
            os._exit(0)

    child = os.fork()
    if child == 0:
        dead()
    os.waitpid(child, 0)
    with files._written_beside(tmp_path / "alive.json", b"half") as alive:
        other = tmp_path / ".other.json-abcdef.1-xyz.part"
        other.write_text("of another machine")
        old = tmp_path / ".old.json-xyz.part"
        old.write_text("old")
        os.utime(old, (0, 0))
        assert len(list(tmp_path.glob(".killed.json-*.part"))) == 1
        files.clear_unfinished(tmp_path)
        assert set(tmp_path.iterdir()) == {alive, other}
