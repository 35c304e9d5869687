"""State dicts as people save them: what is understood, in float64, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.errors import CheckpointError, UsageError
from tests.test_formats import Tensors, agrees, float64, keep_largest, relu

D, WIDTH, K = 12, 20, 4
SHAPES = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}


def weights(square: bool = False) -> Tensors:
    generator = torch.Generator().manual_seed(3)
    shapes = {k: (D, D) if k[0] == "W" else (D,) for k in SHAPES} if square else SHAPES
    return {k: 0.4 * torch.randn(shape, generator=generator) for k, shape in shapes.items()}


def linear(w: Tensors, bias: str = "decoder.bias", prefix: str = "") -> Tensors:
    named = {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        bias: w["b_dec"],
    }
    return {prefix + name: tensor for name, tensor in named.items()}


def tokens(n: int = 150) -> torch.Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 0.3


def save(content: Any, file: Path) -> str:
    if file.suffix == ".safetensors":
        save_file(content, file)
    elif file.suffix == ".npz":
        np.savez(file, **{name: np.asarray(tensor) for name, tensor in content.items()})
    else:
        torch.save(content, file)
    return f"state_dict:{file}"


def check(
    spec: str,
    w: Tensors,
    subtracted: bool,
    k: int | None = None,
    threshold: float = 0.0,
    centre: torch.Tensor | None = None,
    scale: float = 1.0,
) -> None:
    """The SAE of a spec against a computation in float64."""
    p, x = float64(w), tokens().double().numpy()
    c = np.zeros(D) if centre is None else centre.double().numpy()
    a = ((x - c) * scale - subtracted * p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    z = relu(a) * (a > threshold)
    z = z if k is None else keep_largest(z, z, k)
    coder = load_coder(spec)
    agrees(coder, tokens(), z, (z @ p["W_dec"] + p["b_dec"]) / scale + c)
    assert coder.spec.promised_l0 == k
    assert coder.spec.details["subtract_bias"] == subtracted


@pytest.mark.parametrize("ending", ["pt", "pth", "npz", "safetensors", "bin"])
@pytest.mark.parametrize("subtracted", [True, False])
def test_a_pair_of_linear_layers(tmp_path: Path, ending: str, subtracted: bool) -> None:
    spec = save(linear(weights()), tmp_path / f"sae.{ending}")
    bias = str(subtracted).lower()
    check(f"{spec}?activation=relu&subtract_bias={bias}", weights(), subtracted)
    check(f"{spec}?activation=topk&k={K}&subtract_bias={bias}", weights(), subtracted, k=K)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(D, WIDTH), nn.ReLU())
        self.decoder = nn.Linear(WIDTH, D)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": linear(weights()), "epoch": 3, "final_loss": 0.2},
        {"model": linear(weights()), "optimizer": {"state": {0: {}}, "exp_avg": torch.ones(D)}},
        {"model_state_dict": linear(weights(), prefix="module."), "cfg": {"lr": 3e-4, "k": None}},
        {"trainer": {"sae": linear(weights(), prefix="_orig_mod.module.sae.")}},
        linear(weights(), prefix="autoencoder."),
        linear(weights(), bias="b_dec"),
        {"enc.weight": linear(weights())["encoder.weight"], **{
            f"dec.{k}": linear(weights())[f"decoder.{k}"] for k in ("weight", "bias")
        }, "enc.bias": weights()["b_enc"]},
        {**weights(), "num_batches_not_active": torch.ones(WIDTH)},
        {**weights(), "W_enc": weights()["W_enc"].T.contiguous()},
        {k: t.T.contiguous() if k[0] == "W" else t for k, t in weights().items()},
        {k: t[None] if k[0] == "b" else t for k, t in weights().items()},
    ],
)  # fmt: skip
def test_wrappers_prefixes_names_and_orientations(tmp_path: Path, content: Any) -> None:
    spec = save(content, tmp_path / "sae.pt")
    check(f"{spec}?activation=relu&subtract_bias=true", weights(), True)


def test_a_module_of_sequential_layers(tmp_path: Path) -> None:
    model = Tied()
    state = model.state_dict()
    w = {
        "W_enc": state["encoder.0.weight"].T,
        "b_enc": state["encoder.0.bias"],
        "W_dec": state["decoder.weight"].T,
        "b_dec": state["decoder.bias"],
    }
    spec = save(state, tmp_path / "sae.pt")
    check(f"{spec}?activation=relu&subtract_bias=false", w, False)


def test_a_batchtopk_sae_in_a_wrapper(tmp_path: Path) -> None:
    """Centred by a mean that lies beside the state dict, as one public checkpoint is."""
    mean = torch.linspace(-1, 1, D)
    counts = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.3)}
    state = {**linear(weights(), bias="b_dec"), **counts}
    content = {"state_dict": state, "cfg": {"k": K, "d_sae": WIDTH}, "act_mean": mean}
    spec = save(content, tmp_path / "sae.pt")
    with pytest.raises(CheckpointError) as caught:
        load_coder(spec)
    for words in (
        "12 activations → 20 latents. Two readings fit",
        "above threshold (activation=jumprelu, as in BatchTopK)",
        "4 largest of each token (activation=topk)",
        "(subtract_bias=true)",
        "(subtract_bias=false)",
        "(centre=act_mean)",
        "(centre=none)",
        "sae.pt?activation=jumprelu&subtract_bias=true&centre=act_mean",
    ):
        assert words in str(caught.value)
    given = f"{spec}?subtract_bias=true"
    right = f"{given}&activation=jumprelu&centre=act_mean"
    check(right, weights(), True, threshold=float(np.float32(0.3)), centre=mean)
    check(f"{given}&activation=topk&centre=none", weights(), True, k=K)
    assert load_coder(right).spec.trained_l0 == K


def test_a_config_decides(tmp_path: Path) -> None:
    content = {"state_dict": linear(weights()), "config": {"input_dim": D, "top_k": K}}
    spec = save(content, tmp_path / "a.pt")
    check(f"{spec}?subtract_bias=false", weights(), False, k=K)
    cfg = {"activation": "relu", "apply_b_dec_to_input": True, "hook_name": "blocks.3.hook_mlp_out"}
    spec = save({"model": linear(weights()), "cfg": cfg}, tmp_path / "b.pt")
    check(spec, weights(), True)
    assert load_coder(spec).spec.origin.hook == "blocks.3.hook_mlp_out"


def test_nothing_is_asked_that_makes_no_difference(tmp_path: Path) -> None:
    w = {**weights(), "b_dec": torch.zeros(D)}
    check(save({**w, "threshold": torch.full((WIDTH,), 0.2)}, tmp_path / "a.pt"), w, False,
          threshold=float(np.float32(0.2)))  # fmt: skip
    logs = {**w, "jumprelu.log_threshold": torch.full((WIDTH,), 0.2).log()}
    check(save(logs, tmp_path / "b.pt"), w, False, threshold=float(np.float32(0.2)))
    del w["b_dec"]
    check(f"{save(w, tmp_path / 'c.pt')}?activation=relu", {**w, "b_dec": torch.zeros(D)}, False)


def test_a_scale(tmp_path: Path) -> None:
    spec = save({"sae": linear(weights()), "norm_factor": 0.25}, tmp_path / "a.pt")
    given = f"{spec}?activation=relu&subtract_bias=true"
    with pytest.raises(CheckpointError, match=r"norm_factor=0.25 .*\(scale=norm_factor\) or not"):
        load_coder(given)
    check(f"{given}&scale=norm_factor", weights(), True, scale=0.25)
    check(f"{given}&scale=0.5", weights(), True, scale=0.5)
    check(f"{given}&scale=1", weights(), True)


def test_which_way_round_a_square_is_stored(tmp_path: Path) -> None:
    w = weights(square=True)
    given = f"{save(w, tmp_path / 'a.pt')}?activation=relu&subtract_bias=true"
    with pytest.raises(CheckpointError, match=r"\(transposed=false\) or .*\(transposed=true\)"):
        load_coder(given)
    check(f"{given}&transposed=false", w, True)
    turned = {k: t.T.contiguous() if k[0] == "W" else t for k, t in w.items()}
    check(f"{given}&transposed=true", turned, True)
    spec = save(linear(w), tmp_path / "b.pt")
    check(f"{spec}?activation=relu&subtract_bias=true", w, True)


def test_names_can_be_given(tmp_path: Path) -> None:
    w = weights()
    state = {"fc1.weight": w["W_enc"].T, "fc1.bias": w["b_enc"], "fc2.weight": w["W_dec"].T,
             "fc2.bias": w["b_dec"]}  # fmt: skip
    spec = save({k: t.contiguous() for k, t in state.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"no encoder .* fc1.weight, fc1.bias.*\?W_enc=KEY"):
        load_coder(spec)
    named = "&".join(f"{role}=fc{n}.{kind}" for role, n, kind in [
        ("W_enc", 1, "weight"), ("b_enc", 1, "bias"), ("W_dec", 2, "weight"), ("b_dec", 2, "bias")
    ])  # fmt: skip
    check(f"{spec}?{named}&activation=relu&subtract_bias=false", w, False)


def test_a_tied_decoder(tmp_path: Path) -> None:
    w = weights()
    del w["W_dec"]
    spec = save(w, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="or tied=true if it is the encoder's transpose"):
        load_coder(spec)
    tied = {**w, "W_dec": w["W_enc"].T}
    check(f"{spec}?tied=true&activation=relu&subtract_bias=true", tied, True)


def test_two_state_dicts(tmp_path: Path) -> None:
    other = {name: 2 * tensor for name, tensor in weights().items()}
    spec = save({"model": linear(weights()), "ema": linear(other)}, tmp_path / "a.pt")
    given = "activation=relu&subtract_bias=true"
    with pytest.raises(CheckpointError, match="within=model and within=ema"):
        load_coder(f"{spec}?{given}")
    check(f"{spec}?{given}&within=ema", other, True)


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (weights() | {"W_skip": torch.ones(D, D)}, "", CheckpointError, "ignore=W_skip"),
        (weights() | {"r_mag": torch.ones(WIDTH)}, "", CheckpointError, "ignore=r_mag"),
        (
            {"a": weights(), "cfg": {"activation": "sigmoid"}},
            "",
            CheckpointError,
            r"cfg.activation='sigmoid', which is none of relu, topk, jumprelu",
        ),
        (
            {"a": weights(), "cfg": {"normalize_activations": "layer_norm"}},
            "",
            CheckpointError,
            "cfg.normalize_activations='layer_norm'",
        ),
        ({"a": weights(), "cfg": {"sae_type": "BatchTopK", "k": 3}}, None, CheckpointError,
         "no threshold"),
        (weights(), "&k=21&activation=topk", CheckpointError, "k must be from 1 to 20 latents"),
        (weights(), "&activation=topk", CheckpointError, "activation=topk&k=…"),
        (weights(), "&activation=gelu", UsageError, "unknown activation 'gelu'"),
        (weights(), "&transposed=true", CheckpointError, "shapes do not fit each other"),
        (weights(), "&centre=mean", UsageError, "centre=mean"),
        (weights(), "&scale=-1", UsageError, "scale must be a positive number"),
        (weights(), "&b_enc=bias", UsageError, "b_enc=bias: no such tensor"),
        (weights(), "&within=model", UsageError, "within=model"),
        (weights(), "&colour=red", UsageError, "unknown option 'colour'"),
        (weights() | {"pre_bias": torch.ones(D)}, "", CheckpointError,
         "b_dec and pre_bias may both be b_dec"),
        (weights() | {"b_enc": torch.ones(7)}, "", CheckpointError, r"b_enc \[7\]"),
        (weights() | {"k": torch.tensor(float("nan"))}, "&activation=topk", CheckpointError,
         "does not say k"),
        (weights() | {"W_enc": torch.full((D, WIDTH), torch.nan)}, "", CheckpointError, "NaN"),
        ({"lr": 0.1}, "", CheckpointError, "no tensors"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(
    tmp_path: Path, content: Any, options: str | None, error: type[Exception], message: str
) -> None:
    spec = f"{save(content, tmp_path / 'sae.pt')}?subtract_bias=true"
    if options is not None and "activation=" not in options:
        options = options if "activation" in str(content) else f"{options}&activation=relu"
    with pytest.raises(error, match=message):
        load_coder(spec + (options or ""))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "sae.npz"
    np.savez(file, sae_params=np.array({"W_enc": np.ones((2, 3))}, dtype=object))
    with pytest.raises(CheckpointError, match="Object arrays cannot be loaded"):
        load_coder(f"state_dict:{file}")


def test_options_are_part_of_the_identity(tmp_path: Path) -> None:
    spec = save(linear(weights()), tmp_path / "sae.pt")
    one, other = (
        NamedCoder(f"{spec}?activation=relu&subtract_bias={bias}").identify()
        for bias in ("true", "false")
    )
    assert one.weights_sha256 == other.weights_sha256
    assert one.arguments == {"activation": "relu", "subtract_bias": "true"} != other.arguments
    assert (one.name, one.adapter) == ("sae", "state_dict")
