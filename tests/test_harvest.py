"""Training from activations that are kept on disk, against the same held in memory."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mdlbench.cli.app import app
from mdlbench.disk.blocks import ARRAYS
from mdlbench.disk.cache import MANIFEST, kept
from mdlbench.errors import MdlbenchWarning, SourceError, UsageError
from mdlbench.sources.language import opener
from mdlbench.sources.language import source as language
from mdlbench.sources.language.source import Language
from mdlbench.suite.site import Site
from mdlbench.training import rows as rows_module
from mdlbench.training import trainer
from mdlbench.training.config import TrainingConfig
from mdlbench.training.folder import read_log
from mdlbench.training.rows import Rows, training_rows
from mdlbench.training.trainer import train
from tests.crashes import every_crash
from tests.tiny_language import CONTEXT, causal_lm, contexts, counted, decoder, language_suite

HALF = torch.float16
HOOK = "blocks.1.hook_resid_post"
SPLITS = {"calibration": contexts(8, seed=1), "test": contexts(4, seed=2)}
CONFIG = TrainingConfig(
    width=12, k=3, epochs=3, batch_size=16, warm_up_steps=2, patience=None, held="float16"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Blocks of three documents, the last of them shorter; a cache that nobody has used."""
    monkeypatch.setattr(language, "BLOCK_TOKENS", 3 * CONTEXT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def opened(model=None, cache=True, splits=SPLITS, hook=HOOK):
    site = Site(hook=hook, first_position=2)
    return Language(model or decoder(), splits, site, cache=cache)


def harvested(source, dtype=HALF):
    return list(source.harvest("calibration", dtype))


def entries():
    return {held.folder.name for held in kept().held("activations")}


def contents(name=ARRAYS):
    return {held.folder.name: (held.folder / name).read_bytes() for held in kept().held()}


@pytest.mark.parametrize("dtype", [HALF, torch.float32])
@pytest.mark.parametrize("hook", [HOOK, "blocks.1.attn.hook_z"])
def test_a_harvest_is_the_blocks_rounded(dtype, hook):
    first, later = opened(hook=hook), opened(hook=hook)
    expected = [block.activations.to(dtype) for block in first.blocks("calibration")]
    for source in (first, later):
        found = harvested(source, dtype)
        assert len(found) == 3
        for one, two in zip(found, expected, strict=True):
            assert one.dtype == dtype
            assert torch.equal(one, two)


def test_nothing_is_harvested_without_a_cache():
    assert opened(cache=False).harvest("calibration", HALF) is None
    assert entries() == set()


def test_a_block_is_made_once_and_only_as_far_as_the_hook():
    calls: list[int] = []
    harvested(opened(decoder(counted(causal_lm(), calls))))
    assert calls == [0, 1] * (1 + 3), "a context for the widths, then three blocks"
    again = decoder(counted(causal_lm(), calls))
    source = opened(again)
    calls.clear()
    harvested(source)
    assert calls == []
    assert len(entries()) == 3


def test_no_more_blocks_are_made_than_training_takes():
    calls: list[int] = []
    source = opened(decoder(counted(causal_lm(), calls)))
    whole = torch.cat(harvested(opened()))
    kept().clear()
    first = training_rows(source, HALF, 30)
    assert 0 < calls.count(0) < 3
    assert torch.equal(first[torch.arange(30)], whole[:30])
    assert len(first) == 30


def test_another_model_text_hook_or_precision_is_another_harvest():
    """Each keeps its own, and finds it again; a text that is changed in one block, but that one."""
    tokens = SPLITS["calibration"].tokens.copy()
    tokens[0, 5] ^= 1
    changed = SPLITS | {"calibration": SPLITS["calibration"]._replace(tokens=tokens)}
    n_entries = 0
    for new, source, dtype in (
        (3, lambda: opened(), HALF),
        (3, lambda: opened(decoder(causal_lm(seed=1))), HALF),
        (3, lambda: opened(hook="blocks.1.hook_resid_pre"), HALF),
        (3, lambda: opened(), torch.float32),
        (1, lambda: opened(splits=changed), HALF),
    ):
        n_entries += new
        for _ in range(2):
            harvested(source(), dtype)
            assert len(entries()) == n_entries


def test_killed_at_any_change_of_a_file_it_goes_on_to_the_same_bits():
    model, splits = decoder(), SPLITS | {"calibration": contexts(5, seed=1)}

    def harvest():
        return harvested(opened(model, splits=splits))

    whole = harvest()
    files = contents()
    kept().clear()
    n_crashes = 0
    for _ in every_crash(harvest):
        n_crashes += 1
        left = contents()
        for one, two in zip(harvest(), whole, strict=True):
            assert torch.equal(one, two)
        assert contents() == files
        assert left.items() <= files.items()
        kept().clear()
    assert n_crashes > 10


@pytest.mark.parametrize("name", [ARRAYS, MANIFEST])
def test_an_altered_block_is_made_again(name):
    whole = harvested(opened())
    copies = [part.clone() for part in whole]
    files = contents()
    folder = kept().held()[1].folder
    altered = bytearray((folder / name).read_bytes())
    altered[len(altered) // 2] ^= 1
    shutil.copy(folder / name, folder.parent / "aside")
    (folder / name).write_bytes(altered)
    with pytest.warns(MdlbenchWarning, match="damaged"):
        found = harvested(opened())
    assert contents() == files
    for one, two in zip(found, copies, strict=True):
        assert torch.equal(one, two)


def test_what_the_cache_cannot_keep_is_held(monkeypatch):
    expected = harvested(opened())
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"] + "-small")
    monkeypatch.setenv("MDLBENCH_CACHE_LIMIT", "0")
    for one, two in zip(harvested(opened()), expected, strict=True):
        assert torch.equal(one, two)


def test_no_file_stays_open_however_many_blocks_are_mapped():
    before = len(list(Path("/proc/self/fd").iterdir()))
    found = harvested(opened(splits=SPLITS | {"calibration": contexts(60, seed=1)}))
    assert len(found) == 20
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


def test_what_half_precision_cannot_hold_is_refused():
    model = causal_lm()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(1e7)
    source = opened(decoder(model), hook="blocks.0.hook_resid_pre")
    with pytest.raises(SourceError, match=r"too large for torch\.float16; write `held: float32`"):
        harvested(source)
    assert len(harvested(source, torch.float32)) == 3


# --- rows -----------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_rows_are_one_matrix_however_they_are_parted(sizes, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(sum(sizes), 5, generator=generator).half()
    parted, one = Rows(whole.split(sizes)), Rows([whole])
    chosen = torch.randint(len(whole), (9,), generator=generator)
    assert len(parted) == len(whole)
    assert torch.equal(parted[chosen], whole[chosen])
    assert parted.sha256() == one.sha256()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "CHUNK", chunk)
        assert torch.equal(parted.mean(), one.mean())
        torch.testing.assert_close(
            parted.mean().double(), whole.double().mean(0), atol=1e-6, rtol=0
        )
        norms = whole.double().norm(dim=1).mean().item()
        assert float(parted.mean_norm()) == pytest.approx(norms, rel=1e-6)


def test_means_of_one_chunk_are_torchs_own_bit_for_bit():
    """So weights that were trained before there were chunks stay the same."""
    whole = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0)).half()
    rows = Rows([whole])
    assert torch.equal(rows.mean(), whole.mean(dim=0, dtype=torch.float32))
    assert torch.equal(rows.mean_norm(), whole.norm(dim=1, dtype=torch.float32).mean())


