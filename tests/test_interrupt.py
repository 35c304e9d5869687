"""Ctrl-C, sent to a process: exit code 130 and one line that says what was kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import write_sae, write_tiny_suite

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SCRIPT = "import sys\nfrom mdlbench.cli.main import main\nsys.exit(main())\n"
"""What an installer writes for an entry point."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Its last SAE takes long to load, and says so by a file."""
    return write_tiny_suite(tmp_path_factory.mktemp("suite"))


def heed_interrupts():
    """What a shell runs in the background ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(ready, process):
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupted(arguments, ready, start=("-m", "mdlbench"), search=(), times=1):
    """Exit code and stderr of a process that is interrupted once it is ready."""
    path = os.pathsep.join(map(str, [*search, *sys.path]))
    with subprocess.Popen(
        [sys.executable, *map(str, start), *map(str, arguments)],
        env=ENVIRONMENT | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        wait_until(ready, process)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr


def slow_sae(folder):
    """A `python:` SAE that writes a file and then sleeps once it is given more than a sample.

    Its module has a `make` that does so at once.
    """
    folder.mkdir(exist_ok=True)
    (folder / "slow_sae.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "def make():\n"
        f"    Path({str(folder / 'ready')!r}).touch()\n"
        "    time.sleep(60)\n"
        "class Slow:\n"
        "    d_in = 64\n"
        "    def encode(self, x):\n"
        "        if len(x) > 64:\n"
        "            make()\n"
        "        return x.clip(0)\n"
        "    def decode(self, z):\n"
        "        return z\n"
    )
    return "python:slow_sae:Slow", (folder / "ready").exists


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "try: time.sleep(60)\nexcept BaseException: raise ImportError('not that') from None",
        "try: time.sleep(60)\nexcept BaseException: pass\ntime.sleep(60)",
    ],
)
@pytest.mark.parametrize(
    ("module", "script"), [("typer", False), ("typer", True), ("torch", False)]
)
def test_an_import_is_interrupted_without_a_traceback(tmp_path, suite, module, body, script):
    ready = tmp_path / "ready"
    (tmp_path / f"{module}.py").write_text(
        f"import time\nfrom pathlib import Path\nPath({str(ready)!r}).touch()\n{body}\n"
    )
    (tmp_path / "mdlbench-script").write_text(SCRIPT)
    start = [tmp_path / "mdlbench-script"] if script else ["-m", "mdlbench"]
    arguments = ["eval", "--suite", suite, "-o", tmp_path / "out"]
    code, stderr = interrupted(arguments, ready.exists, start, [tmp_path])
    assert (code, stderr) == (130, "mdlbench: interrupted\n")


def test_an_interrupt_in_a_finaliser_counts(tmp_path, suite):
    ready = tmp_path / "ready"
    (tmp_path / "final_sae.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "class Last:\n"
        "    def __del__(self):\n"
        f"        Path({str(ready)!r}).touch()\n"
        "        time.sleep(60)\n"
        "def make():\n"
        "    last = Last()\n"
        "    del last\n"
        "    time.sleep(60)\n"
    )
    arguments = ["check-adapter", "python:final_sae:make", "--suite", suite]
    code, stderr = interrupted(arguments, ready.exists, search=[tmp_path])
    assert (code, stderr) == (130, "mdlbench: interrupted\n")


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_eval_says_which_records_are_kept(tmp_path, suite, quiet):
    spec, ready = slow_sae(tmp_path / "code")
    out = tmp_path / "out"
    arguments = ["eval", "--suite", suite, "--limit", 100, "-o", out, "--sae", "mean", *quiet]
    code, stderr = interrupted([*arguments, "--sae", spec], ready, search=[tmp_path / "code"])
    last = f"mdlbench: interrupted; {out}/ keeps the records of 1 of 2 SAEs; run it again to go on"
    *lines, end = stderr.splitlines()
    assert (code, end) == (130, last)
    assert [line.split()[:2] for line in lines] == ([] if quiet else [["scored", "mean"]])
    assert len(list((out / "records").glob("*.json"))) == 1


def test_a_line_is_there_as_soon_as_its_sae_is_done(tmp_path, suite):
    spec, ready = slow_sae(tmp_path / "code")
    log = tmp_path / "log"
    arguments = ["--limit", "100", "-o", tmp_path / "out", "--sae", "mean", "--sae", spec]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "mdlbench", "eval", "--suite", suite, *arguments],
            env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "code"), *sys.path])},
            stderr=stderr,
            stdout=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            wait_until(ready, process)
            assert log.read_text().startswith("scored  mean in ")
        finally:
            process.kill()


def test_train_says_which_checkpoint_is_kept(tmp_path, suite):
    folder = tmp_path / "mine"
    arguments = ["train", "--suite", suite, "--width", 8, "--k", 2, "--epochs", 100_000]
    code, stderr = interrupted(
        [*arguments, "--patience", 100_000, "--batch-size", 100, "-o", folder],
        lambda: list(folder.glob("checkpoint-*")),
    )
    (checkpoint,) = folder.glob("checkpoint-*")
    epoch = int(checkpoint.name.removeprefix("checkpoint-"))
    assert code == 130
    assert stderr == (
        f"mdlbench: interrupted; {folder}/ keeps a checkpoint of epoch {epoch}; "
        "run it again to go on\n"
    )


def test_verify_says_what_is_reproduced(tmp_path, suite):
    spec, ready = slow_sae(tmp_path / "code")
    out, sae = tmp_path / "out", write_sae(tmp_path / "bars")
    arguments = [sys.executable, "-m", "mdlbench", "eval", "--suite", suite, "--limit", "60"]
    subprocess.run([*arguments, "-q", "-o", out, "--sae", sae], env=ENVIRONMENT, check=True)
    (record,) = (out / "records").glob("*.json")
    arguments = ["verify", record, "--suite", suite, "--sae", spec.replace("Slow", "make")]
    code, stderr = interrupted(arguments, ready, search=[tmp_path / "code"])
    assert code == 130
    assert stderr.splitlines()[-1] == (
        "mdlbench: interrupted; 0 of 1 records are reproduced, their repetitions kept beside them"
    )


def test_reproduce_says_what_is_kept(tmp_path):
    folder = tmp_path / "out"
    code, stderr = interrupted(["reproduce", "hierarchy", "-o", folder], folder.exists)
    assert code == 130
    assert stderr.splitlines()[-1] == (
        f"mdlbench: interrupted; {folder}/ keeps 0 records; run it again to go on"
    )


def test_an_interrupt_of_a_finished_command_changes_no_python_program(tmp_path):
    """The library leaves signals as they are."""
    probe = (
        "import signal\nbefore = signal.getsignal(signal.SIGINT)\n"
        "import mdlbench, mdlbench.cli.app\n"
        "assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, env=ENVIRONMENT)


def test_a_process_that_was_started_deaf_stays_so(tmp_path):
    probe = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import mdlbench.cli.main\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN"
    )
    subprocess.run([sys.executable, "-c", probe], check=True, env=ENVIRONMENT)


def test_records_are_whole_after_an_interrupt(tmp_path, suite):
    arguments = ["eval", "--suite", suite, "-o", tmp_path]
    code, _ = interrupted(arguments, (tmp_path / "references.json").exists)
    assert code == 130
    assert not list(Path(tmp_path).rglob(".*"))
