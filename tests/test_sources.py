"""Sources: found by their kind, in the tree or in a package; read by ranges of blocks."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mdlbench.errors import MdlbenchError, UsageError
from mdlbench.extensions import plugins
from mdlbench.extensions.plugins import Kind, Plugin
from mdlbench.scoring.suite_run import Failed, Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources import images as image_source
from mdlbench.sources import kinds
from mdlbench.sources import superposed as superposed_source
from mdlbench.sources import synthetic as synthetic_source
from mdlbench.sources.language import source as language_source
from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.open import Opener
from mdlbench.suite.kinds import built_in_kinds, config_class
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from tests.documentation import REPOSITORY, fences
from tests.quick import MDLBENCH, served
from tests.test_registry import PLUGIN, plugin, run_python
from tests.tiny import tiny_suite
from tests.tiny_language import CONTEXT, contexts, decoder

__all__ = ["plugin"]

TINY = {
    "name": "small",
    "title": "Positive random numbers",
    "source": {"kind": "tiny", "width": 6, "n_tokens": 300},
    "steps": {"finest": 0.0625, "octaves": 5},
    "tolerances": [{"metric": "fvu", "epsilons": [0.1, 0.5]}],
    "headline": {"metric": "fvu", "epsilon": 0.5},
    "replicates": 100,
    "saes": [
        {"key": "pca", "spec": "baseline:pca"},
        {"key": "kmeans", "spec": "baseline:kmeans?k=8"},
        {"key": "mean", "spec": "baseline:mean"},
    ],
}


# --- a package's source -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A suite of an installed package's source, and a results folder with its SAEs' records."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(yaml.safe_dump(TINY))

    def mdlbench(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(plugin), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [*MDLBENCH, *arguments],
            cwd=folder,
            env=served(os.environ | {"PYTHONPATH": path}),
            capture_output=True,
            text=True,
            check=False,
        )

    run = mdlbench("eval", "--suite", "small.yaml", "-o", "out")
    assert run.returncode == 0, run.stderr
    return SimpleNamespace(folder=folder, mdlbench=mdlbench)


def record(small, name):
    (path,) = (small.folder / "out" / "records").glob(f"{name}-*.json")
    return json.loads(path.read_text())


def test_saes_are_scored_on_a_packages_source(small):
    pca, mean = record(small, "pca"), record(small, "mean")
    assert pca["site"] == Site(hook="tiny").model_dump(mode="json", exclude_none=True)
    assert pca["n_tokens"] == {"calibration": 300, "test": 300}
    calibration, test = np.random.default_rng(0).exponential(size=(2, 300, 6))
    assert pca["floor"]["mse"] == pytest.approx(0, abs=1e-12)
    off = ((test - calibration.mean(axis=0)) ** 2).sum() / ((test - test.mean(axis=0)) ** 2).sum()
    assert mean["floor"]["fvu"] == pytest.approx(off, rel=1e-5)
    logit = test.sum(axis=1) - 6
    assert pca["floor"]["ce"] == pytest.approx(np.log1p(np.exp(-np.abs(logit))).mean(), rel=1e-5)


def test_records_of_a_packages_source_are_ranked_and_validated(small):
    ranked = small.mdlbench("leaderboard", "out", "-o", "board")
    assert ranked.returncode == 0, ranked.stderr
    table = (small.folder / "board" / "table.md").read_text()
    assert "| baseline | pca | pca | 6 |" in table
    assert all(f" {key} |" in table for key in ("kmeans", "mean"))
    valid = small.mdlbench("validate", "out", "--suite", "small.yaml")
    assert (valid.returncode, valid.stdout.count(": valid")) == (0, 3)


FAILING = """
from typing import ClassVar, Literal
from mdlbench.suite.site import Site
from mdlbench_tiny.source import Tiny, TinyConfig, TinyOpener

def fails(method):
    def failing(*_, **__):
        {body}
    return failing