# --- training -------------------------------------------------------------------------------


def trained(folder):
    log = [epoch[:-1] for epoch in read_log(folder / "log.csv")]
    files = ("sae_weights.safetensors", "sparsity.safetensors", "cfg.json")
    settings = json.loads((folder / "training.json").read_text())["settings"]
    return [log, settings, *((folder / name).read_bytes() for name in files)]


@pytest.mark.parametrize("tokens", [None, 40])
def test_from_disk_it_trains_as_from_memory_bit_for_bit(tmp_path, tokens):
    config = replace(CONFIG, tokens=tokens)
    memory = train(config, opened(cache=False), tmp_path / "memory", progress=False)
    disk = train(config, opened(), tmp_path / "disk", progress=False)
    assert len(entries()) > 2
    assert trained(disk) == trained(memory)
    assert trained(disk)[1]["tokens"] == tokens


def test_the_first_tokens_are_those_that_are_trained_on(tmp_path):
    """As if the text had no more of them."""
    whole = torch.cat([block.activations for block in opened().blocks("calibration")])
    n = 40
    found = training_rows(opened(cache=False), torch.float32, n)
    assert torch.equal(found[torch.arange(n)], whole[:n])
    with pytest.raises(UsageError, match=r"has 80 tokens, fewer than the 1,000 to train on"):
        training_rows(opened(), HALF, 1000)


