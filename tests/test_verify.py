"""`mdlbench verify`: a true record is measured again and agrees; another one does not."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mdlbench.errors import MdlbenchWarning, RecordError
from mdlbench.records.record import OperatingPoint, parse_record
from mdlbench.records.repetition import (
    Deviation,
    deviation,
    read_repetition,
    repetition_path,
    standing,
    write_repetition,
)
from mdlbench.records.store import read_record, read_records, record_paths
from mdlbench.scoring.repeat import Claim, Unverified, Verified, read_claim, verify
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.statistics.tolerance import cheapest_within
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Agreement
from tests.records import make_record
from tests.test_cli import mdlbench
from tests.test_validation import sealed
from tests.tiny import write_sae, write_tiny_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return write_sae(tmp_path_factory.mktemp("mine"))


@pytest.fixture(scope="module")
def measured(suite, sae, tmp_path_factory):
    """A results folder with the suite's own and one more SAE."""
    folder = tmp_path_factory.mktemp("results")
    for wanted in ([], ["--sae", sae]):
        run = mdlbench("eval", "--suite", suite, *wanted, "-o", folder)
        assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def folder(measured, tmp_path):
    return Path(shutil.copytree(measured, tmp_path / "results"))


def record_of(folder, name):
    return next(path for path in record_paths(folder) if path.name.startswith(name))


def test_what_is_true_is_reproduced_and_counts_until_it_changes(folder, suite):
    names = ["pca", "kmeans", "mean"]
    paths = [record_of(folder, name) for name in names]
    run = mdlbench("verify", *paths, "--suite", suite, "--json")
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert {row["SAE"] for row in rows} == set(names)
    assert all(row["bits"] <= 1e-6 and row["positions"] == 0 for row in rows)
    for path in paths:
        record = read_record(path)
        assert standing(record, folder) == "reproduced"
        kept = read_repetition(repetition_path(folder, record))
        assert (kept.record_id, kept.record_checksum) == (record.id, record.checksum)
        changed = record.model_copy(update={"site": record.site.model_copy(update={"text": "x"})})
        assert standing(changed, folder) == "submitted"


def test_an_sae_of_ones_own_is_named(folder, suite, sae):
    path = next(
        p for p in record_paths(folder) if read_record(p).identity.coder.adapter != "baseline"
    )
    unnamed = mdlbench("verify", path, "--suite", suite)
    assert unnamed.returncode == 1
    assert "say with --sae where it is" in unnamed.stdout
    named = mdlbench("verify", path, "--suite", suite, "--sae", sae)
    assert named.returncode == 0, named.stderr
    assert "reproduced; rates within" in named.stdout
    assert standing(read_record(path), folder) == "reproduced"


def test_another_sae_under_the_same_name_is_not_it(folder, suite, tmp_path):
    path = next(
        p for p in record_paths(folder) if read_record(p).identity.coder.adapter != "baseline"
    )
    other = write_sae(tmp_path / read_record(path).name, seed=1)
    run = mdlbench("verify", path, "--suite", suite, "--sae", other)
    assert run.returncode == 1
    assert "its weights_sha256 is" in run.stdout
    assert standing(read_record(path), folder) == "submitted"


def test_several_records_have_no_one_sae(folder, suite, sae):
    run = mdlbench("verify", folder, "--suite", suite, "--sae", sae)
    assert run.returncode == 2
    assert "--sae needs a single record" in run.stderr


def test_what_is_not_valid_is_not_measured(folder, suite):
    path = record_of(folder, "pca")
    path.write_text(path.read_text().replace('"feasible": true', '"feasible": false', 1))
    run = mdlbench("verify", path, "--suite", suite)
    assert run.returncode == 1
    assert "not valid: changed after it was written" in run.stdout


