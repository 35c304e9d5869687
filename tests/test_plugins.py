"""Plugins are found by their folder or by their entry points, and named, without being imported."""

import importlib
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mdlbench.adapters import checkpoint
from mdlbench.adapters.load import NamedCoder, spec_of
from mdlbench.errors import MdlbenchError, UsageError
from mdlbench.extensions import plugins
from mdlbench.extensions.plugins import Kind, Plugin
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.images import Images
from mdlbench.sources.open import Opener
from tests.tiny import D_IN, tiny_suite, write_sae


class Installed:
    """What an entry point tells of the package that brings it."""

    def __init__(self, name: str) -> None:
        self.metadata = {"Name": name, "Summary": f"the colours of {name}"}
        self.version = "3"


def point(name: str, target: str, package: str) -> EntryPoint:
    found = EntryPoint(name, target, "mdlbench.colours")
    vars(found)["dist"] = Installed(package)
    return found


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """Two built-in colours, one of them a package; one installed, two rivals, and a usurper."""
    folder = tmp_path / "colour_package"
    (folder / "blue").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "red.py").write_text('"""`red` —\nlike a rose.\n\nMore.\n"""\n1 / 0\n')
    (folder / "blue" / "__init__.py").write_text('"""Sky."""\nCOLOUR = "b"\n')
    (folder / "_mixed.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colour_package", raising=False)
    points = [
        point("violet", "zoo:Violet", "zoo"),
        point("green", "absent_module:Green", "leaf"),
        point("violet", "art:Violet", "art"),
        point("red", "art:Red", "art"),
    ]
    monkeypatch.setattr(plugins, "_installed", lambda group: tuple(points))
    return Kind("colour", "colour_package", "COLOUR", "mdlbench.colours", " or look away")


def test_built_in_ones_come_first_and_are_described_by_their_docstrings(colours: Kind) -> None:
    assert colours.plugins() == [
        Plugin("blue", "colour_package.blue:COLOUR", "Sky.", "mdlbench"),
        Plugin("red", "colour_package.red:COLOUR", "red — like a rose.", "mdlbench"),
        Plugin("green", "absent_module:Green", "the colours of leaf", "leaf", "3"),
        Plugin(
            "red",
            "art:Red",
            "ignored: mdlbench has a built-in colour of this name",
            "art",
            "3",
            usable=False,
        ),
        Plugin("violet", "art:Violet", "the colours of art", "art", "3"),
        Plugin("violet", "zoo:Violet", "the colours of zoo", "zoo", "3"),
    ]
    assert colours.names() == {"blue", "red", "green", "violet"}


def test_names_are_found_or_refused(colours: Kind) -> None:
    assert colours.find("red").is_built_in
    assert colours.find("green").distribution == "leaf"
    with pytest.raises(UsageError, match=r"unknown colour 'bleu'\. Did you mean 'blue'"):
        colours.find("bleu")
    with pytest.raises(MdlbenchError) as raised:
        colours.find("violet")
    assert str(raised.value) == (
        "colour 'violet' is brought by art (art:Violet) and zoo (zoo:Violet); "
        "uninstall one or look away"
    )


def test_what_cannot_be_imported_is_named(colours: Kind) -> None:
    assert colours.imported(colours.find("blue")) == "b"
    with pytest.raises(MdlbenchError, match="colour 'red' of package 'mdlbench' cannot be"):
        colours.imported(colours.find("red"))
    with pytest.raises(MdlbenchError, match="of package 'leaf' cannot be imported from 'absent_mo"):
        colours.imported(colours.find("green"))


