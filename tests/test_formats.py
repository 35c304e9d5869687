"""Checkpoints of other libraries: each layout written here, each formula computed in float64."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from mdlbench.adapters import parts
from mdlbench.adapters.check import check_coder
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import Origin, SparseCoder
from mdlbench.cli.app import app
from mdlbench.errors import CheckpointError, HubError, UsageError
from mdlbench.hub import hub
from mdlbench.sources.images import Images
from tests.tiny import D_IN, tiny_suite

D, WIDTH, K = 12, 40, 5
Tensors = dict[str, torch.Tensor]
Weights = dict[str, np.ndarray]


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def float64(tensors: Tensors) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def activations(n: int = 150, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, D, generator=generator) + 0.3


def relu(a: np.ndarray) -> np.ndarray:
    return np.maximum(a, 0)


def keep_largest(a: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    z = np.zeros_like(a)
    for row, scores in enumerate(score):
        chosen = np.argsort(-scores)[:k]
        z[row, chosen] = a[row, chosen]
    return z


def agrees(coder: SparseCoder, x: torch.Tensor, z: np.ndarray, reconstruction: np.ndarray) -> None:
    """The coder's latents, reconstruction and side bits, and all that check-adapter looks at."""
    latents, side = coder.encode(x)
    assert latents.nnz > 0
    np.testing.assert_allclose(latents.to_dense(), z, rtol=1e-5, atol=1e-5)
    decoded = coder.decode(latents, side).numpy()
    np.testing.assert_allclose(decoded, reconstruction, rtol=1e-5, atol=1e-5)
    assert coder.spec.side_bits == 32 * side.shape[1]
    assert coder.spec.hook == (coder.spec.origin.hook or "")
    assert [check.name for check in check_coder(coder) if not check.passed] == []