def test_a_forged_number_that_validation_cannot_see_does_not_come_out_again(folder, suite):
    path = record_of(folder, "pca")
    content = json.loads(path.read_text())
    for point in content["points"]:
        point["bits"]["adaptive"] /= 0.9
    path.write_text(sealed(content))
    claim = read_claim(path, load_suite(suite))
    (outcome,) = verify([claim])
    assert isinstance(outcome, Unverified)
    assert "rates differ by 0.1 (allowed 0.001)" in str(outcome.error)
    assert standing(claim.record, folder) == "submitted"


def rescored(content):
    """Bits, L0, intervals and replicates at the tolerances, anew from the points."""
    points = [OperatingPoint.model_validate(point) for point in content["points"]]
    bits = np.stack([point.resampled_bits() for point in points], axis=-1)
    for result in content["tolerances"]:
        if result["feasible"]:
            losses = [point.loss(result["metric"]) for point in points]
            drawn = np.stack([point.resampled(result["metric"]) for point in points], axis=-1)
            totals = np.array([point.bits.total for point in points])
            mixture = cheapest_within(totals, np.array(losses), result["epsilon"])
            replicates = cheapest_within(bits, drawn, result["epsilon"]).of(bits)
            result["bits"] = float(mixture.of(totals))
            result["l0"] = float(mixture.of(np.array([point.l0 for point in points])))
            result["bits_ci"] = list(percentile_interval(replicates))
            result["replicates"] = replicates.tolist()


def forge_rate(content):
    """The points about a tolerance made cheap."""
    for point in content["points"]:
        if point["bits"].get("coded") is None:
            for code in ("support", "magnitude", "plugin", "heldout", "total"):
                point["bits"][code] *= 0.9
            point["bits"]["heldout_ci"] = [0.9 * end for end in point["bits"]["heldout_ci"]]
    rescored(content)


def forge_draws(content):
    """Draws of rates without spread, so that there are fewer ties."""
    for point in content["points"]:
        draws = len(base64.b64decode(point["resamples"]["bits"])) // 2
        point["resamples"]["bits"] = base64.b64encode(np.zeros(draws, "<f2").tobytes()).decode()
        point["bits"]["heldout_ci"] = [point["bits"]["heldout"]] * 2
    rescored(content)


def forge_pictures(content):
    content["latents"]["pictures"]["latents"].reverse()


def forge_split(content):
    for point in content["points"]:
        point["bits"]["support"] += point["bits"]["magnitude"] / 2
        point["bits"]["magnitude"] /= 2


@pytest.mark.parametrize(
    ("forge", "found"),
    [
        (forge_rate, "rates differ by 0.1"),
        (forge_draws, "rates differ by 0."),
        (forge_pictures, "its features look different"),
        (forge_split, "rates differ by 0."),
    ],
)
def test_what_is_forged_consistently_is_valid_and_not_reproduced(forge, found, folder, suite):
    path = record_of(folder, "pca")
    content = json.loads(path.read_text())
    forge(content)
    path.write_text(sealed(content))
    claim = read_claim(path, load_suite(suite))
    assert isinstance(claim, Claim)
    (outcome,) = verify([claim])
    assert isinstance(outcome, Unverified)
    assert found in str(outcome.error)
    assert standing(claim.record, folder) == "submitted"


def test_one_failure_stops_no_other(folder, suite):
    claims = [read_claim(path, load_suite(suite)) for path in record_paths(folder)]
    outcomes = list(verify(claims))
    assert sum(isinstance(outcome, Verified) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, Unverified) for outcome in outcomes) == 1


def changed_point(record, **values):
    point = record.points[1]
    bits = point.bits.model_copy(update={k: v for k, v in values.items() if k in ("heldout",)})
    losses = {k: v for k, v in values.items() if k not in ("heldout",)}
    points = [*record.points]
    points[1] = point.model_copy(update={"bits": bits, **losses})
    return record.model_copy(update={"points": points})


def test_deviations_are_the_largest_relative_differences(measured):
    record = read_records(measured)[0]
    assert deviation(record, record) == Deviation(0.0, 0.0, 0)
    point = record.points[1]
    again = changed_point(record, heldout=point.bits.heldout * 1.002, mse=point.mse * 0.99)
    found = deviation(record, again)
    assert found.bits == pytest.approx(0.002 / 1.002)
    assert found.loss == pytest.approx(0.01)
    assert not found.within(Agreement())
    assert found.within(Agreement(bits=0.003, loss=0.011))


