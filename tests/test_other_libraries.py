"""Folders and files of other people's libraries, written as they write them, against float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.errors import CheckpointError, UsageError
from tests.test_formats import (
    WIDTH,
    D,
    K,
    activations,
    agrees,
    float64,
    keep_largest,
    random,
    relu,
    write_openai,
    write_trainer,
)

PLAIN = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}
TURNED = {"W_enc": (WIDTH, D), "b_enc": (WIDTH,), "W_dec": (D, WIDTH), "b_dec": (D,)}
THETA = 0.7


def standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, std = x.mean(axis=1, keepdims=True), x.std(axis=1, ddof=1, keepdims=True)
    return (x - mean) / (std + 1e-5), mean, std


def write_bussmann(folder: Path, kind: str, **changes: Any) -> dict[str, np.ndarray]:
    shapes = {**PLAIN, **({"jumprelu.log_threshold": (WIDTH,)} if kind == "jumprelu" else {})}
    weights = random(shapes)
    config = {
        "sae_type": kind,
        "act_size": D,
        "dict_size": WIDTH,
        "top_k": K,
        "input_unit_norm": False,
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "seq_len": 128,
        "dtype": "torch.float32",
        **changes,
    }
    folder.mkdir(parents=True)
    torch.save(weights, folder / "sae.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return float64(weights)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kind", ["vanilla", "topk", "batchtopk", "jumprelu"])
def test_batchtopk_against_float64(tmp_path: Path, kind: str, normed: bool) -> None:
    folder = tmp_path / f"gpt2-small_{kind}_{K}_1000"
    w = write_bussmann(folder, kind, input_unit_norm=normed)
    x = activations().double().numpy()
    given, mean, std = standardised(x) if normed else (x, 0, 1)
    a = (given - (kind != "jumprelu") * w["b_dec"]) @ w["W_enc"]
    z = relu(a + w["b_enc"] * (kind in ("vanilla", "jumprelu")))
    if kind == "topk":
        z = keep_largest(z, z, K)
    if kind == "batchtopk":
        z = z * (z > THETA)
    if kind == "jumprelu":
        z = z * (z > np.exp(w["jumprelu.log_threshold"]))
    option = f"?threshold={THETA}" if kind == "batchtopk" else ""
    coder = load_coder(f"{folder}{option}")
    agrees(coder, activations(), z, (z @ w["W_dec"] + w["b_dec"]) * std + mean)
    origin = coder.spec.origin
    assert (origin.model, origin.hook, origin.context) == (
        "gpt2-small",
        "blocks.8.hook_resid_pre",
        128,
    )
    assert coder.spec.promised_l0 == (K if kind == "topk" else None)
    again = NamedCoder(f"{folder}/sae.pt{option}").identify()
    assert again == coder.spec.identity


def test_a_batchtopk_sae_needs_a_threshold(tmp_path: Path) -> None:
    write_bussmann(tmp_path / "sae", "batchtopk")
    with pytest.raises(CheckpointError, match=r"depends on the other tokens .* \?threshold=θ"):
        load_coder(str(tmp_path / "sae"))
    with pytest.raises(UsageError, match="threshold must be a number from 0, not 'high'"):
        load_coder(f"{tmp_path / 'sae'}?threshold=high")


def write_llama(folder: Path, **changes: Any) -> dict[str, np.ndarray]:
    weights = random({"encoder.weight": (WIDTH, D), "encoder.bias": (WIDTH,),
                      "decoder.weight": (D, WIDTH), "decoder.bias": (D,)})  # fmt: skip
    config = {
        "d_model": D,
        "d_sae": WIDTH,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.31,
        "top_k": K,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 6.3125, "out": 2.5},
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": True,
        "use_glu_encoder": False,
        "hook_point_in": "blocks.8.ln2.hook_normalized",
        "hook_point_out": "blocks.8.hook_mlp_out",
        "seed": 42,
        **changes,
    }
    (folder / "checkpoints").mkdir(parents=True)
    save_file(weights, folder / "checkpoints/final.safetensors")
    (folder / "hyperparams.json").write_text(json.dumps(config))
    return float64(weights)


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("kind", ["jumprelu", "relu", "topk"])
def test_llama_scope_against_float64(tmp_path: Path, kind: str, with_norm: bool) -> None:
    """The library's own steps: norms folded first, then the mask on latents times norms."""
    folder = tmp_path / "Llama3_1-8B-Base-L8TC-8x"
    w = write_llama(folder, act_fn=kind, sparsity_include_decoder_norm=with_norm)
    s, t = np.sqrt(D) / 6.3125, np.sqrt(D) / 2.5
    decoder = w["decoder.weight"].T * s / t
    norm = np.linalg.norm(decoder, axis=1) if with_norm else np.ones(WIDTH)
    a = activations().double().numpy() @ w["encoder.weight"].T + w["encoder.bias"] / s
    scores = relu(a * norm)
    z = a * (scores > (0.31 if kind == "jumprelu" else 0))
    if kind == "topk":
        z, decoder = keep_largest(scores, scores, K), decoder / norm[:, None]
    coder = load_coder(str(folder))
    agrees(coder, activations(), z, z @ decoder + w["decoder.bias"] / t)
    assert coder.spec.origin.hook_out == "blocks.8.hook_mlp_out"
    assert (coder.spec.origin.model, coder.spec.origin.prepend_bos) == (
        "meta-llama/Llama-3.1-8B",
        True,
    )
    assert coder.spec.architecture.endswith("transcoder")