def test_a_pass_in_parts_is_the_pass(tmp_path):
    """The same tokens, each once, in parts that a killed run goes on with."""
    seen = []

    class Noted(Rows):
        def __getitem__(self, rows):
            seen.append(rows.clone())
            return super().__getitem__(rows)

    config = replace(CONFIG, epochs=4, epochs_per_pass=2, batch_size=20, keep="last")
    source = opened(cache=False)
    activations = Noted([torch.cat(harvested(opened()))])
    assert len(activations) == 80
    run = trainer._Run(
        config, source, activations, trainer.RunFolder(tmp_path / "run", config, activations)
    )
    seen.clear()
    while not run.finished:
        run.epoch()
    assert len(seen) == 8
    passes = [torch.cat(seen[:4]), torch.cat(seen[4:])]
    for one in passes:
        assert one.sort().values.tolist() == list(range(80))
    assert not torch.equal(*passes)
    assert [epoch.epoch for epoch in run.history.epochs] == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="batch_size 41 exceeds the 40 tokens of an epoch"):
        train(replace(config, batch_size=41), source, tmp_path / "large", progress=False)


def test_a_long_epoch_is_followed_by_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "LONG_EPOCH", 0.0)
    seen = []
    save = trainer.RunFolder.save_checkpoint
    monkeypatch.setattr(
        trainer.RunFolder,
        "save_checkpoint",
        lambda self, *given: (seen.append(1), save(self, *given)),
    )
    train(CONFIG, opened(), tmp_path / "run", progress=False)
    assert len(seen) == CONFIG.epochs - 1


def test_the_command_trains_from_a_text_of_ones_own(tmp_path, monkeypatch):
    """With the cache and without, in either precision of the model; a second run runs no model."""
    calls: list[int] = []
    monkeypatch.setattr(
        opener,
        "load_model",
        lambda config, options, device, dtype: decoder(counted(causal_lm(), calls), dtype),
    )
    place = {"hook": HOOK, "context": 8, "prepend_bos": True}
    suite = language_suite(tmp_path / "lm", {"place": place}).folder
    (suite / "zoo.yaml").write_text(
        "shared: {epochs: 2, batch_size: 64, held: float16, tokens: 900, patience: null}\n"
        "saes: {one: {width: 8, k: 2}, two: {width: 12, k: 2}}\n"
    )
    text = tmp_path / "mine.jsonl"
    letters = np.random.default_rng(3).integers(97, 123, size=(40, 100))
    text.write_text("".join(json.dumps({"text": "".join(map(chr, row))}) + "\n" for row in letters))

    def run(folder, *arguments):
        command = ["train", "--suite", suite, "--text", text, "-o", tmp_path / folder, "-q"]
        command += ["--tokens", 2000, *arguments]
        done = CliRunner().invoke(app, list(map(str, command)))
        if done.exception is not None:
            raise done.exception
        return [trained(tmp_path / folder / key) for key in ("one", "two")]

    plain = run("plain")
    assert run("cached", "--cache") == plain
    calls.clear()
    assert run("again", "--cache") == plain
    n_of_test = len(calls)
    rough = run("rough", "--cache", "--dtype", "bfloat16")
    assert rough[0][1]["activations_sha256"] != plain[0][1]["activations_sha256"]
    assert len(calls) > 3 * n_of_test
    (suite / "zoo.yaml").write_text("shared: {tokens: 5000}\nsaes: {one: {width: 8, k: 2}}\n")
    with pytest.raises(UsageError, match=re.escape("give a longer text with --text")):
        run("more", "--cache")
