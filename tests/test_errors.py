"""What messages suggest, and what they put the blame on."""

from weakref import ref

import numpy as np
import pytest
import safetensors.torch
import torch

from mdlbench.adapters import checkpoint
from mdlbench.bilinear import network
from mdlbench.cli import app, main
from mdlbench.errors import (
    CheckpointError,
    CoderError,
    HubError,
    MemoryShortageError,
    heed_shortage,
    nearest_paths,
    readable,
    reason,
    shortage,
)
from mdlbench.extensions.foreign import blamed
from mdlbench.papers.bilinear_language import gated
from mdlbench.scoring import evaluation
from mdlbench.sources.language import cut, load, text
from mdlbench.suite.artefact import artefact
from mdlbench.training import claimed

GEMMA = [
    f"layer_{layer}/width_{width}/average_l0_{l0}"
    for layer, width, l0 in [(2, "16k", 53), (2, "65k", 70), (12, "16k", 70), (20, "16k", 71)]
]


@pytest.mark.parametrize(
    ("path", "choices", "expected"),
    [
        ("layer_2/width_16k/average_l0_70", GEMMA, GEMMA[0]),
        ("layer_20/width_16k/average_l0_70", GEMMA[:1] + GEMMA[3:], GEMMA[3]),
        ("b/cfg.json", ["a/cfg.json", "b.json"], "a/cfg.json"),
        (
            "layers.3/cfg.json",
            ["exp/layers.3/cfg.json", "layers.33/sae.pt"],
            "exp/layers.3/cfg.json",
        ),
        ("blocks.8.hook_resid_post", ["blocks.8.hook_resid_pre", "x"], "blocks.8.hook_resid_pre"),
        ("resjb", ["gpt2-small-res-jb", "zzz"], "gpt2-small-res-jb"),
    ],
)
def test_paths_are_compared_by_their_segments(path: str, choices: list[str], expected: str) -> None:
    assert nearest_paths(path, choices, 3)[0] == expected


def test_what_is_like_nothing_is_not_suggested() -> None:
    assert nearest_paths("a/b", ["xyz/uvw", "q"], 3) == []
    assert nearest_paths("a/b", [], 3) == []


def test_words_longer_than_any_path_are_cut():
    path = "/" + "folder/" * 100
    assert readable(f"{path}: no {'x' * 5000}, {'y' * 1001}.") == (
        f"{path}: no {'x' * 1000}… {'y' * 1000}…"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/path"), "no such file or directory"),
        (OSError("a FIFO, not a regular file"), "a FIFO, not a regular file"),
        (ValueError("Not JSON\nat all"), "Not JSON"),
    ],
)
def test_a_reason_repeats_neither_number_nor_path(error: Exception, said: str) -> None:
    assert reason(error) == said


ON_A_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


def raising(error: Exception):
    def work(*args: object, **kwargs: object) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("take", "said"),
    [
        (lambda: torch.empty(10**15), "you tried to allocate 4000000000000000 bytes"),
        (lambda: np.empty(10**15), "Unable to allocate"),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried")), "CUDA out of memory"),
        (raising(RuntimeError("CUDA error: out of memory\nmore")), "CUDA error: out of memory;"),
        (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")), "CUBLAS_STATUS_ALLOC"),
        (raising(RuntimeError("unable to mmap 8 bytes: Cannot allocate memory (12)")), "mmap 8"),
        (raising(OSError(12, "Cannot allocate memory")), "Cannot allocate memory"),
        (raising(MemoryError()), "MemoryError"),
    ],
)
def test_too_little_memory_is_known_by_what_libraries_raise(take, said):
    with pytest.raises((MemoryError, RuntimeError, OSError)) as raised:
        take()
    found = shortage(raised.value)
    assert isinstance(found, MemoryShortageError)
    assert str(found).startswith("memory does not suffice: ")
    assert "enforce fail" not in str(found)
    assert said in str(found)
    assert str(found).endswith("; free some, or ask for less at once")
    assert shortage(found) is found
    assert shortage(RuntimeError("shapes do not fit")) is None
    assert shortage(CheckpointError("x: a layer 'out of memory' is unknown")) is None


def _of_a_hub_model(path):
    with load._loading_errors("ann/llama"):
        raise ON_A_CPU


def _of_a_dataset(path):
    with text._loading_errors("ann/text"):
        raise ON_A_CPU


def _of_a_cut(path):
    with cut.explained(None, "blocks.0"):
        raise ON_A_CPU


def _of_an_encoder(path):
    with blamed("x: encode failed", CoderError):
        raise ON_A_CPU


def _of_a_suite_s_file(path):
    with artefact(path, "an array"):
        raise ON_A_CPU


def _of_training(path):
    with claimed.reading_checkpoint(path):
        raise ON_A_CPU


@pytest.mark.parametrize(
    "read",
    [
        checkpoint.load_safetensors,
        checkpoint.load_pickle_free,
        network.load_network,
        gated.load_gated,
        _of_a_hub_model,
        _of_a_dataset,
        _of_a_cut,
        _of_an_encoder,
        _of_a_suite_s_file,
        _of_training,
    ],
)
def test_no_file_is_blamed_for_too_little_memory(read, tmp_path, monkeypatch):
    path = tmp_path / "sound"
    path.write_bytes(b"sound")
    for module, name in (
        (safetensors.torch, "load_file"),
        (network, "load"),
        (gated, "load"),
        (checkpoint.archive, "unpacked_bytes"),
    ):
        monkeypatch.setattr(module, name, raising(ON_A_CPU))
    with pytest.raises(MemoryShortageError, match="you tried to allocate"):
        read(path)


def test_a_packaged_model_is_not_blamed_for_too_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "ensure", lambda *args: tmp_path)
    monkeypatch.setattr(load, "_load_converted", raising(ON_A_CPU))
    model = load.PackagedModel.model_construct(package="p", version="1", file="f", sha256="0")
    with pytest.raises(MemoryShortageError, match="you tried to allocate"):
        load._load_packaged(model, torch.float32)


def test_a_damaged_file_is_still_blamed(tmp_path):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="truncated, or not a safetensors file"):
        checkpoint.load_safetensors(path)
    with pytest.raises(HubError), load._loading_errors("ann/llama"):
        raise OSError("no such repository")


def test_an_sae_that_takes_too_much_memory_is_an_expected_failure(monkeypatch):
    monkeypatch.setattr(evaluation, "_evaluate", raising(ON_A_CPU))
    with pytest.raises(MemoryShortageError, match="ask for less at once"):
        evaluation.evaluate_coder(None, None, None)
    monkeypatch.setattr(evaluation, "_evaluate", raising(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        evaluation.evaluate_coder(None, None, None)


def test_a_command_says_that_memory_does_not_suffice_in_one_line(monkeypatch, capfd):
    monkeypatch.setattr(app, "app", raising(ON_A_CPU))
    with pytest.raises(SystemExit) as ended:
        main._run()
    assert ended.value.code == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("mdlbench: memory does not suffice: DefaultCPUAllocator: can't allocate")
    monkeypatch.setattr(app, "app", raising(RuntimeError("a mistake of ours")))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main._run()


def test_what_a_failed_attempt_held_is_let_go():
    class Held:
        pass

    def encode():
        held = Held()
        seen.append(ref(held))
        raise ON_A_CPU.with_traceback(None)

    def attempt():
        try:
            encode()
        except RuntimeError as error:
            heed_shortage(error)

    seen: list[ref[Held]] = []
    with pytest.raises(MemoryShortageError) as kept:
        attempt()
    assert kept.value.__cause__ is ON_A_CPU
    assert seen[0]() is None
