"""Experiments: small ones through the command line, and what they are made of."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mdlbench.console.style import pdf
from mdlbench.errors import UsageError
from mdlbench.papers import EXPERIMENTS, feature_splitting, hierarchy, run_experiment
from mdlbench.papers.simulation import Documents, SimulatedMean, code, tree_code
from mdlbench.papers.wording import coverage
from mdlbench.report.outputs import frame_as_markdown
from tests.references import entropy

SMALL = {
    "feature-splitting": {
        "DOCUMENTS": 200,
        "DENSE_TOKENS": 20,
        "SPARSE_TOKENS": 50,
        "REPLICATES": 200,
        "EQUAL_RATES": (0.1, 0.45),
        "EQUAL_RHOS": (-0.2, 0.0, 0.6),
        "UNEQUAL_RATES": (0.05, 0.15, 0.4),
        "LIFT_RATES": (0.1, 0.2),
        "LIFTS": (2.0, 4.0),
    },
    "hierarchy": {
        "DOCUMENTS": 200,
        "TOKENS": 20,
        "REPLICATES": 200,
        "ROOT_RATES": (0.1, 0.3, 0.5),
        "SHARES": (0.1, 0.5),
    },
}
MODULES = {"feature-splitting": feature_splitting, "hierarchy": hierarchy}


@pytest.fixture
def small(monkeypatch):
    """Make an experiment small."""

    def shrink(name):
        for constant, value in SMALL[name].items():
            monkeypatch.setattr(MODULES[name], constant, value)
        return MODULES[name]

    return shrink


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which one process ran small experiments, and what it printed."""
    folder = tmp_path_factory.mktemp("experiments")
    script = ["import sys", "from mdlbench.cli.app import app"]
    for name, constants in SMALL.items():
        script += [
            f"import {MODULES[name].__name__} as experiment",
            f"vars(experiment).update({constants})",
            f"app(['reproduce', {name!r}], standalone_mode=False)",
        ]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return folder / "results", run.stdout.splitlines()


@pytest.fixture(params=SMALL)
def experiment(request, results):
    """The name of a small experiment, its folder, and the files it said it wrote."""
    name, (folder, lines) = request.param, results
    return name, folder / name, [line for line in lines if line.startswith(f"results/{name}/")]


def test_an_experiment_leaves_figures_a_table_and_a_report(experiment):
    name, folder, written = experiment
    drawn = {path.stem for path in folder.glob("*.png")}
    assert len(drawn) == 2
    assert {path.stem for path in folder.glob("*.pdf")} == drawn
    assert sorted(written) == sorted(f"results/{name}/{path.name}" for path in folder.iterdir())
    assert {"table.csv", "table.md"} < {path.name for path in folder.iterdir()}
    assert written[-1] == f"results/{name}/report.md"


def test_another_process_leaves_the_same_numbers(experiment, small):
    name, folder, _ = experiment
    module = small(name)
    chosen = list(module.pairs() if name == "feature-splitting" else module.chains())
    stages = []
    points = module.simulate(chosen, stages.append)
    assert len(stages) == len(points) == len(chosen)
    table = pd.DataFrame([point.row for point in points])
    assert table.to_csv(index=False) == (folder / "table.csv").read_text()
    assert frame_as_markdown(table) == (folder / "table.md").read_text()
    assert module.written_report(points) == (folder / "report.md").read_text()


def test_most_intervals_contain_the_closed_form(experiment):
    name, folder, _ = experiment
    table = pd.read_csv(folder / "table.csv")
    codes = ("two", "three") if name == "feature-splitting" else ("flat", "tree")
    for code_name in codes:
        low, high = table[f"{code_name} heldout low"], table[f"{code_name} heldout high"]
        exact = table[f"{code_name} exact"]
        assert (table[f"{code_name} within"] == ((low <= exact) & (exact <= high))).all()
        assert table[f"{code_name} within"].mean() > 0.7
        assert np.allclose(table[f"{code_name} plugin"], table[f"{code_name} heldout"], atol=0.01)
    difference = table[f"{codes[0]} exact"] - table[f"{codes[1]} exact"]
    assert np.allclose(table["saved exact"], difference)
    told = table["verdict"] != "tie"
    assert told.mean() > 0.5
    assert (table["verdict"][told] == table["verdict exact"][told]).mean() > 0.9
    assert len((folder / "table.md").read_text().splitlines()) == len(table) + 2


def test_the_report_counts_what_the_table_holds(experiment):
    name, folder, _ = experiment
    table, text = pd.read_csv(folder / "table.csv"), (folder / "report.md").read_text()
    first = "two" if name == "feature-splitting" else "flat"
    found = f"{table[f'{first} within'].sum()} of {len(table)} intervals contain the closed form"
    assert found in text
    ties = sum(int(n) for n in re.findall(r"and (\d+) cannot tell", text))
    assert ties == (table["verdict"] == "tie").sum()


