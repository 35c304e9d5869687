"""The MNIST case study on the committed records and on sweeps that were made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mdlbench.curves.curve import overlap
from mdlbench.errors import MdlbenchError
from mdlbench.papers import case_study, sweep_figures
from mdlbench.papers.case_study import EPSILON, SWEEP, drawings, score, write_study
from mdlbench.papers.feature_sheet import Sheet, effective_pixels, sheet
from mdlbench.papers.sweep import (
    Study,
    gains,
    level,
    levels,
    linear_fit,
    minimum,
    onset,
    precision_at,
    sparsest,
)
from mdlbench.papers.sweep_report import (
    answers,
    dead_at_minimum,
    features_grow,
    findings,
    mode_gains,
    one_width_for_all,
    table,
    to_markdown,
)
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import read_records
from mdlbench.scoring.targets import open_target
from mdlbench.sources.open import Opener, Setting
from tests.records import make_point, make_record, make_result, realistic_suite
from tests.tiny import tiny_suite, write_sae

BOARD = Path(__file__).parent.parent / "leaderboards" / "mnist"
NOISE = 0.1 * np.random.default_rng(0).normal(size=100)


@pytest.fixture(scope="module")
def shipped() -> list[EvalRecord]:
    return [
        record
        for record in read_records(BOARD)
        if record.name.startswith(SWEEP) and record.identity.quantiser is None
    ]


@pytest.fixture(scope="module")
def study(shipped) -> Study:
    return Study.of({"normalised": shipped}, EPSILON)


@pytest.fixture(scope="module")
def raw() -> list[dict]:
    """The same records as plain JSON."""
    paths = (BOARD / "records").glob(f"{SWEEP}*.json")
    records = [json.loads(path.read_text()) for path in paths]
    return [record for record in records if "quantiser" not in record["identity"]]


def at_epsilon(record: dict, epsilon: float = EPSILON) -> dict:
    wanted = (r for r in record["tolerances"] if (r["metric"], r["epsilon"]) == ("mse", epsilon))
    return next(wanted)


def made(width, bits, l0=10.0, dead=0.0, k=None, epsilons=(0.015,), name=None, unquantised=None):
    """An SAE of a sweep with these bits at each ε (None: infeasible) and independent noise."""
    all_bits = bits if isinstance(bits, tuple) else (bits,)
    seed = width + round(10 * l0)
    own = 0.02 * np.random.default_rng(seed).normal(size=100)
    results, points = [], []
    for i, (epsilon, b) in enumerate(zip(epsilons, all_bits, strict=True)):
        replicates = None if b is None else b + NOISE + own
        results.append(make_result(("mse", epsilon), replicates, step=0.5 + i, l0=l0))
        if b is not None:
            results[-1] = results[-1].model_copy(update={"bits": float(b)})
            points.append(make_point(0.5 + i, b, epsilon - 1e-4, l0))
    facts = {"d_latents": width, "dead_fraction": dead, "l0": unquantised or l0}
    details = {} if k is None else {"k": k}
    return make_record(
        name or f"batchtopk-{width}-k{l0:g}",
        results=results,
        points=points,
        coder=facts | {"details": details},
        weights_sha256=f"{width:032x}{round(10 * l0):032x}",
    )


def study_of(*records, **modes):
    return Study.of({"normalised": list(records), **modes}, 0.015)


V_SHAPE = (made(64, 80, 20), made(128, 70, 12), made(256, 75, 9))


# --- the committed records ------------------------------------------------------------------


def test_best_and_pairs_against_the_raw_json(study, raw):
    feasible = [r for r in raw if at_epsilon(r)["feasible"]]
    fewest: dict[int, float] = {}
    for record in feasible:
        width = record["coder"]["d_latents"]
        fewest[width] = min(at_epsilon(record)["bits"], fewest.get(width, np.inf))
    assert {entry.width: entry.bits for entry in study.at.pairs} == fewest
    assert study.at.best.bits == min(fewest.values())
    assert len(study.at.entries) + len(study.at.infeasible) == len(raw)
    assert study.at.best in study.at.tied


def test_table_against_the_raw_json(study, raw):
    frame = table(study).query("epsilon == @EPSILON").set_index("sae")
    assert len(frame) == len(raw)
    for record in raw:
        row, result = frame.loc[record["identity"]["coder"]["name"]], at_epsilon(record)
        assert (row.width, row.floor_mse) == (
            record["coder"]["d_latents"],
            record["floor"]["mse"],
        )
        assert row.feasible == result["feasible"]
        if not result["feasible"]:
            assert pd.isna(row.bits)
            assert not row.best_of_width
            continue
        (point,) = (p for p in record["points"] if p["step"] == result["step"])
        assert (row.bits, row.l0, row.plugin) == (
            result["bits"],
            point["l0"],
            point["bits"]["plugin"],
        )
        assert row.delta_mse == pytest.approx(point["mse"] - record["floor"]["mse"])
        assert row.mse <= EPSILON
        assert row.support + row.magnitude == pytest.approx(row.plugin)
        assert row.float_bits == pytest.approx(round(row.float_bits), abs=1e-6)


def test_regimes_lie_in_the_seed_s_order(study):
    regimes = study.at.regimes()
    assert regimes["B"] is study.at.best
    assert [regimes[k].width for k in "DCBA" if k in regimes] == sorted(
        entry.width for entry in regimes.values()
    )


def test_precision_lies_between_the_points_around_it(shipped):
    for record in shipped:
        found = precision_at(record, 1e-4)
        added = {p.step: p.mse - record.floor.mse for p in record.points}
        below = max(step for step, more in added.items() if more <= 1e-4)
        above = min(step for step, more in added.items() if more > 1e-4)
        assert below <= found.step < above
        # D ≈ cΔ² near the floor
        expected = below * (1e-4 / added[below]) ** 0.5
        assert found.step == pytest.approx(expected, rel=0.15)


def test_report_names_the_optimum_and_decides_every_claim(study):
    text = to_markdown(study, {})
    best = study.at.best
    assert f"{best.name}: width {best.width}, L0 {best.l0:.2f}, {best.bits:.2f} bits" in text
    assert "nan" not in text.lower().split("## the open questions")[0]
    for finding in (*findings(study, {}), *answers(study)):
        assert f"**{finding.claim}" in text
        assert finding.evidence in text


# --- the algorithm on made-up sweeps --------------------------------------------------------


def test_an_interior_minimum_has_ends_above_it_beyond_chance():
    found = minimum(level(V_SHAPE, 0.015))
    assert (found.entry.width, found.interior) == (128, True)
    assert found.narrowest.bits == pytest.approx(10)
    assert found.widest.bits == pytest.approx(5)


@pytest.mark.parametrize(
    ("bits", "interior"),
    [
        ((70, 75, 80), False),
        ((80, 75, 70), False),
        ((70.001, 70, 75), None),
        ((75, 70, 70.001), None),
    ],
)
def test_a_minimum_at_an_end_is_not_interior_and_within_chance_it_cannot_be_said(bits, interior):
    records = [made(64 << i, b, 10 + i) for i, b in enumerate(bits)]
    assert minimum(level(records, 0.015)).interior is interior


def test_one_width_for_all_unless_ties_leave_it_open():
    def verdict(*zoos):
        return one_width_for_all([level([made(*sae) for sae in zoo], 0.015) for zoo in zoos]).holds

    narrow, wide = [(64, 70), (128, 80)], [(64, 80), (128, 70)]
    tied = [(64, 70.001), (128, 70)]
    assert verdict(narrow, narrow) is True
    assert verdict(narrow, tied) is None
    assert verdict(narrow, wide, tied) is False
    assert verdict(narrow) is None


def test_pairs_are_the_best_of_each_width_and_ties_share_the_first_rank():
    records = [made(64, 80), made(64, 76, 8), made(128, 70), made(256, 70.001), made(32, None)]
    at = level(records, 0.015)
    assert [(entry.width, entry.bits) for entry in at.pairs] == [(64, 76), (128, 70), (256, 70.001)]
    assert [entry.width for entry in at.tied] == [128, 256]
    assert [record.coder.d_latents for record in at.infeasible] == [32]


def test_no_sae_within_a_tolerance_is_an_error_there_and_skipped_among_all():
    records = [made(64, (None, 50), epsilons=(0.015, 0.02))]
    with pytest.raises(MdlbenchError, match=r"no SAE of the sweep keeps mse within 0\.015"):
        level(records, 0.015)
    assert [at.epsilon for at in levels(records)] == [0.02]


def test_regimes_of_a_whole_sweep():
    records = [
        made(32, 110, 30),
        made(32, 105, 24),
        made(64, 90, 18),
        made(64, 88, 14),
        made(128, 70, 11),
        made(256, 80, 9),
        made(512, 95, 8),
        made(512, 90, 10),
    ]
    regimes = level(records, 0.015).regimes()
    found = {letter: (entry.width, entry.l0) for letter, entry in regimes.items()}
    # C: of 24, 18 and 14 the nearest to √(11 · 30) = 18.2
    assert found == {"A": (512, 8), "B": (128, 11), "C": (64, 18), "D": (32, 30)}


def test_regimes_that_a_sweep_does_not_have_are_absent():
    assert set(level([made(64, 70), made(128, 80)], 0.015).regimes()) == {"A", "B"}
    assert set(level([made(64, 80, 20), made(128, 70)], 0.015).regimes()) == {"B", "D"}


def test_linear_fit_against_polyfit():
    entries = level(
        [made(64, 60 + 2 * l0 + e, l0) for l0, e in ((8, 0), (9, 1), (12, -1), (15, 0))], 0.015
    ).entries
    fit = linear_fit(entries)
    slope, intercept = np.polyfit([e.l0 for e in entries], [e.bits for e in entries], 1)
    residuals = [e.bits - intercept - slope * e.l0 for e in entries]
    r_squared = 1 - np.var(residuals) / np.var([e.bits for e in entries])
    assert fit == pytest.approx((slope, intercept, r_squared, 4))
    assert linear_fit(entries[:2]) is None


def test_onset_is_the_first_width_over_the_share():
    records = [made(64, 70, dead=0.0), made(256, 70, dead=0.02), made(128, 70, dead=0.005)]
    assert [onset(records, share) for share in (0.001, 0.01, 0.1)] == [128, 256, None]


def test_sparsest_is_of_each_width_the_smallest_l0_before_quantisation():
    records = [made(64, 70, 9, unquantised=12), made(64, 75, 10, unquantised=11), made(128, 70)]
    assert [(r.coder.d_latents, r.coder.l0) for r in sparsest(records)] == [(64, 11), (128, 10)]


# --- verdicts follow the numbers ------------------------------------------------------------


def section_of(text: str, claim: str) -> str:
    before = text.split(f"**{claim}")[0]
    return before.rsplit("\n## ", 1)[1].split("\n")[0]


def test_the_verdict_on_the_minimum_changes_with_the_numbers():
    claim = "DL against width has an interior minimum"
    rising = (made(64, 60, 20), *V_SHAPE[1:])
    assert section_of(to_markdown(study_of(*V_SHAPE), {}), claim) == "What holds"
    text = to_markdown(study_of(*rising), {})
    assert section_of(text, claim) == "What does not hold"
    assert "It is the narrowest width that meets ε." in text


def test_the_verdict_on_linearity_changes_with_the_numbers():
    claim = "DL of narrow SAEs (B, C, D) is linear in L0"
    straight = [made(64, 60 + 2 * l0, l0) for l0 in (10.0, 14.0, 18.0)]
    bent = [*straight, made(64, 130, 12.0)]
    assert section_of(to_markdown(study_of(*straight), {}), claim) == "What holds"
    assert section_of(to_markdown(study_of(*bent), {}), claim) == "What does not hold"
    two = to_markdown(study_of(*straight[:2]), {})
    assert section_of(two, claim) == "What these records cannot say"


@pytest.mark.parametrize(
    ("dead", "holds"),
    [((0, 0, 0.05), True), ((0, 0.05, 0.2), True), ((0, 0, 0), None)],
)
def test_dead_latents_near_the_minimum(dead, holds):
    records = [
        made(64 << i, b, dead=d) for i, (b, d) in enumerate(zip((80, 70, 75), dead, strict=True))
    ]
    assert dead_at_minimum(levels(records)).holds is holds


def test_dead_latents_far_from_the_minimum():
    records = [made(64 << i, 70 + 5 * i, dead=0.0 if i < 3 else 0.3) for i in range(4)]
    found = dead_at_minimum(levels(records))
    assert found.holds is False
    assert "width 64, the first width with over 1% dead at 512 (+3.0 octaves)" in found.evidence


def test_curves_cross_only_beyond_chance():
    zoo = [record for record in realistic_suite((64, 1024), (8, 24), 100) if "topk" in record.name]
    crossing = Study.of({"normalised": zoo}, 0.015)
    swaps = [pair for pair in crossing.curves if pair.confirmed]
    assert answers(crossing)[0].holds is bool(swaps)
    pair = [made(64, (70, 50), epsilons=(0.015, 0.02)), made(128, (71, 49), epsilons=(0.015, 0.02))]
    apart = answers(study_of(*pair))[0]
    assert apart.holds is None  # one point a curve: too few


def sheet_of(pixels, likeness):
    rows = np.eye(4, dtype=np.float32)
    return Sheet("x", (2, 2), rows, (0, 1, 2, 3), np.full(4, 0.5), pixels, likeness)


def test_features_must_grow_in_both_measures():
    at = level(V_SHAPE, 0.015)
    growing = {"A": sheet_of(90.0, 0.7), "B": sheet_of(30.0, 0.6), "D": sheet_of(20.0, 0.5)}
    assert features_grow(at, growing).holds is True
    assert features_grow(at, growing | {"B": sheet_of(30.0, 0.8)}).holds is False
    assert features_grow(at, {}).holds is None


# --- modes ----------------------------------------------------------------------------------


def in_mode(record: EvalRecord, mode: str, bits: float) -> EvalRecord:
    """The record with every rate moved by some bits, as of another mode."""

    def moved(point):
        changed = point.bits.model_copy(update={"total": point.bits.total + bits})
        return point.model_copy(update={"quantiser": mode, "bits": changed})

    results = [
        r.model_copy(update={"bits": r.bits + bits, "replicates": [b + bits for b in r.replicates]})
        if r.feasible
        else r
        for r in record.tolerances
    ]
    points = [moved(point) for point in record.points]
    return record.model_copy(update={"points": points, "tolerances": results})


@pytest.fixture(scope="module")
def zoo():
    return [r for r in realistic_suite((256, 1024), (24, 40), 100) if "topk" in r.name]


def test_a_mode_that_saves_two_bits_everywhere(zoo):
    found = gains(zoo, [in_mode(record, "per-feature", -2.0) for record in reversed(zoo)])
    assert [gain.record.name for gain in found] == sorted(
        (record.name for record in zoo), key=lambda name: (int(name.split("-")[1]), name)
    )
    for gain in found:
        assert gain.mean == pytest.approx((-2, -2, -2), abs=1e-5)
        assert gain.bd_bits == pytest.approx(-2)
        assert gain.bd_rate < 0
    finding = mode_gains("per-feature", found, "normalised")
    assert finding.holds is True
    assert (
        "4 of 4 SAEs are shorter beyond chance, 0 longer; the difference is -2.00"
        in finding.evidence
    )
    worse = gains(zoo, [in_mode(record, "rdo", 1.0) for record in zoo])
    assert mode_gains("rdo", worse, "normalised").holds is False
    same = gains(zoo, [in_mode(record, "rdo", 0.0) for record in zoo])
    assert mode_gains("rdo", same, "normalised").holds is None
    assert mode_gains("rdo", [*same, *found], "normalised").holds is None
    assert mode_gains("rdo", [*worse, *found], "normalised").holds is False


def test_points_coarser_than_every_tolerance_do_not_enter_bd_bits(zoo):
    anchor, other = zoo[0], in_mode(zoo[0], "rdo", -2.0)
    useless = make_point(99.0, bits=1.0, mse=0.5, l0=0.1)
    longer = other.model_copy(update={"points": [*other.points, useless]})
    assert overlap(anchor.curve(), longer.curve()) < 0.75
    assert gains([anchor], [longer])[0].bd_bits == pytest.approx(-2)


def test_modes_are_matched_by_weights(zoo):
    other = in_mode(zoo[0], "rdo", -1.0)
    stranger = other.identity.coder.model_copy(update={"weights_sha256": "00" * 32})
    changed = other.model_copy(
        update={"identity": other.identity.model_copy(update={"coder": stranger})}
    )
    assert gains(zoo, [changed]) == []


# --- what is written ------------------------------------------------------------------------


def test_every_figure_can_be_laid_out(zoo):
    modes = {"normalised": zoo, "rdo": [in_mode(record, "rdo", -1.0) for record in zoo]}
    study = Study.of(modes, 0.015)
    sheets = {letter: sheet_of(9.0, 0.5) for letter in study.at.regimes()}
    figures = drawings(study, sheets)
    names = "description-length dead-latents tolerances crossings features modes"
    assert list(figures) == names.split()
    for figure in figures.values():
        figure.draw_without_rendering()
    assert list(drawings(Study.of({"normalised": zoo}, 0.015), {})) == names.split()[:4]


def test_what_is_written_is_the_same_twice(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr(case_study, "drawings", lambda study, sheets: {})
    study = Study.of({"normalised": zoo}, 0.015)
    paths = write_study(tmp_path, study, {})
    assert [path.name for path in paths] == ["table.csv", "table.md", "report.md"]
    assert paths[-1].read_text() == to_markdown(Study.of({"normalised": zoo[::-1]}, 0.015), {})
    assert len(pd.read_csv(paths[0])) == len(study.levels) * len(zoo)


def test_description_length_figure_shows_the_pairs(study):
    figure = sweep_figures.description_length(study.at, study.widths)
    left = figure.axes[0]
    tops = [bar.get_y() + bar.get_height() for bar in left.containers[1].patches]
    assert tops == pytest.approx([entry.point.bits.plugin for entry in study.at.pairs])
    regimes = study.at.regimes()
    places = {text.get_text(): text.xy[0] for text in left.texts}
    bars = {letter: one.width for letter, one in regimes.items() if one in study.at.pairs}
    assert places == bars
    assert set(regimes) - set(bars) == {"C"}
    assert {text.get_text() for text in figure.axes[1].texts} == set(regimes)


# --- scoring and features, on a tiny suite --------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    write_sae(folder / "suite" / "bars")
    saes = [
        {"key": "batchtopk-24-k2", "spec": "saelens:bars"},
        {"key": "m", "spec": "baseline:mean"},
    ]
    return tiny_suite(folder / "suite", saes=saes)


def test_only_the_sweep_is_scored_and_only_once(tiny, tmp_path):
    stages: list[str] = []
    first = score(tiny, "normalised", tmp_path, stages.append)
    assert [record.name for record in first] == ["batchtopk-24-k2"]
    n_stages = len(stages)
    assert score(tiny, "normalised", tmp_path, stages.append) == first
    assert len(stages) - n_stages < n_stages
    (other,) = score(tiny, "rdo", tmp_path, stages.append)
    assert other.identity.quantiser == "rdo"


def test_an_sae_that_cannot_be_scored_stops_the_study(tiny, tmp_path):
    broken = tiny.model_copy(
        update={"saes": [tiny.saes[0].model_copy(update={"spec": "saelens:nowhere"})]}
    )
    with pytest.raises(MdlbenchError, match="1 SAE could not be scored: batchtopk-24-k2"):
        score(broken, "normalised", tmp_path, lambda stage: None)


def test_sheet_against_dense_arrays(tiny):
    coder, source = open_target(Opener(tiny, Setting()), "batchtopk-24-k2", None)
    found = sheet("bars", coder, source, 5)
    images = {
        split: np.concatenate([block.activations.numpy() for block in source.blocks(split)])
        for split in ("calibration", "test")
    }
    on = np.zeros(24)
    for block in source.blocks("test"):
        latents, _ = coder.encode(block.given)
        on += np.bincount(latents.latent, minlength=24)
    firing = on / len(images["test"])
    assert found.firing == pytest.approx(np.sort(firing)[::-1][:5])
    rows = np.asarray(coder.decoder_rows())
    np.testing.assert_array_equal(found.rows, rows[list(found.latents)])
    unit = images["calibration"] / np.linalg.norm(images["calibration"], axis=1, keepdims=True)
    cosines = (rows / np.linalg.norm(rows, axis=1, keepdims=True)) @ unit.T
    assert found.likeness == pytest.approx(
        np.average(cosines.max(axis=1), weights=firing), abs=1e-5
    )
    # a bar is SIDE equal pixels
    assert found.pixels == pytest.approx(8.0, abs=1e-5)


def test_effective_pixels_of_n_equal_ones_is_n():
    rows = np.array([[1, 0, 0, 0], [2, -2, 0, 0], [3, 3, 3, 3], [0, 0, 0, 0]], dtype=np.float32)
    assert effective_pixels(rows) == pytest.approx([1, 2, 4, 0])


def test_the_experiment_is_found_by_its_name():
    assert case_study.MODES[0] == "normalised"
    assert any(key.startswith(SWEEP) for key in case_study.load_suite("mnist").keys)
