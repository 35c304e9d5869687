"""`mdlbench validate`: what is true passes, and nothing that was tampered with does."""

from __future__ import annotations

import base64
import copy
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mdlbench.boards.leaderboard import build
from mdlbench.errors import UsageError
from mdlbench.records.checks import problems_of_file
from mdlbench.records.record import Identity, parse_record
from mdlbench.records.seal import CHECKSUM, checksum_of
from mdlbench.records.store import (
    all_record_paths,
    read_records,
    record_paths,
)
from mdlbench.scoring.single import evaluate
from tests.tiny import tiny_suite, write_sae

BOARDS = sorted(path for path in (Path(__file__).parent.parent / "leaderboards").glob("*/"))
SAMPLED = 3
"""Places of a long list at which it is tampered with."""

UNDERIVED = (
    "cosine",
    "kl",
    "adaptive",
    "enumerative",
    "bound",
    "environment",
    "provenance",
    "details",
    "architecture",
    "hook",
    "l0",
    "header_bits",
    "codebook_bits",
    "coded",
    "calibration",
    "limit",
    "arguments",
    "name",
    "adapter",
    "version",
    "weights_sha256",
    "data_sha256",
    "d_in",
    "latents",
    "resamples",
)
"""Keys of what is measured, stated, or only bounded: no other number of a record follows from it,
and only measuring again tells.

`adaptive` and `enumerative` have the bounds of maths §3. `calibration` is stated by synthetic
suites, not by this one, whose images would have to be read. The `hook` of the SAE is the one that
it says it was trained on; the site's is the suite's.
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def record(suite, tmp_path_factory):
    return evaluate(str(write_sae(tmp_path_factory.mktemp("sae"))), suite)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tampered") / "record.json"


@pytest.fixture(scope="module")
def content(record, suite, place):
    """The content of a valid record."""
    assert check(place, suite, record.to_json()) == []
    return json.loads(record.to_json())


def check(place, suite, text):
    place.write_text(text, encoding="utf-8")
    return problems_of_file(place, suite)


def sealed(content):
    """The content under a checksum, and an id, that agree with it: a careful forgery."""
    try:
        content["id"] = Identity.model_validate(content["identity"]).id
        content[CHECKSUM] = checksum_of(content)
    except (ValueError, TypeError, KeyError):
        assume(False)
    return json.dumps(content)


def leaves(value, path=()):
    """Paths of all values that hold no others, of long lists some."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for i in sorted({0, len(value) // 2, len(value) - 1} if len(value) > SAMPLED else range(3)):
            if i < len(value):
                yield from leaves(value[i], (*path, i))
    else:
        yield path


def at(content, path):
    for key in path:
        content = content[key]
    return content


def test_a_step_that_nobody_asks_for_is_named(content, place, suite):
    """A finer grid would find cheaper chords, so the points are those of the search alone."""
    forged = copy.deepcopy(content)
    points = forged["points"]
    apart = next(
        i for i in range(len(points) - 1) if points[i + 1]["step"] > 1.5 * points[i]["step"]
    )
    between = copy.deepcopy(points[apart])
    between["step"] *= 2 ** (1 / 8)
    between["bits"]["coded"] = None
    points.insert(apart + 1, between)
    found = check(place, suite, sealed(forged))
    assert f"step {between['step']:g}: no tolerance asks for it" in found


def tampered(content, path, change):
    changed = copy.deepcopy(content)
    parent = at(changed, path[:-1])
    if change is DROP:
        del parent[path[-1]]
    else:
        parent[path[-1]] = change(parent[path[-1]])
    return changed


def numeric(change):
    """A change of numbers; of anything else, another text."""

    def changed(value):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return change(value) if is_number else f"{value}x"

    return changed


DROP = object()
CHANGES = {
    "drop": DROP,
    "larger by 1%": numeric(lambda v: v * 1.01),
    "smaller by 1%": numeric(lambda v: v * 0.99),
    "one more": numeric(lambda v: v + 1),
    "negative": numeric(lambda v: -v),
    "zero": numeric(lambda v: 0),
    "huge": numeric(lambda v: 1e300),
    "not a number": lambda v: math.nan,
    "infinite": lambda v: math.inf,
    "text": lambda v: "0.5",
    "path": lambda v: "../../../etc/passwd",
    "markup": lambda v: "<script>alert(1)</script>\x00",
    "long": lambda v: "x" * 300_000,
    "opposite": lambda v: not v,
    "nothing": lambda v: None,
    "list": lambda v: [v],
}


def draw_change(data, content):
    path = data.draw(st.sampled_from(sorted(leaves(content), key=str)), label="where")
    name = data.draw(st.sampled_from(sorted(CHANGES)), label="change")
    changed = tampered(content, path, CHANGES[name])
    assume(json.dumps(changed) != json.dumps(content))
    return path, changed


