"""A word that could be two things is refused, and both spellings are named."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mdlbench.cli.app import app
from mdlbench.cli.rows import records
from mdlbench.errors import UsageError
from mdlbench.scoring.targets import path_spec, targets
from mdlbench.suite.load import load_suite, suites_folder
from tests.tiny import tiny_suite, write_sae, write_tiny_suite


def test_a_key_that_is_a_path_too_is_refused(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path / "suite")
    monkeypatch.chdir(tmp_path)
    (key,) = targets(suite, ["pca"], None)
    assert (key.name, key.sae.spec) == ("pca", "baseline:pca")
    write_sae(tmp_path / "pca")
    message = "'pca' is an SAE of suite 'tiny' and a path here: write tiny:pca for the one, ./pca "
    with pytest.raises(UsageError) as refused:
        targets(suite, ["pca"], None)
    assert str(refused.value) == message + "for the other"
    assert targets(suite, ["tiny:pca"], None) == [key]
    (folder,) = targets(suite, ["./pca"], None)
    assert (folder.name, folder.sae.load().spec.architecture) == (None, "jumprelu")
    assert [target.label for target in targets(suite, [], None)] == ["pca", "kmeans", "mean"]


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "--sae", "pca", "-o", "out"],
        ["encode", "pca", "-o", "out"],
        ["check-adapter", "pca"],
    ],
)
def test_every_command_refuses_it(tmp_path, monkeypatch, command):
    suite = write_tiny_suite(tmp_path / "suite")
    monkeypatch.chdir(tmp_path)
    write_sae(tmp_path / "pca")
    done = CliRunner().invoke(app, [*command, "--suite", str(suite)])
    assert isinstance(done.exception, UsageError)
    assert "write tiny:pca for the one, ./pca for the other" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_suite_that_is_a_path_too_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    assert load_suite("toy").name == "toy"
    write_tiny_suite(tmp_path / "toy")
    with pytest.raises(UsageError) as refused:
        load_suite("toy")
    shipped = suites_folder() / "toy"
    assert str(refused.value) == (
        f"'toy' is a shipped suite and a path here: write {shipped} for the one, ./toy for the "
        "other"
    )
    assert (load_suite("./toy").name, load_suite(shipped).name) == ("tiny", "toy")
    monkeypatch.chdir(suites_folder())
    assert load_suite("toy").name == "toy"


@pytest.mark.parametrize("folder", ["truth", "my runs/it's", "saelens:x", "-q", "$HOME", "a;b"])
def test_the_hint_of_train_scores_what_was_trained(tmp_path, monkeypatch, folder):
    suite = write_tiny_suite(tmp_path / "my suite")
    monkeypatch.chdir(tmp_path)
    options = ["--width", "8", "--k", "2", "--epochs", "1", "--batch-size", "100", "-q"]
    done = CliRunner().invoke(app, ["train", "--suite", str(suite), *options, f"--output={folder}"])
    assert done.exception is None
    command = shlex.split(done.stdout.partition("`")[2].rpartition("`")[0])
    assert command == ["mdlbench", "eval", "--suite", str(suite), "--sae", f"./{folder}"]
    (target,) = targets(load_suite(suite), command[-1:], None)
    assert target.sae.load().spec.d_latents == 8


def test_an_absolute_path_is_its_own_spelling():
    assert path_spec(Path("/a b/c")) == "/a b/c"
    assert path_spec(Path("../c")) == "./../c"


def test_no_records_are_an_error(tmp_path):
    with pytest.raises(UsageError, match="nosuch: no such folder"):
        records(tmp_path / "nosuch")
    with pytest.raises(UsageError, match="no records here"):
        records(tmp_path)