def write_openai(file: Path, activation: str | None = "TopK", **state: Any) -> Tensors:
    shapes = {
        "pre_bias": (D,),
        "encoder.weight": (WIDTH, D),
        "latent_bias": (WIDTH,),
        "decoder.weight": (D, WIDTH),
    }
    weights = random(shapes)
    content: dict[str, Any] = {**weights, "stats_last_nonzero": torch.zeros(WIDTH).long()}
    if activation is not None:
        topk = {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {}
        content |= {f"activation.{name}": value for name, value in topk.items()}
        content |= {"activation": activation, "activation_state_dict": topk | state}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return weights


@pytest.mark.parametrize("postact", ["ReLU", "Identity"])
def test_openai_topk_is_layer_normed(tmp_path: Path, postact: str) -> None:
    file = tmp_path / "sae.pt"
    w, x = float64(write_openai(file, postact_fn=postact)), activations()
    given = x.double().numpy()
    mean = given.mean(axis=1, keepdims=True)
    std = given.std(axis=1, ddof=1, keepdims=True)
    a = (((given - mean) / (std + 1e-5)) - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    z = keep_largest(a, a, K)
    z = relu(z) if postact == "ReLU" else z
    coder = load_coder(f"openai:{file}")
    agrees(coder, x, z, (z @ w["decoder.weight"].T + w["pre_bias"]) * std + mean)
    spec = coder.spec
    assert (spec.architecture, spec.promised_l0, spec.side_bits) == ("topk", K, 64)
    assert (spec.name, spec.origin) == ("sae", Origin())
    assert spec.details["normalize_activations"] == "layer_norm"


@pytest.mark.parametrize(
    ("activation", "architecture"),
    [("ReLU", "standard"), (None, "standard"), ("Identity", "linear")],
)
def test_other_openai_autoencoders_are_not_normed(
    tmp_path: Path, activation: str | None, architecture: str
) -> None:
    file = tmp_path / "gpt2-small" / "mlp_post_act" / "autoencoders" / "11.pt"
    w, x = float64(write_openai(file, activation)), activations()
    z = (x.double().numpy() - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    z = z if activation == "Identity" else relu(z)
    coder = load_coder(f"openai:{file}")
    agrees(coder, x, z, z @ w["decoder.weight"].T + w["pre_bias"])
    assert (coder.spec.architecture, coder.spec.promised_l0) == (architecture, None)
    assert coder.spec.side_bits == 0
    assert coder.spec.hook == "blocks.11.mlp.hook_post"


@pytest.mark.parametrize("k_in", ["activation.k", "activation_state_dict"])
@pytest.mark.parametrize(
    ("activation", "found"),
    [({}, "missing"), ({"activation": "ReLU"}, "'ReLU'"), ({"activation": "Identity"}, "'Ident")],
)
def test_a_k_is_not_thrown_away(
    tmp_path: Path, k_in: str, activation: dict[str, str], found: str
) -> None:
    """Else a TopK autoencoder loads as another kind, and without its layer norm."""
    file = tmp_path / "8.pt"
    weights = write_openai(file)
    content = {**weights, **activation, k_in: torch.load(file)[k_in]}
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=f"8.pt: it has a k, .* `activation` is {found}"):
        load_coder(f"openai:{file}")
    topk = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
    torch.save(content | topk, file)
    spec = load_coder(f"openai:{file}").spec
    assert (spec.architecture, spec.promised_l0, spec.side_bits) == ("topk", K, 64)


@pytest.mark.parametrize(
    ("location", "hook"),
    [
        ("resid_post_mlp_v5_32k", "hook_resid_post"),
        ("resid_post_attn_v5_128k", "hook_resid_mid"),
        ("resid_delta_attn_v5_32k", "hook_attn_out"),
        ("resid_delta_mlp_v4", "hook_mlp_out"),
    ],
)
def test_the_path_tells_openais_hook(tmp_path: Path, location: str, hook: str) -> None:
    spec = f"openai:gpt2-small/{location}/autoencoders/8.pt"
    expected = Origin("gpt2-small", f"blocks.8.{hook}")
    origin = NamedCoder(spec, tmp_path).origin()
    assert (origin.model, origin.hook) == (expected.model, expected.hook)
    assert origin.model_options == {"center_writing_weights": False}
    write_openai(tmp_path / "gpt2-small" / location / "autoencoders" / "8.pt")
    assert NamedCoder(spec, tmp_path).identify().name == f"{location}/8"


LINEAR = {"encoder.weight": (WIDTH, D), "encoder.bias": (WIDTH,), "decoder.weight": (D, WIDTH)}
PLAIN = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}
GATES = {"r_mag": (WIDTH,), "gate_bias": (WIDTH,), "mag_bias": (WIDTH,)}
CLASSES: dict[str, dict[str, tuple[int, ...]]] = {
    "AutoEncoder": {**LINEAR, "bias": (D,)},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": (D,)},
    "GatedAutoEncoder": {
        "decoder_bias": (D,),
        "encoder.weight": (WIDTH, D),
        **GATES,
        "decoder.weight": (D, WIDTH),
    },
    "JumpReluAutoEncoder": {**PLAIN, "threshold": (WIDTH,)},
    "AutoEncoderTopK": {**LINEAR, "b_dec": (D,)},
    "BatchTopKSAE": {**LINEAR, "b_dec": (D,)},
    "MatryoshkaBatchTopKSAE": PLAIN,
}
WITH_K = ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
ARCHITECTURES = dict(
    zip(
        CLASSES,
        ("standard", "standard", "gated", "jumprelu", "topk", "batchtopk", "matryoshka_batchtopk"),
        strict=True,
    )
)


def trainer_state(name: str, threshold: float = 0.6) -> dict[str, Any]:
    state: dict[str, Any] = random(CLASSES[name])
    if name in WITH_K:
        state |= {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}
    if name == "MatryoshkaBatchTopKSAE":
        state["group_sizes"] = torch.tensor([WIDTH // 4, WIDTH - WIDTH // 4])
    return state


def write_trainer(
    folder: Path, name: str, state: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A folder as trainSAE of dictionary_learning leaves it."""
    state = trainer_state(name) if state is None else state
    trainer = {
        "trainer_class": "SomeTrainer",
        "dict_class": name,
        "activation_dim": D,
        "dict_size": WIDTH,
        "device": "cuda:0",
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "submodule_name": "resid_post_layer_3",
    }
    trainer |= {"k": K} if name in WITH_K else {}
    buffer = {"d_submodule": D, "io": "out", "ctx_len": 128, "n_ctxs": 244}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    config = {"trainer": trainer | changes, "buffer": buffer}
    (folder / "config.json").write_text(json.dumps(config))
    return state


def trainer_latents(name: str, w: Weights, x: np.ndarray) -> np.ndarray:
    """Latents of a class, formula by formula."""
    if name == "AutoEncoder":
        return relu((x - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"])
    if name == "AutoEncoderNew":
        return relu(x @ w["encoder.weight"].T + w["encoder.bias"])
    if name == "GatedAutoEncoder":
        pi = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        gate = pi + w["gate_bias"] > 0
        return np.asarray(gate * relu(np.exp(w["r_mag"]) * pi + w["mag_bias"]))
    if name == "JumpReluAutoEncoder":
        a = x @ w["W_enc"] + w["b_enc"]
        return relu(a * (a > w["threshold"]))
    if name == "MatryoshkaBatchTopKSAE":
        a = relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    else:
        a = relu((x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    return keep_largest(a, a, K) if name == "AutoEncoderTopK" else a * (a > w["threshold"])


def trainer_reconstruction(w: Weights, z: np.ndarray) -> np.ndarray:
    rows = w["W_dec"] if "W_dec" in w else w["decoder.weight"].T
    bias = next(w[key] for key in ("b_dec", "bias", "decoder.bias", "decoder_bias") if key in w)
    return np.asarray(z @ rows + bias)


@pytest.mark.parametrize("name", CLASSES)
def test_dictionary_learning_against_float64(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "trainer_4"
    w, x = float64(write_trainer(folder, name)), activations()
    z = trainer_latents(name, w, x.double().numpy())
    coder = load_coder(f"dictionary_learning:{folder}")
    agrees(coder, x, z, trainer_reconstruction(w, z))
    spec = coder.spec
    assert (spec.name, spec.architecture) == ("resid_post_layer_3/trainer_4", ARCHITECTURES[name])
    assert spec.promised_l0 == (K if name == "AutoEncoderTopK" else None)
    assert spec.details.get("k") == (K if name in WITH_K else None)
    assert (spec.d_in, spec.d_latents, spec.d_out, spec.side_bits) == (D, WIDTH, D, 0)
    assert spec.origin == Origin(
        "EleutherAI/pythia-70m-deduped", "blocks.3.hook_resid_post", context=128
    )
    assert load_coder(str(folder)).spec.identity == spec.identity


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_an_unset_threshold_keeps_every_positive_latent(tmp_path: Path, name: str) -> None:
    state = trainer_state(name, threshold=-1.0)
    w, x = float64(write_trainer(tmp_path / "sae", name, state)), activations()
    z = trainer_latents(name, w, x.double().numpy())
    assert (z > 0).sum(axis=1).mean() > 2 * K
    coder = load_coder(f"dictionary_learning:{tmp_path / 'sae'}")
    agrees(coder, x, z, trainer_reconstruction(w, z))
    assert coder.spec.details["threshold"] == "unset: every positive latent is active"


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("scale", [3.5, None])
def test_a_checkpoint_of_an_unfinished_training(
    tmp_path: Path, name: str, scale: float | None
) -> None:
    """In units of x / norm_factor, so that the SAE of x is scale · sae(x / scale)."""
    state = trainer_state(name)
    wrapper = {
        "step": 400,
        "ae": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "config": {"dict_class": name},
        "norm_factor": scale,
    }
    write_trainer(tmp_path / "sae", name, wrapper)
    x, factor = activations(), scale or 1.0
    w, given = float64(state), x.double().numpy() / factor
    z = trainer_latents(name, w, given)
    coder = load_coder(f"dictionary_learning:{tmp_path / 'sae'}")
    agrees(coder, x, factor * z, factor * trainer_reconstruction(w, z))
    assert (coder.spec.details["training_step"], coder.spec.details["norm_factor"]) == (400, factor)


def test_old_dictionary_learning_checkpoints_leave_k_to_the_config(tmp_path: Path) -> None:
    state = random(CLASSES["AutoEncoderTopK"])
    w, x = float64(write_trainer(tmp_path / "sae", "AutoEncoderTopK", state)), activations()
    z = trainer_latents("AutoEncoderTopK", w, x.double().numpy())
    agrees(load_coder(str(tmp_path / "sae")), x, z, trainer_reconstruction(w, z))


@pytest.mark.parametrize(
    ("changes", "hook"),
    [
        ({"submodule_name": "mlp_layer_3"}, None),
        ({"submodule_name": None}, None),
        ({"submodule_name": "resid_post_layer_11"}, "blocks.11.hook_resid_post"),
    ],
)
def test_a_hook_is_told_where_it_is_certain(
    tmp_path: Path, changes: dict[str, Any], hook: str | None
) -> None:
    write_trainer(tmp_path / "trainer_0", "AutoEncoder", **changes)
    assert NamedCoder(f"dictionary_learning:{tmp_path / 'trainer_0'}").origin().hook == hook


def write_sparsify(folder: Path, **changes: Any) -> Tensors:
    config = {"d_in": D, "k": K, "num_latents": WIDTH, "expansion_factor": 32, "multi_topk": False}
    config |= changes
    width = config["num_latents"] or D * config["expansion_factor"]
    shapes = {
        "encoder.weight": (width, D),
        "encoder.bias": (width,),
        "W_dec": (width, D),
        "b_dec": (D,),
    }
    if config.get("skip_connection"):
        shapes["W_skip"] = (D, D)
    weights = random(shapes)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return weights


def sparsify_latents(config: dict[str, Any], w: Weights, x: np.ndarray) -> np.ndarray:
    x = x if config.get("transcode") else x - w["b_dec"]
    a = x @ w["encoder.weight"].T + w["encoder.bias"]
    if config.get("signed"):
        return keep_largest(a, np.abs(a), K)
    if config.get("activation") != "groupmax":
        return keep_largest(relu(a), relu(a), K)
    z = np.zeros_like(a)
    size = a.shape[1] // K
    for row in range(len(a)):
        for group in range(K):
            best = group * size + int(np.argmax(a[row, group * size : (group + 1) * size]))
            z[row, best] = max(a[row, best], 0)
    return z


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({}, "topk"),
        ({"activation": "topk", "num_latents": 0, "expansion_factor": 4}, "topk"),
        ({"activation": "groupmax"}, "groupmax"),
        ({"signed": True}, "topk"),
        ({"transcode": True}, "transcoder"),
        ({"transcode": True, "activation": "groupmax"}, "transcoder"),
        ({"transcode": True, "skip_connection": True}, "skip_transcoder"),
        ({"skip_connection": True}, "topk"),
    ],
    ids=str,
)
def test_sparsify_against_float64(
    tmp_path: Path, config: dict[str, Any], architecture: str
) -> None:
    folder = tmp_path / "layers.10.mlp"
    w, x = float64(write_sparsify(folder, **config)), activations()
    z = sparsify_latents(config, w, x.double().numpy())
    skip = x.double().numpy() @ w["W_skip"].T if "W_skip" in w else 0.0
    coder = load_coder(f"sparsify:{folder}")
    agrees(coder, x, z, z @ w["W_dec"] + w["b_dec"] + skip)
    spec = coder.spec
    assert (spec.name, spec.architecture, spec.promised_l0) == ("layers.10.mlp", architecture, K)
    assert spec.side_bits == (32 * D if "W_skip" in w else 0)
    assert spec.d_latents == len(w["W_dec"])
    hook, read = "blocks.10.hook_mlp_out", "blocks.10.mlp.hook_in"
    assert (spec.origin.hook, spec.origin.hook_out) == (
        (read, hook) if config.get("transcode") else (hook, None)
    )
    assert load_coder(str(folder)).spec.identity == spec.identity


def test_an_empty_run_has_no_largest_of_a_group() -> None:
    found = parts.GroupMax(2)(torch.zeros(0, 6))
    assert (len(found.token), len(found.latent), len(found.value)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("folder", "model", "hook"),
    [
        ("layers.7", None, "blocks.7.hook_resid_post"),
        ("h.11", "gpt2", "blocks.11.hook_resid_post"),
        ("layers.7/seed3", "EleutherAI/pythia-70m", "blocks.7.hook_resid_post"),
        ("layers.7.self_attn", None, "blocks.7.hook_attn_out"),
        ("layers.7.attention", None, "blocks.7.hook_attn_out"),
        ("h.0.attn", None, "blocks.0.hook_attn_out"),
        ("layers.7", "google/gemma-2-2b", "blocks.7.hook_resid_post"),
        ("layers.7.mlp", "google/gemma-2-2b", None),
        ("layers.7.mlp.act", None, None),
        ("embed_tokens", None, None),
    ],
)
def test_sparsify_hooks(tmp_path: Path, folder: str, model: str | None, hook: str | None) -> None:
    write_sparsify(tmp_path / "run" / folder)
    if model:
        run = {"model": model, "ctx_len": 512, "sae": {"k": K}}
        (tmp_path / "run" / "config.json").write_text(json.dumps(run))
    expected = Origin(model, hook, context=512 if model else None)
    assert NamedCoder(f"sparsify:run/{folder}", tmp_path).origin() == expected
    assert NamedCoder(f"sparsify:run/{folder}", tmp_path).identify().name == folder


def write_gemma(folder: Path, d_in: int = D, d_out: int = D) -> Tensors:
    shapes = {
        "W_enc": (d_in, WIDTH),
        "b_enc": (WIDTH,),
        "W_dec": (WIDTH, d_out),
        "b_dec": (d_out,),
        "threshold": (WIDTH,),
    }
    weights = random(shapes)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: w.numpy() for name, w in weights.items()})
    return weights


@pytest.mark.parametrize(
    ("release", "d_out", "origin"),
    [
        ("gemma-scope-2b-pt-res", D, Origin("gemma-2-2b", "blocks.20.hook_resid_post")),
        ("gemma-scope-9b-pt-mlp", D, Origin("gemma-2-9b", "blocks.20.hook_mlp_out")),
        ("gemma-scope-9b-it-att", D, Origin("gemma-2-9b-it", "blocks.20.attn.hook_z")),
        (
            "gemma-scope-2b-pt-transcoders",
            D + 2,
            Origin("gemma-2-2b", "blocks.20.ln2.hook_normalized", "blocks.20.hook_mlp_out"),
        ),
        ("somewhere", D, Origin()),
    ],
)
def test_gemma_scope_against_float64(
    tmp_path: Path, release: str, d_out: int, origin: Origin
) -> None:
    sae_id = "layer_20/width_16k/average_l0_71"
    folder = tmp_path / release / sae_id
    w, x = float64(write_gemma(folder, d_out=d_out)), activations()
    a = x.double().numpy() @ w["W_enc"] + w["b_enc"]
    z = np.where(a > w["threshold"], relu(a), 0)
    coder = load_coder(f"gemma_scope:{folder}")
    agrees(coder, x, z, z @ w["W_dec"] + w["b_dec"])
    spec = coder.spec
    assert spec.details == {"average_l0": 71}
    assert (spec.promised_l0, spec.d_out) == (None, d_out)
    assert (spec.origin.model, spec.origin.hook) == (origin.model, origin.hook)
    assert spec.origin.hook_out == origin.hook_out
    assert (spec.origin.context, spec.origin.prepend_bos) == (
        (1024, True) if origin.model else (None, None)
    )
    known = f"{release}/" if origin.model else ""
    assert spec.name == f"{known}{sae_id}"
    assert load_coder(f"gemma_scope:{folder}/params.npz").spec.identity == spec.identity
    assert load_coder(str(folder)).spec.identity == spec.identity


def test_embedding_saes_of_gemma_scope_have_no_hook(tmp_path: Path) -> None:
    folder = tmp_path / "layer_3" / "gemma-scope-2b-pt-res" / "embedding/width_4k/average_l0_6"
    write_gemma(folder)
    spec = load_coder(f"gemma_scope:{folder}").spec
    assert (spec.origin.model, spec.origin.hook) == ("gemma-2-2b", None)
    assert spec.name == "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6"


@pytest.mark.parametrize("release", ["2b-pt-res", "9b-pt-mlp", "9b-it-res", "27b-pt-att"])
def test_gemma_scope_against_saelens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.loading import pretrained_sae_loaders as theirs

    repo, sae_id = f"google/gemma-scope-{release}", "layer_31/width_16k/average_l0_14"
    write_gemma(tmp_path / repo / sae_id)
    file = tmp_path / repo / sae_id / "params.npz"
    monkeypatch.setattr(theirs, "hf_hub_download", lambda **_: str(file))
    config, weights, _ = theirs.gemma_2_sae_huggingface_loader(repo, sae_id)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D, d_sae=WIDTH, apply_b_dec_to_input=False))
    sae.load_state_dict(weights)
    coder, x = load_coder(f"gemma_scope:{file.parent}"), activations()
    with torch.no_grad():
        z = sae.encode(x)
        agrees(coder, x, z.numpy(), sae.decode(z).numpy())
    assert config["apply_b_dec_to_input"] is False
    assert coder.spec.origin == Origin(
        model=config["model_name"],
        hook=config["hook_name"],
        context=config["context_size"],
        prepend_bos=config["prepend_bos"],
    )


def test_the_l0_of_the_path_is_compared(tmp_path: Path) -> None:
    source = Images(tiny_suite(tmp_path / "tiny"))
    write_gemma(tmp_path / "layer_1" / "width_16k" / "average_l0_400", D_IN, D_IN)
    coder = load_coder(f"gemma_scope:{tmp_path}/layer_1/width_16k/average_l0_400")
    row = next(check for check in check_coder(coder, source) if check.name == "L0")
    assert row.passed == "warning"
    assert row.message.endswith("but it was trained to 400")


@pytest.mark.parametrize(
    ("argument", "files"),
    [
        ("openai:hf://someone/gpt2-small/resid_post_mlp_v5_32k/autoencoders/8.pt", 1),
        ("dictionary_learning:hf://someone/saes/trainer_0", 2),
        ("sparsify:hf://someone/saes/layers.10/", 2),
        ("gemma_scope:hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", 1),
    ],
)
def test_places_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, files: int
) -> None:
    asked = set()

    def hub_file(repo: str, file: str) -> Path:
        path = tmp_path / repo / file
        if not path.is_file():
            raise hub.NoSuchFileError(repo, file, [])
        asked.add(path)
        return path

    monkeypatch.setattr(hub, "hub_file", hub_file)
    name, _, place = argument.partition(":hf://")
    folder = tmp_path / place
    write: dict[str, Callable[[], object]] = {
        "openai": lambda: write_openai(folder),
        "dictionary_learning": lambda: write_trainer(folder, "AutoEncoderTopK"),
        "sparsify": lambda: write_sparsify(folder),
        "gemma_scope": lambda: write_gemma(folder),
    }
    write[name]()
    there, here = load_coder(argument).spec, load_coder(f"{name}:{folder}").spec
    assert there.identity == here.identity
    assert there.origin == here.origin == NamedCoder(argument).origin()
    assert len(asked) == files
    with pytest.raises(HubError, match="someone/empty: no file"):
        load_coder(f"{name}:hf://someone/empty/nothing")
    with pytest.raises(UsageError, match="is written hf://OWNER/REPO/PATH"):
        load_coder(f"{name}:hf://someone")


def stored(folder: Path, **changes: Any) -> None:
    """Change what `ae.pt` holds; None takes a key out."""
    content = torch.load(folder / "ae.pt") | changes
    torch.save({key: v for key, v in content.items() if v is not None}, folder / "ae.pt")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    damaged = tensor.clone()
    damaged.view(-1)[3] = float("nan")
    return damaged


def unfinished(folder: Path, **changes: Any) -> None:
    state = torch.load(folder / "ae.pt")
    torch.save({"step": 10, "ae": state, "optimizer": {}, **changes}, folder / "ae.pt")


BAD_TRAINERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": (
        "AutoEncoder",
        lambda f: truncate(f / "ae.pt"),
        r"ae\.pt: truncated, or not a file of torch\.save",
    ),
    "empty": (
        "AutoEncoder",
        lambda f: (f / "ae.pt").write_bytes(b""),
        r"ae\.pt: truncated, or not a file of torch\.save",
    ),
    "text": (
        "AutoEncoder",
        lambda f: (f / "ae.pt").write_text("version https://git-lfs.github.com/spec/v1"),
        r"ae\.pt: truncated, or not a file of torch\.save",
    ),
    "missing": ("AutoEncoder", lambda f: (f / "ae.pt").unlink(), r"ae\.pt: no such file"),
    "module": (
        "AutoEncoder",
        lambda f: torch.save(torch.nn.Linear(2, 2), f / "ae.pt"),
        r"needs code to be run \(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)",
    ),
    "list": (
        "AutoEncoder",
        lambda f: torch.save([1, 2], f / "ae.pt"),
        "expected a dict of tensors by name, found a list",
    ),
    "no tensor": (
        "AutoEncoder",
        lambda f: stored(f, bias=[0.0] * D),
        "'bias' is a list, expected a tensor",
    ),
    "no encoder": (
        "AutoEncoder",
        lambda f: stored(f, **{"encoder.weight": None}),
        "no tensor 'encoder.weight'; it has bias, decoder.weight",
    ),
    "vector": (
        "AutoEncoder",
        lambda f: stored(f, **{"encoder.weight": torch.ones(D)}),
        r"encoder\.weight has shape \(12,\), expected a matrix",
    ),
    "mis-shaped": (
        "AutoEncoderTopK",
        lambda f: stored(f, **{"decoder.weight": torch.ones(WIDTH, D)}),
        r"decoder\.weight has shape \(40, 12\), but its config says \(12, 40\)",
    ),
    "narrower than its config": (
        "AutoEncoder",
        lambda f: write_trainer(f, "AutoEncoder", dict_size=WIDTH + 1),
        r"encoder\.weight has shape \(40, 12\), but its config says \(41, 12\)",
    ),
    "NaN": (
        "JumpReluAutoEncoder",
        lambda f: stored(f, threshold=with_nan(torch.ones(WIDTH))),
        "threshold: 1 of 40 weights are NaN or infinite",
    ),
    "unknown key": (
        "AutoEncoder",
        lambda f: stored(f, b_deck=torch.ones(D)),
        "unknown tensor 'b_deck'",
    ),
    "another class's keys": (
        "AutoEncoder",
        lambda f: write_trainer(f, "AutoEncoderNew", trainer_state("AutoEncoder")),
        "unknown tensor 'bias'. Did you mean",
    ),
    "unknown class": (
        "AutoEncoder",
        lambda f: write_trainer(f, "AutoEncoder", dict_class="AutoEncoderTopk"),
        r"trainer\.dict_class: unknown 'AutoEncoderTopk'\. Did you mean 'AutoEncoderTopK'",
    ),
    "no class": (
        "AutoEncoder",
        lambda f: (f / "config.json").write_text('{"trainer": {}}'),
        r"config\.json: trainer\.dict_class: Field required",
    ),
    "config no JSON": (
        "AutoEncoder",
        lambda f: (f / "config.json").write_text("{"),
        r"config\.json: not JSON",
    ),
    "k too large": (
        "AutoEncoderTopK",
        lambda f: write_trainer(
            f, "AutoEncoderTopK", trainer_state("AutoEncoderTopK") | {"k": torch.tensor(41)}, k=41
        ),
        "k must be from 1 to 40 latents, not 41",
    ),
    "two ks": (
        "BatchTopKSAE",
        lambda f: write_trainer(f, "BatchTopKSAE", k=K + 1),
        "k is 5, but its config says 6",
    ),
    "no k": (
        "AutoEncoderTopK",
        lambda f: write_trainer(f, "AutoEncoderTopK", random(CLASSES["AutoEncoderTopK"]), k=None),
        "neither it nor its config says k",
    ),
    "many ks": (
        "AutoEncoderTopK",
        lambda f: stored(f, k=torch.tensor([5, 6])),
        r"k has shape \(2,\), expected one number",
    ),
    "no threshold": (
        "BatchTopKSAE",
        lambda f: stored(f, threshold=None),
        "no tensor 'threshold'",
    ),
    "groups": (
        "MatryoshkaBatchTopKSAE",
        lambda f: stored(f, group_sizes=torch.tensor([1, 2])),
        "group_sizes add up to 3, not 40 latents",
    ),
    "unfinished, scale unknown": (
        "AutoEncoder",
        unfinished,
        "a checkpoint of step 10 without the norm_factor",
    ),
    "unfinished, no state": (
        "AutoEncoder",
        lambda f: unfinished(f, ae=[], norm_factor=1.0),
        "'ae' and 'step' are not those of a resumable checkpoint",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINERS)
def test_bad_trainer_folders_are_refused(tmp_path: Path, case: str) -> None:
    name, damage, message = BAD_TRAINERS[case]
    write_trainer(tmp_path / "sae", name)
    damage(tmp_path / "sae")
    with pytest.raises(CheckpointError, match=message):
        load_coder(f"dictionary_learning:{tmp_path / 'sae'}")


BAD_OPENAI: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"activation": "TopKK"}, "unknown activation 'TopKK'. Did you mean 'TopK'"),
    "k": (
        {"activation_state_dict": {"k": WIDTH + 1, "postact_fn": "ReLU"}},
        "k must be from 1 to 40 latents, not 41",
    ),
    "no k": ({"activation_state_dict": {}}, "activation_state_dict: k: Field required"),
    "postact": (
        {"activation_state_dict": {"k": K, "postact_fn": "GELU"}},
        "activation_state_dict: postact_fn: Input should be 'ReLU' or 'Identity'",
    ),
    "shape": (
        {"decoder.weight": torch.ones(WIDTH, D)},
        r"decoder\.weight has shape \(40, 12\), but encoder\.weight says \(12, 40\)",
    ),
    "NaN": ({"pre_bias": with_nan(torch.ones(D))}, "pre_bias: 1 of 12 weights are NaN"),
    "tied": ({"decoder.linear.weight": torch.ones(WIDTH, D)}, "unknown tensor 'decoder.linear"),
}


@pytest.mark.parametrize("case", BAD_OPENAI)
def test_bad_openai_files_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_OPENAI[case]
    write_openai(tmp_path / "8.pt")
    torch.save(torch.load(tmp_path / "8.pt") | changes, tmp_path / "8.pt")
    with pytest.raises(CheckpointError, match=message):
        load_coder(f"openai:{tmp_path / '8.pt'}")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_coder(f"openai:{tmp_path / 'nowhere' / '8.pt'}")


BAD_SPARSIFY: dict[str, tuple[dict[str, Any], str]] = {
    "k": ({"k": WIDTH + 1}, "k must be from 1 to 40 latents, not 41"),
    "k of text": ({"k": "many"}, r"cfg\.json: k: Input should be"),
    "groups": ({"activation": "groupmax", "k": 7}, "40 latents cannot be split into k=7 equal"),
    "activation": ({"activation": "topkk"}, "activation: unknown 'topkk'. Did you mean 'topk'"),
    "width": ({"num_latents": 41}, r"encoder\.weight has shape \(40, 12\), .* \(41, 12\)"),
    "no skip": ({"skip_connection": True}, "no tensor 'W_skip'"),
    "embedding": ({"embed_skip": True}, "embed_skip is not supported: it also reads the model's"),
    "n-grams": ({"gram_lookup": True}, "gram_lookup is not supported"),
}


@pytest.mark.parametrize("case", BAD_SPARSIFY)
def test_bad_sparsify_configs_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_SPARSIFY[case]
    write_sparsify(tmp_path)
    file = tmp_path / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load_coder(f"sparsify:{tmp_path}")


def test_bad_sparsify_weights_are_refused(tmp_path: Path) -> None:
    weights, file = write_sparsify(tmp_path), tmp_path / "sae.safetensors"
    save_file(weights | {"W_dec": with_nan(weights["W_dec"])}, file)
    with pytest.raises(CheckpointError, match="W_dec: 1 of 480 weights are NaN or infinite"):
        load_coder(str(tmp_path))
    save_file(weights | {"W_skip": torch.ones(D, D)}, file)
    with pytest.raises(CheckpointError, match="unknown tensor 'W_skip'"):
        load_coder(str(tmp_path))
    truncate(file)
    with pytest.raises(CheckpointError, match="truncated, or not a safetensors file"):
        load_coder(str(tmp_path))


BAD_GEMMA: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"b_enc": np.full(WIDTH, np.nan)}, "b_enc: 40 of 40 weights are NaN or infinite"),
    "shape": (
        {"W_dec": np.ones((WIDTH + 1, D), dtype=np.float32)},
        r"W_dec has shape \(41, 12\), but W_enc says \(40, 12\)",
    ),
    "objects": (
        {"b_enc": np.array([{}] * WIDTH)},
        r"truncated, or not an archive of arrays: Object arrays cannot be loaded",
    ),
    "unknown": ({"scaling_factor": np.ones(WIDTH)}, "unknown tensor 'scaling_factor'"),
    "integers": ({"b_enc": np.ones(WIDTH, dtype=np.int64)}, "b_enc has dtype torch.int64"),
}


@pytest.mark.parametrize("case", BAD_GEMMA)
def test_bad_gemma_scope_files_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_GEMMA[case]
    arrays = {name: w.numpy() for name, w in write_gemma(tmp_path).items()}
    np.savez(tmp_path / "params.npz", **(arrays | changes))
    with pytest.raises(CheckpointError, match=message):
        load_coder(f"gemma_scope:{tmp_path}")
    truncate(tmp_path / "params.npz")
    with pytest.raises(CheckpointError, match="truncated, or not an archive of arrays"):
        load_coder(f"gemma_scope:{tmp_path}")


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"encoder.weight": Trap()}, tmp_path / "sae.pt")
    with pytest.raises(CheckpointError, match=r"needs code to be run \(\w+\.mkdir\)"):
        load_coder(f"openai:{tmp_path / 'sae.pt'}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_files_of_older_torch_and_of_other_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random(CLASSES["AutoEncoder"]).items()}
    write_trainer(tmp_path / "sae", "AutoEncoder", state)
    torch.save(state, tmp_path / "sae" / "ae.pt", _use_new_zipfile_serialization=False)
    w, x = float64(state), activations()
    z = trainer_latents("AutoEncoder", w, x.double().numpy())
    agrees(load_coder(str(tmp_path / "sae")), x, z, trainer_reconstruction(w, z))


def test_check_adapter_describes_them(tmp_path: Path) -> None:
    write_openai(tmp_path / "resid_post_mlp_v5_32k" / "autoencoders" / "8.pt")
    spec = f"openai:{tmp_path}/resid_post_mlp_v5_32k/autoencoders/8.pt"
    run = CliRunner().invoke(app, ["check-adapter", spec], env={"COLUMNS": "300"})
    assert run.exit_code == 0, run.output
    shown = " ".join(run.output.split())
    assert "resid_post_mlp_v5_32k/8: topk by adapter openai 1; 12 → 40 → 12" in shown
    assert "hook blocks.8.hook_resid_post; at most 5 active; 64 side bits per token" in shown
    assert "2 numbers and 64 bits per token" in shown
    assert "L0 is 5.0 on average, 5 at most; 5 is promised" in shown
