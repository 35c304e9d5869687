"""Checkpoints that no library wrote: budgets before bytes, and never another error than ours."""

import io
import json
import os
import re
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mdlbench.adapters import checkpoint
from mdlbench.adapters.formats.saelens import adapter as saelens
from mdlbench.adapters.formats.saelens.matching_pursuit import MatchingPursuit
from mdlbench.adapters.load import load_coder
from mdlbench.errors import SHOWN, CheckpointError, MdlbenchError, listed, shown
from tests.test_formats import (
    CLASSES,
    WIDTH,
    D,
    K,
    activations,
    write_gemma,
    write_openai,
    write_sparsify,
    write_trainer,
)

MEGABYTE = 1 << 20


# What a file of torch.save holds


def members_of(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as found:
        return {name: found.read(name) for name in found.namelist()}


def zip_again(file: Path, members: dict[str, bytes], methods: dict[str, int]) -> None:
    with zipfile.ZipFile(file, "w") as new:
        for name, data in members.items():
            new.writestr(name, data, methods.get(name, zipfile.ZIP_STORED))


def the_same(found: dict[str, Any], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), tensor.numpy())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_numbers_of_an_archive_that_was_zipped_again(tmp_path: Path, method: int) -> None:
    """Each member deflated alone, then all; few numbers, so that wrong ones would be finite."""
    file, draw = tmp_path / "ae.pt", torch.Generator().manual_seed(0)
    state = {name: torch.randn(3, generator=draw) for name in ("a", "b", "c")}
    torch.save(state, file)
    members = members_of(file)
    for chosen in [*([name] for name in members), list(members)]:
        zip_again(file, members, dict.fromkeys(chosen, method))
        the_same(checkpoint.load_pickle_free(file), state)


@pytest.mark.parametrize("count", [60, 41, 2**31 - 1])
def test_a_storage_that_claims_more_than_its_member_is_refused(tmp_path: Path, count: int) -> None:
    """Mapped, the numbers after its 40 would be the next member's name."""
    file = tmp_path / "ae.pt"
    torch.save({"a": torch.arange(40.0), "b": torch.zeros(40)}, file)
    members = members_of(file)
    pickled = next(name for name in members if name.endswith("data.pkl"))
    claimed = members[pickled].replace(b"K\x28", b"J" + struct.pack("<i", count))
    zip_again(file, members | {pickled: claimed}, {})
    with pytest.raises(CheckpointError, match=r"ae\.pt: truncated, or not a file of torch\.save"):
        checkpoint.load_pickle_free(file)


def test_a_file_that_is_written_again_does_not_change_what_was_loaded(tmp_path: Path) -> None:
    state = write_trainer(tmp_path / "sae", "AutoEncoder")
    coder, x = load_coder(str(tmp_path / "sae")), activations(20)
    before = coder.encode(x)[0].to_dense()
    with (tmp_path / "sae" / "ae.pt").open("r+b") as file:
        file.write(bytes((tmp_path / "sae" / "ae.pt").stat().st_size))
    np.testing.assert_array_equal(coder.encode(x)[0].to_dense(), before)
    np.testing.assert_array_equal(coder.decoder_rows(), state["decoder.weight"].T.numpy())


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


NOT_NUMBERS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "COO": (lambda t: t.to_sparse(), r"bias is sparse \(torch\.sparse_coo\)"),
    "CSR": (lambda t: t[None].to_sparse_csr(), r"bias is sparse \(torch\.sparse_csr\)"),
    "meta": (lambda t: t.to("meta"), "bias has a shape, but no numbers"),
    "nested": (lambda t: torch.nested.nested_tensor([t, t[:1]]), "bias is nested"),
    "quantised": (quantised, "bias is quantised"),
    "complex": (lambda t: t.to(torch.complex64), r"bias has dtype torch\.complex64, expected"),
    "bool": (lambda t: t > 0, r"bias has dtype torch\.bool, expected floats"),
    "integers": (lambda t: t.to(torch.uint8), r"bias has dtype torch\.uint8, expected floats"),
    "stride 0": (
        lambda t: t[:1].expand(1_600_000_000),
        r"bias has shape \(1600000000,\), but the file holds [\d,]+ bytes",
    ),
    "strides 0": (
        lambda t: t[:1].expand(100_000, 100_000),
        r"bias has shape \(100000, 100000\), but the file holds [\d,]+ bytes",
    ),
    "beyond float32": (lambda t: t.double() + 1e300, "bias: 12 of 12 weights are NaN or infinite"),
    "text": (lambda t: "x" * 100_000, "'bias' is a str, expected a tensor"),
    "number": (lambda t: 10**300, "'bias' is a int, expected a tensor"),
}  # fmt: skip