class FailingConfig(TinyConfig):
    opener: ClassVar[str] = "failing_source:FailingOpener"
    kind: Literal["failing"]

class FailingOpener(TinyOpener):
    def open(self, site):
        if site.hook == "tiny":
            return Tiny(self.config, self.setting)
        if site.hook == "open":
            fails("open")()
        failing = type("Failing", (Tiny,), {{site.hook: fails(site.hook)}})
        source = failing(self.config, self.setting)
        source.site, source.hook = site, site.hook
        return source

    def site_of(self, origin, place, name):
        if name == "site_of":
            fails("site_of")()
        return Site(hook=name)
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [("import sys; sys.exit(0)", "SystemExit: 0"), ("raise KeyError(method)", "KeyError: '{}'")],
)
def test_a_packages_source_that_fails_at_a_site_fails_there_alone(
    body, said, plugin, tmp_path, monkeypatch
):
    """Wherever it fails, even by ending the process, the SAEs of other sites are scored."""
    (tmp_path / "failing_source.py").write_text(FAILING.format(body=body))
    for folder in (tmp_path, plugin):
        monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.startswith("failing_source")]:
        del sys.modules[name]
    found = Plugin("failing", "failing_source:FailingConfig", distribution="failing")
    others = Kind.plugins
    monkeypatch.setattr(
        Kind, "plugins", lambda self: [found] if self.group == "mdlbench.sources" else others(self)
    )
    methods = ["open", "site_of", "n_blocks", "blocks", "splice"]
    saes = [{"key": name, "spec": "baseline:mean"} for name in [*methods, "tiny"]]
    source = TINY["source"] | {"kind": "failing"}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(TINY | {"source": source, "saes": saes}))
    opener = Opener(load_suite(tmp_path / "suite.yaml"))
    outcomes = list(run(opener, targets(opener.suite, [], None), tmp_path / "out"))
    failed = {o.target.name: o.message for o in outcomes if isinstance(o, Failed)}
    seen_in = {"splice": "clean_ce"}  # that calls it
    assert failed == {
        name: f"{name}: source kind 'failing': {seen_in.get(name, name)} failed: "
        f"{said.format(name)}"
        for name in methods
    }
    assert [o.target.name for o in outcomes if isinstance(o, Scored)] == ["tiny"]


REFUSED = """
import yaml
from pathlib import Path
from tempfile import TemporaryDirectory
from mdlbench.errors import MdlbenchError
from mdlbench.suite.load import load_suite

def refusal(**source):
    Path("suite.yaml").write_text(yaml.safe_dump({**CONTENT, "source": source}))
    try:
        return type(load_suite("suite.yaml").source).__name__
    except MdlbenchError as error:
        return f"{type(error).__name__}: {error}"

print(refusal(kind="tony", width=6, n_tokens=300))
print(refusal(kind="tiny", width=0, n_tokens=300))
print(refusal(kind="tiny", widht=6, width=6, n_tokens=300))
print(refusal(kind="lost"))
print(refusal(kind="odd"))
print(refusal(kind="images", width=6, n_tokens=300))
"""


