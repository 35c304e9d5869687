"""Every command and snippet of README, CONTRIBUTING and docs/ is executed; the site is built.

Pages are gone through from top to bottom in one folder, as a reader would who does nothing twice. A
command runs as it is written, as a process, unless `INSTEAD` names what runs in its place.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mdlbench.suite.load import load_suite, suites_folder
from tests.documentation import (
    LANGUAGES,
    PAGES,
    REPOSITORY,
    Fence,
    commands,
    fences,
    inline_commands,
    links,
    unknown_in,
)
from tests.quick import MDLBENCH, served
from tests.surrogate_hub import environment, serving

SHIPPED = suites_folder() / "mnist" / "saes"
MNIST = "{} --limit 200"
INSTALLED = "{} --quiet --no-deps --no-index --no-build-isolation --target installed"


@dataclass(frozen=True)
class Elsewhere:
    """A command that this module does not run.

    Attributes:
        test: the test that does the same, `FILE::NAME`.
        why: why it is not run here.
    """

    test: str
    why: str


INSTEAD: dict[str, str | Elsewhere] = {
    "make test": Elsewhere("test_docs.py::test_what_make_does", "it is what runs this test"),
    "make docs": Elsewhere("test_site.py::site", "its recipe builds the site that is tested"),
    "make demo": (
        "mdlbench eval --suite mnist --limit 200 --sae topk-128-k13 --sae batchtopk-128-k13 "
        "-o results/mnist"
    ),
    "mdlbench eval --suite mnist --sae batchtopk-64-k15 --workers 2 -o results/shared": Elsewhere(
        "test_workers.py::test_the_record_is_that_of_one_process",
        "workers start there once for all tests",
    ),
    "mdlbench eval --suite mnist --sae runs/mine -o results/mnist": MNIST,
    "mdlbench eval --suite mnist --sae runs/mine -o results/mine": MNIST,
    "mdlbench eval --suite mnist --sae npz:random.npz -o results/random": MNIST,
    "PYTHONPATH=. mdlbench eval --suite mnist --sae python:bright:Pixels -o results/bright": MNIST,
    "mdlbench train --width 256 --k 9 --epochs 20 -o runs/mine": "{} --epochs 1",
    "mdlbench train --bilinear --width 100 --epochs 20 -o runs/bilinear": "{} --epochs 1",
    "mdlbench reproduce bilinear-mnist": Elsewhere(
        "test_bilinear_mnist.py::test_what_is_written", "an hour; there on tiny networks"
    ),
    "mdlbench reproduce bilinear-mechanism": Elsewhere(
        "test_bilinear_mechanism.py::test_what_is_written", "half an hour; there on tiny networks"
    ),
    "mdlbench eval --suite mnist-bilinear": "{} --sae eigen-2 --limit 200",
    "mdlbench eval --suite own/suite.yaml": "{} --limit 2000",
    "mdlbench eval --suite gpt2-l8": Elsewhere(
        "test_gpt2_suites.py::test_all_nineteen_are_scored_where_they_were_trained",
        "a minute; there on fewer tokens, and my-suite.yaml, which is like it, runs here",
    ),
    "mdlbench eval --suite gpt2-l8 --sae saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre": (
        "{} --limit 2"
    ),
    "mdlbench eval --suite my-suite.yaml": "{} --limit 2",
    "mdlbench fetch my-suite.yaml": Elsewhere(
        "test_fetch.py::test_everything_is_got_then_checked_without_the_hub",
        "README's fetch of gpt2-l8, which has more to get, runs here",
    ),
    "mdlbench verify leaderboards/toy/records/truth-*": (
        "mdlbench verify leaderboards/toy/records/truth-98*"
    ),
    "mdlbench eval --suite smollm2-l15": Elsewhere(
        "test_smollm2.py::test_a_few_contexts_end_to_end", "half a minute, and a model to download"
    ),
    "mdlbench reproduce feature-splitting": Elsewhere(
        "test_reproduce.py::test_an_experiment_leaves_figures_a_table_and_a_report",
        "10 s; there with fewer points, and the other experiment, as quick, runs here",
    ),
    "mdlbench reproduce mnist-case-study": Elsewhere(
        "test_case_study.py::test_only_the_sweep_is_scored_and_only_once", "13 CPU minutes"
    ),
    "mdlbench reproduce reliability -o results/reliability --part superposed-hier": Elsewhere(
        "test_reliability.py::test_what_the_report_has", "an hour; there on a tiny world"
    ),
    "pip install ./mdlbench-npz": INSTALLED,
    "pip install ./mdlbench-tiny": INSTALLED,
}
"""What is executed in a command's place; `{}` is the command itself."""