def test_a_file_of_older_torch_that_claims_more_is_refused(tmp_path: Path) -> None:
    write_old_trainer(tmp_path)
    content = (tmp_path / "ae.pt").read_bytes()
    claimed = content.replace(b"M\xe0\x01", b"J" + struct.pack("<i", 2**31 - 1))
    assert claimed != content
    (tmp_path / "ae.pt").write_bytes(claimed)
    with pytest.raises(CheckpointError, match=r"ae\.pt: truncated, or not a file of torch\.save"):
        load_coder(str(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", NOT_NUMBERS)
@pytest.mark.parametrize("resumable", [False, True])
def test_tensors_that_are_no_numbers_are_named(tmp_path: Path, case: str, resumable: bool) -> None:
    change, message = NOT_NUMBERS[case]
    state = write_trainer(tmp_path, "AutoEncoder")
    state = state | {"bias": change(state["bias"])}
    torch.save({"step": 10, "norm_factor": 1.0, "ae": state} if resumable else state,
               tmp_path / "ae.pt")  # fmt: skip
    with peak_below(4 * MEGABYTE), pytest.raises(CheckpointError, match=rf"ae\.pt: {message}"):
        load_coder(str(tmp_path))


class peak_below:  # noqa: N801
    """Python's own allocations, NumPy's included, stay below a number of bytes."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __enter__(self) -> None:
        tracemalloc.start()

    def __exit__(self, *_: object) -> None:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < self.most


@pytest.mark.parametrize("architecture", ["standard", "group_sparse", "tree"])
def test_nothing_is_made_for_the_sizes_that_a_config_claims(
    tmp_path: Path, architecture: str
) -> None:
    """Tensors say how large an SAE is; a config that says otherwise costs no memory."""
    shapes = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    tensors |= {"threshold": torch.ones(WIDTH), "parents": torch.arange(WIDTH) // 4 - 1}
    kept = {"standard": [], "group_sparse": ["threshold"], "tree": ["threshold", "parents"]}
    tensors = {k: v for k, v in tensors.items() if k in [*shapes, *kept[architecture]]}
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    config = {"architecture": architecture, "d_in": D, "d_sae": 10**9}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with peak_below(4 * MEGABYTE), pytest.raises(CheckpointError, match=r"W_enc.*1000000000"):
        load_coder(f"saelens:{tmp_path}")


def test_a_view_that_shares_numbers_is_what_it_says(tmp_path: Path) -> None:
    """One number that stands for all of a small tensor costs nothing and is right."""
    state = write_trainer(tmp_path, "AutoEncoder")
    torch.save(state | {"bias": torch.tensor([0.25]).expand(D)}, tmp_path / "ae.pt")
    spec_bias = load_coder(str(tmp_path)).decode(*load_coder(str(tmp_path)).encode(
        torch.full((1, D), 0.25)))  # fmt: skip
    torch.save(state | {"bias": torch.full((D,), 0.25)}, tmp_path / "ae.pt")
    coder = load_coder(str(tmp_path))
    np.testing.assert_array_equal(spec_bias, coder.decode(*coder.encode(torch.full((1, D), 0.25))))


def test_a_negated_view_has_its_sign(tmp_path: Path) -> None:
    state = write_trainer(tmp_path, "AutoEncoder")
    torch.save(state | {"bias": torch._neg_view(state["bias"])}, tmp_path / "ae.pt")
    negated = load_coder(str(tmp_path))
    torch.save(state | {"bias": -state["bias"]}, tmp_path / "ae.pt")
    whole, x = load_coder(str(tmp_path)), activations(10)
    np.testing.assert_array_equal(negated.encode(x)[0].to_dense(), whole.encode(x)[0].to_dense())


# Archives of arrays


def bomb(size: int, header: bytes = b"") -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    parts = [packer.compress(header)]
    parts += [packer.compress(bytes(MEGABYTE)) for _ in range(size // MEGABYTE)]
    return b"".join([*parts, packer.flush()])


def array_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, facts)
    return stream.getvalue()


def with_member(file: Path, name: str, packed: bytes, size: int) -> None:
    """A member that is kept deflated, of a size that its directory says."""
    members = {other: data for other, data in members_of(file).items() if other != name}
    with zipfile.ZipFile(file, "w") as new:
        for other, data in members.items():
            new.writestr(other, data)
        new.writestr(name, packed)
        local = new.getinfo(name).header_offset
    data = bytearray(file.read_bytes())
    for start, method, unpacked in ((local, 8, 22), (data.rindex(b"PK\x01\x02"), 10, 24)):
        struct.pack_into("<H", data, start + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", data, start + unpacked, size)
    file.write_bytes(data)


def test_unknown_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gemma(tmp_path)
    with_member(tmp_path / "params.npz", "extra.npy", bomb(100 * MEGABYTE), 100 * MEGABYTE)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("a member is read"))
    with pytest.raises(CheckpointError, match="unknown tensor 'extra'"):
        checkpoint.load_npz(
            tmp_path / "params.npz", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"]
        )


@pytest.mark.parametrize("name", ["params.npz", "ae.pt"])
def test_members_that_unpack_to_too_much_are_not_unpacked(tmp_path: Path, name: str) -> None:
    write_gemma(tmp_path)
    write_trainer(tmp_path, "AutoEncoder")
    size = 200 * MEGABYTE
    header = array_header((size // 4,))
    member = max(members_of(tmp_path / name).items(), key=lambda item: len(item[1]))[0]
    with_member(tmp_path / name, member, bomb(size, header), size + len(header))
    adapter = {"params.npz": "gemma_scope", "ae.pt": "dictionary_learning"}[name]
    with peak_below(4 * MEGABYTE), pytest.raises(CheckpointError) as refused:
        load_coder(f"{adapter}:{tmp_path}")
    assert re.search(
        rf"{name}: .* unpacks to 209,7\d\d,\d+, more than 70,4\d\d,\d+:", str(refused.value)
    )


def test_deflated_weights_of_an_honest_size_are_read(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in write_gemma(tmp_path).items()}
    whole, x = load_coder(f"gemma_scope:{tmp_path}"), activations(20)
    np.savez_compressed(tmp_path / "params.npz", **arrays)
    found = load_coder(f"gemma_scope:{tmp_path}")
    np.testing.assert_array_equal(found.encode(x)[0].to_dense(), whole.encode(x)[0].to_dense())


BAD_ARRAYS: dict[str, tuple[bytes, str]] = {
    "10^12 numbers": (
        array_header((10**6, 10**6)) + bytes(64),
        r"'b_enc\.npy' promises 4,000,000,000,128 bytes and has 192",
    ),
    "fewer": (array_header((3,)) + bytes(16), r"'b_enc\.npy' promises 140 bytes and has 144"),
    "negative": (array_header((-1, -4)) + bytes(16), "a negative number in its shape"),
    "objects": (array_header((2,), "|O") + bytes(16), "Object arrays cannot be loaded"),
    "dates": (array_header((40,), "<M8[s]") + bytes(320), "can't convert np.ndarray"),
    "no array": (b"", "EOF"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_are_what_they_promise(tmp_path: Path, case: str) -> None:
    content, message = BAD_ARRAYS[case]
    write_gemma(tmp_path)
    file = tmp_path / "params.npz"
    zip_again(file, members_of(file) | {"b_enc.npy": content}, {})
    with (
        peak_below(4 * MEGABYTE),
        pytest.raises(CheckpointError, match=rf"params\.npz: .*{message}"),
    ):
        load_coder(f"gemma_scope:{tmp_path}")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["params.npz", "ae.pt"])
def test_two_members_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    write_gemma(tmp_path)
    write_trainer(tmp_path, "AutoEncoder")
    member, data = next(iter(members_of(tmp_path / name).items()))
    with zipfile.ZipFile(tmp_path / name, "a") as found:
        found.writestr(member, data)
    adapter = {"params.npz": "gemma_scope", "ae.pt": "dictionary_learning"}[name]
    with pytest.raises(CheckpointError, match=rf"{name}: .*members .* have the same name"):
        load_coder(f"{adapter}:{tmp_path}")


# Configs


def with_config(folder: Path, text: str) -> Path:
    write_sparsify(folder)
    (folder / "cfg.json").write_text(text)
    return folder


BAD_TEXTS = {
    "nesting": ('{"d_in": ' + "[" * 30_000 + "]" * 30_000 + "}", "not JSON: nested too deeply"),
    "digits": ('{"d_in": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
    "half a character": ('{"model": "\\ud800"}', "not JSON: a text holds half of a character"),
    "a list": ("[1]", "expected an object, found a list"),
    "17 MB": (" " * (17 * MEGABYTE), "cannot be read: larger than 16,777,216 bytes"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_configs_that_are_no_json(tmp_path: Path, case: str) -> None:
    text, message = BAD_TEXTS[case]
    with pytest.raises(CheckpointError, match=rf"cfg\.json: {message}") as refused:
        load_coder(f"sparsify:{with_config(tmp_path, text)}")
    assert len(str(refused.value)) < 500


BAD_NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "true": ({"k": True}, "k: .*expected a number, not true or false"),
    "huge": ({"d_in": 10**400}, "d_in: Input should be less than 2147483648"),
    "NaN": ({"k": float("nan")}, "k: Input should be a finite number"),
    "infinite": ({"num_latents": float("inf")}, "num_latents: Input should be a finite number"),
    "negative": ({"expansion_factor": -3}, "expansion_factor: Input should be greater than 0"),
    "text": ({"k": "many"}, "k: Input should be a valid integer"),
    "fraction": ({"k": 4.5}, "k: Input should be a valid integer"),
    "long": ({"activation": "y" * 10**6}, rf"activation: unknown 'y{{{SHOWN}}}'…\. Known: "),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_numbers_of_configs_that_count_nothing(tmp_path: Path, case: str) -> None:
    changes, message = BAD_NUMBERS[case]
    write_sparsify(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text()) | changes
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"cfg\.json: {message}") as refused:
        load_coder(f"sparsify:{tmp_path}")
    assert len(str(refused.value)) < 500


def test_files_that_are_none(tmp_path: Path) -> None:
    write_sparsify(tmp_path)
    for name in ("cfg.json", "sae.safetensors"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"{name}: not a regular file"):
            load_coder(f"sparsify:{tmp_path}")
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(CheckpointError, match=rf"{name}: not a regular file"):
            load_coder(f"sparsify:{tmp_path}")
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(content)
    load_coder(f"sparsify:{tmp_path}")


# Numbers in weights


BAD_TRAINING: dict[str, tuple[str, dict[str, Any], str]] = {
    "k in float8": ("AutoEncoderTopK", {"k": torch.tensor(5.0).to(torch.float8_e4m3fn)},
                    r"k has dtype torch\.float8_e4m3fn, expected integers"),
    "k is NaN": ("AutoEncoderTopK", {"k": torch.tensor(torch.nan)}, "k has dtype torch.float32"),
    "k is true": ("BatchTopKSAE", {"k": torch.tensor(True)}, "k has dtype torch.bool"),
    "k is complex": ("BatchTopKSAE", {"k": torch.tensor(5j)}, "k has dtype torch.complex64"),
    "k is on meta": ("BatchTopKSAE", {"k": torch.tensor(5).to("meta")}, "k has a shape, but no"),
    "k is huge": ("AutoEncoderTopK", {"k": torch.tensor(2**62)}, f"k is {2**62}, but its config"),
    "k is text": ("AutoEncoderTopK", {"k": "5"}, "'k' is a str, expected a tensor"),
    "groups in bfloat16": ("MatryoshkaBatchTopKSAE", {"group_sizes": torch.ones(40).bfloat16()},
                           r"group_sizes has dtype torch\.bfloat16, expected integers"),
    "groups overflow": ("MatryoshkaBatchTopKSAE",
                        {"group_sizes": torch.tensor([2**62] * 4 + [WIDTH])},
                        f"group_sizes add up to {2**64 + WIDTH}, not 40 latents"),
    "threshold": ("JumpReluAutoEncoder", {"threshold": torch.full((WIDTH,), torch.inf)},
                  "threshold: 40 of 40 weights are NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_numbers_beside_weights(tmp_path: Path, case: str) -> None:
    name, changes, message = BAD_TRAINING[case]
    write_trainer(tmp_path, name)
    torch.save(torch.load(tmp_path / "ae.pt") | changes, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match=rf"ae\.pt: {message}"):
        load_coder(str(tmp_path))


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (float("nan"), "without the norm_factor"),
        (float("inf"), "without the norm_factor"),
        (-2.0, "without the norm_factor"),
        (10**400, "cannot be understood|norm_factor"),
        (True, "without the norm_factor"),
        ("2", "without the norm_factor"),
        (1e38, r"norm_factor 1e\+38 takes b_enc beyond float32"),
    ],
)
def test_norm_factors(tmp_path: Path, factor: Any, message: str) -> None:
    state = write_trainer(tmp_path, "AutoEncoder")
    state = state | {"encoder.bias": torch.full((WIDTH,), 100.0)}
    torch.save({"step": 1, "ae": state, "norm_factor": factor}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match=rf"ae\.pt: .*({message})"):
        load_coder(str(tmp_path))


@pytest.mark.parametrize("step", [-1, True, 2**63, 1.5, None])
def test_steps(tmp_path: Path, step: Any) -> None:
    state = write_trainer(tmp_path, "AutoEncoder")
    torch.save({"step": step, "ae": state, "norm_factor": 1.0}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match=r"ae\.pt: 'ae' and 'step' are not those of"):
        load_coder(str(tmp_path))


# SAELens


def write_saelens(folder: Path, architecture: str = "jumprelu", **changes: Any) -> Path:
    shapes: dict[str, tuple[int, ...]] = {"W_dec": (WIDTH, D), "b_dec": (D,)}
    if architecture != "matching_pursuit":
        shapes |= {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "threshold": (WIDTH,)}
    draw = torch.Generator().manual_seed(3)
    tensors = {name: 0.4 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    if "threshold" in tensors:
        tensors["threshold"] = tensors["threshold"].abs()
    if architecture == "tree":
        tensors["parents"] = torch.arange(WIDTH) // 4 - 1
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    metadata = {"hook_name": "blocks.3.hook_resid_post", "context_size": 128, "some": 1.5}
    config = {"architecture": architecture, "d_in": D, "d_sae": WIDTH, "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float32, torch.bool]
)
def test_parents_that_are_no_integers(tmp_path: Path, dtype: torch.dtype) -> None:
    write_saelens(tmp_path, "tree")
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    tensors["parents"] = tensors["parents"].to(dtype)
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match=rf"parents has dtype {dtype}, expected integers"):
        load_coder(str(tmp_path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_parents_of_any_integers(tmp_path: Path, dtype: torch.dtype) -> None:
    write_saelens(tmp_path, "tree")
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    save_file(
        tensors | {"parents": tensors["parents"].to(dtype)}, tmp_path / "sae_weights.safetensors"
    )
    found = load_coder(str(tmp_path)).spec.parents
    assert found is not None
    assert found.tolist() == [latent // 4 - 1 for latent in range(WIDTH)]


def test_an_unknown_architecture_costs_and_says_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saelens(tmp_path, architecture="jumprelu")
    config = json.loads((tmp_path / "cfg.json").read_text())
    monkeypatch.setattr(saelens, "digest_files", lambda *_: pytest.fail("weights are hashed"))
    for text in ("\x1b[31m" + "j" * 10_000_000, "jumpreluu"):
        (tmp_path / "cfg.json").write_text(json.dumps(config | {"architecture": text}))
        with pytest.raises(CheckpointError, match=r"cfg\.json: architecture: unknown") as refused:
            load_coder(str(tmp_path))
        assert len(str(refused.value)) < 600
        assert str(refused.value).isprintable()
    assert "Did you mean 'jumprelu'?" in str(refused.value)


@pytest.mark.parametrize("iterations", [WIDTH + 1, 10**9, 10**400])
def test_more_steps_than_latents_are_refused(tmp_path: Path, iterations: int) -> None:
    write_saelens(tmp_path, "matching_pursuit", max_iterations=iterations)
    with pytest.raises(CheckpointError, match=r"cfg\.json: max_iterations"):
        load_coder(str(tmp_path))


def test_as_many_steps_as_latents_are_taken(tmp_path: Path) -> None:
    write_saelens(tmp_path, "matching_pursuit", max_iterations=WIDTH)
    assert load_coder(str(tmp_path)).spec.promised_l0 == WIDTH


@pytest.mark.parametrize("stop", [False, True])
def test_a_pursuit_that_finds_nothing_more_ends(stop: bool) -> None:
    """On axes, a token's positive numbers are its latents; 10⁹ steps change nothing more."""
    x = activations(30)
    pursuit = MatchingPursuit(torch.eye(D), torch.zeros(D), 0.0, 10**9, stop)
    np.testing.assert_array_equal(pursuit(x).to_dense(), x.clamp(min=0).numpy())


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), "a", 10**400])
def test_residual_thresholds(tmp_path: Path, threshold: Any) -> None:
    write_saelens(tmp_path, "matching_pursuit", residual_threshold=threshold)
    with pytest.raises(CheckpointError, match=r"cfg\.json: residual_threshold: Input should be"):
        load_coder(str(tmp_path))