def test_llama_scope_is_what_saelens_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows have norm 1 and both sides one norm; SAELens leaves the rest out."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders

    same = {"in": 6.3125, "out": 6.3125}
    w = write_llama(tmp_path / "sae", dataset_average_activation_norm=same,
                    hook_point_in="blocks.8.hook_resid_post",
                    hook_point_out="blocks.8.hook_resid_post")  # fmt: skip
    decoder = w["decoder.weight"] / np.linalg.norm(w["decoder.weight"], axis=0)
    weights = {name: torch.from_numpy(value).float() for name, value in w.items()}
    weights["decoder.weight"] = torch.from_numpy(decoder).float()
    save_file(weights, tmp_path / "sae/checkpoints/final.safetensors")
    monkeypatch.setattr(
        loaders,
        "hf_hub_download",
        lambda repo_id, filename, subfolder="", force_download=False: (
            tmp_path / subfolder / filename
        ),
    )
    overrides = {"dtype": "float32", "device": "cpu"}
    config, state, _ = loaders.llama_scope_sae_huggingface_loader(
        "x/y", "sae", cfg_overrides=overrides
    )
    theirs = SAE.from_dict({**config, "normalize_activations": "none"})
    theirs.load_state_dict(state)
    factor = float(np.sqrt(D) / 6.3125)
    theirs.fold_activation_norm_scaling_factor(factor)
    ours, x = load_coder(str(tmp_path / "sae")), activations()
    latents, side = ours.encode(x)
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(ours.decode(latents, side), theirs(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(latents.to_dense() * factor, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_qwen_scope_against_float64(tmp_path: Path, told: bool) -> None:
    folder = tmp_path / (f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}" if told else "mine")
    folder.mkdir()
    weights = random(TURNED)
    torch.save(weights, folder / "layer3.sae.pt")
    w, x = float64(weights), activations().double().numpy()
    a = relu(x @ w["W_enc"].T + w["b_enc"])
    z = keep_largest(a, a, K)
    coder = load_coder(f"{folder}/layer3.sae.pt" + ("" if told else f"?k={K}"))
    agrees(coder, activations(), z, z @ w["W_dec"].T + w["b_dec"])
    assert (coder.spec.adapter, coder.spec.promised_l0) == ("qwen_scope", K)
    assert coder.spec.hook == "blocks.3.hook_resid_post"
    assert coder.spec.origin.model == ("Qwen/Qwen3-1.7B-Base" if told else None)
    if not told:
        with pytest.raises(CheckpointError, match=r"says k; say \?k=50 or \?k=100"):
            load_coder(f"{folder}/layer3.sae.pt")


def write_tracer(folder: Path, activation: str | None, skip: bool, stored_k: bool = False) -> Any:
    shapes = {**PLAIN, "W_enc": (WIDTH, D), **({"W_skip": (D, D)} if skip else {})}
    weights = random(shapes)
    if activation is None:
        weights["activation_function.threshold"] = torch.linspace(0.1, 1, WIDTH)
    if stored_k:
        weights["k"] = torch.tensor(K)
    folder.mkdir()
    save_file(weights, folder / "layer_3.safetensors")
    config = {
        "model_kind": "transcoder_set",
        "model_name": "Qwen/Qwen3-0.6B",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "x",
    }
    config |= {} if activation is None else {"activation": activation}
    config |= {"k": K} if activation == "topk" and not stored_k else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return float64(weights)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("activation", "stored_k"), [
    ("relu", False), ("topk", False), ("topk", True), (None, False)
])  # fmt: skip
def test_circuit_tracer_against_float64(
    tmp_path: Path, activation: str | None, stored_k: bool, skip: bool
) -> None:
    w = write_tracer(tmp_path / "set", activation, skip, stored_k)
    x = activations().double().numpy()
    a = x @ w["W_enc"].T + w["b_enc"]
    z = relu(a)
    if activation == "topk":
        z = keep_largest(a, a, K)
    if activation is None:
        z = a * (a > w["activation_function.threshold"])
    expected = z @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0)
    coder = load_coder(str(tmp_path / "set/layer_3.safetensors"))
    agrees(coder, activations(), z, expected)
    assert (coder.spec.adapter, coder.spec.name) == ("circuit_tracer", "set/layer_3")
    origin = coder.spec.origin
    assert (origin.hook, origin.hook_out) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    assert coder.spec.side_bits == (32 * D if skip else 0)


@pytest.mark.parametrize(
    ("k", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (2.5, "2.5")]
)
def test_a_stored_k_that_is_no_number_of_latents(tmp_path: Path, k: float, said: str) -> None:
    write_tracer(tmp_path / "set", "topk", False, stored_k=True)
    file = tmp_path / "set/layer_3.safetensors"
    save_file(load_file(file) | {"k": torch.tensor(k)}, file)
    with pytest.raises(CheckpointError) as error:
        load_coder(str(file))
    assert str(error.value) == f"{file}: k is {said}, expected a whole number"


@pytest.mark.parametrize(
    ("told", "stored", "has"), [("relu", None, "a"), ("jump_relu", "relu", "no")]
)
def test_a_threshold_that_the_config_contradicts(
    tmp_path: Path, told: str, stored: str | None, has: str
) -> None:
    write_tracer(tmp_path / "set", stored, False)
    config = tmp_path / "set/config.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"activation": told}))
    file = tmp_path / "set/layer_3.safetensors"
    with pytest.raises(CheckpointError) as error:
        load_coder(str(file))
    assert str(error.value) == (
        f"{file}: config.yaml says {told}, and the file has {has} activation_function.threshold"
    )


def write_second(folder: Path, skip: bool, **config: Any) -> dict[str, np.ndarray]:
    shapes = {name.lower(): shape for name, shape in PLAIN.items()} | {"threshold": (WIDTH,)}
    weights = random(shapes | ({"affine_skip_connection": (D, D)} if skip else {}))
    weights["threshold"] = weights["threshold"].abs()
    folder.mkdir(parents=True)
    save_file(weights, folder / "params.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", **config}))
    return float64(weights)


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_against_float64(tmp_path: Path, skip: bool) -> None:
    folder = tmp_path / "gemma-scope-2-1b-pt/transcoder/layer_7_width_16k_l0_small"
    layer = "model.layers.7"
    config = {"hf_hook_point_in": f"{layer}.self_attn.o_proj.input", "l0": 11.5}
    if skip:
        config |= {"hf_hook_point_in": f"{layer}.pre_feedforward_layernorm.output",
                   "hf_hook_point_out": f"{layer}.post_feedforward_layernorm.output"}  # fmt: skip
    w, x = write_second(folder, skip, **config), activations().double().numpy()
    a = x @ w["w_enc"] + w["b_enc"]
    z = relu(a) * (a > w["threshold"])
    expected = z @ w["w_dec"] + w["b_dec"] + (x @ w["affine_skip_connection"] if skip else 0)
    coder = load_coder(str(folder))
    agrees(coder, activations(), z, expected)
    origin = coder.spec.origin
    assert origin.model == "gemma-3-1b-pt"
    assert (origin.context, origin.prepend_bos, coder.spec.trained_l0) == (1024, True, 11.5)
    if skip:
        assert origin.hook_out == "blocks.7.hook_mlp_out"
        assert coder.spec.architecture == "jumprelu_skip_transcoder"
    else:
        assert origin.hook == "blocks.7.attn.hook_z"
    assert NamedCoder(f"{folder}/params.safetensors").identify() == coder.spec.identity


