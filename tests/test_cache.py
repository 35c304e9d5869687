"""What is kept across runs: under its key, whole or not at all, within a size."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
import warnings
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from mdlbench.cli.app import app
from mdlbench.disk import cache as caching
from mdlbench.disk.blocks import BlockFile, KeptBlocks, block_file
from mdlbench.disk.cache import DAMAGED, MANIFEST, Cache, Recipe, kept
from mdlbench.errors import MdlbenchWarning, UsageError

LARGE = 10**12


def recipe(number=0, kind="things"):
    return Recipe(kind, f"thing {number}", {"number": number})


def writes(content=b"some content", name="data.bin"):
    return lambda folder: (folder / name).write_bytes(content) and None


def fails(folder):
    raise AssertionError("made again")


def content(entry, name="data.bin"):
    with entry.opened(name) as file:
        return file.read()


@pytest.fixture
def store(tmp_path):
    return Cache(tmp_path / "kept", LARGE)


def another(store, limit=LARGE):
    """The same folder as another process sees it."""
    return Cache(store._folder, limit)


def test_another_process_finds_what_was_kept(store):
    assert store.find(recipe()) is None
    made = store.keep(recipe(), writes())
    found = another(store).find(recipe())
    assert content(found) == content(made) == b"some content"
    assert another(store).find(recipe(1)) is None
    assert another(store).find(recipe(kind="others")) is None


def test_the_key_is_of_kind_and_facts_alone():
    one = Recipe("things", "called this", {"a": 1, "b": [2.5, "x", None]})
    assert one.key == Recipe("things", "called that", {"b": [2.5, "x", None], "a": 1}).key
    assert one.key != Recipe("things", "called this", {"a": 1, "b": [2.5, "x"]}).key
    text = b'{"facts":{"a":1,"b":[2.5,"x",null]},"format":1,"kind":"things"}'
    assert one.key == hashlib.sha256(text).hexdigest()


def test_of_two_that_make_one_entry_at_once_the_first_succeeds(store):
    def slowly(folder):
        another(store).keep(recipe(), writes(b"first"))
        writes(b"later")(folder)

    assert content(store.keep(recipe(), slowly)) == b"first"
    assert names(store) == [recipe().key]


def forked(work, *given):
    process = multiprocessing.get_context("fork").Process(target=work, args=given)
    process.start()
    return process


def test_processes_that_keep_the_same_entries_at_once(store):
    """Each content tells who made it; every process reads back what one of them made whole."""

    def work(writer):
        mine = another(store)
        for number in range(20):
            entry = mine.keep(recipe(number), writes(bytes([writer]) * 50_000))
            assert set(content(entry)) < set(range(4))

    processes = [forked(work, writer) for writer in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert names(store) == sorted(recipe(number).key for number in range(20))
    for number in range(20):
        made = content(another(store).find(recipe(number)))
        assert len(made) == 50_000
        assert len(set(made)) == 1


def test_a_process_that_is_killed_while_it_writes_leaves_no_entry(store):
    def killed(folder):
        writes()(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    process = forked(lambda: another(store).keep(recipe(), killed))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert another(store).find(recipe()) is None
    assert len(names(store)) == 1
    assert content(another(store).keep(recipe(), writes())) == b"some content"
    assert names(store) == [recipe().key]


def names(store):
    return sorted(path.name for path in store._folder.iterdir())


def altered(path, at=-1):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def linked(path):
    other = path.with_name("elsewhere").parent.parent.parent / "elsewhere"
    shutil.copy(path, other)
    path.unlink()
    path.symlink_to(other)


def other_manifest(**changes):
    def change(folder):
        path = folder / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


DAMAGE = {
    "cut off": lambda folder: os.truncate(folder / "data.bin", 3),
    "longer": lambda folder: (folder / "data.bin").write_bytes(b"some content and more"),
    "altered": lambda folder: altered(folder / "data.bin"),
    "gone": lambda folder: (folder / "data.bin").unlink(),
    "another file": lambda folder: (folder / "code.py").write_text("1 / 0"),
    "a link": lambda folder: linked(folder / "data.bin"),
    "a FIFO": lambda folder: ((folder / "data.bin").unlink(), os.mkfifo(folder / "data.bin")),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: os.truncate(folder / MANIFEST, 100),
    "an altered manifest": lambda folder: altered(folder / MANIFEST, 40),
    "a linked manifest": lambda folder: linked(folder / MANIFEST),
    "a list for a manifest": lambda folder: (folder / MANIFEST).write_text("[]"),
    "deep brackets": lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
    "other facts": other_manifest(facts={"number": 1}),
    "no files": other_manifest(files={}),
    "a file, no folder": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_made_again_and_never_used(store, damage):
    folder = store.keep(recipe(), writes()).folder
    DAMAGE[damage](folder)
    again = another(store)
    with pytest.warns(MdlbenchWarning, match=r"damaged \(.*\), so it is not used but made again"):
        assert again.find(recipe()) is None
    assert content(again.keep(recipe(), writes(b"new"))) == b"new"
    assert names(store) == [recipe().key]


def test_an_entry_of_another_key_in_its_place_is_not_used(store):
    folder = store.keep(recipe(1), writes()).folder
    folder.rename(folder.with_name(recipe(0).key))
    with pytest.warns(MdlbenchWarning, match="manifest is altered"):
        assert store.find(recipe(0)) is None


def test_a_link_to_a_folder_elsewhere_is_removed_and_what_it_leads_to_stays(store, tmp_path):
    folder = store.keep(recipe(), writes()).folder
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    with pytest.warns(MdlbenchWarning, match="no folder"):
        assert store.find(recipe()) is None
    assert not folder.is_symlink()
    assert (elsewhere / "data.bin").read_bytes() == b"some content"


def test_a_file_that_changes_its_size_after_it_was_found_is_not_read(store):
    found = store.keep(recipe(), writes())
    os.truncate(found.folder / "data.bin", 3)
    with pytest.raises(OSError, match="no longer whole"), found.opened("data.bin"):
        pass


def aged(entry, seconds):
    """The entry as if it had been used last so long ago."""
    then = time.time() - seconds
    os.utime(entry.folder / MANIFEST, (then, then))
    return entry


def size_of(tmp_path, n_bytes=10_000):
    """The bytes of an entry with so much content, manifest included."""
    one = Cache(tmp_path / "measured", LARGE)
    one.keep(recipe(), writes(bytes(n_bytes)))
    return one.held()[0].n_bytes


def test_what_was_used_longest_ago_makes_room(store, tmp_path):
    big = writes(bytes(10_000))
    for number, age in ((0, 50), (1, 400), (2, 300), (3, 100)):
        aged(store.keep(recipe(number), big), age)
    assert another(store).find(recipe(1))
    new = another(store, limit=int(4.5 * size_of(tmp_path)))
    assert new.keep(recipe(4), big)
    assert {n for n in range(5) if another(store).find(recipe(n))} == {0, 1, 3, 4}


def test_what_this_process_uses_is_not_removed_for_what_is_new(store, tmp_path):
    big = writes(bytes(10_000))
    for number, age in ((0, 300), (1, 200)):
        aged(store.keep(recipe(number), big), age)
    new = another(store, limit=int(2.5 * size_of(tmp_path)))
    aged(new.find(recipe(0)), 1000)
    assert new.keep(recipe(2), big)
    assert another(store).find(recipe(1)) is None
    with pytest.warns(MdlbenchWarning, match="no room for 10,"):
        assert new.keep(recipe(3), big) is None
    assert {n for n in range(4) if another(store).find(recipe(n))} == {0, 2}
    assert new.keep(recipe(4), fails) is None


def test_some_of_the_disk_is_left_to_others(store, monkeypatch):
    aged(store.keep(recipe(0), writes()), 100)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**8))
    new = another(store)
    with pytest.warns(MdlbenchWarning, match="no room"):
        assert new.keep(recipe(1), writes()) is None
    assert names(store) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_trouble_with_writing_is_said_once_and_nothing_is_left(store, code):
    def trouble(folder):
        writes()(folder)
        raise OSError(code, os.strerror(code))

    with pytest.warns(MdlbenchWarning, match=f"{os.strerror(code)}; the run goes on"):
        assert store.keep(recipe(0), trouble) is None
    with warnings.catch_warnings(action="error"):
        assert store.keep(recipe(1), fails) is None
    assert names(store) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(MdlbenchWarning, match="Not a directory"):
        assert Cache(tmp_path / "file" / "kept", LARGE).keep(recipe(), writes()) is None


def test_a_limit_of_nothing_keeps_nothing(tmp_path):
    with warnings.catch_warnings(action="error"):
        assert Cache(tmp_path / "kept", 0).keep(recipe(), fails) is None


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("", 50 * 10**9), ("0", 0), ("12", 12), ("1.5 kB", 1500), ("500MB", 5 * 10**8), ("2T", 2e12)],
)
def test_the_limit_is_asked_of_the_environment(monkeypatch, text, n_bytes):
    monkeypatch.setenv("MDLBENCH_CACHE_LIMIT", text)
    assert kept()._limit == n_bytes


@pytest.mark.parametrize("text", ["much", "-1GB", "1e9", "nan", "5 GiB", "1" * 400])
def test_a_limit_that_is_no_size(monkeypatch, text):
    monkeypatch.setenv("MDLBENCH_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="not a size such as 20GB or 500MB"):
        kept()


def test_what_there_is_and_what_is_cleared(store):
    aged(store.keep(recipe(0), writes()), 30)
    aged(store.keep(recipe(1), writes(bytes(1000))), 3000)
    store.keep(recipe(2, "others"), writes())
    (store._folder / recipe(3).key).mkdir()
    killed = store._folder / f".{recipe(4).key}-abc.part"
    killed.mkdir()
    os.utime(killed, (0, 0))
    held = {one.folder.name: one for one in store.held()}
    assert {one.what for one in held.values()} == {"thing 0", "thing 1", "thing 2", ""}
    assert held[recipe(3).key].kind == DAMAGED
    folder = store._folder / recipe(1).key
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert held[recipe(1).key].n_bytes == size > 1000
    assert [one.what for one in store.clear(unused_seconds=1000)] == ["thing 1"]
    assert not killed.exists()
    assert [one.what for one in store.clear(kind="others")] == ["thing 2"]
    assert {one.folder.name for one in store.clear()} == {recipe(0).key, recipe(3).key}
    assert names(store) == []


BLOCKS = [
    [np.arange(12, dtype=np.float32).reshape(3, 4).T, np.zeros((0, 5))],
    [np.array([True, False]), np.array(3.5), np.arange(3, dtype=np.uint8)],
    [],
]


def opened(store):
    return KeptBlocks("activations", recipe, store)


def assert_equal(found, expected):
    assert [array.dtype for array in found] == [array.dtype for array in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_blocks_are_found_by_another_process(store):
    first = opened(store)
    for index in (2, 0):
        first.put(index, BLOCKS[index])
    later = opened(another(store))
    assert [index in later for index in range(3)] == [True, False, True]
    assert later.get(1) is None
    later.put(1, BLOCKS[1])
    for blocks in (first, later, opened(another(store))):
        for index in (1, 0, 2, 0):
            assert_equal(blocks.get(index), BLOCKS[index])
        blocks.close()
    assert len(names(store)) == 3


def test_blocks_that_vanish_while_they_are_used_are_missed_not_misread(store):
    blocks = opened(store)
    blocks.put(0, BLOCKS[0])
    store.clear()
    assert 0 in blocks
    assert blocks.get(0) is None
    assert 0 not in blocks
    blocks.put(0, BLOCKS[0])
    assert_equal(blocks.get(0), BLOCKS[0])


def test_blocks_last_for_the_run_where_they_cannot_be_kept(store):
    blocks = opened(another(store, limit=0))
    for index in (1, 0):
        blocks.put(index, BLOCKS[index])
    assert [index in blocks for index in range(3)] == [True, True, False]
    for index in (0, 1):
        assert_equal(blocks.get(index), BLOCKS[index])
    assert 0 not in opened(store)


@pytest.mark.parametrize(
    "layout",
    [
        [{"dtype": "|O8", "shape": [1]}],
        [{"dtype": "<f4", "shape": [3]}],
        [{"dtype": "<f4", "shape": [-2, -1]}],
        [{"dtype": "<f4", "shape": [2.0]}],
        [{"dtype": "<f4", "shape": [10**18, 10**18]}],
        [{"dtype": "<f4"}],
        {"dtype": 1},
        7,
    ],
)
def test_a_sealed_entry_with_another_layout_is_not_read(store, layout):
    def write(folder):
        (folder / "layout.json").write_text(json.dumps(layout))
        (folder / "arrays.bin").write_bytes(bytes(8))

    store.keep(recipe(0), write)
    blocks = opened(store)
    assert blocks.get(0) is None
    blocks.put(0, BLOCKS[0])
    assert_equal(blocks.get(0), BLOCKS[0])


def test_blocks_are_anonymous_unless_it_is_said_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(block_file("latents"), BlockFile)
    block_file("latents", recipe).put(0, BLOCKS[0])
    assert_equal(block_file("latents", recipe).get(0), BLOCKS[0])
    assert (tmp_path / "mdlbench" / "kept" / recipe(0).key).is_dir()


DAY = 86400


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """The user's cache, with entries of three kinds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in (0, 1):
        aged(kept().keep(Recipe("activations", "a", {"n": number}), writes()), (10 - number) * DAY)
    aged(kept().keep(Recipe("weights", "[b]\x1b", {}), writes(bytes(2_000_000))), DAY / 2)
    return kept()


