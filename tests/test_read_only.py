"""Nothing can be written anywhere: a command does its work, or says in one sentence what it cannot.

Each runs in a fork of this process in which every way to change a file system fails, as it does
with a read-only home, folder, temporary folder and cache. Modes would not do: root ignores them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from tests.tiny import write_sae, write_tiny_suite

BOARDS = Path(__file__).parent.parent / "leaderboards"
CHANGES = ("mkdir", "rename", "link", "symlink", "remove", "rmdir", "chmod", "utime", "truncate")
REFUSED = os.strerror(errno.EROFS)
SAID = REFUSED[:1].lower() + REFUSED[1:]


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that makes each change of the file system fail."""
    if event == "open":
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if not writes or isinstance(path, int) or str(path).startswith("/dev/"):
            return
    elif event.removeprefix("os.") not in CHANGES:
        return
    raise OSError(errno.EROFS, REFUSED, str(arguments[0]))


def read_only(*arguments: object) -> tuple[int, str, str]:
    """A command's exit code, stdout and stderr."""
    torch.set_num_threads(1)
    outputs = [os.memfd_create(name) for name in ("stdout", "stderr")]
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        _become(arguments, outputs)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = []
    for output in outputs:
        os.lseek(output, 0, os.SEEK_SET)
        with os.fdopen(output, encoding="utf-8") as stream:
            found.append(stream.read())
    return code, found[0], found[1]


def _become(arguments: tuple[object, ...], outputs: list[int]) -> None:
    for here, output in enumerate(outputs, start=1):
        os.dup2(output, here)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["mdlbench", *map(str, arguments)]
    code: object = 99
    try:
        sys.addaudithook(refuse)
        from mdlbench.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, an SAE, its results, and a board."""
    folder = tmp_path_factory.mktemp("place")
    suite = write_tiny_suite(folder / "suite")
    sae = write_sae(folder / "sae")
    opener = Opener(load_suite(suite), Setting(limit=40))
    (outcome,) = run(opener, targets(opener.suite, [str(sae)], None), folder / "mine")
    assert isinstance(outcome, Scored)
    shutil.copytree(BOARDS / "toy", folder / "toy")
    return folder


WORKS = [
    "leaderboard toy",
    "leaderboard toy --json",
    "leaderboard toy --format latex",
    "compare truth absorbed --in toy",
    "ls suites",
    "ls adapters",
    "ls records toy",
    "cite toy",
    "validate mine --suite suite",
    "check-adapter sae",
    "check-adapter sae --suite suite",
]
WRITTEN = r"mdlbench: \S+: cannot be (written|created): "
NO_SPOOL = r"mdlbench: no temporary folder for latents \(set TMPDIR\): "
WRITES = {
    "leaderboard toy -o out": WRITTEN,
    "leaderboard toy -o out --html": WRITTEN,
    "compare truth absorbed --in toy -o out": WRITTEN,
    "eval --suite suite --sae mean --limit 40": WRITTEN,
    "eval --suite suite --sae sae --limit 40 -o mine": WRITTEN,
    "encode sae --suite suite -o x.mdl": NO_SPOOL,
    "train --suite suite --width 8 --k 2 --epochs 1 -o run": "mdlbench: ",  # SAELens' own imports
    "reproduce hierarchy -o out": WRITTEN,
}


@pytest.mark.parametrize("command", WORKS)
def test_what_needs_not_write_works(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code, stdout, stderr = read_only(*command.split())
    assert (code, stderr) == (0, "")
    assert stdout


@pytest.mark.parametrize(("command", "said"), WRITES.items(), ids=WRITES.keys())
def test_what_must_write_says_so_in_one_sentence(
    command: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code, stdout, stderr = read_only(*command.split())
    assert code == 1
    (line,) = stderr.splitlines()
    assert re.match(rf"{said}.*(?i:{SAID})", line)
    assert stdout == ""


def test_verify_says_which_could_not_be_repeated(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code, stdout, stderr = read_only(
        *"verify mine --suite suite --sae sae".split()  # noqa: SIM905
    )
    assert code == 1
    assert re.fullmatch(r"sae in \d+\.\d s\n", stderr)
    reason = f"no temporary folder for latents (set TMPDIR): {SAID}"
    assert stdout.startswith(f"sae: not reproduced: {reason}")


def test_no_room_for_a_spool_is_the_sae_s_failure(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results folder can be written, but no temporary one."""
    monkeypatch.chdir(place)
    out = tmp_path / "out"
    monkeypatch.setattr("tests.test_read_only.refuse", only_without(refuse, str(out)))
    code, _, stderr = read_only(
        *("eval", "--suite", "suite", "--sae", "sae", "--sae", "mean", "--limit", 40, "-o", out)
    )
    assert code == 1
    lines = stderr.splitlines()
    assert re.fullmatch(
        r"failed  sae in \d+\.\d s: no temporary folder for latents \(set TMPDIR\): .*", lines[0]
    )
    assert re.fullmatch(r"failed  mean in \d+\.\d s: as sae", lines[1])
    assert "Traceback" not in stderr


def only_without(hook: Any, writable: str) -> Any:
    """The hook, except within one folder."""

    def limited(event: str, arguments: tuple[Any, ...]) -> None:
        if not any(str(argument).startswith(writable) for argument in arguments):
            hook(event, arguments)

    return limited
