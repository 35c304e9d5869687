"""What SAELens keeps of an SAE in training, against SAELens' own conversion, in float64."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdlbench.adapters.check import check_coder
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.errors import CheckpointError

D, WIDTH, K = 12, 40, 6
SCALE = 0.37
ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", "batchtopk", "matryoshka_batchtopk")


def training_sae(architecture: str, scaled: bool, **options: Any) -> Any:
    """An SAE in training, whose weights are as if it had been at it for a while."""
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(architecture)
    if "topk" in architecture:
        options = {"k": K, **options}
    if "matryoshka" in architecture:
        options |= {"matryoshka_widths": [10, WIDTH]}
    how = "expected_average_only_in" if scaled else "none"
    sae = sae_class(config_class(d_in=D, d_sae=WIDTH, normalize_activations=how, **options))
    generator = torch.Generator().manual_seed(5)
    for parameter in sae.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    if hasattr(sae, "threshold"):
        sae.threshold.data = sae.threshold.data.abs()
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.tensor(0.7301, dtype=torch.float64)
    return sae


def save_checkpoint(sae: Any, folder: Path, factor: float | None) -> None:
    """The files that SAELens' trainer writes."""
    from sae_lens.training.activation_scaler import ActivationScaler

    sae.save_model(folder)
    save_file({"sparsity": torch.zeros(WIDTH)}, folder / "sparsity.safetensors")
    torch.save({"n_training_steps": 3}, folder / "trainer_state.pt")
    ActivationScaler(factor).save(str(folder / "activation_scaler.json"))


def shipped(sae: Any, folder: Path, factor: float | None) -> Any:
    """The SAE as SAELens would ship it at the end of training, computing in float64."""
    from sae_lens import SAE

    sae = copy.deepcopy(sae)
    if factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder).to(torch.float64)


def tokens(n: int = 200) -> torch.Tensor:
    return 3 * torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 0.2


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_of_training_is_what_saelens_would_ship(
    tmp_path: Path, architecture: str, rescaled: bool, scaled: bool
) -> None:
    if rescaled and "topk" not in architecture:
        pytest.skip("no such option")
    options = {"rescale_acts_by_decoder_norm": rescaled} if "topk" in architecture else {}
    sae, factor = training_sae(architecture, scaled, **options), SCALE if scaled else None
    save_checkpoint(sae, tmp_path / "checkpoint", factor)
    theirs = shipped(sae, tmp_path / "shipped", factor)
    ours, x = load_coder(str(tmp_path / "checkpoint")), tokens()
    with torch.no_grad():
        expected = theirs.encode(x.double())
        reconstruction = theirs.decode(expected)
    latents, side = ours.encode(x)
    assert 0 < latents.nnz < 0.9 * len(x) * WIDTH
    np.testing.assert_allclose(latents.to_dense(), expected, rtol=1e-5, atol=2e-5)
    decoded = ours.decode(latents, side)
    torch.testing.assert_close(decoded.double(), reconstruction, rtol=1e-5, atol=5e-5)
    assert ours.spec.architecture == architecture
    assert ours.spec.input_scale == factor
    assert [check.name for check in check_coder(ours) if not check.passed] == []


def test_a_batchtopk_sae_promises_no_l0(tmp_path: Path) -> None:
    save_checkpoint(training_sae("batchtopk", False, k=5.5), tmp_path, None)
    spec = load_coder(str(tmp_path)).spec
    assert (spec.promised_l0, spec.trained_l0, spec.details["k"]) == (None, 5.5, 5.5)


def test_the_factor_is_part_of_what_is_loaded(tmp_path: Path) -> None:
    sae = training_sae("standard", True)
    save_checkpoint(sae, tmp_path / "a", 0.5)
    save_checkpoint(sae, tmp_path / "b", 0.6)
    digests = {NamedCoder(str(tmp_path / name)).identify().weights_sha256 for name in "ab"}
    assert len(digests) == 2
    save_checkpoint(training_sae("standard", False), tmp_path / "c", None)
    before = NamedCoder(str(tmp_path / "c")).identify()
    (tmp_path / "c/activation_scaler.json").unlink()
    assert NamedCoder(str(tmp_path / "c")).identify() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "activation_scaler.json beside it says what it was"),
        ({"scaling_factor": None}, "activation_scaler.json beside it says what it was"),
        ({"scaling_factor": 0}, "scaling_factor must be a positive number, not 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor must be a positive number, not nan"),
        ({"scaling_factor": "2"}, "scaling_factor must be a positive number, not '2'"),
        ({"scaling_factor": True}, "scaling_factor must be a positive number, not True"),
    ],
)
def test_a_missing_factor_is_not_guessed(tmp_path: Path, content: Any, message: str) -> None:
    save_checkpoint(training_sae("batchtopk", True), tmp_path, None)
    scaler = tmp_path / "activation_scaler.json"
    if content is None:
        scaler.unlink()
    else:
        scaler.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        load_coder(str(tmp_path))


def test_a_log_threshold_is_that_of_older_trainers(tmp_path: Path) -> None:
    save_checkpoint(training_sae("jumprelu", False), tmp_path / "new", None)
    save_checkpoint(training_sae("jumprelu", False), tmp_path / "old", None)
    file = tmp_path / "old/sae_weights.safetensors"
    weights = load_file(file)
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, file)
    old, new = (load_coder(str(tmp_path / name)) for name in ("old", "new"))
    expected, _ = new.encode(tokens())
    np.testing.assert_allclose(old.encode(tokens())[0].to_dense(), expected.to_dense(), rtol=1e-5)
