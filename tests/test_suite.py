import pytest
import yaml

from mdlbench.errors import SuiteError, UsageError
from mdlbench.suite.load import load_suite, suite_names
from tests.tiny import write_tiny_suite
from tests.tiny_language import language_suite


@pytest.fixture
def folder(tmp_path):
    return write_tiny_suite(tmp_path / "tiny")


def rewrite(folder, **changes):
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return load_suite(folder)


def test_shipped_suites_load_by_name():
    assert "mnist" in suite_names()
    suite = load_suite("mnist")
    assert suite.name == "mnist"
    assert [e for m, e in suite.limits() if m == "mse"] == [0.010, 0.0125, 0.015, 0.020, 0.030]
    for entry in suite.saes:
        if entry.spec.startswith("saelens:"):
            assert (suite.path(entry.spec.partition(":")[2]) / "cfg.json").is_file()


def test_unknown_names_suggest_the_nearest(folder):
    with pytest.raises(UsageError, match=r"unknown suite 'mnits'\. Did you mean 'mnist'"):
        load_suite("mnits")
    with pytest.raises(UsageError, match=r"no SAE 'kmean'\. Did you mean 'kmeans'"):
        load_suite(folder).entry("kmean")


DIGESTS = {
    "gemma-2-2b-l12": "cac862238ec46a2d1eb146f45e095ff56990a753bb74d79693597f91fd4613c1",
    "gemma-3-1b": "3f13bdb9b6c5aa31cba44c2e9b114b86ba9d12fe18486da62f481aab1e16fd19",
    "gemma-3-270m": "e49123219500d5df584d144c99d8a1300f4844d446bf833e23212c7efddedef1",
    "gpt2-l8": "bef26e70bf67ac0cd6a1a974fc4e2e2a7cb37a3a0bc02ff382a891bd6f52ad5b",
    "gpt2-res-jb": "54d13cd932e4c1a8bcede8afedf7f5d661ca2d964cddcd5bbbb52b4bdecfb656",
    "llama-3.1-8b": "cc9d26e88995e7e6e0cf68e4442d2380865a8f76b8b3870017bafa677e7b2052",
    "mnist": "94de2c31976192ecc01a9f6dc361ce5e61b534929651f15b5fe0232db41691f5",
    "mnist-bilinear": "ca524bdf237c573e4a667f92dc12f5f95c29448046a166e8cd3ba273031e1ab0",
    "pythia-160m-l8": "1c9a6c8ff4e4b63dab75538d1e5b4c277579fcd6a27bad0a500d2db9744b8aff",
    "qwen3-1.7b": "a7903915d01e89b8aa60f0dcc38a97498d05e4d9db06b8b57b2756312532d863",
    "smollm2-l15": "fb0a210b750081f561548b9c176312a4501e04da296eff51f99dc1ee3bb38817",
    "superposed-flat": "c2a9cae1540153d2e9cfb9c635f3de5e8f1d7cda2f4d2fbe59962b53c34f6a6c",
    "superposed-hier": "1e70e0749322527fe5b7531eb571de1727171cfca061ffba718d8ac10caece26",
    "toy": "f386383d87b481b1f241af8367bf684146e8ba8940acb075d40b10d6038953f3",
}
"""Records name them, so a change of code must not change one."""


def test_the_digests_of_shipped_suites_stay():
    assert {name: load_suite(name).digest for name in suite_names()} == DIGESTS


def test_the_digest_covers_what_decides_numbers_and_nothing_else(folder):
    suite = load_suite(folder)
    assert rewrite(folder, title="Other").digest == suite.digest
    assert rewrite(folder, saes=[]).digest == suite.digest
    assert rewrite(folder, seed=1).digest != suite.digest
    headline = {"metric": "delta_ce", "epsilon": 0.05}
    assert rewrite(folder, seed=0, headline=headline).digest != suite.digest
    assert rewrite(folder, steps={"finest": 0.0625, "octaves": 6}).digest != suite.digest
    original = {"headline": suite.headline.model_dump(), "steps": suite.steps.model_dump()}
    assert rewrite(folder, **original).digest == suite.digest


def test_a_file_of_a_shipped_suite_is_written_after_its_name(folder):
    suite = load_suite(folder)
    shipped = load_suite("mnist")
    assert suite.path("mnist:data/images.npy.xz") == shipped.path("data/images.npy.xz")
    for name, message in {
        "mnits:data/images.npy.xz": r"'mnits:data/images\.npy\.xz': .*Did you mean 'mnist'",
        "mnist:../toy/suite.yaml": r"'mnist:\.\./toy/suite\.yaml' lies outside .*mnist$",
        "mnist:nothing": r"suite 'tiny': .*mnist/nothing does not exist",
    }.items():
        with pytest.raises(SuiteError, match=message):
            suite.path(name)


