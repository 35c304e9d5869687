"""What a long run shows: how each SAE fared, what failed alike, and the stages of one score."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdlbench.adapters.load import NamedCoder
from mdlbench.cli.eval import _name_failures
from mdlbench.cli.progress import Course, stages, suite_progress
from mdlbench.console.terminal import about
from mdlbench.errors import CheckpointError, MdlbenchError
from mdlbench.hub.hub import WHAT_TO_DO, HubUnreachableError
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.suite_run import Failed, Scored, failure_lines
from mdlbench.scoring.targets import Target
from tests.records import make_record
from tests.tiny import tiny_suite

OFFLINE = "no network"
REASON = f"the hub cannot be reached ({OFFLINE}). {WHAT_TO_DO}"
SECONDS = re.compile(r"in \d+\.\d s")
STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def failed(name: str, error: MdlbenchError) -> Failed:
    return Failed(Target(NamedCoder(f"saelens:r/{name}"), name), error)


def unreachable(n: int) -> list[Failed]:
    """SAEs of different files that all are out of reach for one reason."""
    return [
        failed(f"sae-{i}", HubUnreachableError("owner/name", f"{i}.safetensors", OFFLINE))
        for i in range(n)
    ]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A terminal in the place of stderr; afterwards, `text` is what it was sent."""
    ours, theirs = pty.openpty()
    shown = SimpleNamespace(text="")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "1000")
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        os.set_blocking(ours, False)
        parts = []

        def read() -> None:
            stream.flush()
            while True:
                try:
                    parts.append(os.read(ours, 1 << 16))
                except BlockingIOError:
                    return

        shown.read = read
        yield shown
        read()
    os.close(ours)
    shown.text = STYLES.sub("", b"".join(parts).decode())


def test_saes_that_failed_alike_are_one_sentence() -> None:
    other = failed("broken", CheckpointError("x/cfg.json: not JSON"))
    lines = failure_lines([*unreachable(19), other])
    assert lines == [
        f"19 SAEs (sae-0, sae-1, sae-2, …): {REASON}",
        "broken: x/cfg.json: not JSON",
    ]
    assert failure_lines(unreachable(3)) == [f"3 SAEs (sae-0, sae-1, sae-2): {REASON}"]
    (alone,) = unreachable(1)
    assert failure_lines([alone]) == [f"sae-0: {alone.error}"]
    named = failed("x", CheckpointError("x: has no latents"))
    assert failure_lines([named]) == ["x: has no latents"]
    assert failure_lines([]) == []


def finished(outcomes: list[Failed], quiet: bool = False) -> None:
    with suite_progress(len(outcomes), quiet, "SAE") as progress:
        for outcome in outcomes:
            progress.finish(outcome)
    _name_failures(outcomes, progress)


def test_without_a_terminal_each_has_a_line_and_the_reason_stands_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = unreachable(19)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    finished(outcomes)
    lines = SECONDS.sub("in T", stream.getvalue()).splitlines()
    assert lines == [
        f"failed  sae-0 in T: {outcomes[0].error}",
        *(f"failed  sae-{i} in T: as sae-0" for i in range(1, 19)),
    ]


def test_a_quiet_run_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    finished(unreachable(19), quiet=True)
    assert stream.getvalue() == f"mdlbench: 19 SAEs (sae-0, sae-1, sae-2, …): {REASON}\n"


def test_on_a_terminal_the_last_line_names_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = unreachable(19)
    with terminal(monkeypatch) as shown:
        finished(outcomes)
    lines = SECONDS.sub("in T", shown.text).splitlines()
    assert lines[-1] == f"mdlbench: 19 SAEs (sae-0, sae-1, sae-2, …): {REASON}"
    assert sum(OFFLINE in line for line in lines) == 2
    for i in range(1, 19):
        assert sum(f"failed  sae-{i} in T: as sae-0" in line for line in lines) == 1


def test_evaluate_shows_its_stages_on_a_terminal_and_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    suite = tiny_suite(tmp_path)
    with terminal(monkeypatch) as shown:
        evaluate("pca", suite)
    assert re.search(r"encode|distortion|rate|bitstream|decoder", shown.text)
    capfd.readouterr()
    evaluate("mean", suite, limit=20)
    assert capfd.readouterr() == ("", "")


def scored(name: str, seconds: float, reused: bool = False) -> Scored:
    record = make_record(name)
    environment = record.environment.model_copy(update={"seconds": seconds})
    target = Target(NamedCoder(f"saelens:r/{name}"), name)
    return Scored(target, record.model_copy(update={"environment": environment}), reused)


def test_a_log_has_a_line_for_each_subject_of_a_long_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with stages(quiet=False) as on_stage:
        for said in ("world: a: encode", "world: a: rate", "world: b: encode", "report"):
            on_stage(said)
    assert re.sub(r"\d+\.\d", "0.0", stream.getvalue()) == (
        "world: a in 0.0 s\nworld: b in 0.0 s\n"
    )


def test_the_rest_is_foretold_from_what_saes_took() -> None:
    clock = iter([0.0, 100.0, 110.0, 130.0, 130.0, 131.0, 140.0])
    course = Course(5, lambda: next(clock))
    assert course.left is None
    assert course.words() == "SAE 1 of 5"
    course.stage("loading a model")
    assert course.words() == "SAE 1 of 5 · loading a model"
    course.stage("a: encode")
    course.finish(scored("a", seconds=80.0))
    assert course.left == pytest.approx(4 * 80.0 - 10.0)
    for stage in ("b: encode", "c: rate", "c: bitstream", "c: done", "d: load"):
        course.stage(stage)
    assert course.words() == "SAE 3 of 5 · b: encode · d: load"
    assert (course.n_done, course.n_kept) == (2, 2)
    assert course.left == pytest.approx(3 * 80.0 / 2)
    course.finish(scored("b", seconds=100.0))
    course.finish(scored("c", seconds=120.0))
    assert (course.n_done, course.n_kept) == (3, 3)
    assert course.left == pytest.approx(2 * 100.0 - 9.0)


def test_what_was_kept_tells_nothing_of_the_rest() -> None:
    course = Course(2)
    course.finish(scored("a", seconds=80.0, reused=True))
    assert course.left is None
    assert course.n_kept == 1
    course.finish(failed("b", CheckpointError("no")))
    assert (course.n_done, course.n_kept) == (2, 1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "about 0 s"), (119, "about 119 s"), (120, "about 2 min"), (7200, "about 2 h")],
)
def test_a_time_is_said_as_precisely_as_it_is_foretold(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_each_line_says_how_far_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with suite_progress(2, False, "SAE") as progress:
        progress.finish(scored("a", seconds=300.0))
        progress.finish(scored("b", seconds=200.0))
    assert stream.getvalue().splitlines() == [
        "scored  a in 300.0 s (1 of 2; about 5 min left)",
        "scored  b in 200.0 s (2 of 2)",
    ]


def test_on_a_terminal_all_workers_are_in_one_display(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown, suite_progress(3, False, "SAE") as progress:
        for stage in ("a: encode", "b: rate", "c: load"):
            progress.stage(stage)
        progress.finish(scored("a", seconds=300.0))
    assert "scored  a in 300.0 s (1 of 3; about 5 min left)" in shown.text
    assert "about 5 min left SAE 2 of 3 · b: rate · c: load" in shown.text
