"""A metric is one row of a table: `kl`, and one that is made up here, from suite to citation."""

import csv
import io
import json
import subprocess
import sys
from html import unescape
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.compare.contest import compare
from mdlbench.boards.leaderboard import build, columns, to_json
from mdlbench.errors import MdlbenchError, RecordError, SuiteError, UsageError
from mdlbench.records.checks import problems_of
from mdlbench.records.record import References, parse_record
from mdlbench.records.repetition import deviation
from mdlbench.records.schema import record_schema, suite_schema
from mdlbench.report import write_report
from mdlbench.report.citation import methods
from mdlbench.report.compare.data import to_json as comparison_json
from mdlbench.report.compare.figure import comparison_figure
from mdlbench.report.compare.words import to_markdown as comparison_markdown
from mdlbench.report.exports import to_latex, to_parquet
from mdlbench.report.figures import curves_figure
from mdlbench.report.page.content import page_data
from mdlbench.report.page.write import suite_page
from mdlbench.report.tables import to_csv, to_markdown
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limit
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.sweep import Sweep
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener
from mdlbench.statistics.bootstrap import Bootstrap
from mdlbench.statistics.metrics import METRICS, Metric, drawn_metrics, metric_of, shown_metrics
from mdlbench.statistics.tolerance import position_of, step_at
from mdlbench.suite.site import Site
from tests.test_evaluation import Oracle
from tests.tiny import N_TEST, tiny_suite, write_sae, write_tiny_suite

ANGLE = Metric(
    name="angle",
    label="1−cos",
    axis="one minus the cosine",
    meaning="1−cos is by how much the direction of the reconstruction is off.",
    spliced=False,
    sums=lambda errors, reference: reference.tokens - errors.cosine,
    drawn_as="angle",
    share_of="angle",
    per="of a token",
    unit="turns",
    digits=3,
    least=-1e-5,
)
EPSILONS = {"kl": [6e-5, 5e-4], "angle": [0.009, 0.05]}
NEW_KEYS = {"kl": {"kl_ci"}, "angle": {"angle", "angle_ci"}}


class Scored(NamedTuple):
    """A tiny suite with tolerances on a metric, and what was measured on it."""

    metric: Metric
    suite: object
    references: References
    records: list
    oracle: Oracle

    @property
    def board(self):
        return build(self.records, self.suite.headline)


