"""Coders that break their promises: each is named, and none brings the others down."""

import dataclasses
import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdlbench.adapters import checked
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import Origin
from mdlbench.errors import CoderError, OutputError
from mdlbench.scoring import suite_run as runs
from mdlbench.scoring.targets import Target, targets
from mdlbench.sources.open import Opener
from tests.tiny import N_TEST, tiny_suite, write_sae


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return load_coder(str(write_sae(tmp_path_factory.mktemp("sae"))))


class Broken:
    """An honest coder with one method replaced."""

    def __init__(self, honest, **replaced):
        self._honest, self._replaced = honest, replaced

    def __getattr__(self, name):
        return self._replaced.get(name) or getattr(self._honest, name)


def altered(honest, **columns):
    """An encode whose triplets are changed column by column."""

    def encode(x):
        latents, side = honest.encode(x)
        changed = {name: change(getattr(latents, name)) for name, change in columns.items()}
        return dataclasses.replace(latents, **changed), side

    return encode


def poisoned(values):
    return np.where(np.arange(len(values)) % 3 == 0, np.float32("nan"), values).astype(np.float32)


ENCODES = {
    "raises": (lambda h: lambda x: 1 / 0, "ZeroDivisionError"),
    "tensor": (lambda h: lambda x: (x, np.zeros((len(x), 0), np.float32)), "SparseLatents"),
    "out of range": (lambda h: altered(h, latent=lambda c: c + np.int32(100)), "in range"),
    "negative": (lambda h: altered(h, token=lambda c: c - np.int32(1)), "in range"),
    "unsorted": (lambda h: altered(h, latent=lambda c: c[::-1].copy()), "sorted"),
    "repeated": (lambda h: altered(h, latent=np.zeros_like), "each once"),
    "nan": (lambda h: altered(h, value=poisoned), "NaN"),
    "short side": (lambda h: lambda x: (h.encode(x)[0], np.zeros((3, 0), np.float32)), "side"),
    "free side": (lambda h: lambda x: (h.encode(x)[0], x.numpy()), "cost no bits"),
}
DECODES = {
    "raises": (lambda h: lambda z, side: [][0], "IndexError"),
    "numpy": (lambda h: lambda z, side: h.decode(z, side).numpy(), "expected a tensor"),
    "narrow": (lambda h: lambda z, side: h.decode(z, side)[:, :10], "shape"),
    "one column": (lambda h: lambda z, side: h.decode(z, side)[:, :1], "shape"),
    "short": (lambda h: lambda z, side: h.decode(z, side)[:5], "shape"),
}
X = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fault", ENCODES)
def test_a_faulty_encode_is_named(honest, fault):
    make, message = ENCODES[fault]
    with pytest.raises(CoderError, match=f"{honest.spec.name}: encode.*{message}"):
        checked.encode(Broken(honest, encode=make(honest)), X)


@pytest.mark.parametrize("fault", DECODES)
def test_a_faulty_decode_is_named(honest, fault):
    make, message = DECODES[fault]
    latents, side = checked.encode(honest, X)
    with pytest.raises(CoderError, match=f"{honest.spec.name}: decode.*{message}"):
        checked.decode(Broken(honest, decode=make(honest)), latents, side, torch.device("cpu"))


def test_an_honest_coder_passes_unchanged(honest):
    latents, side = checked.encode(honest, X)
    assert np.array_equal(latents.to_dense(), honest.encode(X)[0].to_dense())
    found = checked.decode(honest, latents, side, torch.device("cpu"))
    assert torch.equal(found, honest.decode(latents, side))
    wide = Broken(honest, decode=lambda z, s: honest.decode(z, s).double().requires_grad_())
    assert checked.decode(wide, latents, side, torch.device("cpu")).dtype == torch.float32
    assert checked.decoder_rows(honest).shape == (24, 64)
    with pytest.raises(CoderError, match=r"decoder_rows.*expected rows of shape \(24, 64\)"):
        checked.decoder_rows(Broken(honest, decoder_rows=lambda: np.zeros((3, 64))))


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    suite = tiny_suite(tmp_path / "suite")
    opener, folder = Opener(suite), tmp_path / "out"
    wanted = targets(suite, ["mean", "pca"], adapter=None)
    outcomes = runs.run(opener, wanted, folder)
    first = next(outcomes)
    record = (folder / "records").glob("mean*.json")
    finished = next(record).read_bytes()

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OutputError, match="no space left"):
        next(outcomes)
    monkeypatch.undo()
    files = sorted(path.name for path in (folder / "records").iterdir())
    assert len(files) == 1
    assert (folder / "records" / files[0]).read_bytes() == finished
    again = list(runs.run(opener, wanted, folder))
    assert [outcome.reused for outcome in again] == [True, False]
    assert again[0].record == first.record


def test_an_unreadable_path_fails_alone(tmp_path):
    suite = tiny_suite(tmp_path / "suite")
    unreadable = Target(NamedCoder("saelens:" + "x" * 300, tmp_path))
    wanted = [unreadable, *targets(suite, ["mean"], None)]
    failed, scored = runs.run(Opener(suite), wanted, tmp_path / "out")
    assert "File name too long" in failed.message
    assert scored.record.name == "mean"


def test_a_run_scores_the_others(honest, tmp_path, monkeypatch):
    """One fails while it is encoded, one while it is decoded, one on a fact no record can hold."""
    unspeakable = dataclasses.replace(honest.spec, details={"x": np.float64("nan")})
    huge = Broken(honest, decode=lambda z, side: torch.full_like(honest.decode(z, side), 3e38))
    coders = {
        "raises": Broken(honest, encode=lambda x: 1 / 0),
        "huge": huge,
        "unspeakable": Broken(honest, spec=unspeakable),
        "unrounded": Broken(honest, with_decoder_precision=lambda bits: 1 / 0),
        "honest": honest,
    }
    found = {
        name: SimpleNamespace(identity=honest.spec.identity, coder=coder)
        for name, coder in coders.items()
    }
    monkeypatch.setattr(NamedCoder, "at", lambda named, *args: found[named.spec])
    monkeypatch.setattr(NamedCoder, "origin", lambda named: Origin())
    opener = Opener(tiny_suite(tmp_path / "suite"))
    wanted = [Target(NamedCoder(name), name) for name in coders]
    outcomes = list(runs.run(opener, wanted, tmp_path / "out"))
    failed = {o.target.name: o.message for o in outcomes if isinstance(o, runs.Failed)}
    assert set(failed) == {"raises", "huge", "unspeakable", "unrounded"}
    assert "ZeroDivisionError" in failed["raises"]
    assert "details" in failed["unspeakable"]
    scored = [o for o in outcomes if isinstance(o, runs.Scored)]
    assert [o.record.name for o in scored] == ["honest"]
    assert scored[0].record.n_tokens.test == N_TEST