def test_gemma_scope_2_without_a_config(tmp_path: Path) -> None:
    write_second(tmp_path / "sae", False)
    coder = load_coder(f"gemma_scope:{tmp_path / 'sae'}")
    assert (coder.spec.architecture, coder.spec.origin.hook) == ("jumprelu", None)


@pytest.mark.parametrize(
    ("path", "hook", "hook_out"),
    [
        ("resid_post/layer_12_width_16k_l0_big", "blocks.12.hook_resid_post", None),
        ("mlp_out_all/layer_3_width_16k_l0_small", "blocks.3.hook_mlp_out", None),
        ("attn_out/layer_3_width_16k_l0_small", "blocks.3.attn.hook_z", None),
        (
            "transcoder_all/layer_3_width_16k_l0_small",
            "blocks.3.mlp.hook_in",
            "blocks.3.hook_mlp_out",
        ),
    ],
)
def test_folders_of_gemma_scope_2_tell_what_no_config_does(
    tmp_path: Path, path: str, hook: str, hook_out: str | None
) -> None:
    folder = tmp_path / "gemma-scope-2-270m-pt" / path
    write_second(folder, False)
    origin = NamedCoder(f"gemma_scope:{folder}").origin()
    assert (origin.model, origin.hook, origin.hook_out) == ("gemma-3-270m", hook, hook_out)


