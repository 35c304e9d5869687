"""Rooms that need no torch do without it, and so do the commands that use them alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdlbench.suite.load import suite_names

BOARDS = Path(__file__).parent.parent / "leaderboards"
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from mdlbench.cli.main import main; main()"
)
COMMANDS = {
    "help": ["--help"],
    "suites": ["ls", "suites"],
    "adapters": ["ls", "adapters"],
    "records": ["ls", "records", "{toy}"],
    "leaderboard": ["leaderboard", "{toy}", "--all"],
    "figures": ["leaderboard", "{some}", "-o", "{out}", "--pdf"],
    "page": ["leaderboard", "{some}", "--html", "-o", "{out}"],
    "latex": ["leaderboard", "{toy}", "--format", "latex"],
    "compare": ["compare", "truth", "all batchtopk", "--in", "{toy}", "-o", "{out}"],
    "validate": ["validate", "{toy}"],
    "cite": ["cite", "{truth}"],
}


def run(*arguments):
    """A command in a process that cannot import torch."""
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boards") / "toy"
    shutil.copytree(BOARDS / "toy", folder)
    return folder


@pytest.fixture(scope="module")
def some(toy, tmp_path_factory):
    """Three of the toy board's records: to draw all takes longer."""
    folder = tmp_path_factory.mktemp("boards") / "toy"
    (folder / "records").mkdir(parents=True)
    shutil.copy(toy / "references.json", folder)
    for key in ("truth", "absorbed", "pca"):
        shutil.copy(next((toy / "records").glob(f"{key}-*.json")), folder / "records")
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_without_torch(name, toy, some, tmp_path):
    truth = next((toy / "records").glob("truth-*.json"))
    places = {"toy": toy, "some": some, "out": tmp_path / "out", "truth": truth}
    done = run(*(word.format(**places) for word in COMMANDS[name]))
    assert done.stderr == ""
    assert done.returncode == 0


def test_what_is_written_without_torch_is_what_is_committed(toy, tmp_path):
    for form, file in (("csv", "table.csv"), ("markdown", "table.md")):
        run("leaderboard", str(toy), "--format", form, "-o", str(tmp_path / file))
        assert (tmp_path / file).read_bytes() == (BOARDS / "toy" / file).read_bytes()


def test_scoring_needs_torch():
    """A process in which torch is hidden cannot score, so it is hidden well."""
    done = run("eval", "--suite", "toy", "--sae", "truth", "--limit", "10")
    assert done.returncode != 0
    assert "torch" in done.stderr


def test_listing_is_quick_and_whole():
    done = run("ls", "suites", "--json")
    assert {row["suite"] for row in json.loads(done.stdout)} == set(suite_names())
