"""The command line, run as a process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mdlbench.cli.app import COMMANDS, app
from mdlbench.records.record import SCHEMA_VERSION
from tests.quick import MDLBENCH, served
from tests.tiny import N_TEST, write_sae, write_tiny_suite

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*arguments):
    return [sys.executable, "-m", "mdlbench", *map(str, arguments)]


def mdlbench(*arguments, cwd=None):
    return subprocess.run(
        [*MDLBENCH, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=served(ENVIRONMENT),
        check=False,
    )


def measured(folder):
    """What the records of a folder say, without when and where they were made."""
    records = {}
    for path in (folder / "records").glob("*.json"):
        record = json.loads(path.read_text())
        del record["environment"], record["provenance"], record["checksum"]
        records[path.name] = record
    return records


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def finished(suite, tmp_path_factory):
    """An uninterrupted run of the suite, its own SAE included."""
    folder = tmp_path_factory.mktemp("results")
    run = mdlbench("eval", "--suite", suite, "-o", folder)
    assert run.returncode == 0, run.stderr
    return folder, run


def test_eval_leaves_records_tables_and_figures(finished):
    folder, run = finished
    assert len(measured(folder)) == 3
    for name in ("table.csv", "table.md", "curves.png", "sparsity.png", "references.json"):
        assert (folder / name).stat().st_size > 500, name
    assert "pca" in run.stdout
    lines = run.stderr.splitlines()
    for i, (line, key) in enumerate(zip(lines, ("pca", "kmeans", "mean"), strict=True), 1):
        rest = "" if i == 3 else r"; about \d+ s left"
        assert re.fullmatch(rf"scored  {key} in \d+\.\d s \({i} of 3{rest}\)", line)
    assert not list(folder.rglob(".*"))


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(suite, finished, tmp_path):
    arguments = command("eval", "--suite", suite, "-o", tmp_path)
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "records").glob("pca*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = next((tmp_path / "records").glob("pca*.json"))
    written = first.stat().st_mtime_ns
    assert mdlbench("eval", "--suite", suite, "-o", tmp_path).returncode == 0
    assert first.stat().st_mtime_ns == written
    assert measured(tmp_path) == measured(finished[0])
    for name in ("table.csv", "table.md"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_broken_sae_stops_no_other(suite, tmp_path):
    broken, narrow = write_sae(tmp_path / "broken"), write_sae(tmp_path / "narrow", d_in=32)
    weights = (broken / "sae_weights.safetensors").read_bytes()
    (broken / "sae_weights.safetensors").write_bytes(weights[:500])
    run = mdlbench(
        "eval", "--suite", suite, "-o", tmp_path / "out", "--json",
        "--sae", broken, "--sae", narrow, "--sae", "mean",
    )  # fmt: skip
    outcome = json.loads(run.stdout)
    assert [record["identity"]["coder"]["name"] for record in outcome["records"]] == ["mean"]
    errors = [failure["error"] for failure in outcome["failed"]]
    assert "sae_weights.safetensors" in errors[0]
    assert "32" in errors[1]
    assert "64" in errors[1]
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    lines = run.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["failed", "failed", "scored"]
    assert re.match(rf"failed  {re.escape(str(broken))} in \d+\.\d s: ", lines[0])
    quiet = mdlbench("eval", "--suite", suite, "-o", tmp_path / "out", "-q", "--sae", broken)
    assert quiet.returncode == 1
    assert quiet.stderr.startswith(f"mdlbench: {broken}")
    assert len(quiet.stderr.splitlines()) == 1


def test_limited_results_are_never_ranked(suite, tmp_path):
    assert mdlbench("eval", "--suite", suite, "--limit", 40, "--sae", "pca", cwd=tmp_path).stdout
    folder = tmp_path / "results" / "tiny-limit-40"
    boards = json.loads(mdlbench("leaderboard", folder, "--json").stdout)
    rows = [row for board in boards for table in board["tables"] for row in table["rows"]]
    assert rows
    assert {row["status"] for row in rows} == {"partial"}
    assert {row.get("rank") for row in rows} == {None}


def test_a_leaderboard_is_rebuilt_byte_for_byte(finished, tmp_path):
    folder, _ = finished
    run = mdlbench("leaderboard", folder, "-o", tmp_path)
    assert run.returncode == 0, run.stderr
    for name in ("table.csv", "table.md", "curves.png", "sparsity.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_a_damaged_or_newer_record_is_named(finished, tmp_path):
    source = next((finished[0] / "records").glob("pca*.json"))
    for change, message in (
        (lambda text: text[: len(text) // 2], "not JSON"),
        (
            lambda text: text.replace(
                f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'
            ),
            "newer",
        ),
    ):
        records = tmp_path / message.replace(" ", "") / "records"
        records.mkdir(parents=True)
        (records / "a.json").write_text(change(source.read_text()))
        run = mdlbench("leaderboard", records.parent)
        assert run.returncode == 1
        assert message in run.stderr
        assert "a.json" in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1


def test_a_record_of_a_newer_mdlbench_is_kept(suite, tmp_path):
    arguments = ("eval", "--suite", suite, "-o", tmp_path, "--sae", "mean")
    assert mdlbench(*arguments).returncode == 0
    path = next((tmp_path / "records").glob("*.json"))
    newer = path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
    path.write_text(newer)
    run = mdlbench(*arguments)
    assert run.returncode == 1
    assert "newer" in run.stderr
    assert path.read_text() == newer


def test_a_folder_belongs_to_one_measurement(suite, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = mdlbench("eval", "--suite", suite, "-o", folder, "--limit", 30, "--sae", "pca")
    assert run.returncode == 2
    assert "choose another folder with -o" in run.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_one_document_cannot_be_measured(suite, tmp_path):
    run = mdlbench("eval", "--suite", suite, "-o", tmp_path, "--limit", 1, "--sae", "pca")
    assert run.returncode == 2
    assert "take more with --limit" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_python_interface_survives_its_own_imports(suite):
    probe = (
        "import mdlbench\n"
        "from mdlbench import evaluate, load_suite\n"
        f"suite = load_suite({str(suite)!r})\n"
        "first, second = (mdlbench.evaluate('mean', suite) for _ in range(2))\n"
        "import mdlbench.scoring.single\n"
        "assert mdlbench.evaluate('mean', suite).points == first.points == second.points\n"
        "assert first.curve('mse').points[0].rate == 0\n"
        "print(first.to_frame().shape[0], first.curve('fvu').metric)\n"
        "first.curve('nonsense')"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert run.stdout == "6 fvu\n", run.stderr
    assert "UsageError: no metric 'nonsense'" in run.stderr


def test_encode_then_decode_shows_the_rate_as_a_file_size(suite, tmp_path):
    sae, file = write_sae(tmp_path / "sae"), tmp_path / "latents.mdl"
    written = mdlbench("encode", sae, "--suite", suite, "-o", file)
    assert written.returncode == 0, written.stderr
    read = mdlbench("decode", file, "-o", tmp_path / "symbols.npz")
    facts = dict(line.rsplit("  ", 1) for line in read.stdout.splitlines())
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    size = int(facts["header bytes"]) + int(facts["payload bytes"])
    assert size == file.stat().st_size
    assert float(facts["bits per token (payload)"]) == 8 * int(facts["payload bytes"]) / N_TEST
    symbols = np.load(tmp_path / "symbols.npz")
    assert len(symbols["symbol"]) == int(facts["nonzeros"])
    assert 0 not in symbols["symbol"]
    fine = mdlbench("encode", sae, "--suite", suite, "-o", tmp_path / "b", "--step", 0.001)
    assert fine.returncode == 2
    assert "finer than the suite's finest step" in fine.stderr
    file.write_bytes(file.read_bytes()[:-9])
    damaged = mdlbench("decode", file)
    assert damaged.returncode == 1
    assert str(file) in damaged.stderr


def test_check_adapter_says_what_was_loaded(suite, tmp_path):
    sae = write_sae(tmp_path / "sae")
    run = mdlbench("check-adapter", sae, "--suite", suite, "--json")
    checks = {row["check"]: row for row in json.loads(run.stdout)}
    assert run.returncode == 0
    assert "jumprelu" in checks["loaded"]["found"]
    assert {row[""] for row in checks.values()} <= {"ok", "warning"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["eval", "--suite", "mnits"], 2, "Did you mean 'mnist'"),
        (["eval", "--suite", "mnist", "--device", "cuda:77"], 2, "--device cuda:77"),
        (["eval", "--suite", "mnist", "--sae", "batchtopk-64"], 2, "Did you mean 'batchtopk-64-"),
        (["eval"], 2, "--suite"),
        (["evla"], 2, "No such command"),
        (["leaderboard", "/nonexistent"], 1, "no such folder"),
        (
            ["leaderboard", "x", "--html", "--json"],
            2,
            "--html, --format and --json cannot be combined",
        ),
        (["leaderboard", "x", "--pdf"], 2, "--pdf needs -o FOLDER"),
        (
            ["leaderboard", "x", "--pdf", "--format", "csv"],
            2,
            "--pdf and --format cannot be combined",
        ),
        (["decode", "/nonexistent.mdl"], 1, "/nonexistent.mdl"),
        (["check-adapter", "nonsense:x"], 2, "unknown adapter 'nonsense'"),
        (["check-adapter", "x" * 300], 1, "File name too long"),
        (["train", "--width", "8", "--k", "9", "-o", "x"], 2, "k must lie between"),
    ],
)
def test_errors_are_one_message_with_the_right_exit_code(arguments, code, message, tmp_path):
    run = mdlbench(*arguments, cwd=tmp_path)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_an_unwritable_folder_is_found_out_before_the_work(suite, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    run = mdlbench("eval", "--suite", suite, "-o", blocked / "results")
    assert run.returncode == 1
    assert str(blocked) in run.stderr
    assert blocked.read_text() == "in the way"


HEAVY = {
    "torch",
    "sae_lens",
    "transformers",
    "datasets",
    "matplotlib",
    "pandas",
    "sklearn",
    "scipy",
}


def loaded_by(*calls):
    """The modules that a process has loaded after these calls of the command line."""
    probe = (
        "import sys\n"
        "from mdlbench.cli.app import app\n"
        f"for call in {calls!r}: app(call, standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=ENVIRONMENT
    )
    return set(run.stdout.splitlines()[-1].split())


def test_lists_do_not_load_torch(finished):
    listed = loaded_by(
        ["ls", "suites"],
        ["ls", "adapters"],
        ["ls", "records", str(finished[0].parent)],
        ["cache", "ls"],
    )
    assert "mdlbench.disk.cache" in listed
    assert "mdlbench.suite.load" in listed
    assert not HEAVY & listed


def test_help_of_every_command_loads_nothing_that_is_slow_to_load():
    listed = loaded_by(["--help"], *([name, "--help"] for name in COMMANDS))
    assert "mdlbench.cli.train" in listed
    assert not (HEAVY | {"numpy", "huggingface_hub"}) & listed


def test_every_command_has_help():
    run = mdlbench("--help")
    assert run.returncode == 0
    commands = run.stdout.partition("Commands:")[2].splitlines()
    described = dict(line.split(maxsplit=1) for line in commands if line.strip())
    assert list(described) == list(COMMANDS)
    assert all(text[0].isupper() for text in described.values())


def test_an_error_is_shown_with_its_traceback_under_debug(tmp_path):
    run = mdlbench("--debug", "leaderboard", "/nonexistent", cwd=tmp_path)
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("mdlbench: /nonexistent: no such folder")


def test_the_version_is_printed():
    assert mdlbench("--version").stdout.strip() == version("mdlbench")


def test_ls_lists_what_there_is(finished):
    suites = {row["suite"]: row for row in json.loads(mdlbench("ls", "--json").stdout)}
    assert suites["toy"]["test tokens"] == 16384
    assert suites["mnist"]["test tokens"] == 10_000
    assert suites["gemma-3-270m"]["download, GB"] == 6.8
    assert suites["gemma-3-270m"]["memory, GB"] == 5
    saes = {row["SAE"]: row for row in json.loads(mdlbench("ls", "gemma-3-270m", "--json").stdout)}
    fitted = [row for row in saes.values() if row["spec"].startswith("baseline:")]
    assert (len(saes), len(fitted)) == (27, 4)
    assert suites["gemma-3-270m"]["SAEs"] == 23
    assert saes["pca-mlp"]["hook"] == "blocks.12.hook_mlp_out"
    assert saes["res-16k-big"]["spec"].startswith("gemma_scope:hf://google/gemma-scope-2-270m-pt/")
    run = mdlbench("ls", "gemma-3-270mm")
    assert run.returncode == 2
    assert "nothing to list by the name 'gemma-3-270mm'. Did you mean 'gemma-3-270m'?" in run.stderr
    records = json.loads(mdlbench("ls", "records", finished[0].parent, "--json").stdout)
    assert {row["SAE"] for row in records} >= {"pca", "kmeans", "mean"}
    assert Path(records[0]["file"]).is_file()


def test_a_quantiser_shares_folder_and_board_with_the_suites_own(suite, tmp_path):
    sae, folder = write_sae(tmp_path / "bars"), tmp_path / "out"
    arguments = ("eval", "--suite", suite, "--limit", 80, "--sae", sae, "-o", folder)
    assert mdlbench(*arguments, "-q").returncode == 0
    run = mdlbench(*arguments, "--quantiser", "rdo", "--json")
    assert run.returncode == 0, run.stderr
    (record,) = json.loads(run.stdout)["records"]
    assert record["identity"]["quantiser"] == "rdo"
    assert {point["quantiser"] for point in record["points"]} == {"rdo"}
    assert len(measured(folder)) == 2
    boards = json.loads(mdlbench("leaderboard", folder, "--json").stdout)
    labels = {row["label"] for row in boards[0]["tables"][0]["rows"]}
    assert labels == {"bars", "bars [rdo]"}
    rows = json.loads(mdlbench("ls", "records", folder, "--json").stdout)
    assert {row["quantiser"] for row in rows} == {"normalised", "rdo"}


def test_another_quantiser_is_encoded_and_decoded(suite, tmp_path):
    file, arrays = tmp_path / "z.mdlbits", tmp_path / "z.npz"
    sae = write_sae(tmp_path / "bars")
    run = mdlbench("encode", sae, "--suite", suite, "--quantiser", "per-feature", "-o", file)
    assert run.returncode == 0, run.stderr
    run = mdlbench("decode", file, "-o", arrays)
    assert "per-feature" in run.stdout
    decoded = np.load(arrays)
    ratio = decoded["value"] / decoded["symbol"]
    assert (ratio > 0).all()
    by_latent = {int(i): set(ratio[decoded["latent"] == i]) for i in set(decoded["latent"])}
    assert all(max(r) == pytest.approx(min(r), rel=1e-5) for r in by_latent.values())


def test_an_unknown_quantiser_is_a_usage_error(suite):
    run = mdlbench("eval", "--suite", suite, "--quantiser", "tree-ish")
    assert run.returncode == 2
    assert "rdo" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "spelling"),
    [
        (["eval", "--suite", "mnist", "--sae", "rel", "blocks.8", "-q"], "saelens:rel/blocks.8"),
        (["eval", "--sae", "a=rel", "blocks.8", "--suite", "mnist"], "a=saelens:rel/blocks.8"),
        (["eval", "--sae", "saelens:rel", "x/y", "--suite", "mnist"], "saelens:rel/x/y"),
        (["check-adapter", "rel", "blocks.8"], "saelens:rel/blocks.8"),
        (["encode", "rel", "blocks.8", "--suite", "mnist", "-o", "x"], "saelens:rel/blocks.8"),
        (["eval", "--sae", "rel", "--suite", "mnist", "blocks.8"], None),
        (["eval", "--suite", "mnist", "blocks.8"], None),
    ],
)
def test_saelens_two_words_are_answered_with_the_one(arguments, spelling):
    run = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert run.exit_code == 2
    expected = f". An SAE is one word: {spelling}" if spelling else ""
    extra = "x/y" if "x/y" in arguments else "blocks.8"
    last = run.output.splitlines()[-1]
    assert last == f"Error: Got unexpected extra argument(s) ({extra}){expected}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--width", 8, "-o", "sae", "--gpus-per-worker", 0.5),
            "--workers, --ray and --gpus-per-worker share out a recipe's SAEs: not one with "
            "--width",
        ),
        (
            ("eval", "--suite", "mnist", "--gpus-per-worker", 1),
            "--gpus-per-worker needs --workers or --ray",
        ),
        (
            ("eval", "--suite", "mnist", "--workers", 2, "--gpus-per-worker", 1),
            "--gpus-per-worker needs --device cuda",
        ),
        (
            ("reproduce", "hierarchy", "--workers", 2),
            "hierarchy scores no SAEs that workers could share: run it without --workers and --ray",
        ),
    ],
)
def test_workers_that_would_not_be_used_are_refused(arguments, message, tmp_path):
    run = mdlbench(*arguments, cwd=tmp_path)
    assert (run.returncode, run.stderr) == (2, f"mdlbench: {message}\n")