def cache_command(*arguments):
    done = CliRunner().invoke(app, ["cache", *arguments])
    assert done.exception is None, done.output
    return done.output


def test_ls_lists_what_is_kept_by_name_the_last_used_first(filled):
    weights, activations = json.loads(cache_command("ls", "--json"))
    held = filled.held("activations")
    assert activations["kind"] == "activations"
    assert (activations["what"], activations["entries"]) == ("a", 2)
    assert activations["bytes"] == sum(one.n_bytes for one in held)
    used = datetime.fromisoformat(activations["last used"]).timestamp()
    assert used == pytest.approx(time.time() - 9 * DAY, abs=DAY / 24)
    assert (weights["kind"], weights["what"], weights["entries"]) == ("weights", "[b]\x1b", 1)
    (row,) = json.loads(cache_command("ls", "--json", "--older-than", "7d"))
    assert row == activations
    header, first, second = cache_command("ls").splitlines()
    assert header.split() == ["kind", "what", "entries", "size", "last", "used"]
    assert first.split()[:5] == ["weights", "[b]\N{REPLACEMENT CHARACTER}", "1", "2.0", "MB"]
    assert second.split()[:3] == ["activations", "a", "2"]


def test_clear_says_what_it_freed(filled):
    assert cache_command("clear", "--kind", "damaged") == "0 entries removed, 0.0 MB freed\n"
    assert cache_command("clear", "--older-than", "228h") == "1 entry removed, 0.0 MB freed\n"
    assert cache_command("clear", "--kind", "weights") == "1 entry removed, 2.0 MB freed\n"
    (row,) = json.loads(cache_command("clear", "--json"))
    assert (row["kind"], row["entries"]) == ("activations", 1)
    assert cache_command("ls") == "none\n"


@pytest.mark.parametrize("age", ["7", "d", "-1d", "7 days", "1" * 30 + "d"])
def test_an_age_that_is_none(filled, age):
    done = CliRunner().invoke(app, ["cache", "clear", f"--older-than={age}"])
    assert isinstance(done.exception, UsageError)
    assert "is not an age such as 30m, 12h, 7d or 4w" in str(done.exception)
    assert len(filled.held()) == 3