SYNTHETIC = {
    "kind": "synthetic",
    "d": 4,
    "tokens": {"calibration": 8, "test": 8},
    "features": [{"kind": "lone", "probability": 0.5}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 1}, "stepz: unknown key. Did you mean 'steps'"),
        ({"steps": {"finest": -1, "octaves": 6}}, "steps.finest"),
        ({"steps": {"finest": float("nan"), "octaves": 6}}, "steps.finest"),
        ({"headline": {"metric": "mse", "epsilon": 0.5}}, "headline: not among the tolerances"),
        ({"saes": [{"key": "a", "spec": "b"}] * 2}, "repeated key 'a'"),
        ({"saes": [{"key": "../a", "spec": "b"}]}, "saes.0.key"),
        ({"replicates": 5}, "replicates"),
        (
            {"source": {"kind": "imagse"}},
            "source: unknown source kind 'imagse'. Did you mean 'im",
        ),
        ({"source": {"images": "images.npy.xz"}}, "source: say its kind: one of 'images', "),
        ({"source": []}, "source: .*valid dictionary"),
        ({"source": SYNTHETIC | {"nois": 1}}, "source.nois: unknown key. Did you mean 'noise'"),
    ],
)
def test_a_malformed_suite_names_the_key(folder, changes, message):
    with pytest.raises(SuiteError, match=message):
        rewrite(folder, **changes)


MODEL = {"kind": "package", "name": "m", "package": "p", "version": "1", "file": "f"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"texts": []}, "source.texts"),
        (
            {"texts": [{"kind": "python-docs", "name": "a"}] * 2},
            r"line 17: source\.texts\.1\.name: repeated name 'a'",
        ),
        ({"texts": [{"kind": "web", "name": "a"}]}, "source.texts.0"),
        (
            {"model": {"kind": "hub", "name": "m", "revison": "x"}},
            r"line 11: source\.model\.revison: unknown key\. Did you mean 'revision'\? "
            r"Known: kind, name, revision\.$",
        ),
        (
            {"texts": [{"kind": "file", "name": "a", "path": "b", "file": "c"}]},
            r"line 15: source\.texts\.0\.file: unknown key\. Known: column, kind, name, path, wiki",
        ),
        ({"model": MODEL | {"sha256": "abc"}}, "source.model.sha256"),
        ({"model": MODEL | {"package": "x @ file:///x.tar.gz#"}}, "model.package: .*pattern"),
        ({"model": MODEL | {"package": "--index-url=x"}}, "model.package: .*pattern"),
        ({"model": MODEL | {"version": "1 --pre"}}, "model.version: .*pattern"),
        ({"model": MODEL | {"file": "../../x"}}, "model.file: .*pattern"),
        ({"model": MODEL | {"file": "/etc/x"}}, "model.file: .*pattern"),
        ({"model": MODEL | {"file": "a/../../x"}}, "model.file: .*pattern"),
        ({"model": MODEL | {"file": "a\\..\\x"}}, "model.file: .*pattern"),
        ({"tokens": {"calibration": 0, "test": 8}}, "source.tokens.calibration"),
        ({"place": {"context": 1}}, "source.place.context"),
        ({"place": {"hok": "x"}}, "source.place.hok: unknown key. Did you mean 'hook'"),
        ({"first_position": 0}, "source.first_position"),
    ],
)
def test_a_malformed_language_suite_names_the_key(tmp_path, source, message):
    with pytest.raises(SuiteError, match=message):
        language_suite(tmp_path, source)


def test_a_suite_names_no_code(tmp_path):
    with pytest.raises(SuiteError, match=r"saes\.0\.spec: .*data only"):
        language_suite(tmp_path, saes=[{"key": "a", "spec": "python:os:system"}])


def test_the_digest_of_a_language_suite_covers_where_it_measures(tmp_path):
    usual = language_suite(tmp_path)
    others = [
        language_suite(tmp_path, {"first_position": 2}),
        language_suite(tmp_path, {"place": {"context": 9, "prepend_bos": True}}),
        language_suite(tmp_path, {"tokens": {"calibration": 801, "test": 80}}),
        language_suite(tmp_path, steps={"finest": 0.125, "octaves": 4}),
    ]
    assert len({usual.digest, *(other.digest for other in others)}) == 5
    entry = {"key": "a", "spec": "baseline:pca", "place": {"hook": "blocks.1.hook_resid_pre"}}
    assert language_suite(tmp_path, saes=[entry]).digest == usual.digest


def test_code_in_a_suite_is_refused_and_not_run(folder, tmp_path):
    target = tmp_path / "ran"
    path = f"!!python/object/apply:pathlib.Path ['{target}']"
    (folder / "suite.yaml").write_text(f"name: !!python/object/apply:pathlib.Path.touch [{path}]")
    with pytest.raises(SuiteError, match="data only"):
        load_suite(folder)
    assert not target.exists()


def test_not_yaml_not_a_mapping(folder):
    for text, message in (
        ("a: [", "not valid YAML"),
        ("- 1", "not a list"),
        ("\xff", "suite.yaml"),
    ):
        (folder / "suite.yaml").write_bytes(text.encode("latin-1"))
        with pytest.raises(SuiteError, match=message):
            load_suite(folder)


def test_files_stay_inside_the_folder(folder):
    suite = load_suite(folder)
    assert suite.path("images.npy.xz").is_file()
    with pytest.raises(SuiteError, match="outside"):
        suite.path("../secret")
    with pytest.raises(SuiteError, match="does not exist"):
        suite.path("nothing.npy.xz")
