"""Records: canonical JSON, identity, refusal of what is not a record."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.errors import RecordError
from mdlbench.records.record import SCHEMA_VERSION, Identity, parse_record, parse_references
from mdlbench.records.store import RecordStore, read_records
from mdlbench.suite.site import Site
from tests.records import (
    make_identity,
    make_record,
    make_site_references,
    realistic_references,
    realistic_suite,
)

GOLDEN = Path(__file__).parent / "golden" / "record.json"
GOLDEN_ID = "615d5099a60c7f2ffc54ab261d9968b3918e16cdde028e28fe4c1a97aa90d37a"

any_float = st.floats(allow_nan=False, allow_infinity=False, width=64)


def damaged(change) -> str:
    """The JSON of a good record after `change` has been made to its content."""
    content = json.loads(make_record("sae").to_json())
    change(content)
    return json.dumps(content)


def test_json_round_trip_is_exact_and_canonical():
    for record in realistic_suite(widths=(256,), n_replicates=50):
        text = record.to_json()
        again = parse_record(text, "x")
        assert again == record
        assert again.to_json() == text


@given(mse=any_float, bits=any_float, replicates=st.lists(any_float, max_size=5))
def test_floats_survive_unrounded(mse, bits, replicates):
    record = make_record("sae")
    point = record.points[0].model_copy(update={"mse": mse})
    result = record.tolerances[0].model_copy(update={"bits": bits, "replicates": replicates})
    record = record.model_copy(update={"tolerances": [result], "points": [point]})
    again = parse_record(record.to_json(), "x")
    assert again.points[0].mse == mse
    assert again.tolerances[0].bits == bits
    assert again.tolerances[0].replicates == replicates


@pytest.mark.parametrize(("ranks", "bits"), [([], []), ([1, 2], [1.0])])
def test_a_profile_has_a_value_a_rank(ranks, bits):
    profile = {"step": 0.1, "ranks": ranks, "firing_rates": bits, "bits": bits}
    text = damaged(lambda content: content.update(latents=profile | {"cumulative_bits": bits}))
    with pytest.raises(RecordError, match=r"x: latents: .*as many rates and bits as ranks"):
        parse_record(text, "x")


@pytest.mark.parametrize("text", ["no base64", "AAAA"])
def test_resamples_that_cannot_be_read_are_said_to_be(text):
    point = realistic_suite(widths=(64,), sparsities=(8,), n_replicates=50)[0].points[0]
    resamples = point.resamples.model_copy(update={"bits": text})
    with pytest.raises(RecordError, match=f"of bits at step {point.step:g} cannot be read: "):
        point.model_copy(update={"resamples": resamples}).resampled_bits()


def test_canonical_json_is_sorted_ends_in_a_newline_and_leaves_out_what_is_absent():
    text = make_record("sae", None).to_json()
    content = json.loads(text)
    assert text.endswith("}\n")
    assert list(content) == sorted(content)
    assert "step" not in content["tolerances"][0]
    assert "limit" not in content["identity"]
    assert "null" not in text
    assert "NaN" not in text


def test_the_golden_record_does_not_change():
    """If this fails, a number or a name of the contract changed: bump the schema or protocol."""
    text = GOLDEN.read_text(encoding="utf-8")
    record = parse_record(text, GOLDEN)
    assert record.to_json() == text
    assert record.id == record.identity.id == GOLDEN_ID


IDENTITY_CHANGES = [
    {"suite": "other"},
    {"suite_digest": "e2" * 32},
    {"protocol": 3},
    {"data_sha256": "db" * 32},
    {"seed": 1},
    {"limit": 100},
    {"quantiser": "rdo"},
    {"name": "other"},
    {"adapter": "python"},
    {"version": "6.55.0"},
    {"arguments": {"path": "saes/other"}},
    {"weights_sha256": "cd" * 32},
]


def test_changes_cover_every_field_of_the_identity():
    identity = make_identity("sae")
    fields = {*Identity.model_fields, *type(identity.coder).model_fields} - {"coder"}
    assert {key for change in IDENTITY_CHANGES for key in change} == fields


@pytest.mark.parametrize("change", IDENTITY_CHANGES, ids=lambda change: next(iter(change)))
def test_every_field_of_the_identity_changes_the_id(change):
    name = change.pop("name", "sae") if "name" in change else "sae"
    assert make_identity(name, **change).id != make_identity("sae").id


def test_nothing_but_the_identity_changes_the_id():
    one = make_record("sae", [100.0, 101.0])
    other = make_record("sae", [90.0, 95.0], coder={"dead_fraction": 0.5}, partial=True)
    slow = one.environment.model_copy(update={"seconds": 99.0, "device": "cuda"})
    assert one.id == other.id == one.model_copy(update={"environment": slow}).identity.id


def test_the_order_of_the_arguments_does_not_change_the_id():
    one = make_identity("sae", arguments={"a": 1, "b": {"c": 2, "d": 3}})
    other = make_identity("sae", arguments={"b": {"d": 3, "c": 2}, "a": 1})
    assert one.id == other.id


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 10**9, "2", None, 1.5, [1]])
def test_a_newer_or_unknown_schema_is_refused(version):
    with pytest.raises(RecordError, match=r"r\.json: schema_version .* is (newer|not one)"):
        parse_record(damaged(lambda c: c.update(schema_version=version)), "r.json")


def test_a_schema_that_was_never_released_says_what_to_do():
    with pytest.raises(
        RecordError, match=r"schema_version 1 belongs to a development.*score the SAE"
    ):
        parse_record(damaged(lambda c: c.update(schema_version=1)), "r.json")


LANGUAGE_SITE = Site(
    hook="blocks.8.hook_resid_mid",
    hook_out="blocks.8.hook_mlp_out",
    model="gpt2",
    model_options={"center_writing_weights": True, "n": 2, "rate": 0.5, "name": "x"},
    dtype="bfloat16",
    text="pile",
    context=128,
    prepend_bos=False,
    first_position=1,
)


def test_the_site_survives_and_is_not_identity():
    record = make_record("sae", site=LANGUAGE_SITE)
    again = parse_record(record.to_json(), "x")
    assert again.site == LANGUAGE_SITE
    assert again.to_json() == record.to_json()
    assert record.id == make_record("sae").id
    with pytest.raises(RecordError, match=r"site\.layer"):
        parse_record(damaged(lambda c: c["site"].update(layer=8)), "x")


def test_references_are_found_by_their_data():
    sites = [make_site_references(), make_site_references(LANGUAGE_SITE, "e2" * 32)]
    references = realistic_references().model_copy(update={"sites": sites})
    again = parse_references(references.to_json(), "x")
    assert again.of_data("e2" * 32).site == LANGUAGE_SITE
    assert again.of_data("f3" * 32) is None
    assert again.measurement.describe() == "suite mnist (digest d1d1d1d1d1d1, protocol 2)"


def test_every_truncation_is_refused():
    text = make_record("sae").to_json()
    for length in range(0, len(text) - 2, 61):
        with pytest.raises(RecordError, match=r"r\.json"):
            parse_record(text[:length], "r.json")


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(RecordError, match=r"coder\.colour"):
        parse_record(damaged(lambda c: c["coder"].update(colour="red")), "x")


def test_a_missing_field_is_refused_by_name():
    with pytest.raises(RecordError, match="floor"):
        parse_record(damaged(lambda c: c.pop("floor")), "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_number_for_is_refused(value):
    with pytest.raises(RecordError, match="is not a JSON number"):
        parse_record(damaged(lambda c: c["floor"].update(mse=value)), "x")


@pytest.mark.parametrize("value", ["many", None, [], {}])
def test_a_number_that_is_none_is_refused_by_name(value):
    with pytest.raises(RecordError, match=r"floor\.mse"):
        parse_record(damaged(lambda c: c["floor"].update(mse=value)), "x")


def test_an_id_that_is_not_of_the_identity_is_refused():
    with pytest.raises(RecordError, match="id"):
        parse_record(damaged(lambda c: c.update(id="0" * 64)), "x")
    with pytest.raises(RecordError, match="id"):
        parse_record(damaged(lambda c: c["identity"].update(suite="gpt2-l8")), "x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1",
        '"record"',
        "{}",
        "not json",
        "\x00\x01",
        "[" * 100_000,
        '{"schema_version": 1}',
        '{"schema_version": -1}',
        damaged(lambda c: c["identity"]["coder"]["arguments"].update(x=float("nan"))),
        damaged(lambda c: c["identity"]["coder"]["arguments"].update(x=float("inf"))),
        damaged(lambda c: c["floor"].update(mse=10**400)),
        damaged(lambda c: c["identity"]["coder"].update(name="\ud800")),
    ],
    ids=lambda text: text[:12] if len(text) < 40 else f"{len(text)} characters",
)
def test_hostile_files_are_refused(text):
    with pytest.raises(RecordError, match=r"r\.json"):
        parse_record(text, "r.json")


@pytest.mark.parametrize(
    "text",
    [
        '{"schema_version": ' + "9" * 5000 + "}",
        damaged(lambda c: c["coder"].update(details={"x": float("nan")})),
        damaged(lambda c: c.update(schema_version=0)),
        damaged(lambda c: c.update(schema_version=True)),
    ],
    ids=["integer of 5000 digits", "NaN in details", "schema 0", "schema true"],
)
def test_further_hostile_files_are_refused(text):
    with pytest.raises(RecordError, match=r"r\.json"):
        parse_record(text, "r.json")


def test_deeply_nested_arguments_are_refused():
    deep = "[" * 2000 + "]" * 2000
    text = make_record("sae").to_json().replace('"saes/sae"', deep)
    with pytest.raises(RecordError, match=r"r\.json"):
        parse_record(text, "r.json")


def test_to_frame_has_a_row_per_point_and_the_bits_as_columns():
    record = realistic_suite(widths=(256,), sparsities=(16,), n_replicates=10)[0]
    frame = record.to_frame()
    assert len(frame) == len(record.points) > 8
    assert list(frame["step"]) == [point.step for point in record.points]
    assert list(frame["bits_total"]) == [point.bits.total for point in record.points]
    assert set(frame["name"]) == {"batchtopk-256-k16"}
    expected = {"mse", "delta_ce", "l0", "bits_plugin", "bits_heldout", "bits_coded", "mse_ci"}
    assert expected <= set(frame.columns)
    assert "bits" not in frame.columns


def test_at_finds_a_tolerance_and_names_those_there_are():
    record = make_record("sae", [100.0, 102.0])
    assert record.at("mse", 0.015).bits == 101.0
    with pytest.raises(RecordError, match=r"sae: no tolerance mse 0\.02\. Known: mse 0\.015"):
        record.at("mse", 0.02)


def test_curve_is_total_rate_against_the_metric():
    record = realistic_suite(widths=(256,), sparsities=(16,), n_replicates=10)[0]
    by_rate = sorted(record.points, key=lambda point: (point.bits.total, point.mse))
    curve = record.curve("mse")
    assert curve.rates.tolist() == [point.bits.total for point in by_rate]
    assert curve.distortions.tolist() == [point.mse for point in by_rate]
    assert record.curve("delta_ce").distortions.tolist() == [point.delta_ce for point in by_rate]


def test_references_round_trip_and_refuse_a_newer_schema():
    references = realistic_references()
    text = references.to_json()
    assert parse_references(text, "x") == references
    assert parse_references(text, "x").to_json() == text
    newer = json.dumps({**json.loads(text), "schema_version": 99})
    with pytest.raises(RecordError, match=r"references\.json.*newer"):
        parse_references(newer, "references.json")


def test_reading_leaves_the_collector_as_it_was(tmp_path):
    RecordStore(tmp_path).save(make_record("a"))
    frozen = gc.get_freeze_count()
    for is_enabled in (True, False):
        gc.enable() if is_enabled else gc.disable()
        try:
            read_records(tmp_path)
            assert gc.isenabled() == is_enabled
        finally:
            gc.enable()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("key", ["d_latents", "d_in"])
@pytest.mark.parametrize("value", [10**400, 2**63, -(2**63) - 1])
def test_an_integer_that_no_table_can_hold_is_refused(key, value):
    content = json.loads(make_record("sae").to_json())
    content["coder"][key] = value
    with pytest.raises(RecordError, match=rf"coder\.{key}"):
        parse_record(json.dumps(content), "x.json")
