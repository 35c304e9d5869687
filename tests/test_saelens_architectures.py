"""Architectures that one affine map does not describe, and scales folded into weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from mdlbench.adapters.check import check_coder
from mdlbench.adapters.formats.python import coder_of
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import parse_config
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.parts import LinearCoder, blocks
from mdlbench.adapters.protocol import Origin
from mdlbench.errors import CheckpointError, CoderError, HubError, UsageError
from tests.surrogate_hub import write_repository
from tests.test_adapters import (
    VARIANTS,
    WIDTH,
    D,
    activations,
    describe,
    reference,
    write_checkpoint,
)

D_OUT = 13
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
SCALE = 0.9123762783479742
Weights = dict[str, torch.Tensor]


def write_transcoder(folder: Path, architecture: str, **changes: Any) -> Path:
    config = {
        "architecture": architecture,
        "d_out": D_OUT,
        "apply_b_dec_to_input": False,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "model_name": "gpt2-small",
            "hook_name": "blocks.3.ln2.hook_normalized",
            "hook_name_out": "blocks.3.hook_mlp_out",
            "context_size": 64,
            "prepend_bos": False,
            "model_from_pretrained_kwargs": {"fold_ln": False, "layers": [1]},
        },
    }
    write_checkpoint(folder, **(config | changes))
    shapes = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D_OUT), "b_dec": (D_OUT,)}
    if "jumprelu" in architecture:
        shapes["threshold"] = (WIDTH,)
    if "skip" in architecture:
        shapes["W_skip"] = (D_OUT, D)
    generator = torch.Generator().manual_seed(2)
    weights = {
        name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def normalised(x: np.ndarray, how: str) -> np.ndarray:
    if how == "layer_norm":
        x = x - x.mean(axis=1, keepdims=True)
        return np.asarray(x / (x.std(axis=1, ddof=1, keepdims=True) + 1e-5))
    if how == "constant_norm_rescale":
        return np.asarray(x * np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True))
    return x


@pytest.mark.parametrize("how", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_transcoders_against_float64(tmp_path: Path, architecture: str, how: str) -> None:
    folder = write_transcoder(tmp_path / "tc", architecture, normalize_activations=how)
    coder, x = load_coder(str(folder)), activations()
    tensors = load_file(folder / "sae_weights.safetensors")
    w = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    given = x.double().numpy()
    a = normalised(given, how) @ w["W_enc"] + w["b_enc"]
    z = np.where(a > w.get("threshold", 0), np.maximum(a, 0), 0)
    expected = z @ w["W_dec"] + w["b_dec"]
    if "skip" in architecture:
        expected = expected + given @ w["W_skip"].T
    latents, side = coder.encode(x)
    np.testing.assert_allclose(latents.to_dense(), z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(coder.decode(latents, side).numpy(), expected, rtol=1e-4, atol=5e-5)
    assert (coder.spec.d_in, coder.spec.d_out, coder.spec.d_latents) == (D, D_OUT, WIDTH)
    assert coder.spec.side_bits == (32 * D_OUT if "skip" in architecture else 0)
    assert side.shape == (len(x), D_OUT if "skip" in architecture else 0)
    assert all(check.passed for check in check_coder(coder))


@pytest.mark.parametrize("architecture", TRANSCODERS)
def test_transcoders_against_saelens(tmp_path: Path, architecture: str) -> None:
    from sae_lens import SAE

    folder = write_transcoder(tmp_path / "tc", architecture)
    theirs, ours, x = SAE.load_from_disk(folder), load_coder(str(folder)), activations()
    with torch.no_grad():
        expected_z, expected_y = theirs.encode(x), theirs(x)
        without_skip = theirs.decode(expected_z)
    latents, side = ours.encode(x)
    decoded = ours.decode(latents, side)
    np.testing.assert_allclose(latents.to_dense(), expected_z, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(decoded, expected_y, rtol=1e-4, atol=5e-5)
    assert torch.allclose(decoded, without_skip, atol=1e-3) == ("skip" not in architecture)
    in_memory = coder_of(theirs)
    again = in_memory.decode(*in_memory.encode(x))
    torch.testing.assert_close(again, decoded)
    assert in_memory.spec.side_bits == ours.spec.side_bits


def test_where_a_transcoder_reads_and_writes(tmp_path: Path) -> None:
    folder = write_transcoder(tmp_path / "tc", "transcoder")
    expected = Origin(
        model="gpt2-small",
        hook="blocks.3.ln2.hook_normalized",
        hook_out="blocks.3.hook_mlp_out",
        context=64,
        prepend_bos=False,
        model_options={"fold_ln": False},
    )
    spec = load_coder(str(folder)).spec
    assert NamedCoder(str(folder)).origin() == spec.origin == expected
    assert spec.hook == "blocks.3.ln2.hook_normalized"


def test_an_origin_needs_no_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sae")
    (folder / "sae_weights.safetensors").unlink()
    assert NamedCoder(str(folder)).origin() == Origin()


@pytest.mark.parametrize("inside", ["", "saes/layer8"])
def test_a_folder_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    metadata = {"model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_pre"}
    folder = write_checkpoint(tmp_path / "me" / "my-saes" / inside, metadata=metadata)
    files = {(Path(inside) / file.name).as_posix(): file.read_bytes() for file in folder.iterdir()}
    write_repository(tmp_path / "cache", "me/my-saes", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spec = "/".join(["saelens:hf://me/my-saes", inside])
    there, here, x = load_coder(spec), load_coder(str(folder)), activations(20)
    assert there.spec.identity == here.spec.identity
    assert there.spec.name == (Path(inside).name or "my-saes")
    assert (
        NamedCoder(spec).origin()
        == here.spec.origin
        == Origin("gpt2-small", "blocks.8.hook_resid_pre")
    )
    np.testing.assert_array_equal(there.encode(x)[0].to_dense(), here.encode(x)[0].to_dense())


def test_folders_that_the_hub_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(tmp_path, "me/my-saes", {"layer8/cfg.json": b"{}"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"me/my-saes: .*'layer9/cfg\.json'"):
        load_coder("saelens:hf://me/my-saes/layer9")
    with pytest.raises(UsageError, match="is written hf://OWNER/REPO/PATH"):
        load_coder("saelens:hf://me")
    everything = NamedCoder("saelens:hf://me/my-saes/*")
    assert everything.expand() == [everything]


def test_a_transcoder_of_equal_widths(tmp_path: Path) -> None:
    folder = write_transcoder(tmp_path / "tc", "transcoder")
    weights = load_file(folder / "sae_weights.safetensors")
    weights |= {"W_dec": torch.zeros(WIDTH, D), "b_dec": torch.zeros(D)}
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(CheckpointError, match=r"W_dec has shape \(64, 20\).*\(64, 13\)"):
        load_coder(str(folder))
    write_checkpoint(tmp_path / "same", architecture="transcoder", apply_b_dec_to_input=False)
    assert load_coder(str(tmp_path / "same")).spec.d_out == D


def write_pursuit(folder: Path, **changes: Any) -> Path:
    write_checkpoint(folder, **({"architecture": "matching_pursuit"} | changes))
    weights = load_file(folder / "sae_weights.safetensors")
    rows = weights["W_dec"] / weights["W_dec"].norm(dim=1, keepdim=True)
    save_file({"W_dec": rows, "b_dec": weights["b_dec"]}, folder / "sae_weights.safetensors")
    return folder


def pursue(x: np.ndarray, rows: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Latents in float64, token by token, step by step."""
    z = np.zeros((len(x), len(rows)))
    for token, given in enumerate(x):
        left = given.copy()
        for _ in range(options.get("max_iterations", D)):
            chosen = int(np.argmax(np.maximum(rows @ left, 0)))
            value = max(float(rows[chosen] @ left), 0.0)
            support = set(np.flatnonzero(z[token]))
            z[token, chosen] += value
            left = left - value * rows[chosen]
            same = set(np.flatnonzero(z[token])) == support
            if same and options.get("stop_on_duplicate_support", True):
                break
            if 0 < options.get("residual_threshold", 1e-2) > np.linalg.norm(left):
                break
    return z