def test_facts_that_no_table_holds_are_left_out(tmp_path: Path) -> None:
    facts = {"note": "n" * 2000, "many": 10**300, "seed": 3, "loss": float("nan"), "who": "me"}
    spec = load_coder(str(write_saelens(tmp_path, metadata=facts))).spec
    assert {key: spec.details.get(key) for key in facts} == {
        "note": None, "many": None, "seed": 3, "loss": None, "who": "me",
    }  # fmt: skip


# Messages


def test_foreign_text_in_messages() -> None:
    assert shown("a\x1b[31m\u202e\ud800'") == '"a\\x1b[31m\\u202e\\ud800\'"'
    assert shown("x" * 61) == f"'{'x' * 60}'…"
    assert listed(["b", "a\n"]) == "a\\n, b"
    assert listed(map(str, range(100, 200))).endswith(", 110, 111 and 88 more")


# Whatever the bytes are


def write_old_trainer(folder: Path) -> None:
    """As torch saved before 1.6: pickles one after the other, no archive."""
    state = write_trainer(folder, "AutoEncoderTopK")
    torch.save(state, folder / "ae.pt", _use_new_zipfile_serialization=False)


Files = dict[str, bytes]
FORMATS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{
        f"saelens {name}": ("saelens:{}", lambda folder, name=name: write_saelens(folder, name))
        for name in ("jumprelu", "tree", "matching_pursuit")
    },
    **{
        f"dictionary_learning {name}": (
            "dictionary_learning:{}", lambda folder, name=name: write_trainer(folder, name)
        )
        for name in CLASSES
    },
    "dictionary_learning of old": ("dictionary_learning:{}", write_old_trainer),
    "sparsify": ("sparsify:{}", write_sparsify),
    "openai": ("openai:{}/8.pt", lambda folder: write_openai(folder / "8.pt")),
    "gemma_scope": ("gemma_scope:{}", write_gemma),
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The files of an unbroken checkpoint of every format."""
    found = {}
    for name, (_, write) in FORMATS.items():
        folder = tmp_path_factory.mktemp("whole")
        write(folder)
        found[name] = {file.name: file.read_bytes() for file in folder.iterdir()}
    return found


def loads_or_says_why(name: str, files: Files, folder: Path) -> None:
    """It is loaded and runs, or the error is ours, short, printable, and names file or SAE."""
    for file, content in files.items():
        (folder / file).write_bytes(content)
    try:
        coder = load_coder(FORMATS[name][0].format(folder))
        x = activations(4)[:, :1].expand(4, coder.spec.d_in)
        coder.decode(*coder.encode(x))
    except MdlbenchError as raised:
        error = raised
    else:
        return
    said = str(error)
    assert said.isprintable(), said
    assert len(said) < 2000, said
    assert isinstance(error, CheckpointError) is said.startswith(str(folder)), said


counted = pytest.mark.parametrize(
    "count",
    [
        pytest.param(40, id="some"),
        pytest.param(3000, id="thousands", marks=pytest.mark.slow),
    ],
)
formats = st.sampled_from(list(FORMATS))
edits = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["change", "insert", "remove", "end"]),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for where, how, new in changes:
        at = int(where * len(content))
        rest = {"insert": at, "end": len(content)}.get(how, at + len(new))
        new = b"" if how in ("remove", "end") else new
        content = content[:at] + new + content[rest:]
    return content


@counted
def test_bytes_that_are_broken_anywhere(
    count: int, written: dict[str, Files], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bytes")

    @settings(max_examples=count)
    @given(st.data(), formats, edits)
    def holds(data: st.DataObject, name: str, changes: list[tuple[float, str, bytes]]) -> None:
        place = folder / name
        place.mkdir(exist_ok=True)
        file = data.draw(st.sampled_from(sorted(written[name])))
        broken = edited(written[name][file], changes)
        loads_or_says_why(name, written[name] | {file: broken}, place)

    holds()


numbers = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.sampled_from([0, K, D, WIDTH])
)
texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def keys_of(content: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [(key, value) for key, value in content.items() if isinstance(value, dict)]
    deeper = [path for key, value in inner for path in keys_of(value, (*above, key))]
    return [(*above, key) for key in content] + deeper


@counted
def test_configs_that_say_anything(
    count: int, written: dict[str, Files], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("configs")
    with_configs = [name for name, files in written.items() if any(".json" in f for f in files)]
    extra = st.sampled_from(["k", "max_iterations", "group_size", "residual_threshold", "d_out"])

    @settings(max_examples=count)
    @given(st.data(), st.sampled_from(with_configs), values)
    def holds(data: st.DataObject, name: str, value: Any) -> None:
        place = folder / name
        place.mkdir(exist_ok=True)
        file = next(file for file in written[name] if file.endswith(".json"))
        content = json.loads(written[name][file])
        *above, key = data.draw(st.sampled_from(keys_of(content)) | extra.map(lambda e: (e,)))
        owner = content
        for step in above:
            owner = owner[step]
        owner[key] = value
        loads_or_says_why(name, written[name] | {file: json.dumps(content).encode()}, place)

    holds()


shapes = st.sampled_from([(), (0,), (D,), (WIDTH,), (WIDTH, D), (D, WIDTH), (1, 1), (2, 0, 3)])
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.complex64, torch.bool, torch.int8, torch.int64, torch.uint8,
    torch.uint16, torch.uint64,
)  # fmt: skip
FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "plain": lambda t: t,
    "COO": lambda t: t.to_sparse(),
    "CSR": lambda t: t.to_sparse_csr(),
    "meta": lambda t: t.to("meta"),
    "quantised": lambda t: quantised(t.float()),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "a parameter": lambda t: torch.nn.Parameter(t, requires_grad=t.is_floating_point()),
    "expanded": lambda t: t.flatten()[:1].expand(10**6, 10**6),
    "a list": lambda t: [t, {"a": t}],
    "negated": torch._neg_view,
    "conjugated": torch.conj,
    "empty text": lambda t: "",
    "a big number": lambda t: 10**5000,
    "nothing": lambda t: None,
}


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    number = draw(st.sampled_from([0.0, 1.0, float(K), -1.0, torch.nan, torch.inf, 3e38, 1e300]))
    made = torch.full(draw(shapes), number, dtype=torch.float64).to(draw(st.sampled_from(DTYPES)))
    try:
        return FORMS[draw(st.sampled_from(list(FORMS)))](made)
    except (RuntimeError, NotImplementedError, TypeError, IndexError):
        return made


@counted
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_any_kind(
    count: int, written: dict[str, Files], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tensors")
    pickled = [name for name, files in written.items() if any(".pt" in file for file in files)]
    extra = st.sampled_from(["k", "group_sizes", "threshold", "activation", "extra", "\x1b\ud800"])

    @settings(max_examples=count)
    @given(st.data(), st.sampled_from(pickled), tensors() | values)
    def holds(data: st.DataObject, name: str, value: Any) -> None:
        place = folder / name
        place.mkdir(exist_ok=True)
        file = next(file for file in written[name] if file.endswith(".pt"))
        content = torch.load(io.BytesIO(written[name][file]))
        content[data.draw(st.sampled_from(sorted(content)) | extra)] = value
        if data.draw(st.booleans()):
            step, factor = data.draw(values), data.draw(values | st.just(1.0))
            content = {"step": step, "norm_factor": factor, "ae": content}
        stream = io.BytesIO()
        try:
            torch.save(content, stream)
        except (RuntimeError, NotImplementedError, UnicodeEncodeError, TypeError):
            return
        loads_or_says_why(name, written[name] | {file: stream.getvalue()}, place)

    holds()
