"""What a run would do, said before it does it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mdlbench.cli.rows import plan_lines, plan_rows, plan_seconds
from mdlbench.errors import UsageError
from mdlbench.hub.items import Item
from mdlbench.scoring.plan import Plan, planned
from mdlbench.scoring.suite_run import WHOLE, Scored, Shard, run
from mdlbench.scoring.targets import in_modes, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite
from tests.tiny import tiny_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(tmp_path_factory.mktemp("suite"), replicates=100)


def plan(suite: Suite, folder: Path, limit: int | None = None, shard: Shard = WHOLE) -> Plan:
    opener = Opener(suite, Setting(limit=limit))
    return planned(opener, targets(suite, [], None), folder, shard)


def test_a_run_is_told_and_nothing_is_written(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "out"
    found = plan(suite, folder)
    assert [row["would be"] for row in plan_rows(found)] == ["scored"] * 3
    assert {row["site"] for row in plan_rows(found)} == {"pixels"}
    assert plan_lines(found, plan_seconds(found, 1)) == [
        "tokens of an SAE: at most 200 test",
        "downloads: none",
        "time: not known until one is scored here, for 3 SAEs",
    ]
    assert not list(tmp_path.iterdir())


def test_an_sae_in_two_modes_is_two_records(suite: Suite, tmp_path: Path) -> None:
    wanted = in_modes(suite, targets(suite, ["mean"], None), ["normalised", "tree"])
    (first, _) = run(Opener(suite), wanted, tmp_path)
    assert isinstance(first, Scored)
    found = planned(
        Opener(suite), [*wanted, *in_modes(suite, wanted[:1], ["rdo"])], tmp_path, WHOLE
    )
    assert [sae.label for sae in found.saes] == ["mean", "mean [tree]", "mean [rdo]"]
    assert [sae.has_record for sae in found.saes] == [True, True, False]
    said = plan_lines(found, plan_seconds(found, 1))[-1]
    assert re.fullmatch(rf"time: about 0 s for 1 record at 0\.\d s each, as in {tmp_path}/", said)
    finished = planned(Opener(suite), wanted, tmp_path, WHOLE)
    assert plan_lines(finished, plan_seconds(finished, 1))[-1] == "time: nothing is to be scored"


def test_what_is_finished_is_kept_and_tells_how_long_the_rest_takes(
    suite: Suite, tmp_path: Path
) -> None:
    (outcome,) = run(Opener(suite), targets(suite, ["mean"], None), tmp_path)
    assert isinstance(outcome, Scored)
    found = plan(suite, tmp_path)
    assert [sae.has_record for sae in found.saes] == [False, False, True]
    assert found.n_to_score == 2
    seconds = outcome.record.environment.seconds
    assert (found.seconds, found.seen_in) == (seconds, tmp_path)
    assert plan_seconds(found, 4) == pytest.approx(seconds * 2 / 4)
    with pytest.raises(UsageError, match=r"not of .* limited to 20 documents"):
        plan(suite, tmp_path, limit=20)
    limited = plan(suite, tmp_path / "limited", limit=20)
    assert (limited.tokens, limited.seconds) == ({}, None)
    last = plan(suite, tmp_path, shard=Shard(3, 3))
    assert [sae.label for sae in last.saes] == ["mean"]


def test_a_folder_with_other_results_is_refused_as_a_run_would(
    suite: Suite, tmp_path: Path
) -> None:
    list(run(Opener(suite), targets(suite, ["mean"], None), tmp_path))
    other = tiny_suite(tmp_path / "other", name="other", replicates=100)
    message = rf"^{tmp_path} holds results of suite tiny .* choose another folder with -o$"
    with pytest.raises(UsageError, match=message):
        plan(other, tmp_path)


def test_what_the_caches_lack_would_be_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    suite = load_suite("gpt2-l8")
    (first, *_) = suite.source.text_names
    opener = Opener(suite, Setting(text=first))
    found = planned(opener, [], tmp_path, WHOLE)
    assert "model gpt2" in found.downloads
    assert any(item.startswith(f"text {first}") for item in found.downloads)


def test_an_item_is_here_if_it_is_installed_or_has_a_file(tmp_path: Path) -> None:
    places = ((tmp_path, ""),)
    assert not Item("x", int, places).is_here
    assert Item("x", int, places, installed=True).is_here
    (tmp_path / "commit").mkdir()
    (tmp_path / "commit" / "file").write_text("x")
    assert Item("x", int, places).is_here