PURSUITS: list[dict[str, Any]] = [
    {},
    {"residual_threshold": 4.0},
    {"max_iterations": 3},
    {"stop_on_duplicate_support": False, "residual_threshold": 2.0, "max_iterations": 30},
    {"stop_on_duplicate_support": False, "residual_threshold": 0.0, "max_iterations": 9},
    {"apply_b_dec_to_input": False, "max_iterations": 5},
]


@pytest.mark.parametrize("options", PURSUITS, ids=describe)
def test_matching_pursuit_against_float64(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_pursuit(tmp_path / "mp", **options)
    coder, x = load_coder(str(folder)), activations(60)
    tensors = load_file(folder / "sae_weights.safetensors")
    rows, bias = (tensors[name].double().numpy() for name in ("W_dec", "b_dec"))
    centre = bias * options.get("apply_b_dec_to_input", True)
    expected = pursue(x.double().numpy() - centre, rows, options)
    latents, side = coder.encode(x)
    np.testing.assert_allclose(latents.to_dense(), expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(coder.decode(latents, side), expected @ rows + centre, atol=1e-3)
    assert coder.spec.promised_l0 == options.get("max_iterations")
    assert all(check.passed for check in check_coder(coder))


@pytest.mark.parametrize("how", ["none", "layer_norm"])
@pytest.mark.parametrize("options", PURSUITS, ids=describe)
def test_matching_pursuit_against_saelens(
    tmp_path: Path, options: dict[str, Any], how: str
) -> None:
    from sae_lens import SAE

    folder = write_pursuit(tmp_path / "mp", normalize_activations=how, **options)
    theirs, ours, x = SAE.load_from_disk(folder), load_coder(str(folder)), activations(60)
    with torch.no_grad():
        expected_z = theirs.encode(x)
        expected_x = theirs.decode(expected_z)
    latents, side = ours.encode(x)
    np.testing.assert_allclose(latents.to_dense(), expected_z, rtol=1e-3, atol=2e-4)
    torch.testing.assert_close(ours.decode(latents, side), expected_x, rtol=1e-3, atol=1e-3)
    in_memory = coder_of(theirs)
    np.testing.assert_array_equal(in_memory.encode(x)[0].to_dense(), latents.to_dense())


def test_pursuit_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder, x = load_coder(str(write_pursuit(tmp_path / "mp"))), activations(50)
    whole, _ = coder.encode(x)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * WIDTH * 7)
    np.testing.assert_allclose(coder.encode(x)[0].to_dense(), whole.to_dense(), atol=1e-4)
    x[3, 2] = float("inf")
    with pytest.raises(CoderError, match="NaN or infinite"):
        coder.encode(x)


SCALED: dict[str, Any] = {"normalize_activations": "expected_average_only_in"}
AFFINE = [options | SCALED for options in VARIANTS if options["normalize_activations"] == "none"]
WRITERS = {
    **dict.fromkeys(TRANSCODERS, write_transcoder),
    "matching_pursuit": write_pursuit,
}
FOLDED = [
    *AFFINE,
    *({"architecture": architecture} | SCALED for architecture in TRANSCODERS),
    {"architecture": "matching_pursuit", "residual_threshold": 3.0} | SCALED,
]


def with_scale(folder: Path) -> LinearCoder:
    content = json.loads((folder / "cfg.json").read_text())
    config = parse_config(content, "cfg", norm_scaling_factor=SCALE)
    identity = CoderIdentity(
        name="x", adapter="saelens", version="1", arguments={}, weights_sha256="0"
    )
    return build(config, load_file(folder / "sae_weights.safetensors"), identity, "x", "cpu")


@pytest.mark.parametrize("options", FOLDED, ids=describe)
def test_a_scale_is_folded_as_saelens_folds_it(tmp_path: Path, options: dict[str, Any]) -> None:
    from sae_lens import SAE

    write = WRITERS.get(options["architecture"], write_checkpoint)
    folder = write(tmp_path / "sae", **options)
    theirs, x = SAE.load_from_disk(folder), activations(60)
    theirs.fold_activation_norm_scaling_factor(SCALE)
    with torch.no_grad():
        expected_z, expected_x = theirs.encode(x), theirs(x)
    ours = with_scale(folder)
    latents, side = ours.encode(x)
    np.testing.assert_allclose(latents.to_dense(), expected_z, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.decode(latents, side), expected_x, rtol=1e-3, atol=2e-4)
    assert ours.spec.details["norm_scaling_factor"] == SCALE


@pytest.mark.parametrize("options", AFFINE, ids=describe)
def test_a_folded_scale_is_that_of_the_input(tmp_path: Path, options: dict[str, Any]) -> None:
    """f folded is x ↦ f(s·x)/s."""
    folder = write_checkpoint(tmp_path / "sae", **options)
    weights, x = load_file(folder / "sae_weights.safetensors"), activations(60)
    z, decoded = reference(options, weights, x.double() * SCALE)
    coder = with_scale(folder)
    latents, side = coder.encode(x)
    if options.get("rescale_acts_by_decoder_norm"):
        z = z / SCALE
    np.testing.assert_allclose(latents.to_dense(), z, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(coder.decode(latents, side), decoded / SCALE, rtol=1e-3, atol=1e-4)


def test_a_scale_that_the_config_does_not_ask_for_is_not_folded(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sae", norm_scaling_factor=2.0)
    ours, x = with_scale(folder), activations(20)
    assert "norm_scaling_factor" not in ours.spec.details
    plain = load_coder(str(folder))
    np.testing.assert_array_equal(ours.encode(x)[0].to_dense(), plain.encode(x)[0].to_dense())
