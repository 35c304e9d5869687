"""Tables that people typed into pages: every number is that of the committed records."""

from pathlib import Path

import pandas as pd
import pytest

from mdlbench.boards.pairing import differences
from mdlbench.records.checks import problems_of_file
from mdlbench.records.store import read_records, record_paths
from mdlbench.studies.report import write_report

ROOT = Path(__file__).parent.parent
ABSENT = "–"
TOLERANCES = {"ΔCE": "delta_ce", "FVU": "fvu", "KL": "kl"}


def table(page, beginning):
    """The rows of the table of a page whose header begins like this."""
    lines = (ROOT / page).read_text().splitlines()
    found = [i for i, line in enumerate(lines) if line.startswith(beginning)]
    assert len(found) == 1, (page, beginning)
    rows = []
    for line in lines[found[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    assert rows
    return rows


def board(name):
    """The records of a board by SAE and mode; the suite's own mode is None."""
    records = read_records(ROOT / "leaderboards" / name)
    return {(record.name, record.identity.quantiser): record for record in records}


def bits(record, metric, epsilon, places):
    result = record.result(metric, epsilon)
    return f"{result.bits:.{places}f}" if result.feasible else ABSENT


def signed(value):
    return f"{value:+.0f}".replace("-", "−")


@pytest.fixture(scope="module")
def smollm2():
    return board("smollm2-l15")


def shortest(records, mode, metric, epsilon):
    own = [
        record
        for (_, quantiser), record in records.items()
        if quantiser == mode and not record.is_baseline and record.result(metric, epsilon).feasible
    ]
    return min(own, key=lambda record: record.result(metric, epsilon).bits)


def test_smollm2_s_shortest_saes_beside_pca(smollm2):
    rows = table("docs/language-models.md", "| | Shortest SAE, flat code |")
    for words, *cells in rows:
        name, _, epsilon = words.split()
        metric, limit = TOLERANCES[name], float(epsilon)
        expected = []
        for mode in (None, "tree"):
            sae = shortest(smollm2, mode, metric, limit)
            pca = smollm2["pca", mode]
            at = {one.epsilon: one.difference for one in differences(sae, pca, metric)}[limit]
            expected += [
                f"{sae.name}, {bits(sae, metric, limit, 0)}",
                bits(pca, metric, limit, 0),
                f"{signed(at.bits)} [{signed(at.low)}, {signed(at.high)}]",
            ]
        assert cells == expected, words


def test_smollm2_at_its_headline(smollm2):
    rows = table("docs/language-models.md", "| SAE | L0 at ε |")
    feasible = {
        name for (name, _), record in smollm2.items() if record.result("delta_ce", 0.2).feasible
    }
    assert {row[0].removesuffix(" (baseline)") for row in rows} == feasible
    for label, *cells in rows:
        flat, tree = (smollm2[label.removesuffix(" (baseline)"), mode] for mode in (None, "tree"))
        expected = [f"{flat.result('delta_ce', 0.2).l0:.0f}"]
        expected += [f"{flat.floor.loss('delta_ce'):.3f}", f"{flat.floor.loss('fvu'):.3f}"]
        for record in (flat, tree):
            low, high = record.result("delta_ce", 0.2).bits_ci
            expected.append(f"{bits(record, 'delta_ce', 0.2, 1)} ({low:.1f} to {high:.1f})")
        if flat.is_baseline:
            cells[1:3] = [f"{float(cell):.3f}" for cell in cells[1:3]]
        assert cells == expected, label


def test_the_toy_dictionaries():
    records = board("toy")
    epsilons = (0.001, 0.0015, 0.003, 0.01, 0.1, 0.3)
    for name, latents, _, *cells in table("docs/results.md", "| Dictionary | Latents |"):
        record = records[name.split("`")[1], None]
        assert int(latents) == record.coder.d_latents
        expected = [bits(record, "fvu", epsilon, 2) for epsilon in epsilons]
        assert [cell.strip("*") for cell in cells] == expected, name


def test_the_hierarchical_world_s_saes():
    records = board("superposed-hier")
    for name, f1, mcc, *cells in table("docs/results.md", "| `superposed-hier` | F1 |"):
        flat, tree = (records[name.strip("`"), mode] for mode in (None, "tree"))
        truth = flat.truth
        assert float(f1) == pytest.approx(truth.f1, abs=0.005)
        assert float(mcc) == pytest.approx(truth.mcc, abs=0.005)
        expected = [
            bits(record, "fvu", epsilon, 1)
            for epsilon in (0.19, 0.2, 0.25, 0.3)
            for record in (flat, tree)
        ]
        assert [cell.strip("*") for cell in cells] == expected, name


def test_the_study_of_eight_architectures():
    study = pd.read_csv(ROOT / "docs/studies/mnist/report/comparison.csv")
    at = study[study["tolerance"] == "MSE ≤ 0.015"].sort_values("bits")
    expected = [
        [
            f"`{row['architecture']}`",
            f"{row['bits']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            f"{row['more']:.2f} [{row['more low']:.2f}, {row['more high']:.2f}]"
            if row["more"] == row["more"]
            else ABSENT,
            row["best configuration"],
        ]
        for row in at.to_dict("records")
    ]
    assert table("docs/results.md", "| Architecture | Bits per token, 95% |") == expected


def test_the_report_of_the_committed_study_is_rebuilt_byte_for_byte(tmp_path):
    folder = ROOT / "docs/studies/mnist"
    write_report(folder, tmp_path)
    committed = sorted((folder / "report").iterdir())
    assert [path.name for path in committed] == sorted(
        path.name for path in tmp_path.iterdir() if path.suffix != ".pdf"
    )
    for path in committed:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_a_sample_of_the_committed_study_s_records_is_valid():
    paths = record_paths(ROOT / "docs/studies/mnist")
    assert len(paths) == 288
    assert [path.name for path in paths[::12] if problems_of_file(path)] == []