HERE = {
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "80",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": "installed",
}
"""Variables of a reader's processes."""

SHORTER_CODE = {'suite, name="mine")': 'suite, name="mine", limit=200)'}


class MySae:
    """Somebody's SAE: an object with `encode` and `decode`."""

    def __init__(self) -> None:
        weights = load_file(SHIPPED / "topk-128-k13" / "sae_weights.safetensors")
        self.weights = {name: array.astype(np.float32) for name, array in weights.items()}

    def encode(self, x: np.ndarray) -> np.ndarray:
        w = self.weights
        z = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
        return np.where(z >= np.sort(z, axis=1)[:, [-13]], z, 0)

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z @ self.weights["W_dec"] + self.weights["b_dec"]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mdlbench`, `python` and `pip` of this interpreter and this working tree."""
    folder = tmp_path_factory.mktemp("bin")
    python = [sys.executable, "-P"]
    mdlbench = ["env", "PYTHONSAFEPATH=1", *MDLBENCH]
    tools = {"mdlbench": mdlbench, "python": python, "pip": [*python, "-m", "pip"]}
    for name, words in tools.items():
        script = f'PYTHONPATH="$PYTHONPATH:{REPOSITORY}" exec {shlex.join(words)} "$@"'
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


@dataclass
class Reader:
    """Somebody who does in a folder what a page says.

    Attributes:
        tools: the folder of the commands.
        fixture: the fixture of a name.
        names: what the page's Python snippets have defined so far.
        printed: by the last step.
        done: commands so far.
    """

    folder: Path
    tools: Path
    fixture: Callable[[str], Any]
    names: dict[str, Any] = field(default_factory=dict)
    printed: str = ""
    done: set[str] = field(default_factory=set)

    def type(self, command: str) -> None:
        """Execute a documented command, or what stands for it; raises where it fails."""
        instead = INSTEAD.get(command, "{}")
        if command in self.done or isinstance(instead, Elsewhere):
            return
        self.done.add(command)
        with self.network(command) as variables:
            self.execute(instead.format(command), variables)

    def execute(self, command: str, variables: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        path = {"PATH": f"{self.tools}:{os.environ['PATH']}"}
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=served(clean | HERE | path | variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout[-1000:]}\n{run.stderr[-2000:]}"
        self.printed = run.stdout

    @contextlib.contextmanager
    def network(self, command: str):
        """What a command needs of the hub: a full cache, or empty ones and a server."""
        if not re.search("gpt2|my-suite", command):
            yield {}
            return
        hub = self.fixture("hub")
        if "fetch" not in command:
            yield environment(hub)
            return
        with serving(hub) as endpoint:
            caches = {"HF_HOME": str(self.folder / "hf"), "XDG_CACHE_HOME": str(self.folder / "c")}
            online = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
            yield caches | online

    def run_python(self, code: str) -> None:
        for long, short in SHORTER_CODE.items():
            code = code.replace(long, short)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "<documentation>", "exec"), self.names)
        self.printed = out.getvalue()


def recipe(target: str) -> list[str]:
    """What `make TARGET` would run, without the folder of its virtual environment."""
    run = subprocess.run(
        ["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith(".venv/bin/")]
    return [line.removeprefix(".venv/bin/") for line in lines]


def put_leaderboards(folder: Path) -> None:
    """The committed leaderboards, without what is drawn from their records."""
    shutil.rmtree(folder / "leaderboards", ignore_errors=True)
    shutil.copytree(
        REPOSITORY / "leaderboards",
        folder / "leaderboards",
        ignore=shutil.ignore_patterns("*.png", "*.html", "table.*", "features"),
    )


def put_board(folder: Path) -> None:
    """A leaderboard to contribute to: what the reader measured."""
    shutil.rmtree(folder / "leaderboards")
    shutil.copytree(folder / "results" / "mnist", folder / "leaderboards" / "mnist")


def put_my_suite(folder: Path) -> None:
    """The template, as a reader changes it."""
    content = yaml.safe_load((suites_folder() / "template.yaml").read_text())
    content["source"]["tokens"] = {"calibration": 2048, "test": 1024}
    (folder / "my-suite.yaml").write_text(yaml.safe_dump(content))


GIVEN = {
    "README.md": put_leaderboards,
    "contribute-a-record.md": put_board,
    "read-a-board.md": put_leaderboards,
    "write-a-suite.md": put_my_suite,
}
"""What a reader has before beginning with a page, beside what the pages before it left."""

WITH_STEPS = [page for page in PAGES if fences(page)]
TUTORIALS = ["add-an-adapter.md", "write-a-suite.md", "what-the-number-means.md", "faq.md"]
FROM_SCRATCH = [page for page in WITH_STEPS if page.name in TUTORIALS]
FROM_README = sorted(
    (page for page in WITH_STEPS if page.name not in TUTORIALS),
    key=lambda page: (page.name != "README.md", page.name == "CONTRIBUTING.md", page.name),
)


@pytest.mark.parametrize("pages", [FROM_README, FROM_SCRATCH], ids=["README on", "tutorials"])
def test_a_reader_can_do_what_the_pages_say(pages, tmp_path, tools, request, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    reader = Reader(tmp_path, tools, request.getfixturevalue)
    for page in pages:
        if page.name in GIVEN:
            GIVEN[page.name](tmp_path)
        reader.names = {"my_sae": MySae()}
        for fence in fences(page):
            follow(reader, fence, f"{page.name}:{fence.line}")


def follow(reader: Reader, fence: Fence, where: str) -> None:
    assert fence.language in LANGUAGES, f"{where}: nobody knows how to execute {fence.language!r}"
    if fence.file:
        path = reader.folder / fence.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fence.content)
    elif fence.language == "sh":
        for command in fence.commands:
            reader.type(command)
    elif fence.language == "python":
        reader.run_python(fence.content)
    elif fence.language == "text":
        assert unpadded(reader.printed) == unpadded(fence.content), where
    elif fence.language == "yaml":
        check_suite_keys(reader.folder, fence.content)
    else:
        raise AssertionError(f"{where}: say in the first line which file this is")


def unpadded(text: str) -> list[str]:
    """Lines without the blanks that fill a terminal's."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def check_suite_keys(folder: Path, text: str) -> None:
    """A part of a suite, put into the template, makes a suite."""
    content = yaml.safe_load((suites_folder() / "template.yaml").read_text())
    (folder / "part.yaml").write_text(yaml.safe_dump(content | yaml.safe_load(text)))
    load_suite(folder / "part.yaml")


def test_whatever_runs_in_a_commands_place_is_documented():
    documented = {command for page in PAGES for command in commands(page)}
    assert set(INSTEAD) <= documented
    code = "".join(fence.content for page in PAGES for fence in fences(page))
    assert all(long in code for long in SHORTER_CODE)
    assert {*GIVEN, *TUTORIALS} <= {page.name for page in WITH_STEPS}


@pytest.mark.parametrize("instead", [i for i in INSTEAD.values() if isinstance(i, Elsewhere)])
def test_what_is_run_elsewhere_is_there(instead):
    file, _, name = instead.test.partition("::")
    assert f"def {name}(" in (Path(__file__).parent / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_commands_in_running_text_exist(page):
    for command in inline_commands(page):
        assert unknown_in(command) is None, f"{command}: there is no {unknown_in(command)}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    for target in links(page):
        if not re.match("https?:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_what_make_does():
    """`make demo` scores a suite; `make test` lints and runs all tests, as CI does."""
    assert recipe("demo")[-1] == "mdlbench eval --suite mnist"
    assert recipe("test")[-5:] == [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "python -m pytest -n 2",
    ]
    assert (REPOSITORY / ".ci" / "run").read_text().rstrip().endswith("make test")