def test_a_spec_is_resolved_once_and_weights_are_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry points are read once a process, and each file is hashed once an SAE."""
    asked: Counter[str] = Counter()
    read, digest = plugins.entry_points, checkpoint.hashlib.file_digest

    def counted_points(group: str) -> object:
        asked["entry points"] += 1
        return read(group=group)

    def counted_digest(file, name):
        asked[Path(file.name).name] += 1
        return digest(file, name)

    monkeypatch.setattr(plugins, "entry_points", counted_points)
    monkeypatch.setattr(checkpoint.hashlib, "file_digest", counted_digest)
    plugins._installed.cache_clear()
    suite, sae = tiny_suite(tmp_path / "suite"), write_sae(tmp_path / "sae")
    wanted = targets(suite, [str(sae)], None)
    (scored,) = run(Opener(suite), wanted, tmp_path / "out")
    assert isinstance(scored, Scored)
    assert asked["entry points"] == 1
    assert (asked["cfg.json"], asked["sae_weights.safetensors"]) == (1, 1)


def test_what_must_be_loaded_to_be_told_is_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counted_sae.py").write_text(
        "made = []\n"
        "class SAE:\n"
        f"    d_in = {D_IN}\n"
        "    def __init__(self): made.append(self)\n"
        "    def encode(self, x): return x.clip(0)\n"
        "    def decode(self, z): return z\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    suite = tiny_suite(tmp_path / "suite")
    wanted = targets(suite, ["python:counted_sae:SAE"], None)
    (scored,) = run(Opener(suite), wanted, tmp_path / "out")
    assert isinstance(scored, Scored)
    assert len(importlib.import_module("counted_sae").made) == 1


@pytest.mark.parametrize("spec", ["baseline:pca", "baseline:kmeans?k=3", "baseline:dense?bits=4"])
def test_a_baseline_is_found_again_from_its_identity(tmp_path: Path, spec: str) -> None:
    source = Images(tiny_suite(tmp_path / "suite"))
    identity = NamedCoder(spec).identify(source)
    assert spec_of(identity) == spec


def test_an_sae_is_found_again_where_its_identity_says_where_it_is(tmp_path: Path) -> None:
    write_sae(tmp_path / "sae")
    folder = NamedCoder("sae", tmp_path).identify()
    assert spec_of(folder) is None
    published = folder.model_copy(update={"arguments": {"release": "r", "id": "a/b"}})
    assert spec_of(published) == "saelens:r/a/b"
    assert spec_of(published.model_copy(update={"adapter": "nobodys"})) is None
    assert spec_of(published.model_copy(update={"adapter": "openai"})) is None


class Broken(Installed):
    """A package whose `METADATA` cannot be read, in the ways that files fail."""

    _path = Path("/site/leaf_green-1.0.dist-info")

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def metadata(self) -> dict[str, str]:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        TypeError("initial_value must be str or None, not NoneType"),
    ],
)
def test_a_package_whose_metadata_cannot_be_read_is_shown(
    colours: Kind, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    broken, alone = point("green", "zoo:Green", "x"), EntryPoint("grey", "zoo:Grey", "c")
    vars(broken)["dist"] = Broken(error)
    monkeypatch.setattr(plugins, "_installed", lambda group: (broken, alone))
    blue, red, green, grey = colours.plugins()
    assert (blue.name, red.name) == ("blue", "red")
    reason = f"unreadable: the metadata of its package: {error}"
    assert green == Plugin("green", "zoo:Green", reason, "leaf_green", "")
    assert grey == Plugin("grey", "zoo:Grey")


def test_entry_points_that_cannot_be_read_hide_no_others(tmp_path: Path) -> None:
    """Folders as installers write them, of which one holds bytes that are no text."""
    good, bad = tmp_path / "good-2.dist-info", tmp_path / "bad-1.dist-info"
    for folder in (good, bad):
        folder.mkdir()
        name = folder.stem.partition("-")[0]
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 2\nSummary: it is {name}\n")
    (good / "entry_points.txt").write_text("[mdlbench.adapters]\ngreen = good:Green\n")
    (bad / "entry_points.txt").write_bytes(b"[mdlbench.adapters]\n\xff\xfe = bad:Bad\n")
    probe = (
        "from mdlbench.adapters.registry import ADAPTERS\n"
        "for p in ADAPTERS.plugins():\n"
        "    if not p.is_built_in: print(p.name, p.distribution, p.usable, p.description)\n"
        "print(ADAPTERS.find('saelens').is_built_in)\n"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.stdout.splitlines() == [
        "bad bad False unreadable: the entry points of this package cannot be read",
        "green good True it is good",
        "True",
    ]