def is_within_rounding(path, content, changed):
    """Whether an end of a point's interval moved by less than half-precision resamples tell."""
    if len(path) < 2 or path[-2] not in ("heldout_ci", "mse_ci", "delta_ce_ci"):
        return False
    ends, others = at(content, path[:-1]), at(changed, path[:-1])
    if len(others) < 2 or not isinstance(others[path[-1]], int | float):
        return False
    return abs(others[path[-1]] - ends[path[-1]]) < 0.01 * (ends[1] - ends[0])


def test_a_real_record_is_valid(record, suite, place):
    assert check(place, suite, record.to_json()) == []


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_change_of_a_record_passes(data, content, suite, place):
    _, changed = draw_change(data, content)
    assert check(place, suite, json.dumps(changed))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_forged_seal_hides_no_change_of_what_can_be_derived(data, record, content, suite, place):
    path, changed = draw_change(data, content)
    assume(not is_within_rounding(path, content, changed))
    text = sealed(changed)
    if check(place, suite, text) == [] and parse_record(text, place) != record:
        assert any(key in UNDERIVED for key in path), path


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_passes_changes_no_rank(data, record, content, suite, place):
    path, changed = draw_change(data, content)
    assume(any(key in UNDERIVED for key in path))
    if check(place, suite, sealed(changed)) == []:
        again = parse_record(place.read_text(encoding="utf-8"), place)
        for one, other in zip(standing(record, suite), standing(again, suite), strict=True):
            assert one == other


def standing(record, suite):
    board = build([record], suite.headline)
    return [
        (row.ranking.rank, row.status, row.result.bits, row.interval, row.result.step)
        for table in board.tables
        for row in table.rows
    ]


HUGE_PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    + struct.pack(">II", 60_000, 60_000)
    + b"\x08\0\0\0\0"
    + bytes(4)
).decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("coder", "d_latents"), -5),
        (("coder", "d_latents"), 10**18),
        (("coder", "d_out"), 10**400),
        (("coder", "decoder_weight_bits"), 10**400),
        (("coder", "dead_fraction"), 1.7e308),
        (("points", 0, "step"), 5e-324),
        (("points", -1, "step"), 1e308),
        (("environment", "threads"), 10**400),
        (("points", 2, "resamples", "mse"), "!"),
        (("points", 2, "resamples", "mse"), ""),
        (("latents", "pictures", "png"), HUGE_PNG),
        (("points",), []),
        (("latents", "ranks"), []),
        (("tolerances",), []),
    ],
)
def test_absurd_values_are_said_to_be_and_stop_nothing(path, value, content, suite, place):
    assert check(place, suite, sealed(tampered(content, path, lambda _: value)))


def test_a_floor_of_nothing_hides_no_variance(content, suite, place):
    forged = copy.deepcopy(content)
    forged["floor"] |= {"mse": 0.0, "fvu": 0.0}
    for point in forged["points"]:
        point["fvu"] /= 100
    assert check(place, suite, sealed(forged)) == []
    forged["points"][3]["fvu"] /= 2
    assert "fvu is not mse over one variance" in check(place, suite, sealed(forged))[0]


def test_draws_that_lie_elsewhere_are_noticed(content, suite, place):
    forged = copy.deepcopy(content)
    point = forged["points"][2]
    shares = np.frombuffer(base64.b64decode(point["resamples"]["bits"]), "<f2") - 0.3
    point["resamples"]["bits"] = base64.b64encode(shares.astype("<f2").tobytes()).decode()
    problems = check(place, suite, sealed(forged))
    assert any("do not lie around the point" in problem for problem in problems)


def test_repeated_keys_are_refused(record, suite, place):
    text = record.to_json().replace('"partial": false', '"partial": true,\n "partial": false')
    assert "repeated" in check(place, suite, text)[0]


def test_a_file_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    (problem,) = problems_of_file(path)
    assert "cannot be read: larger than 16,777,216 bytes" in problem


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "\x00", "{" * 10_000, "1" * 10_000])
def test_other_files_are_no_records(text, tmp_path):
    (problem,) = check(tmp_path / "x.json", None, text)
    assert problem


def test_a_missing_file_is_said_to_be(tmp_path):
    (problem,) = problems_of_file(tmp_path / "none.json")
    assert "cannot be read" in problem


def test_a_suite_s_name_is_never_a_path(content, suite, tmp_path):
    content = copy.deepcopy(content)
    content["identity"]["suite"] = str(suite.folder)
    (problem,) = check(tmp_path / "x.json", None, sealed(content))
    assert "is not shipped" in problem


def test_another_version_of_the_suite_is_named(record, suite, tmp_path, tmp_path_factory):
    other = tiny_suite(tmp_path_factory.mktemp("other"), seed=1)
    problems = check(tmp_path / "x.json", other, record.to_json())
    assert any("suite_digest" in problem and other.digest[:12] in problem for problem in problems)