def test_an_unknown_experiment_is_named(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'feature-splitting'"):
        run_experiment("feature-spliting", tmp_path, lambda _: None)
    assert set(SMALL) < set(EXPERIMENTS)


# simulation


def test_codes_of_booleans_are_the_cross_entropy():
    generator = np.random.default_rng(0)
    calibration, test = (generator.random((3000, 3)) < [0.02, 0.3, 0.7] for _ in range(2))
    documents = Documents.cut(60, 50, 100, seed=0)
    coded = code(calibration, test, documents)
    assert coded.plugin / 3000 == pytest.approx(sum(map(entropy, test.T.astype(int))), rel=1e-9)
    p = calibration.mean(axis=0)
    crossed = -(test * np.log2(p) + ~test * np.log2(1 - p)).reshape(60, -1).sum(axis=1)
    assert coded.heldout == pytest.approx(crossed, rel=0.02)
    assert coded.heldout.sum() == pytest.approx(crossed.sum(), rel=1e-3)


def test_a_tree_is_coded_given_its_parents():
    generator = np.random.default_rng(1)
    documents = Documents.cut(50, 40, 100, seed=0)
    calibration, test = (hierarchy.Chain(0.3, 0.4, 3).draw(2000, generator) for _ in range(2))
    coded = tree_code(calibration, test, documents, np.array([-1, 0, 1]))
    animal, bird, robin = test.T.astype(int)
    direct = (
        2000 * entropy(animal)
        + animal.sum() * entropy(bird[animal == 1])
        + bird.sum() * entropy(robin[bird == 1])
    )
    assert coded.plugin == pytest.approx(direct, rel=1e-9)
    assert coded.heldout.sum() == pytest.approx(direct, rel=0.01)
    assert coded.heldout.sum() > direct


def test_draws_have_the_rates_asked_for():
    pair = feature_splitting.Pair("", 0.3, 0.6, 0.25)
    on = pair.draw(200_000, np.random.default_rng(0))
    both = feature_splitting.split(on)
    assert on.mean(axis=0) == pytest.approx([0.3, 0.6], abs=0.005)
    assert both.mean(axis=0) == pytest.approx([0.25, 0.05, 0.35], abs=0.005)
    assert pair.rho == pytest.approx(np.corrcoef(on.T)[0, 1], abs=0.01)
    chain = hierarchy.Chain(0.5, 0.2, 3).draw(200_000, np.random.default_rng(0))
    assert chain.mean(axis=0) == pytest.approx([0.5, 0.1, 0.02], abs=0.005)
    assert hierarchy.alone(chain).mean(axis=0) == pytest.approx([0.4, 0.08, 0.02], abs=0.005)


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(UsageError, match=r"cannot overlap at 0\.4"):
        feature_splitting.Pair("", 0.3, 0.6, 0.4).draw(10, np.random.default_rng(0))
    with pytest.raises(UsageError, match="no chain of features"):
        hierarchy.Chain(0.5, 1.2)


def test_an_estimate_is_of_tokens():
    documents = Documents.cut(40, 5, 100, seed=0)
    assert documents.n_tokens == 200
    estimate = SimulatedMean.of(np.full(40, 10.0), documents)
    assert (estimate.bits, estimate.low, estimate.high) == (2.0, 2.0, 2.0)
    assert estimate.contains(2.0)
    assert not estimate.contains(2.1)


# what is written


@pytest.mark.parametrize(
    ("found", "verdict"), [(95, "as many as should"), (80, "too few"), (100, "too many")]
)
def test_coverage_is_judged_by_the_binomial_range(found, verdict):
    sentence = coverage("codes", [True] * found + [False] * (100 - found))
    assert f"{found} of 100 intervals contain the closed form, {verdict}" in sentence
    assert "90 to 99 would" in sentence


def test_markdown_cells():
    table = pd.DataFrame(
        {"a|b": [1.23456789, math.nan], "name": ["x|y", None], "ok": [True, False]}
    )
    assert frame_as_markdown(table[["name", "ok"]].assign(bits=table["a|b"])) == (
        "| name | ok | bits |\n| --- | --- | ---: |\n| x\\|y | yes | 1.2346 |\n| – | no | – |\n"
    )


def test_a_pdf_has_no_date():
    def drawn():
        figure = Figure()
        figure.subplots().plot([0, 1])
        return pdf(figure)

    assert drawn() == drawn()
    assert drawn().startswith(b"%PDF")
    assert b"CreationDate" not in drawn()