def test_what_is_wrong_with_a_packages_source_is_one_sentence(plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_python(f"CONTENT = {TINY!r}\n{REFUSED}", plugin, REPOSITORY)
    said = re.sub(r"suite\.yaml, line \d+: ", "suite.yaml: ", run.stdout)
    unknown, bad, misspelt, lost, odd, shadow = said.splitlines()
    assert unknown == (
        "SuiteError: suite.yaml: source: unknown source kind 'tony'. Did you mean 'tiny'? "
        "Known: images, language, lost, odd, superposed, synthetic, tiny."
    )
    assert bad == "SuiteError: suite.yaml: source.width: Input should be greater than 0"
    assert misspelt.startswith("SuiteError: suite.yaml: source.widht: unknown key. Did you mean 'w")
    assert lost == (
        "SuiteError: suite.yaml: source: source kind 'lost' of package 'mdlbench-tiny' cannot be "
        "imported from 'mdlbench_tiny.absent:LostConfig': ModuleNotFoundError: No module named "
        "'mdlbench_tiny.absent'"
    )
    assert odd == (
        "SuiteError: suite.yaml: source: source kind 'odd' of package 'mdlbench-tiny': "
        "'mdlbench_tiny.source:TinyOpener' is no SourceConfig"
    )
    assert shadow.startswith("SuiteError: suite.yaml: source.images: Field required")


def test_the_page_shows_the_package_that_is_tested():
    page = fences(REPOSITORY / "docs" / "write-a-suite.md")
    (shown,) = (fence for fence in page if fence.file == "mdlbench-tiny/mdlbench_tiny/source.py")
    module = PLUGIN / "mdlbench_tiny" / "source.py"
    assert shown.content == f"# {shown.file}\n{module.read_text()}"


# --- a source in the tree -----------------------------------------------------------------------


def test_every_built_in_kind_has_a_config_and_an_opener():
    assert built_in_kinds() == ["images", "language", "superposed", "synthetic"]
    names = [config_class(kind).__name__ for kind in built_in_kinds()]
    assert names == ["ImagesConfig", "LanguageConfig", "SuperposedConfig", "SyntheticConfig"]


def test_suites_are_read_without_torch():
    code = (
        "import sys; from mdlbench.suite.load import load_suite, suite_names;"
        "print(sorted({load_suite(name).source.kind for name in suite_names()}));"
        "print('torch' in sys.modules)"
    )
    kinds_found = ["images", "language", "superposed", "synthetic"]
    assert run_python(code, REPOSITORY).stdout == f"{kinds_found}\nFalse\n"


def test_a_source_in_the_tree_is_one_file(tmp_path, monkeypatch):
    text = (PLUGIN / "mdlbench_tiny" / "source.py").read_text()
    (tmp_path / "tiny.py").write_text(
        text.replace("mdlbench_tiny.source", f"{kinds.__name__}.tiny") + "CONFIG = TinyConfig\n"
    )
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    monkeypatch.setattr(plugins, "_built_in", plugins._built_in.__wrapped__)
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(TINY))
    opener = Opener(load_suite(tmp_path))
    source = opener.open(opener.site_of())
    assert (source.site, source.n_tokens["test"]) == (Site(hook="tiny"), 300)
    assert "tiny" in built_in_kinds()


def test_an_opener_that_is_none_is_refused(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path)
    monkeypatch.setattr(type(suite.source), "opener", "mdlbench.sources.images:Images")
    with pytest.raises(
        MdlbenchError, match=r"^source kind 'images': .*Images' is no SourceOpener$"
    ):
        Opener(suite)
    monkeypatch.setattr(type(suite.source), "opener", "mdlbench.sources.imges:Images")
    with pytest.raises(
        MdlbenchError, match=r"^source kind 'images' cannot be imported from .*imges"
    ):
        Opener(suite)


def test_two_packages_with_one_kind_are_named(tmp_path, monkeypatch):
    for package in ("one", "two"):
        folder = tmp_path / f"{package}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(f"[mdlbench.sources]\nsame = {package}:Config\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_installed", plugins._installed.__wrapped__)
    with pytest.raises(
        MdlbenchError, match=r"'same' is brought by one \(one:Config\) and two \(two:Config\); un"
    ):
        config_class("same")
    with pytest.raises(UsageError, match=r"unknown source kind 'sane'\. Did you mean 'same'"):
        config_class("sane")


# --- blocks by range ----------------------------------------------------------------------------


def images():
    with TemporaryDirectory() as folder:
        return image_source.Images(tiny_suite(Path(folder)))


def synthetic():
    config = config_class("synthetic").model_validate(
        {
            "kind": "synthetic",
            "d": 4,
            "tokens": {"calibration": 500, "test": 330},
            "features": [{"kind": "lone", "probability": 0.4}],
            "noise": 0.1,
        }
    )
    return synthetic_source.Synthetic(config)