@pytest.mark.parametrize("name", ["/etc/x", "a/../../b", "..", "~root", "C:\\x", "\\\\host\\x"])
def test_paths_are_no_names(name, content, suite, tmp_path):
    content = copy.deepcopy(content)
    content["identity"]["coder"]["name"] = name
    assert any("is a path" in problem for problem in check(tmp_path / "x", suite, sealed(content)))


def test_a_release_s_name_may_have_parts(content, suite, tmp_path):
    content = copy.deepcopy(content)
    content["identity"]["coder"]["name"] = "gpt2-small-res-jb/blocks.8.hook_resid_pre"
    assert check(tmp_path / "x", suite, sealed(content)) == []


SYNTHETIC = {
    ("n_tokens", "calibration"): (1, "1 calibration tokens are not the suite's 65536"),
    ("n_tokens", "test"): (16383, "16383 test tokens are not the suite's 16384"),
    ("site", "hook"): ("pixels", "site.hook 'pixels' is not the suite's, 'synthetic'"),
    ("site", "text"): ("x", "site.text 'x' is not the suite's, None"),
    ("site", "dtype"): ("bfloat16", "site.dtype 'bfloat16' is not the suite's, 'float32'"),
    ("site", "model"): ("gpt2", "site.model 'gpt2' is not the suite's, None"),
    ("points", 0, "bits", "adaptive"): (0, "bits.adaptive is below plugin plus its header"),
    ("points", 0, "bits", "enumerative"): (0, "bits.enumerative is below magnitude plus one bit"),
}
LANGUAGE = {
    ("site", "model"): ("gpt2", "site.model 'gpt2' is not the suite's, 'SmolLM2-135M-Instruct'"),
    ("site", "first_position"): (1, "site.first_position '1' is not the suite's, 4"),
    ("site", "context"): (64, "site.context '64' is not the suite's, 128"),
    ("site", "prepend_bos"): (False, "site.prepend_bos 'False' is not the suite's, True"),
    ("n_tokens", "test"): (6145, "more tokens than the suite has"),
}


@pytest.mark.parametrize(
    ("board", "path", "value", "problem"),
    [("toy", path, *said) for path, said in SYNTHETIC.items()]
    + [("smollm2-l15", path, *said) for path, said in LANGUAGE.items()],
)
def test_what_contradicts_the_suite_is_named(board, path, value, problem, tmp_path):
    (folder,) = (folder for folder in BOARDS if folder.name == board)
    content = json.loads(record_paths(folder)[0].read_text(encoding="utf-8"))
    parent = at(content, path[:-1])
    parent[path[-1]] = value
    assert any(problem in found for found in check(tmp_path / "x", None, sealed(content)))


def test_the_adaptive_code_is_charged_its_header(content, suite, place):
    """98 bits at least: three parameters, whether there are signs, and the largest symbol."""
    n_test, bits = content["n_tokens"]["test"], content["points"][-1]["bits"]
    for header, problems in ((96.9, 1), (97.1, 0)):
        forged = copy.deepcopy(content)
        forged["points"][-1]["bits"]["adaptive"] = bits["plugin"] + header / n_test
        assert len(check(place, suite, sealed(forged))) == problems


def test_part_of_the_data_has_as_many_tokens_as_its_limit(content, suite, place):
    limited = copy.deepcopy(content)
    limited["partial"], limited["identity"]["limit"] = True, 50
    (problem,) = check(place, suite, sealed(limited))
    assert problem == "200 test tokens are not the suite's 50"


@pytest.mark.parametrize("folder", BOARDS, ids=lambda folder: folder.name)
def test_swapped_operating_points_are_noticed(folder, tmp_path):
    record = read_records(folder)[0]
    content = json.loads(record.to_json())
    one, other = content["points"][:2]
    one["bits"], other["bits"] = other["bits"], one["bits"]
    assert check(tmp_path / "x", None, sealed(content))


def test_records_are_found_in_files_results_folders_and_folders_of_such(tmp_path):
    paths = [tmp_path / suite / "records" / f"{suite}.json" for suite in ("a", "b")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert all_record_paths([tmp_path]) == paths
    assert all_record_paths([tmp_path / "b", paths[0]]) == [paths[1], paths[0]]
    assert all_record_paths([tmp_path / "b" / "records"]) == [paths[1]]
    assert all_record_paths([tmp_path, paths[0]]) == paths
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no records here"):
        all_record_paths([tmp_path, tmp_path / "empty"])


def test_a_stray_record_hides_no_results_folder(tmp_path):
    names = ("a/records/a.json", "stray.json", "b/records/b.json", "a/archive/old.json")
    a, stray, b, old = (tmp_path / name for name in names)
    for path in (a, stray, b, old):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert all_record_paths([tmp_path]) == [stray, a, b]
    assert all_record_paths([tmp_path / "a"]) == [a]
    assert all_record_paths([old.parent]) == [old]
