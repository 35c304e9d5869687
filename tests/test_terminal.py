"""What commands print: whole in a pipe, inert on a terminal, printable in every encoding."""

import csv
import fcntl
import io
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import yaml

from mdlbench.boards.leaderboard import build
from mdlbench.console.terminal import BIDI, ENDLESS, Field, fitting, inert
from mdlbench.errors import RecordError
from mdlbench.records.record import parse_record, parse_references
from mdlbench.report.compare.data import _inert
from mdlbench.report.exports import latex_text
from mdlbench.report.tables import measured_text, to_csv
from mdlbench.suite.load import suites_folder
from tests.quick import MDLBENCH, served
from tests.records import HEADLINE, make_record
from tests.tiny import write_tiny_suite

REPOSITORY = Path(__file__).parent.parent
BOARDS = REPOSITORY / "leaderboards"
PLAIN = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
EVIL = "x\x1b[31mred\x07\x9b31m\u202egnp\x01"
"""A name that colours, rings, turns around, and holds a control character of each range."""


def command(*arguments):
    return [*MDLBENCH, *map(str, arguments)]


def piped(*arguments, **environment):
    return subprocess.run(
        command(*arguments), capture_output=True, env=served(PLAIN | environment), check=False
    )


def on_terminal(width, *arguments):
    """What a command shows on a terminal of that width, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        command(*arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=served(PLAIN | {"TERM": "xterm"}),
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:
            break
        if not part:
            break
        found += part
    process.wait()
    os.close(ours)
    return ESCAPE.sub("", found.decode().replace("\r\n", "\n"))


def acts(text):
    """What of a text acts on a terminal."""
    return [
        c for c in text if c in BIDI or (c not in "\n\t" and (c < " " or "\x7f" <= c <= "\x9f"))
    ]


def test_inert_text_keeps_what_can_be_read():
    assert inert("a \x1b[31mb\x00\x9b\u202e\ud800\u2028c\n\td – 漢") == "a �[31mb�����c\n\td – 漢"


def test_columns_go_whole_the_least_worth_first():
    fields = [Field("a", worth=3), Field("b", worth=1), Field("c", worth=2), Field("d", worth=1)]
    assert fitting([4, 4, 4, 4], fields, 21) == [0, 1, 2, 3]
    assert fitting([4, 4, 4, 4], fields, 20) == [0, 1, 2]
    assert fitting([4, 4, 4, 4], fields, 15) == [0, 2]
    assert fitting([400, 4], fields[:2], 20) == [0]
    assert Field("name", folds=True).least_width(["x" * 50]) == 12
    assert Field("number").least_width(["13.58 ± 0.08"]) == 12


def test_a_pipe_gets_every_column_in_one_line():
    lines = piped("leaderboard", BOARDS / "smollm2-l15").stdout.decode().splitlines()
    row = next(line for line in lines if "batchtopk-2048-k48 " in line and "tree" not in line)
    assert " ".join(row.split()) == (
        "5 batchtopk-2048-k48 2048 27.4 176.73 ± 22.08 53.66 [45.57, 67.29] 2.2%"
    )
    assert "Measured on 5,948 test tokens of python-docs." in [line.strip() for line in lines]
    paths = sorted((BOARDS / "toy" / "records").glob("*.json"))
    listed = piped("ls", "records", BOARDS / "toy").stdout.decode().splitlines()
    assert [line.split()[0] for line in listed[1:]] == list(map(str, paths))


@pytest.mark.parametrize("width", [30, 40, 60])
def test_on_a_narrow_terminal_no_number_is_cut(width):
    text = on_terminal(width, "leaderboard", BOARDS / "toy")
    rows = re.findall(r"^ [ 2]*truth \[tree\].*$", text, re.MULTILINE)
    assert len(rows) == 1
    assert "19.51 ± 0.15" in rows[0]
    table = text[: text.index(" results of other versions of the suite are in ")]
    assert max(map(len, table.splitlines())) <= width
    assert "Left out, as the terminal is too narrow:" in " ".join(text.split())
    assert ("0.20 [0.17, 0.22]" in rows[0]) == (width == 60)


@pytest.mark.parametrize("width", [30, 40])
def test_a_comparison_on_a_narrow_terminal_loses_no_digit(width):
    text = on_terminal(width, "compare", "truth", "absorbed", "--in", BOARDS / "toy")
    assert {"-0.34", "[-0.35,", "-0.32]", "-2.6", "[-2.7,", "-2.5]", "94%"} <= set(text.split())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("leaderboard", BOARDS / "toy"),
        ("leaderboard", BOARDS / "toy", "--format", "markdown"),
        ("compare", "truth", "absorbed", "--in", BOARDS / "toy"),
        ("ls", "adapters"),
        ("leaderboard", "no-such-\u2264"),
    ],
)
def test_every_encoding_will_do(arguments, encoding):
    run = piped(*arguments, PYTHONIOENCODING=encoding)
    assert run.returncode == (1 if "no-such-\u2264" in arguments else 0)
    text = (run.stdout + run.stderr).decode(encoding)
    assert "Traceback" not in text
    if arguments[:1] == ("leaderboard",):
        assert ("≤" if encoding == "utf-8" else "<=") in text


def test_the_locale_c_will_do():
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "mdlbench", "leaderboard", str(BOARDS / "toy")],
        capture_output=True,
        env=PLAIN | plain,
        check=False,
    )
    assert run.returncode == 0
    assert b"FVU <= 0.001" in run.stdout


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A folder of a results folder, an SAE and a suite, all of one evil name."""
    root = tmp_path_factory.mktemp("evil")
    shutil.copytree(BOARDS / "toy", root / EVIL)
    shutil.copytree(suites_folder() / "toy" / "saes" / "truth", root / EVIL / EVIL)
    record = json.loads(next((root / EVIL / "records").glob("truth-*.json")).read_text())
    record["identity"]["coder"]["name"] = EVIL
    (root / EVIL / "bad.json").write_text(json.dumps(record))
    return root


