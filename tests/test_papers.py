"""Tables for papers, citations, methods paragraphs."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.boards.leaderboard import build_all
from mdlbench.records.store import read_records
from mdlbench.report import formatted, write_report
from mdlbench.report.citation import bibtex, methods
from mdlbench.report.exports import latex_text, to_latex, to_parquet
from mdlbench.report.tables import to_csv
from mdlbench.suite.load import load_suite
from tests.records import HEADLINE, make_record, make_result, realistic_references, realistic_suite
from tests.test_cli import mdlbench

LEADERBOARDS = Path(__file__).parent.parent / "leaderboards"


@pytest.fixture(scope="module")
def boards():
    return build_all(realistic_suite(widths=(64, 256), n_replicates=50), HEADLINE)


def test_latex_has_a_line_for_each_sae_and_escaped_names(boards):
    (board,) = boards
    text = to_latex(boards)
    body = text[text.index(r"\endfoot") : text.index(r"\end{longtable}")].splitlines()[1:]
    assert len(body) == len(board.headline.rows)
    n_columns = text[text.index(r"\toprule") :].splitlines()[1].count("&")
    assert all(line.count("&") == n_columns and line.endswith(r"\\") for line in body)
    assert f"{board.headline.rows[0].result.bits:.2f}" in body[0]
    assert text.count(r"\begin{longtable}") == 1
    assert text.startswith("% \\usepackage{booktabs,longtable}\n")
    assert to_latex(boards, True).count(r"\begin{longtable}") == len(board.tables)


def test_names_cannot_break_out_of_latex():
    record = make_record(r"\input{/etc/passwd} & 100% $x_1$ #~^")
    text = to_latex(build_all([record], HEADLINE))
    assert r"\textbackslash{}input\{/etc/passwd\} \& 100\% \$x\_1\$ \#" in text


@given(st.text(max_size=40))
def test_escaped_text_has_no_live_characters(name):
    own = r"\\(textbackslash|textasciitilde|textasciicircum|dots)\{\}|\\[&%$#_{}]|\$\^?\\\w+\$"
    assert not re.search(r"[\\&%$#_{}~^]", re.sub(own, "", latex_text(name)))


def test_parquet_is_the_csv(boards):
    from_csv = pd.read_csv(io.StringIO(to_csv(*boards)), keep_default_na=False, na_values=[""])
    frame = pd.read_parquet(io.BytesIO(to_parquet(boards)))
    assert list(frame.columns) == list(from_csv.columns)
    assert frame["id"].tolist() == from_csv["id"].tolist()
    for column in ("bits", "delta_high", "floor", "rank"):
        both = pd.DataFrame({"a": frame[column].astype(float), "b": from_csv[column].astype(float)})
        pd.testing.assert_series_equal(both["a"], both["b"], check_names=False, rtol=0)


def test_formats_are_of_the_same_boards(boards):
    assert formatted(boards, "csv") == to_csv(*boards).encode()
    assert formatted(boards, "markdown").startswith(b"# Leaderboard of mnist")
    assert formatted(boards, "latex") == to_latex(boards).encode()


def test_figures_come_as_pdf_too(tmp_path):
    records = realistic_suite(widths=(64, 256), n_replicates=50)
    first = write_report(records, realistic_references(), tmp_path / "a", pdf=True)
    again = write_report(records, realistic_references(), tmp_path / "b", pdf=True)
    drawn = {path.name: path.read_bytes() for path in first if path.suffix == ".pdf"}
    assert set(drawn) == {path.with_suffix(".pdf").name for path in first if path.suffix == ".png"}
    assert all(content.startswith(b"%PDF") for content in drawn.values())
    assert drawn == {path.name: path.read_bytes() for path in again if path.suffix == ".pdf"}


@pytest.mark.parametrize("name", ["mnist", "toy"])
def test_a_methods_paragraph_says_what_the_record_says(name):
    suite = load_suite(name)
    for record in read_records(LEADERBOARDS / name)[::7]:
        text = methods(record, suite)
        result = record.at(suite.headline.metric, suite.headline.epsilon)
        said = f"takes {result.bits:.2f} bits" if result.bits is not None else "it is infeasible"
        assert said in text
        assert f"{record.n_tokens.test:,} others" in text
        assert record.provenance.commit[:12] in text
        assert suite.digest[:12] in text
        assert ("given whether its parent is on" in text) == (
            record.identity.quantiser in ("tree", "rdo-tree")
        )
        for _, epsilon in suite.limits():
            assert f"{epsilon:g}" in text


def test_partial_records_and_side_information_are_said():
    suite = load_suite("mnist")
    results = [make_result(limit, [5.0, 6.0]) for limit in suite.limits()]
    record = make_record("a", results=results, partial=True, limit=7)
    points = [
        p.model_copy(update={"bits": p.bits.model_copy(update={"side": 32.0})})
        for p in record.points
    ]
    text = methods(record.model_copy(update={"points": points}), suite)
    assert "partial: not all documents were measured" in text
    assert "plus 32 bits of side information per token" in text


def test_bibtex_entries_are_whole():
    text = bibtex()
    assert text.count("{") == text.count("}")
    assert re.findall(r"@(\w+)\{(\w+)", text) == [
        ("software", "mdlbench"),
        ("misc", "ayonrinde2024interpretability"),
    ]


def test_cite_and_formats_on_the_command_line(tmp_path):
    folder = LEADERBOARDS / "toy"
    assert mdlbench("cite").stdout == bibtex()
    record = next((folder / "records").glob("truth-*.json"))
    cited = mdlbench("cite", record)
    assert cited.stdout.startswith("The sparse autoencoder truth (")
    assert cited.stdout.endswith(bibtex())
    file = tmp_path / "table.tex"
    assert mdlbench("leaderboard", folder, "--format", "latex", "-o", file).returncode == 0
    assert file.read_text() == mdlbench("leaderboard", folder, "--format", "latex").stdout
    refused = mdlbench("leaderboard", folder, "--format", "parquet")
    assert (refused.returncode, "-o FILE" in refused.stderr) == (2, True)
    both = mdlbench("leaderboard", folder, "--format", "csv", "--json")
    assert (both.returncode, "cannot be combined" in both.stderr) == (2, True)


def test_a_baseline_is_called_one():
    record = next(r for r in read_records(LEADERBOARDS / "mnist") if r.name == "pca")
    assert methods(record, load_suite("mnist")).startswith("The baseline pca (pca, ")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_the_mnist_table_fits_an_article(tmp_path):
    table = mdlbench("leaderboard", LEADERBOARDS / "mnist", "--format", "latex").stdout
    head = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "a.tex").write_text(f"{head}\n{table}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "a.tex"]
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "Overfull" not in (tmp_path / "a.log").read_text(errors="replace")
