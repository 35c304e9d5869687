"""The web page of a suite: what it holds, that it is inert, small and the same every time."""

import base64
import hashlib
import json
import re
import shlex
import tomllib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.boards.leaderboard import build, build_all
from mdlbench.boards.pairing import differences
from mdlbench.cli.app import app
from mdlbench.errors import RecordError
from mdlbench.records.record import operating_point, profile_ranks
from mdlbench.records.repetition import write_repetition
from mdlbench.records.store import RecordStore, results_folder
from mdlbench.report.page import content, folders, write_pages
from mdlbench.report.page.content import (
    CHARACTERS_A_PAIR,
    PAIR_CHARACTERS,
    most_paired,
    page_data,
)
from mdlbench.report.page.project import IN_CHECKOUT, PROJECT_URLS
from mdlbench.report.page.write import index_page, suite_page
from mdlbench.report.page.zipf import zipf_fit
from mdlbench.report.tables import NOTES
from mdlbench.report.view import UNKNOWN, view_of
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Agreement
from tests.crowd import crowd, evil_record, make_profile, references_of_evil
from tests.records import (
    HEADLINE,
    make_record,
    realistic_references,
    realistic_suite,
)

MEGABYTE = 10**6
ROOT = Path(__file__).parent.parent


def embedded(page):
    """The data in a page, read as a browser does."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL
    )
    assert len(found) == 1
    return json.loads(found[0])


def write_results(folder, records, references=None):
    for record in records:
        RecordStore(folder).save(record)
    (folder / "references.json").write_text((references or realistic_references()).to_json())


@pytest.fixture(scope="module")
def zoo():
    return realistic_suite()


def test_rows_are_those_of_the_leaderboard(zoo):
    data = page_data(zoo, realistic_references())
    site = data["sites"][0]
    board = build(zoo, HEADLINE)
    assert [(t["metric"], t["epsilon"]) for t in site["tables"]] == sorted(
        ((t.metric, t.epsilon) for t in board.tables),
        key=lambda limit: (limit[0] != "mse", limit[1]),
    )
    shown = next(table for table in site["tables"] if table["headline"])
    for i, row in enumerate(board.headline.rows):
        column = {name: values[i] for name, values in shown["columns"].items()}
        sae, result = site["saes"][column["sae"]], row.result
        assert (sae["id"], column["rank"], column["status"]) == (
            row.record.id,
            row.ranking.rank,
            row.status,
        )
        if result.bits is None:
            assert column["bits"] is None
            assert column["point"] is None
        else:
            assert column["bits"] == pytest.approx(result.bits, rel=1e-9)
            assert column["delta_high"] == pytest.approx(row.ranking.delta_high, rel=1e-9)
            assert sae["points"]["bits"][column["point"]] == pytest.approx(
                row.result.bits, rel=1e-5
            )
            assert sae["points"]["mse"][column["point"]] == pytest.approx(row.point.mse, rel=1e-5)


def test_points_are_in_the_order_of_steps_with_their_parts(zoo):
    record = zoo[0]
    points = page_data([record], realistic_references())["sites"][0]["saes"][0]["points"]
    expected = sorted(record.points, key=lambda point: point.step)
    assert points["step"] == pytest.approx([p.step for p in expected], rel=1e-5)
    assert points["support"] == pytest.approx([p.bits.support for p in expected], rel=1e-5)
    assert points["magnitude"] == pytest.approx([p.bits.magnitude for p in expected], rel=1e-5)


def test_standings_default_to_submitted(zoo):
    data = page_data(zoo, realistic_references(), {zoo[3].id: "reproduced"})
    standings = {sae["id"]: sae["standing"] for sae in data["sites"][0]["saes"]}
    assert standings.pop(zoo[3].id) == "reproduced"
    assert set(standings.values()) == {"submitted"}


def test_commands_of_a_shipped_row_can_be_pasted():
    suite = load_suite("mnist")
    record = make_record(
        "batchtopk-128-k11", suite_digest=suite.digest, quantiser="tree", data_sha256="da" * 32
    )
    references = realistic_references().model_copy(update={"suite_digest": suite.digest})
    data = page_data([record], references)
    assert data["title"] == suite.title
    commands = data["sites"][0]["saes"][0]["commands"]
    assert commands[0] == ("mdlbench eval --suite mnist --sae batchtopk-128-k11 --quantiser tree")
    file = shlex.split(commands[1])[2]
    assert file == f"records/batchtopk-128-k11-{record.id[:12]}.json"


def test_a_row_of_another_digest_has_no_command_of_the_shipped_suite():
    record = make_record("batchtopk-128-k11")
    data = page_data([record], realistic_references())
    assert data["title"] == "mnist"
    assert [c.split()[1] for c in data["sites"][0]["saes"][0]["commands"]] == ["verify"]


def test_half_of_the_bits():
    bits = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
    profile = make_profile(bits / 10, bits)
    record = make_record("a").model_copy(update={"latents": profile})
    shown = page_data([record], realistic_references())["sites"][0]["saes"][0]["profile"]
    assert shown["half"] == 1
    assert shown["cumulative_bits"] == [8, 12, 14, 15, 16]


@given(
    exponent=st.floats(-0.5, 3.0),
    first=st.floats(1e-3, 1.0),
    n_latents=st.integers(3, 5000),
)
def test_a_power_law_is_found_again(exponent, first, n_latents):
    ranks = profile_ranks(n_latents)
    rates = first * ranks.astype(np.float64) ** -exponent
    profile = make_profile(np.ones(n_latents)).model_copy(
        update={"ranks": ranks.tolist(), "firing_rates": rates.tolist()}
    )
    fit = zipf_fit(profile)
    assert fit.exponent == pytest.approx(exponent, abs=1e-9)
    assert fit.first == pytest.approx(first, rel=1e-9)


def test_the_line_is_least_squares_over_live_latents():
    rates = np.array([0.5, 0.3, 0.1, 0.02, 0.0, 0.0])
    fit = zipf_fit(make_profile(rates))
    x, y = np.log(np.arange(1, 5)), np.log(rates[:4])
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    assert fit.exponent == pytest.approx(-slope)
    assert fit.first == pytest.approx(np.exp(y.mean() - slope * x.mean()))


def test_two_live_latents_have_no_line():
    assert zipf_fit(make_profile(np.array([0.5, 0.3, 0.0]))) is None


def test_a_record_without_latents_has_no_profile():
    data = page_data([make_record("mean")], realistic_references())
    assert data["sites"][0]["saes"][0]["profile"] is None


def test_no_text_of_a_record_stands_for_its_provenance():
    names = (
        *("id", "weights_sha256", "data_sha256", "adapter", "seed", "limit", "quantiser"),
        *("commit", "dirty", "date", "device", "dtype", "architecture", "d_latents", "l0"),
    )
    forged = dict.fromkeys(names, "forged")
    honest = make_record("honest")
    record = make_record("forger", coder={"details": forged}, arguments=forged)
    environment = record.environment.model_copy(update={"versions": forged})
    record = record.model_copy(update={"environment": environment})
    expected, found = (
        page_data([r], realistic_references())["sites"][0]["saes"][0]["facts"]
        for r in (honest, record)
    )
    own = ("SAE", "Record", "Provenance and environment")
    assert found["Record"].pop("id") == record.id
    assert expected["Record"].pop("id") == honest.id
    assert [found[heading] for heading in own] == [expected[heading] for heading in own]
    assert [heading for heading in found if heading not in own] == [
        "From the SAE's config",
        "Arguments of the SAE",
        "Versions",
    ]
    assert all(found[heading] == forged for heading in found if heading not in own)


def test_nothing_of_a_record_is_markup():
    record = evil_record()
    page = suite_page([record], references_of_evil(), archive=[build([record], HEADLINE)])
    text = page.decode()
    assert text.count("<script") == text.count("</script") == 2
    assert "<img" not in text.replace("'img'", "")
    assert "\u2028" not in text
    assert "\u202e" not in text
    data = embedded(page)
    assert data["sites"][0]["saes"][0]["name"].startswith("<script>alert(1)</script>")


def test_a_name_that_is_no_unicode_is_shown():
    page = suite_page([make_record("lone \ud800 surrogate")], realistic_references())
    assert embedded(page)["sites"][0]["saes"][0]["name"] == "lone � surrogate"


def test_the_policy_allows_the_page_s_own_script_and_style_only(zoo):
    text = suite_page(zoo, realistic_references()).decode()
    policy = re.search(r'Security-Policy" content="([^"]*)"', text)[1]
    for name in ("script", "style"):
        body = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_same_records_give_the_same_bytes(zoo):
    references = realistic_references()
    assert suite_page(zoo, references) == suite_page(zoo[::-1], references)


def test_two_hundred_records_of_a_hundred_points_are_below_five_megabytes():
    page = suite_page(crowd(200, picture_bytes=30_000), realistic_references())
    assert len(page) < 5 * MEGABYTE
    saes = embedded(page)["sites"][0]["saes"]
    assert len(saes) == 200
    pictured = {sae["name"] for sae in saes if sae["pictures"]["png"]}
    n_pictured = len(pictured)
    assert n_pictured > 10
    assert pictured == {f"sae-{i}" for i in range(n_pictured)}
    tables = embedded(page)["sites"][0]["tables"]
    assert {len(table["pairs"]["rows"]) for table in tables} == {200}
    assert all(len(sae["pictures"]["latents"]) == 32 for sae in saes)


def test_references_of_another_suite_are_refused(zoo):
    references = realistic_references().model_copy(update={"suite_digest": "0" * 64})
    with pytest.raises(RecordError, match="references are not those"):
        suite_page(zoo, references)


def test_pages_of_one_folder_and_of_several(zoo, tmp_path):
    boards = tmp_path / "leaderboards"
    write_results(boards / "mnist", zoo[:4])
    write_results(boards / "odd & <b>", zoo[4:7])
    (boards / "mnist" / "table.csv").write_text("a\n")
    (boards / "notes").mkdir()
    paths = write_pages(boards)
    folders = [boards, boards / "mnist", boards / "odd & <b>"]
    assert paths == [folder / "index.html" for folder in folders]
    index = (boards / "index.html").read_text()
    assert 'href="mnist/index.html"' in index
    assert 'href="odd%20%26%20%3Cb%3E/index.html"' in index
    assert "4 SAEs" in index
    page = (boards / "mnist" / "index.html").read_bytes()
    assert b'href="table.csv"' in page
    assert b'href="../index.html"' in page
    assert b"table.md" not in page
    assert write_pages(boards / "mnist") == [boards / "mnist" / "index.html"]
    assert (boards / "mnist" / "index.html").read_bytes() == page


def test_a_page_is_the_same_from_inside_its_folder(zoo, tmp_path, monkeypatch):
    boards = tmp_path / "leaderboards"
    write_results(boards / "mnist", zoo[:3])
    write_pages(boards)
    page = (boards / "mnist" / "index.html").read_bytes()
    monkeypatch.chdir(boards / "mnist")
    write_pages(Path())
    assert (boards / "mnist" / "index.html").read_bytes() == page
    (boards / "index.html").unlink()
    write_pages(Path())
    assert b"../index.html" not in (boards / "mnist" / "index.html").read_bytes()


def test_a_page_elsewhere_leaves_the_folder_alone(zoo, tmp_path):
    write_results(tmp_path / "in", zoo[:3])
    assert write_pages(tmp_path / "in", tmp_path / "out") == [tmp_path / "out" / "index.html"]
    assert not (tmp_path / "in" / "index.html").exists()
    assert b"../index.html" not in (tmp_path / "out" / "index.html").read_bytes()


def test_without_scripts_there_is_the_table_beside_the_page(zoo):
    page = suite_page(zoo[:2], realistic_references(), links=[("table.md", "table.md")]).decode()
    note = re.search(r"<noscript>(.*?)</noscript>", page, re.DOTALL)[1]
    assert 'The same tables are in <a href="table.md">table.md</a>.' in note
    bare = suite_page(zoo[:2], realistic_references()).decode()
    assert "href" not in re.search(r"<noscript>(.*?)</noscript>", bare, re.DOTALL)[1]


def test_boards_of_several_folders_are_built_once(zoo, tmp_path, monkeypatch):
    built = []

    def counted(records, headline):
        built.append(len(records))
        return build_all(records, headline)

    for module in (content, folders):
        monkeypatch.setattr(module, "build_all", counted)
    write_results(tmp_path / "one", zoo[:3])
    write_results(tmp_path / "two", zoo[3:5])
    write_pages(tmp_path)
    assert built == [3, 2]


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no records here"):
        write_pages(tmp_path)


def test_what_was_measured_again_is_reproduced(zoo, tmp_path):
    write_results(tmp_path, zoo[:2])
    write_repetition(tmp_path, zoo[1], zoo[1], Agreement())
    write_pages(tmp_path)
    saes = embedded((tmp_path / "index.html").read_bytes())["sites"][0]["saes"]
    assert {sae["id"]: sae["standing"] for sae in saes} == {
        zoo[0].id: "submitted",
        zoo[1].id: "reproduced",
    }


def test_records_of_an_older_digest_are_shown_apart(zoo, tmp_path):
    write_results(tmp_path, zoo[:3])
    old = make_record("measured-before", suite_digest="0f" * 32)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "old.json").write_text(old.to_json())
    write_pages(tmp_path)
    page = (tmp_path / "index.html").read_bytes()
    assert "measured-before" not in json.dumps(embedded(page))
    archive = page.decode().split('id="archive-title"')[1]
    assert (
        "digest <code>0f0f0f0f0f0f</code>, protocol 2: 1 SAE, MSE per dimension ≤ 0.015" in archive
    )
    assert "<td>measured-before</td>" in archive


def test_the_index_shows_the_first_rows_of_each_suite(zoo):
    board = build(zoo, HEADLINE)
    text = index_page([("mnist", [board])]).decode()
    first, last = board.headline.rows[0], board.headline.rows[-1]
    assert f"<td>{first.label}</td>" in text
    assert f"<td>{last.label}</td>" not in text
    assert f"{first.result.bits:.2f}" in text


def test_a_folder_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("results/one", "leaderboards/one", "leaderboards/two"):
        (tmp_path / folder).mkdir(parents=True)
    assert results_folder(Path("one")) == Path("results/one")
    assert results_folder(Path("two")) == Path("leaderboards/two")
    assert results_folder(Path("three")) == Path("three")
    assert results_folder(Path("leaderboards")) == Path("leaderboards")


def test_the_command_writes_a_page(zoo, tmp_path, monkeypatch, capsys):
    write_results(tmp_path / "results" / "mnist", zoo[:3])
    monkeypatch.chdir(tmp_path)
    app(["leaderboard", "mnist", "--html"], standalone_mode=False)
    assert capsys.readouterr().out == "results/mnist/index.html\n"
    assert len(embedded((tmp_path / "results/mnist/index.html").read_bytes())["sites"]) == 1


def test_the_axes_show_the_tolerances_and_the_saes(zoo):
    data = page_data(zoo, realistic_references())
    view = data["sites"][0]["view"]
    limits = [(r.metric, r.epsilon) for r in zoo[0].tolerances]
    for metric, ends in view["losses"].items():
        epsilons = [epsilon for name, epsilon in limits if name == metric]
        if epsilons:
            low, high = pytest.approx(0.75 * min(epsilons)), pytest.approx(1.6 * max(epsilons))
            assert ends == {"linear": [0.0, high], "log": [low, high]}
    bits = [r.bits for z in zoo if not z.is_baseline for r in z.tolerances if r.bits is not None]
    for low, high in view["rates"].values():
        assert low <= min(bits) < np.median(bits) <= high
    assert view["rates"]["log"][0] == pytest.approx(0.8 * min(bits), rel=1e-5)
    drawn = view_of(zoo, "mse")
    assert view["rates"]["linear"] == pytest.approx(drawn.rates.linear, rel=1e-5)


def test_a_metric_without_tolerance_is_shown_where_the_accepted_points_are():
    record = make_record("a")
    (metric,) = {r.metric for r in record.tolerances}
    other = "delta_ce" if metric == "mse" else "mse"
    losses = [
        getattr(point, other)
        for r in record.tolerances
        if (point := operating_point(record, r)) and getattr(point, other) > 0
    ]
    shown = view_of([record], other).losses
    expected = (0.75 * min(losses), 1.2 * max(losses)) if losses else UNKNOWN
    assert shown.log == pytest.approx(expected)


def test_notes_of_the_page_are_those_of_the_table(zoo):
    edited = make_record("edited").model_copy()
    edited._edited = True
    notes = page_data([make_record("a"), edited], realistic_references())["notes"]
    assert notes == {key: note for key, note in NOTES.items() if key != "baseline"}
    unedited = page_data(zoo, realistic_references())["notes"]
    assert unedited == {key: note for key, note in notes.items() if key != "edited"}


def test_paired_intervals_are_those_of_compare(zoo):
    some = [*zoo[:5], zoo[-1]]
    site = page_data(some, realistic_references())["sites"][0]
    records = {record.id: record for record in some}
    for table in site["tables"]:
        rows = [records[site["saes"][i]["id"]] for i in table["columns"]["sae"]]
        paired = [rows[i] for i in table["pairs"]["rows"]]
        ends = np.frombuffer(base64.b64decode(table["pairs"]["ends"]), "<f4").reshape(-1, 2)
        assert len(paired) == sum(bits is not None for bits in table["columns"]["bits"])
        for (one, other), found in zip(combinations(paired, 2), ends, strict=True):
            wanted = next(
                at.difference
                for at in differences(one, other, table["metric"])
                if at.epsilon == table["epsilon"]
            )
            assert found == pytest.approx([wanted.low, wanted.high], rel=1e-6, abs=1e-9)


def test_an_edited_record_is_paired_with_nothing(zoo):
    edited = zoo[0].model_copy()
    edited._edited = True
    site = page_data([edited, *zoo[1:3]], realistic_references())["sites"][0]
    for table in site["tables"]:
        statuses = {table["columns"]["status"][i] for i in table["pairs"]["rows"]}
        assert statuses <= {"ranked"}


@given(n_tables=st.integers(1, 500))
def test_as_many_are_paired_as_have_room(n_tables):
    def characters(n):
        return n_tables * n * (n - 1) / 2 * CHARACTERS_A_PAIR

    n = most_paired(n_tables)
    assert characters(n) <= PAIR_CHARACTERS < characters(n + 1)
    assert most_paired(8) >= 200


def test_an_sae_has_one_number_however_it_was_measured():
    records = [make_record("a"), make_record("b"), make_record("a", quantiser="tree")]
    saes = page_data(records, realistic_references())["sites"][0]["saes"]
    numbers = {sae["label"]: sae["coder"] for sae in saes}
    assert numbers["a"] == numbers["a [tree]"] != numbers["b"]
    index = index_page([("mnist", [build(records, HEADLINE)])]).decode()
    assert "2 SAEs" in index


def test_baselines_come_last_on_the_index():
    records = [make_record("pca", [1.0, 2.0], adapter="baseline"), make_record("a")]
    index = index_page([("mnist", [build(records, HEADLINE)])]).decode()
    assert "1 SAE " in index
    assert index.index("<td>a</td>") < index.index("<td>pca</td>")


def test_a_page_links_to_the_project(zoo, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"] == PROJECT_URLS
    boards = tmp_path / "leaderboards"
    write_results(boards / "mnist", zoo[:2])
    write_pages(boards)
    page = (boards / "mnist" / "index.html").read_text()
    assert f'<a href="{PROJECT_URLS["Paper"]}">Paper</a>' in page
    assert "Repository" not in page
    (tmp_path / "docs").mkdir()
    for path in IN_CHECKOUT.values():
        (tmp_path / path).write_text("")
    write_pages(boards)
    for folder, up in ((boards, ".."), (boards / "mnist", "../..")):
        page = (folder / "index.html").read_text()
        assert f'<a href="{up}/README.md">Repository</a>' in page
        assert f'<a href="{up}/docs/index.md">Documentation</a>' in page


def test_records_are_linked_where_they_lie_beside_the_page(zoo, tmp_path):
    write_results(tmp_path / "in", zoo[:2])
    write_pages(tmp_path / "in")
    data = embedded((tmp_path / "in" / "index.html").read_bytes())
    assert data["has_records"]
    assert all((tmp_path / "in" / sae["file"]).is_file() for sae in data["sites"][0]["saes"])
    assert not embedded(suite_page(zoo[:2], realistic_references()))["has_records"]