@pytest.mark.parametrize(
    "arguments",
    [
        (EVIL,),
        (f"--{EVIL}",),
        ("ls", EVIL),
        ("ls", "records", EVIL),
        ("leaderboard", EVIL),
        ("leaderboard", EVIL, "--all"),
        ("leaderboard", EVIL, "--html"),
        ("leaderboard", EVIL, "--format", "latex"),
        ("leaderboard", EVIL, "--format", EVIL),
        ("leaderboard", f"no{EVIL}"),
        ("leaderboard", f"--{EVIL}"),
        ("compare", "truth", EVIL, "--in", EVIL),
        ("compare", "truth", "absorbed", "--in", EVIL, "-o", f"out{EVIL}"),
        ("cite", EVIL),
        ("cite", f"{EVIL}/bad.json"),
        ("validate", EVIL, f"{EVIL}/bad.json"),
        ("decode", EVIL),
        ("--debug", "decode", EVIL),
        ("check-adapter", f"{EVIL}/{EVIL}"),
        ("check-adapter", f"no{EVIL}"),
        ("check-adapter", f"baseline:{EVIL}"),
        ("eval", "--suite", EVIL),
        ("eval", "--suite", "toy", "--sae", f"no{EVIL}", "-o", f"out{EVIL}"),
        ("eval", "--suite", "toy", "--limit", EVIL),
        ("eval", "--suite", "toy", "--device", EVIL),
        ("encode", EVIL, "--suite", "toy", "-o", EVIL),
        ("fetch", EVIL),
        ("train", EVIL),
        ("train", "--width", "4", "--set", EVIL, "-o", EVIL),
        ("reproduce", EVIL),
        ("verify", f"no{EVIL}"),
    ],
)
def test_nothing_of_a_name_acts_on_the_terminal(evil, arguments):
    run = subprocess.run(
        command(*arguments), capture_output=True, env=served(PLAIN), cwd=evil, check=False
    )
    text = (run.stdout + run.stderr).decode()
    assert text
    assert acts(text) == []
    assert "Traceback" not in text or "--debug" in arguments


