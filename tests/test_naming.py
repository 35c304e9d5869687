"""What SAEs of one's own are called, where they came from, and which record is current."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from mdlbench.adapters.load import NamedCoder
from mdlbench.boards.leaderboard import unique_labels
from mdlbench.errors import MdlbenchWarning, RecordError
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import FOUND_AGAIN, RecordStore, read_records, read_references
from mdlbench.scoring.naming import least_depths, names_of, origin_of
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from tests.records import make_record
from tests.test_cli import mdlbench
from tests.tiny import tiny_suite, write_sae, write_tiny_suite


def score(place: Path, *saes: str) -> dict[str, EvalRecord]:
    with contextlib.chdir(place):
        opener = Opener(load_suite("suite"), Setting(limit=40))
        for outcome in run(opener, targets(opener.suite, saes, None), Path("out")):
            assert isinstance(outcome, Scored), outcome
    return {record.name: record for record in read_records(place / "out")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_tiny_suite(tmp_path / "suite")
    for seed, folder in enumerate(("a/lr3/sae", "b/lr3/sae", "b/lr4/sae")):
        write_sae(tmp_path / "runs" / folder, seed=seed)
    return tmp_path


def test_names_have_as_many_folders_as_tell_saes_of_a_run_apart(place: Path) -> None:
    found = score(place, "runs/a/lr3/sae", "runs/b/lr3/sae", "runs/b/lr4/sae")
    assert set(found) == {"a/lr3/sae", "b/lr3/sae", "lr4/sae"}
    assert {name: record.provenance.sae for name, record in found.items()} == {
        "a/lr3/sae": "runs/a/lr3/sae",
        "b/lr3/sae": "runs/b/lr3/sae",
        "lr4/sae": "runs/b/lr4/sae",
    }


def test_a_second_run_keeps_names_and_tells_the_new_ones_apart(place: Path) -> None:
    (first,) = score(place, "runs/a/lr3/sae").values()
    assert first.name == "sae"
    found = score(place, "runs/b/lr4/sae", "runs/a/lr3/sae")
    assert set(found) == {"sae", "lr4/sae"}
    assert found["sae"] == first


def test_a_name_of_ones_own(place: Path) -> None:
    found = score(place, "mine=runs/a/lr3/sae", "yours=saelens:runs/b/lr3/sae", "base=pca")
    assert set(found) == {"mine", "yours", "base"}
    assert found["yours"].provenance.sae == "saelens:runs/b/lr3/sae"
    assert found["base"].provenance.sae is None
    listed = json.loads(mdlbench("ls", "records", place / "out", "--json").stdout)
    rows = {row["SAE"]: row for row in listed}
    assert rows["mine"]["from"] == "runs/a/lr3/sae"
    assert rows["mine"]["date"] == found["mine"].provenance.date
    assert rows["mine"]["file"] == str(next((place / "out" / "records").glob("mine-*.json")))


def test_an_sae_that_was_trained_again_in_place_says_which_row_is_current(place: Path) -> None:
    score(place, "runs/a/lr3/sae")
    (earlier,) = read_records(place / "out")
    write_sae(place / "runs" / "a" / "lr3" / "sae", seed=9)
    again = ("eval", "--suite", "suite", "--limit", 40, "-o", "out", "--sae", "runs/a/lr3/sae")
    said = mdlbench(*again, cwd=place)
    records = read_records(place / "out")
    (current,) = [record for record in records if record.id != earlier.id]
    assert {record.name for record in records} == {"sae"}
    told = f"the current record is {current.id[:8]}, not {earlier.id[:8]}"
    assert told in said.stderr
    assert unique_labels(records) == {
        earlier.id: f"sae ({earlier.id[:8]})",
        current.id: f"sae ({current.id[:8]}, current)",
    }
    write_sae(place / "runs" / "a" / "lr3" / "sae", seed=0)
    said = mdlbench(*again, cwd=place)
    assert f"the current record is {earlier.id[:8]}, not {current.id[:8]}" in said.stderr
    assert "kept" in said.stderr
    assert unique_labels(read_records(place / "out")) == {
        earlier.id: f"sae ({earlier.id[:8]}, current)",
        current.id: f"sae ({current.id[:8]})",
    }
    assert f"sae ({earlier.id[:8]}, current)" in said.stdout
    assert f"sae ({earlier.id[:8]}, current)" in mdlbench("leaderboard", place / "out").stdout


def test_a_damaged_date_of_what_was_found_again_is_left_out(tmp_path: Path) -> None:
    store, one, other = RecordStore(tmp_path), make_record("a"), make_record("b")
    for record in (one, other):
        store.save(record)
        store.note_found(record)
    for content in ("yesterday", "{", "é", "2" * 101):
        (tmp_path / FOUND_AGAIN / one.id).write_text(content)
        with pytest.warns(MdlbenchWarning, match=rf"{FOUND_AGAIN}/{one.id}: .*; left out"):
            found, untouched = read_records(tmp_path)
        assert found.last_found == found.provenance.date
        assert untouched.last_found > untouched.provenance.date


def test_a_folder_without_references_is_a_sentence(tmp_path: Path) -> None:
    RecordStore(tmp_path).save(make_record("a"))
    with pytest.raises(RecordError, match=r"has no references.json, .*run the `mdlbench eval`"):
        read_references(tmp_path)


def test_records_of_different_saes_of_one_name_are_none_of_them_current() -> None:
    one, other = make_record("sae"), make_record("sae", weights_sha256="cd" * 32)
    assert not any("current" in label for label in unique_labels([one, other]).values())


@pytest.mark.parametrize(
    ("spec", "origin"),
    [
        ("runs/a", "runs/a"),
        ("./runs//a/", "runs/a"),
        ("saelens:runs/a", "saelens:runs/a"),
        ("/home/someone/secret/runs/a/sae", "…/runs/a/sae"),
        ("openai:/home/someone/secret/runs/a/x.pt", "openai:…/runs/a/x.pt"),
        ("~/runs/a/sae", "…/runs/a/sae"),
        ("python:package.module:make", "python:package.module:make"),
        ("saelens:gpt2-small-res-jb/blocks.0.hook_resid_pre",) * 2,
    ],
)
def test_a_record_has_no_absolute_path(spec: str, origin: str) -> None:
    assert origin_of(NamedCoder(spec)) == origin


def test_names_grow_by_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saes = [NamedCoder(str(write_sae(Path("runs") / name / "sae"))) for name in "ab"]
    assert names_of(saes[0], "sae")[:3] == ["sae", "a/sae", "runs/a/sae"]
    assert names_of(saes[0], "a/sae")[:2] == ["a/sae", "runs/a/sae"]
    assert names_of(NamedCoder("baseline:pca"), "pca") == ["pca"]
    assert set(least_depths(saes).values()) == {1}
    assert least_depths(saes[:1]) == {"runs/a/sae": 0}


def test_a_path_with_an_equals_sign_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    suite = tiny_suite(tmp_path / "suite")
    write_sae(tmp_path / "lr=1")
    write_sae(tmp_path / "runs" / "lr=1")
    for path in ("lr=1", "./lr=1", "runs/lr=1"):
        (target,) = targets(suite, [path], None)
        assert (target.name, target.sae.spec) == (None, path)
    (target,) = targets(suite, ["mine=runs/lr=1"], None)
    assert (target.name, target.sae.spec) == ("mine", "runs/lr=1")
    (target,) = targets(suite, ["mine=kmeans"], None)
    assert (target.name, target.sae.spec) == ("mine", "baseline:kmeans?k=8")
    (target,) = targets(suite, ["baseline:kmeans?k=8"], None)
    assert (target.name, target.sae.spec) == (None, "baseline:kmeans?k=8")