@pytest.fixture(scope="module", params=["kl", "angle"])
def scored(request, tmp_path_factory):
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if name == ANGLE.name:
            patch.setitem(METRICS, name, ANGLE)
        limits = [
            {"metric": "mse", "epsilons": [0.004]},
            {"metric": name, "epsilons": EPSILONS[name]},
        ]
        headline = {"metric": name, "epsilon": EPSILONS[name][1]}
        suite = tiny_suite(folder / "suite", tolerances=limits, headline=headline)
        sae = write_sae(folder / "sae")
        records = [evaluate(str(sae), suite, name="bars"), evaluate("pca", suite)]
        bench = Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS))
        references = References(
            **bench.measurement().model_dump(),
            headline=suite.headline,
            sites=[bench.references()],
        )
        yield Scored(METRICS[name], suite, references, records, Oracle(suite, sae))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A record of a suite with tolerances on neither."""
    folder = tmp_path_factory.mktemp("plain")
    return evaluate(str(write_sae(folder / "sae")), tiny_suite(folder / "suite"), name="bars")


def per_token(oracle, metric, reconstruction):
    """The metric of each test image, in float64."""
    x = oracle.x["test"]
    if metric == "angle":
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(reconstruction, axis=1)
        return 1.0 - (x * reconstruction).sum(1) / norms
    clean, spliced = oracle.log_probabilities(x), oracle.log_probabilities(reconstruction)
    return (np.exp(clean) * (clean - spliced)).sum(1)


def draws(scored, step):
    """Means of the metric over resampled documents at a step, in float64."""
    values = per_token(scored.oracle, scored.metric.name, scored.oracle.quantised(step))
    suite = scored.suite
    return Bootstrap(np.ones(N_TEST), suite.replicates, suite.seed).means(values)


def test_values_intervals_and_draws_against_float64(scored):
    record, name = scored.records[0], scored.metric.name
    floor = per_token(scored.oracle, name, scored.oracle.decode(scored.oracle.latents("test")))
    assert record.floor.loss(name) == pytest.approx(floor.mean(), rel=2e-3, abs=1e-7)
    for point in record.points:
        drawn = draws(scored, point.step)
        at = per_token(scored.oracle, name, scored.oracle.quantised(point.step)).mean()
        assert point.loss(name) == pytest.approx(at, rel=5e-3, abs=1e-7)
        ends = np.quantile(drawn, [0.025, 0.975])
        assert point.interval(name) == pytest.approx(ends, rel=1e-2, abs=1e-7)
        assert point.resampled(name) == pytest.approx(drawn, rel=1e-2, abs=1e-7)


def test_the_accepted_step_is_the_coarsest_that_passes(scored):
    record, name = scored.records[0], scored.metric.name
    met = [r for r in record.tolerances if r.metric == name and r.feasible]
    assert met
    coarsest = position_of(scored.suite.steps.finest, scored.suite.steps.grid[-1])
    for result in met:
        upper = np.quantile(draws(scored, result.step), 0.95)
        assert upper <= result.epsilon * 1.01
        position = position_of(scored.suite.steps.finest, result.step)
        losses = [point.loss(name) for point in record.points]
        assert result.at_coarsest == (max(losses) <= result.epsilon)
        if position < coarsest:
            after = draws(scored, step_at(scored.suite.steps.finest, position + 1))
            assert np.quantile(after, 0.95) > result.epsilon * 0.99


def test_the_record_file_has_its_keys_and_no_more(scored, plain):
    name = scored.metric.name
    record = scored.records[0]
    content = json.loads(record.to_json())
    assert parse_record(record.to_json(), "here") == record
    before = json.loads(plain.to_json())["points"][0]
    point = content["points"][0]
    assert set(point) - set(before) == NEW_KEYS[name]
    assert set(point["resamples"]) - set(before["resamples"]) == {name}
    assert set(before["resamples"]) == {"bits", "mse", "delta_ce"}
    schema = Draft202012Validator(record_schema())
    assert schema.is_valid(content)
    assert not schema.is_valid({**content, "points": [point | {f"{name}_cl": 1.0}]})


def test_validate_recomputes_it(scored):
    record, name = scored.records[0], scored.metric.name
    assert [list(problems_of(record, scored.suite)) for record in scored.records] == [[], []]
    low, high = record.points[1].interval(name)
    forged = json.loads(record.to_json())
    forged["points"][1][f"{name}_ci"] = [low, 1.5 * high]
    del forged["checksum"]
    problems = list(problems_of(parse_record(json.dumps(forged), "here"), scored.suite))
    step = record.points[1].step
    assert problems == [f"point at step {step:g}: {name}_ci is not that of the resamples"]


def test_validate_wants_exactly_the_keys_of_the_suite(scored, plain):
    record, name = scored.records[0], scored.metric.name
    forged = json.loads(record.to_json())
    del forged["points"][0][f"{name}_ci"], forged["checksum"]
    problems = list(problems_of(parse_record(json.dumps(forged), "here"), scored.suite))
    assert "intervals or resamples are not those of the suite's metrics" in problems[0]
    with pytest.raises(RecordError, match="has no kl_ci"):
        plain.points[0].interval("kl")
    if name == ANGLE.name:
        with pytest.raises(RecordError, match="1−cos was not measured"):
            plain.floor.loss(name)


def test_measured_again_it_agrees(scored):
    record = scored.records[0]
    assert deviation(record, record) == (0.0, 0.0, 0)
    changed = record.model_copy(
        update={"floor": record.floor.model_copy(update={scored.metric.name: 1.0})}
    )
    expected = 1.0 - record.floor.loss(scored.metric.name)
    assert deviation(record, changed).loss == pytest.approx(expected)


def test_ranks_and_tables(scored):
    metric, table = scored.metric, scored.board.headline
    epsilon = EPSILONS[metric.name][1]
    assert (table.metric, table.epsilon) == (metric.name, epsilon)
    bits = {r.name: r.at(metric.name, epsilon).bits for r in scored.records}
    assert [row.label for row in table.rows] == sorted(bits, key=bits.get)
    assert [row.ranking.rank for row in table.rows] == [1, None]
    assert table.rows[1].record.is_baseline
    rows = list(csv.DictReader(io.StringIO(to_csv(scored.board))))
    first = next(row for row in rows if row["metric"] == metric.name and row["name"] == "bars")
    record = scored.records[0]
    assert float(first[f"floor_{metric.name}"]) == record.floor.loss(metric.name)
    point = next(p for p in record.points if p.step == float(first["step"]))
    assert float(first[metric.name]) == point.loss(metric.name)
    names = list(columns([scored.board]))
    assert names[names.index("delta_ce") + 1] == metric.name
    assert names[names.index("floor_delta_ce") + 1] == f"floor_{metric.name}"
    frame = pd.read_parquet(io.BytesIO(to_parquet([scored.board])))
    assert list(frame.columns) == ["suite", "site", *names]
    entry = json.loads(to_json([scored.board]))[0]["tables"][0]["rows"][0]
    assert entry["floor"] == entry[f"floor_{metric.name}"]


def test_words_of_the_tables(scored):
    metric, board = scored.metric, scored.board
    limit = {"kl": "KL ≤ 0.0005 nats", "angle": "1−cos of a token ≤ 0.05 turns"}[metric.name]
    floor = board.headline.rows[0].floor
    text = to_markdown(board)
    assert f"## {limit} (headline)" in text
    assert f"| Floor {metric.label} |" in text
    assert f"| {floor:.{metric.digits}g} |" in text
    assert limit.split(" ≤")[0] in to_latex([board])


def test_curves_and_comparison(scored):
    metric, epsilons = scored.metric, EPSILONS[scored.metric.name]
    record = scored.records[0]
    by_rate = sorted(record.points, key=lambda point: (point.bits.total, point.loss(metric.name)))
    curve = record.curve(metric.name)
    assert curve.distortions.tolist() == [point.loss(metric.name) for point in by_rate]
    assert curve.plot().get_ylabel() == metric.axis
    contenders = [Contender(record.label, (record,)) for record in scored.records]
    contest = compare(contenders, metric.name)
    assert contest.n_resamples == scored.suite.replicates
    assert [at.epsilon for at in contest.tolerances] == epsilons
    assert json.loads(comparison_json(contest))["metric"] == metric.name
    assert f"bits per token at equal {metric.label}" in comparison_markdown(contest)
    assert comparison_figure(contest).axes[0].get_ylabel() == metric.axis


def test_figures(scored, tmp_path):
    metric, site = scored.metric, scored.references.sites[0]
    squared = curves_figure(scored.records, site, scored.board, "mse")
    figure = curves_figure(scored.records, site, scored.board, metric.name)
    (panel,) = figure.axes
    assert panel.get_ylabel() == metric.axis
    # it is no squared error, so that no Gaussian is drawn or said to be out of view
    said = [
        " ".join(text.get_text() for text in [*one.texts, *one.axes[0].texts])
        for one in (squared, figure)
    ]
    assert ["Gaussian R(D)" in text for text in said] == [True, False]
    epsilons = [f"ε = {epsilon:g}" for epsilon in EPSILONS[metric.name]]
    names = [text.get_text() for text in panel.texts]
    assert [name for name in names if name.startswith("ε")] == epsilons
    written = write_report(scored.records, scored.references, tmp_path)
    assert {path.name for path in written} >= {"table.csv", "curves.png", "sparsity.png"}


def test_page(scored):
    metric = scored.metric
    data = page_data(scored.records, scored.references)
    assert [entry["key"] for entry in data["metrics"]] == ["mse", "fvu", "delta_ce", metric.name]
    assert data["metrics"][-1] == {
        "key": metric.name,
        "name": metric.label,
        "label": metric.axis,
        "header": f"{metric.label} ({metric.unit})",
        "unit": f" {metric.unit}",
        "digits": metric.digits,
        "meaning": metric.meaning,
    }
    assert data["losses"][metric.name] == f"{metric.quantity} ({metric.unit})"
    (site,) = data["sites"]
    assert set(site["references"]["of_mse"]) == {"mse", "fvu"}
    table = next(table for table in site["tables"] if table["headline"])
    for i, position in enumerate(table["columns"]["sae"]):
        sae, record = site["saes"][position], scored.records[position]
        point = table["columns"]["point"][i]
        ordered = sorted(record.points, key=lambda p: p.step)
        assert sae["points"][metric.name] == pytest.approx(
            [p.loss(metric.name) for p in ordered], rel=1e-5
        )
        loss = ordered[point].loss(metric.name)
        assert table["columns"]["loss"][i] == pytest.approx(loss, rel=1e-9)
        assert sae["floor"][metric.name] == pytest.approx(record.floor.loss(metric.name), rel=1e-5)
    html = unescape(suite_page(scored.records, scored.references).decode())
    assert f"<dt>MSE, FVU, ΔCE, {metric.label}</dt>" in html
    assert metric.meaning in html


def test_citation(scored):
    metric, record = scored.metric, scored.records[0]
    text = methods(record, scored.suite)
    tolerance = {
        "kl": "MSE per dimension: 0.004; KL in nats: 6e-05, 0.0005",
        "angle": "MSE per dimension: 0.004; 1−cos of a token in turns: 0.009, 0.05",
    }[metric.name]
    assert tolerance in text
    bits = record.at(metric.name, EPSILONS[metric.name][1]).bits
    limit = {"kl": "KL $\\leq$ 0.0005 nats", "angle": "1−cos $\\leq$ 0.05 turns"}[metric.name]
    assert f"At {limit} it takes {bits:.2f} bits per token" in text


def test_the_schema_of_a_suite_has_it(scored):
    limits = suite_schema()["$defs"]["Tolerance"]["properties"]["metric"]["enum"]
    assert limits == list(METRICS)
    assert scored.metric.name in limits


def test_without_a_tolerance_curves_have_no_intervals(plain):
    other = plain.model_copy(update={"id": "0" * 64})
    contest = compare([Contender("one", (plain,)), Contender("other", (other,))], "kl")
    assert (contest.n_resamples, contest.tolerances) == (0, ())
    words = comparison_markdown(contest)
    assert "records have resamples of KL where their suite has a tolerance on it" in words
    assert "kl" not in columns([build([plain], HEADLINE_OF_TINY)])


HEADLINE_OF_TINY = References.model_fields["headline"].annotation(metric="mse", epsilon=0.004)


@pytest.mark.parametrize(
    "use",
    [
        lambda record, suite, folder: record.at("delta-ce", 0.05),
        lambda record, suite, folder: record.curve("delta-ce"),
        lambda record, suite, folder: record.floor.loss("delta-ce"),
        lambda record, suite, folder: record.points[0].resampled("delta-ce"),
        lambda record, suite, folder: record.points[0].interval("delta-ce"),
        lambda record, suite, folder: compare(
            [Contender("a", (record,)), Contender("b", (record,))], "delta-ce"
        ),
        lambda record, suite, folder: search_limit(
            Resampled(
                Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS)), object.__new__(Sweep)
            ),
            "delta-ce",
            0.05,
        ),
        lambda record, suite, folder: metric_of("delta-ce"),
        lambda record, suite, folder: tiny_suite(
            folder, tolerances=[{"metric": "delta-ce", "epsilons": [0.05]}]
        ),
        lambda record, suite, folder: parse_record(
            record.to_json().replace('"metric": "delta_ce"', '"metric": "delta-ce"'), "here"
        ),
    ],
)
def test_an_unknown_name_is_refused_everywhere(plain, use, tmp_path):
    suite = tiny_suite(tmp_path / "right")
    message = "no metric 'delta-ce'. Did you mean 'delta_ce'"
    with pytest.raises(MdlbenchError, match=message) as refused:
        use(plain, suite, tmp_path / "wrong")
    assert isinstance(refused.value, (UsageError, SuiteError, RecordError))


def test_a_metric_of_the_model_takes_no_sums_without_a_splice(tmp_path):
    """The way in which an unknown metric once passed for the MSE."""
    bench = Bench.open(InProcess(Opener(tiny_suite(tmp_path))), Site(hook=PIXELS))
    errors = type("Errors", (), {"squared_error": np.ones(3), "cosine": np.ones(3)})()
    for metric in METRICS.values():
        if metric.spliced:
            with pytest.raises(AttributeError):
                metric.sums(errors, bench.reference)


def test_names_draws_and_order_of_the_table(monkeypatch):
    monkeypatch.delitem(METRICS, ANGLE.name, raising=False)
    assert list(METRICS) == ["mse", "fvu", "delta_ce", "kl"]
    assert [name for name, metric in METRICS.items() if metric.name != name] == []
    assert {metric.drawn_as for metric in METRICS.values()} == {"mse", "delta_ce", "kl"}
    assert [m.name for m in shown_metrics([])] == ["mse", "fvu", "delta_ce"]
    assert [m.name for m in shown_metrics(["kl"])] == ["mse", "fvu", "delta_ce", "kl"]
    assert [m.name for m in drawn_metrics(["fvu"])] == ["mse", "delta_ce"]
    assert [m.name for m in drawn_metrics(["kl", "mse"])] == ["mse", "delta_ce", "kl"]
    assert [m.limit(0.05) for m in METRICS.values()] == [
        "MSE per dimension ≤ 0.05",
        "FVU ≤ 0.05",
        "ΔCE ≤ 0.05 nats",
        "KL ≤ 0.05 nats",
    ]


def test_the_table_is_cheap_to_import():
    code = "import sys, mdlbench.statistics.metrics; print({'torch', 'numpy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_suite_file_may_name_kl_and_no_unknown_metric(tmp_path):
    folder = write_tiny_suite(
        tmp_path,
        tolerances=[{"metric": "kl", "epsilons": [0.1]}],
        headline={"metric": "kl", "epsilon": 0.1},
    )
    assert "metric: kl" in (folder / "suite.yaml").read_text()
    with pytest.raises(SuiteError, match=r"headline.metric: no metric 'kll'. Did you mean 'kl'"):
        tiny_suite(tmp_path, headline={"metric": "kll", "epsilon": 0.1})