def test_a_name_of_a_record_is_inert_in_latex():
    assert latex_text(f"a_{EVIL}") == "a\\_x?[31mred??31m?gnp?"


@pytest.mark.parametrize(
    ("name", "written"),
    [(name, f"'{name}") for name in ("=1+2", "+1", "-1", "@SUM(A1)", "\t=1")]
    + [("\r=1", "�=1"), ("a\r=1", "a�=1"), ("=\r1", "'=�1"), ("a=1", "a=1")],
)
def test_a_spreadsheet_runs_nothing_of_a_csv(name, written):
    board = build([make_record(name), make_record("plain")], HEADLINE)
    rows = list(csv.DictReader(io.StringIO(to_csv(board), newline="")))
    assert {row["label"] for row in rows} == {written, "plain"}
    assert {row["name"] for row in rows} == {written, "plain"}
    assert all(float(row["bits"]) > 0 for row in rows)
    assert _inert({"test": name, "value": -1.5, "low": None}) == {
        "test": written,
        "value": -1.5,
        "low": None,
    }


def test_half_a_character_in_a_record_is_refused():
    text = make_record("half").to_json().replace('"half"', '"ha\\ud800lf"')
    with pytest.raises(RecordError, match=r"r\.json: not JSON: .*half of a character, U\+D800"):
        parse_record(text, "r.json")
    whole = make_record("half").to_json().replace('"half"', '"\\ud83d\\ude00"')
    with pytest.raises(RecordError, match="the id does not match"):
        parse_record(whole, "r.json")
    with pytest.raises(RecordError, match="half of a character"):
        parse_references('{"schema_version": 3, "\\udc00": 1}', "references.json")


def test_the_text_is_named_where_it_is_not_the_suites_first():
    record = make_record("a")
    assert measured_text(record) == ""
    site = record.site.model_copy(update={"text": "other"})
    of_text = record.model_copy(update={"site": site})
    said = f"Measured on {record.n_tokens.test:,} test tokens of other"
    assert measured_text(of_text) == f"{said}."


def test_results_that_are_no_longer_ranked_are_named(tmp_path):
    saes = [{"key": "mean", "spec": "baseline:mean"}, {"key": "pca", "spec": "baseline:pca"}]
    suite, folder = write_tiny_suite(tmp_path / "tiny", saes=saes), tmp_path / "out"
    first = piped("eval", "--suite", suite, "-o", folder)
    assert b"archive" not in first.stderr
    assert b"archive" not in first.stdout
    path = suite / "suite.yaml"
    original = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(original) | {"replicates": 150}))
    run = piped("eval", "--suite", suite, "-o", folder)
    assert (
        "mdlbench: 2 results of another version of suite 'tiny' (or of mdlbench's protocol) are no "
        f"longer ranked: moved to {folder}/archive/\n"
    ) in run.stderr.decode()
    line = (
        f"2 results of other versions of the suite are in {folder}/archive/ and not ranked here; "
        "archive.md has their tables."
    )
    assert line in run.stdout.decode().splitlines()
    assert line in piped("leaderboard", folder).stdout.decode().splitlines()
    path.write_text(original)
    again = piped("eval", "--suite", suite, "-o", folder)
    assert "2 results of this version of suite 'tiny' are ranked again" in again.stderr.decode()


def test_only_one_module_prints():
    """Everything goes through `say` or a table of `mdlbench.console.terminal`."""
    for path in (REPOSITORY / "mdlbench" / "cli").glob("*.py"):
        assert not re.search(r"(?<![.\w])print\(|std(out|err)\.write", path.read_text()), path
    assert ENDLESS > 10_000