def test_steps_are_compared_in_positions_and_feasibility_must_agree(measured):
    record = next(r for r in read_records(measured) if r.name == "pca")
    i = next(i for i, result in enumerate(record.tolerances) if result.feasible)
    result = record.tolerances[i]

    def with_result(**values):
        tolerances = [*record.tolerances]
        tolerances[i] = result.model_copy(update=values)
        return record.model_copy(update={"tolerances": tolerances})

    assert deviation(record, with_result(step=result.step * 2**0.25)).positions == 2
    with pytest.raises(RecordError, match="is infeasible at"):
        deviation(record, with_result(feasible=False, step=None))


def test_what_does_not_agree_is_not_kept(measured, tmp_path):
    record = read_records(measured)[0]
    again = changed_point(record, mse=record.points[1].mse * 2)
    with pytest.raises(RecordError, match=r"losses by 0\.5 \(0\.001\)"):
        write_repetition(tmp_path, record, again, Agreement())
    assert not list(tmp_path.iterdir())


def test_the_repetition_furthest_off_is_kept_while_it_holds(measured, tmp_path):
    record, allowed = read_records(measured)[0], Agreement(bits=1e-3, loss=1e-3)
    point = record.points[1]
    further = changed_point(record, mse=point.mse * (1 + 5e-4))
    nearer = changed_point(record, heldout=point.bits.heldout * (1 + 1e-4))
    path = repetition_path(tmp_path, record)

    def kept_after(again, record=record):
        """Loss and rates apart, as kept, and what the repetition found."""
        where, found = write_repetition(tmp_path, record, again, allowed)
        assert (where, standing(record, tmp_path)) == (path, "reproduced")
        kept = read_repetition(path)
        return (kept.bits, kept.loss), (found.bits, found.loss)

    exact = (0.0, 0.0)
    far, near = ((d.bits, d.loss) for d in (deviation(record, a) for a in (further, nearer)))
    assert kept_after(record) == (exact, exact)
    assert kept_after(nearer) == (near, near)
    assert kept_after(further) == (far, far)
    before = path.read_bytes()
    assert kept_after(nearer) == (far, near)
    assert kept_after(record) == (far, exact)
    with pytest.raises(RecordError, match="measured again, rates differ"):
        write_repetition(tmp_path, record, changed_point(record, mse=point.mse * 2), allowed)
    assert path.read_bytes() == before
    changed = changed_point(record, cosine=0.5)
    assert changed.checksum != record.checksum
    assert kept_after(changed, changed) == (exact, exact)
    path.write_text("{")
    assert kept_after(changed, changed) == (exact, exact)


def test_a_deviation_is_a_share_of_what_is_allowed():
    allowed = Agreement(bits=1e-3, loss=1e-2, positions=2)
    assert Deviation(5e-4, 1e-3, 0).share(allowed) == pytest.approx(0.5)
    assert Deviation(1e-4, 9e-3, 1).share(allowed) == pytest.approx(0.9)
    assert Deviation(0.0, 0.0, 2).share(allowed) == 1.0
    assert Deviation(0.0, 0.0, 0).share(Agreement(positions=0)) == 0.0


def test_another_identity_is_not_compared(measured):
    record = read_records(measured)[0]
    with pytest.raises(RecordError, match="the SAE or the suite is another one"):
        deviation(record, make_record("other"))


def test_a_damaged_repetition_is_an_error_and_none_is_a_submission(measured, tmp_path):
    record = parse_record(read_records(measured)[0].to_json(), "x")
    assert standing(record, tmp_path) == "submitted"
    path = repetition_path(tmp_path, record)
    path.parent.mkdir()
    path.write_text("{")
    with pytest.warns(MdlbenchWarning, match="not JSON"):
        assert standing(record, tmp_path) == "submitted"