def test_a_file_itself_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "trainer_0"
    write_trainer(folder, "AutoEncoderTopK")
    whole = NamedCoder(str(folder)).identify()
    assert NamedCoder(f"dictionary_learning:{folder}/ae.pt").identify() == whole
    assert NamedCoder(f"{folder}/ae.pt").identify() == whole
    checkpoint = folder / "checkpoints/ae_1000.pt"
    checkpoint.parent.mkdir()
    (folder / "ae.pt").rename(checkpoint)
    for spec in (str(checkpoint), f"dictionary_learning:{checkpoint}"):
        coder = load_coder(spec)
        assert coder.spec.identity.weights_sha256 == whole.weights_sha256
        assert coder.spec.name.endswith("trainer_0/ae_1000")
    write_openai(tmp_path / "8.pt")
    assert load_coder(str(tmp_path / "8.pt")).spec.adapter == "openai"


def test_a_bare_file_is_recognised_or_its_adapters_named(tmp_path: Path) -> None:
    torch.save({"model": random(PLAIN)}, tmp_path / "sae.pt")
    coder = load_coder(f"{tmp_path / 'sae.pt'}?activation=relu&subtract_bias=true")
    assert coder.spec.adapter == "state_dict"
    with pytest.raises(CheckpointError, match=r"state_dict:.*sae\.pt\?activation=relu"):
        load_coder(str(tmp_path / "sae.pt"))
    torch.save({"weights": [1, 2]}, tmp_path / "other.pt")
    message = r"name it: state_dict:\S+other\.pt or openai:\S+other\.pt or gemma_scope:"
    with pytest.raises(CheckpointError, match=message):
        load_coder(str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match=r"or the file itself: other\.pt, sae\.pt"):
        load_coder(str(tmp_path))