def language():
    splits = {"calibration": contexts(5, seed=1), "test": contexts(11, seed=2)}
    site = Site(hook="blocks.1.hook_resid_mid", hook_out="blocks.1.hook_mlp_out", context=CONTEXT)
    return language_source.Language(tiny_model(), splits, site)


@cache
def tiny_model():
    return decoder()


def features():
    content = {
        "kind": "superposed",
        "d": 4,
        "features": 6,
        "tokens": {"calibration": 500, "test": 330},
        "rates": {"most": 0.4, "least": 0.1},
        "read_out": 3,
    }
    return superposed_source.Superposed(config_class("superposed").model_validate(content))


SOURCES = {
    "images": images,
    "synthetic": synthetic,
    "language": language,
    "superposed": features,
}


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_source, "BLOCK_IMAGES", 70)
        patch.setattr(synthetic_source, "BLOCK_TOKENS", 70)
        patch.setattr(superposed_source, "BLOCK_TOKENS", 70)
        patch.setattr(superposed_source, "RUN_TOKENS", 7)
        patch.setattr(language_source, "BLOCK_TOKENS", 2 * CONTEXT + 1)
        yield


@cache
def opened(kind):
    """A source that every example reads, in whatever order."""
    return SOURCES[kind]()


@cache
def whole(kind, split):
    """All blocks, of a source that is asked for nothing else."""
    return list(SOURCES[kind]().blocks(split))


def assert_same(found, expected):
    assert [block.index for block in found] == [block.index for block in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.document, other.document)
        assert np.array_equal(one.activations, other.activations)
        assert np.array_equal(one.given, other.given)


bounds = st.one_of(st.none(), st.integers(0, 13))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("split", ["calibration", "test"])
@given(start=st.integers(0, 13), stop=bounds)
def test_a_range_has_the_blocks_of_a_whole_pass(kind, split, start, stop):
    expected = whole(kind, split)
    assert_same(list(opened(kind).blocks(split, start, stop)), expected[start:stop])


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("split", ["calibration", "test"])
def test_blocks_are_counted_and_hold_every_document_once(kind, split):
    blocks, source = whole(kind, split), opened(kind)
    assert len(blocks) == source.n_blocks(split) > 2
    assert [block.index for block in blocks] == list(range(len(blocks)))
    documents = np.concatenate([np.unique(block.document) for block in blocks])
    assert np.array_equal(documents, np.arange(source.n_documents[split]))
    assert sum(len(block.document) for block in blocks) == source.n_tokens[split]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_splice_in_a_range_costs_what_it_costs_in_a_whole_pass(kind):
    source, fresh = SOURCES[kind](), SOURCES[kind]()
    expected = [source.splice(b, b.activations * 0.5) for b in source.blocks("test")]
    clean = [source.clean_ce(b) for b in source.blocks("test")]
    for index in (2, 0):
        (block,) = fresh.blocks("test", index, index + 1)
        loss = fresh.splice(block, block.activations * 0.5)
        assert np.array_equal(loss.ce, expected[index].ce)
        assert np.array_equal(loss.kl, expected[index].kl)
        assert np.array_equal(fresh.clean_ce(block), clean[index])


def test_a_language_source_computes_each_block_once_and_only_those_that_are_asked_for(monkeypatch):
    captured = []
    capture = DecoderModel.capture

    def counted(model, tokens, hooks):
        captured.append(len(tokens))
        return capture(model, tokens, hooks)

    source = language()
    monkeypatch.setattr(DecoderModel, "capture", counted)
    assert [block.index for block in source.blocks("test", 2, 4)] == [2, 3]
    assert captured == [2, 2]
    assert [block.index for block in source.blocks("test", 3)] == [3, 4, 5]
    assert captured == [2, 2, 2, 1]
    assert len(list(source.blocks("test"))) == 6
    assert captured == [2, 2, 2, 1, 2, 2]
    list(source.blocks("test"))
    assert len(captured) == 6
