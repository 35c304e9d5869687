"""The known ways in which an SAE is loaded or fed wrongly are warned of."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdlbench.adapters.agreement import doubts
from mdlbench.adapters.check import Check, check_coder, check_origin
from mdlbench.adapters.formats.saelens.build import build
from mdlbench.adapters.formats.saelens.config import parse_config
from mdlbench.adapters.load import load_coder
from mdlbench.adapters.protocol import Origin, SparseCoder
from mdlbench.sources.images import Images
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train
from tests.test_adapters import WIDTH, coder_of, write_checkpoint
from tests.tiny import D_IN, tiny_suite, write_sae

HOOK = "blocks.8.hook_resid_pre"
CENTRED = {"center_writing_weights": True}
SITE = Site(hook=HOOK, model="gpt2", model_options=CENTRED, context=128, prepend_bos=True)
KNOWN = Origin("gpt2-small", HOOK, None, 128, True, CENTRED)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tiny_suite(tmp_path_factory.mktemp("tiny")))


def checks(coder: SparseCoder, source: ActivationSource | None = None) -> dict[str, Check]:
    return {check.name: check for check in check_coder(coder, source)}


def warned_of(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if check.passed is not True}


def configure(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("origin", "site", "expected"),
    [
        (KNOWN, SITE, []),
        (KNOWN, None, ["needs the model loaded with center_writing_weights=True"]),
        (
            Origin("gpt2-small", HOOK),
            SITE,
            ["its config does not say context or prepend_bos, so the suite must"],
        ),
        (
            Origin("gpt2-small", HOOK, None, 128, None, CENTRED),
            SITE,
            ["its config does not say prepend_bos, so the suite must"],
        ),
        (
            Origin("gpt2-small"),
            SITE,
            ["its config does not say hook or context or prepend_bos, so the suite must"],
        ),
        (
            replace(KNOWN, model_options={"center_writing_weights": False}),
            SITE.model_copy(update={"model_options": {}}),
            [],
        ),
        (
            KNOWN,
            SITE.model_copy(update={"model_options": {}}),
            ["center_writing_weights=True; the suite loads it with none of it"],
        ),
        (
            Origin("gpt2-small", "blocks.8.hook_resid_post", None, 64, False),
            SITE,
            [
                "hook is blocks.8.hook_resid_pre here, but it was trained with "
                "blocks.8.hook_resid_post",
                "context is 128 here, but it was trained with 64",
                "prepend_bos is True here, but it was trained with False",
            ],
        ),
    ],
)
def test_doubts(origin: Origin, site: Site | None, expected: list[str]) -> None:
    found = doubts(origin, site)
    assert len(found) == len(expected)
    for doubt, part in zip(found, expected, strict=True):
        assert part in doubt


def test_where_an_sae_belongs_is_part_of_the_check(tmp_path: Path) -> None:
    metadata = {"model_name": "gpt2-small", "hook_name": HOOK, "context_size": 128}
    silent = load_coder(str(write_checkpoint(tmp_path / "a", metadata=metadata)))
    found = checks(silent)["trained on"]
    assert found.passed == "warning"
    assert found.message == (
        f"gpt2-small, {HOOK}, 128 tokens; its config does not say prepend_bos, so the suite must"
    )
    told = metadata | {"prepend_bos": False}
    found = checks(load_coder(str(write_checkpoint(tmp_path / "b", metadata=told))))["trained on"]
    assert (found.passed, found.message) == (True, f"gpt2-small, {HOOK}, 128 tokens, no BOS")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, "its config does not say hook or context or prepend_bos, so the suite must"),
        (
            {"hook_name": "transformer.h.8", "context_size": 64, "prepend_bos": False},
            f"transformer.h.8, 64 tokens, no BOS; hook is {HOOK} here, but it was trained with "
            "transformer.h.8; context is 128 here, but it was trained with 64; prepend_bos is "
            "True here, but it was trained with False",
        ),
    ],
)
def test_a_silent_config_on_a_language_suite(
    tmp_path: Path, metadata: dict[str, Any], expected: str
) -> None:
    spec = load_coder(str(write_checkpoint(tmp_path / "sae", metadata=metadata))).spec
    assert check_origin(spec, SITE) == [Check("trained on", "warning", expected)]
    assert check_origin(spec, None) == check_origin(spec, Site(hook=PIXELS)) == []
    assert check_origin(replace(spec, fitted=True), SITE) == []


def test_images_have_no_contexts(source: Images, tmp_path: Path) -> None:
    assert "trained on" not in checks(load_coder(str(write_sae(tmp_path / "sae"))), source)


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (8.0, "warning"), (0.1, "warning")])
def test_a_scale_that_was_not_undone(
    source: Images, tmp_path: Path, factor: float, passed: bool | str
) -> None:
    folder = write_sae(tmp_path / "sae")
    weights = load_file(folder / "sae_weights.safetensors")
    weights |= {name: weights[name] / factor for name in ("W_dec", "b_dec")}
    weights["W_enc"] = weights["W_enc"].contiguous()
    save_file(weights, folder / "sae_weights.safetensors")
    coder = load_coder(str(configure(folder, apply_b_dec_to_input=factor == 1.0)))
    x = torch.cat([block.activations for block in source.blocks("test")]).double().numpy()
    decoded = coder.decode(*coder.encode(torch.from_numpy(x).float())).double().numpy()
    x, decoded = x - x.mean(axis=0), decoded - decoded.mean(axis=0)
    best = (x * decoded).sum() / (decoded**2).sum()
    found = checks(coder, source)["scale"]
    assert found.passed == passed
    assert found.message.startswith(f"activations are best matched by {best:.3g} times")
    assert best == pytest.approx(factor, rel=0.4)


def test_a_constant_has_no_scale(source: Images) -> None:
    class Nothing:
        d_in = D_IN

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3].relu()

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(z), D_IN)

    assert checks(coder_of(Nothing()), source)["scale"].passed is True


@pytest.mark.parametrize(("stretch", "passed"), [(1.0, True), (3.0, "warning"), (0.3, "warning")])
def test_a_folded_scale_fits_its_activations(
    source: Images, tmp_path: Path, stretch: float, passed: bool | str
) -> None:
    x = torch.cat([block.activations for block in source.blocks("test")])
    norm = float(x.norm(dim=1).mean())
    folder = write_checkpoint(
        tmp_path / "sae", d_in=D_IN, normalize_activations="expected_average_only_in"
    )
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D_IN, WIDTH), "W_dec": (WIDTH, D_IN), "b_enc": (WIDTH,), "b_dec": (D_IN,)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    config = parse_config(
        json.loads((folder / "cfg.json").read_text()), "cfg", stretch * np.sqrt(D_IN) / norm
    )
    identity = load_coder(str(write_sae(tmp_path / "other"))).spec.identity
    coder = build(config, weights, identity, "sae", "cpu")
    found = checks(coder, source)["input norm"]
    assert found.passed == passed
    assert found.message.startswith(
        f"‖x‖ is {norm:.3g} on average; the scale folded in was set where it was "
        f"{norm / stretch:.3g}"
    )
    assert "input norm" not in checks(load_coder(str(tmp_path / "other")), source)


def test_the_l0_that_a_release_tells(source: Images, tmp_path: Path) -> None:
    folder = write_sae(tmp_path / "sae")
    configure(folder, metadata={"average_l0": 300.0})
    found = checks(load_coder(str(folder)), source)["L0"]
    assert found.passed == "warning"
    assert found.message.endswith("but it was trained to 300")


def write_constant(folder: Path, n_active: int, **config: Any) -> Path:
    """An SAE of which the same latents are active whatever it is given."""
    write_checkpoint(folder, d_in=D_IN, **config)
    weights = load_file(folder / "sae_weights.safetensors")
    weights |= {
        "W_enc": torch.zeros(D_IN, WIDTH),
        "W_dec": torch.ones(WIDTH, D_IN),
        "b_enc": torch.where(torch.arange(WIDTH) < n_active, 1.0, -1.0),
        "b_dec": torch.zeros(D_IN),
    }
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize(("n_active", "passed"), [(10, True), (9, True), (8, "warning")])
def test_a_topk_sae_has_nearly_k_active(
    source: Images, tmp_path: Path, n_active: int, passed: bool | str
) -> None:
    coder = load_coder(str(write_constant(tmp_path / "sae", n_active, architecture="topk", k=10)))
    found = f"L0 is {n_active}.0 on average, {n_active} at most"
    rest = "; 10 is promised" if passed is True else ", but it was trained to 10"
    assert checks(coder, source)["L0"] == Check("L0", passed, found + rest)
    assert checks(coder)["L0"] == Check("L0", True, f"{found}; 10 is promised")


@pytest.mark.parametrize(("n_active", "passed"), [(20, True), (5, True), (4, "warning")])
def test_a_batch_topk_sae_may_have_half_or_twice_k(
    source: Images, tmp_path: Path, n_active: int, passed: bool | str
) -> None:
    metadata = {"training_architecture_details": {"k": 10}}
    coder = load_coder(str(write_constant(tmp_path / "sae", n_active, metadata=metadata)))
    found = f"L0 is {n_active}.0 on average, {n_active} at most"
    rest = "; trained to 10" if passed is True else ", but it was trained to 10"
    assert checks(coder, source)["L0"] == Check("L0", passed, found + rest)


FAULTS = ("bias of 1.5 times", "not subtracted", "no threshold")


def faulty(folder: Path, fault: str) -> Path:
    """An SAE in SAELens' layout with a fault that people's checkpoints have."""
    file = folder / "sae_weights.safetensors"
    weights = load_file(file)
    if fault == "bias of 1.5 times":
        weights["b_dec"] = weights["b_dec"] * 1.5
    elif fault == "not subtracted":
        configure(folder, apply_b_dec_to_input=False)
    else:
        weights["threshold"] = weights["threshold"] * 0
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file)
    return folder


@pytest.fixture(scope="module")
def mnist() -> ActivationSource:
    opener = Opener(load_suite("mnist"), Setting("cpu", 2500))
    return opener.open(opener.site_of(name="suite 'mnist'"))


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_trained_sae_with_a_fault_is_noticed(
    mnist: ActivationSource, tmp_path: Path, fault: str, told: bool
) -> None:
    """With what training tells beside it, and, for its bias, from the activations alone."""
    shipped = Path(load_suite("mnist").folder) / "saes" / "batchtopk-256-k9"
    folder = tmp_path / "sae"
    shutil.copytree(shipped, folder)
    if not told:
        (folder / "training.json").unlink()
        (folder / "sparsity.safetensors").unlink()
    found = checks(load_coder(str(faulty(folder, fault))), mnist)
    warned = {name: check.message for name, check in found.items() if check.passed == "warning"}
    if fault == "no threshold":
        l0 = "9.064" if told else "9"
        assert re.search(
            rf"trained to {l0}: a threshold is lost, or a bias is wrong$", warned["L0"]
        )
    else:
        words = {
            "bias of 1.5 times": "it is 1.5 times what it was",
            "not subtracted": "it is not subtracted from the input, but should be",
        }
        assert warned["bias"].endswith(words[fault])
    assert ("loss" in found) == told
    if told and fault == "not subtracted":
        assert found["loss"].passed == "warning"


@pytest.mark.parametrize("key", ["jumprelu-128-c0.5", "relu-128-c0.6", "mdl-256-s1.2"])
def test_l0_is_compared_with_what_lies_beside_the_weights(
    mnist: ActivationSource, tmp_path: Path, key: str
) -> None:
    """These have no k; training.json tells their L0, and so does sparsity.safetensors."""
    folder = tmp_path / "sae"
    shutil.copytree(Path(load_suite("mnist").folder) / "saes" / key, folder)
    expected = json.loads((folder / "training.json").read_text())["result"]
    spec = load_coder(str(folder)).spec
    assert (spec.measured_l0, spec.measured_mse) == (expected["l0"], expected["test_mse"])
    (folder / "training.json").write_text("{")
    spec = load_coder(str(folder)).spec
    assert spec.measured_l0 == pytest.approx(expected["l0"], rel=1e-3)
    assert spec.measured_mse is None
    if "relu-1" in key and not key.startswith("relu"):
        found = checks(load_coder(str(faulty(folder, "no threshold"))), mnist)
        assert found["L0"].passed == "warning"


@pytest.mark.parametrize(
    "key",
    ["batchtopk-32-k24", "batchtopk-128-k11", "topk-128-k11", "jumprelu-128-c0.8", "relu-128-c0.6",
     "relu-128-c0.4", "gated-128-c2.2", "matryoshka-128-k19", "feature-zipf-128-k19",
     "tree-128-k15", "group-128-k8", "mdl-256-s1.2"],
)  # fmt: skip
def test_honest_saes_raise_no_alarm(mnist: ActivationSource, key: str) -> None:
    coder = load_coder(str(Path(load_suite("mnist").folder) / "saes" / key))
    found = checks(coder, mnist)
    assert {name for name, check in found.items() if check.passed is not True} == set()
    assert {"loss", "bias", "L0"} <= set(found)


def test_honest_toy_saes_raise_no_alarm() -> None:
    suite = load_suite("toy")
    opener = Opener(suite, Setting("cpu", 2500))
    source = opener.open(opener.site_of(name="suite 'toy'"))
    for key in (key for key in suite.keys if key not in ("pca", "mean")):
        found = checks(load_coder(str(Path(suite.folder) / "saes" / key)), source)
        assert {"L0", "loss", "bias"} & {
            n for n, c in found.items() if c.passed is not True
        } == set()


def test_a_tiny_sae_of_ones_own(source: Images, tmp_path: Path) -> None:
    config = TrainingConfig(width=48, k=3.0, epochs=60, batch_size=50, lr=0.01)
    honest = train(config, source, tmp_path / "honest")
    found = checks(load_coder(str(honest)), source)
    assert not {"L0", "loss", "bias"} & warned_of(found)
    found = checks(load_coder(str(faulty(honest, "no threshold"))), source)
    assert {"L0", "loss", "bias"} & warned_of(found)
