"""The papers' SAEs as SAELens training classes: what is chosen, lost, saved and loaded."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sae_lens import SAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.batchtopk_sae import BatchTopK
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file

from mdlbench.adapters.load import load_coder
from mdlbench.adapters.parts import TreeDecoder
from mdlbench.codes.closed_forms import zipf_rates
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import quantise
from mdlbench.errors import CheckpointError, TrainingError, UsageError
from mdlbench.sources.protocol import Block, Split
from mdlbench.training import architectures
from mdlbench.training.architectures.feature_choice import quotas
from mdlbench.training.architectures.mdl import STRENGTH
from mdlbench.training.architectures.shared.auxiliary import auxiliary_loss, underused, zipf_density
from mdlbench.training.architectures.tree import branching_parents
from mdlbench.training.catalogue import own_architectures
from mdlbench.training.config import TrainingConfig, build_sae
from mdlbench.training.inference import inference_sae
from mdlbench.training.trainer import initialise_from_data, train
from tests.test_training import CONFIG, SparseSource

BATCH = 64
PAGE = Path(__file__).parent.parent / "docs" / "train.md"
GIVEN = Forest.from_parents(np.array(branching_parents([4, 1, 2])))
OPTIONS: dict[str, dict[str, Any]] = {
    "mutual_choice": {"k": 3},
    "feature_choice": {"k": 3, "options": {"zipf": 0.7}},
    "tree": {"k": 3, "options": {"branching": [4, 1, 2]}},
    "group_sparse": {"k": 2, "options": {"group_size": 4}},
    "mdl": {"k": None, "options": {"step": 0.2, "decoder_init_norm": 1.0}},
}


def config_of(architecture: str, **changes: Any) -> TrainingConfig:
    settings = {"architecture": architecture, "epochs": 3} | OPTIONS[architecture]
    return replace(CONFIG, **settings | changes)


def training_sae(architecture: str, **changes: Any) -> Any:
    """An SAE in training, of the width 16, somewhat into its run."""
    torch.manual_seed(3)
    source = SparseSource()
    sae = build_sae(config_of(architecture, **changes), source)
    initialise_from_data(sae, source.tokens["calibration"])
    with torch.no_grad():
        sae.W_dec += 0.2 * torch.randn_like(sae.W_dec)
        sae.b_enc += 0.02 * torch.randn_like(sae.b_enc)
    return sae


def step(sae: Any, x: torch.Tensor, **inputs: Any) -> Any:
    defaults = {
        "coefficients": {},
        "dead_neuron_mask": None,
        "n_training_steps": 10_000,
        "is_logging_step": False,
    }
    return sae.training_forward_pass(TrainStepInput(sae_in=x, **defaults | inputs))


def batch() -> torch.Tensor:
    return SparseSource().tokens["calibration"][:BATCH]


# Where an architecture is found


def test_each_architecture_is_a_file_named_after_it():
    assert own_architectures().keys() == OPTIONS.keys()
    for name, summary in own_architectures().items():
        sae_class, config_class = get_sae_training_class(name)
        assert config_class.architecture() == name
        assert sae_class.__module__ == config_class.__module__ == f"{architectures.__name__}.{name}"
        assert summary == sys.modules[sae_class.__module__].__doc__.splitlines()[0]


def test_the_catalogue_needs_neither_torch_nor_saelens():
    code = (
        "import sys; from mdlbench.training.catalogue import own_architectures as own;"
        "print(sorted(own()), {'torch', 'sae_lens'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{sorted(OPTIONS)} set()\n"


def test_the_readme_explains_each_architecture():
    rows = re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \|$", PAGE.read_text(), re.MULTILINE)
    assert set(rows) >= OPTIONS.keys()


# Which matches are made


@given(
    st.integers(1, 60),
    st.integers(1, 200),
    st.floats(0.05, 0.9),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_quotas_are_a_capped_zipf_law(n_latents, n_tokens, share, zipf):
    k = share * n_latents
    assume(k * n_tokens * n_latents**-zipf >= 2 * n_latents)
    quota = quotas(k, n_tokens, n_latents, zipf)
    assert abs(int(quota.sum()) - k * n_tokens) <= 0.5 + 1e-6
    assert (quota.diff() <= 0).all()
    assert quota.min() >= 1
    assert quota.max() <= n_tokens
    exact = zipf_rates(n_latents, k, zipf) * n_tokens
    assert np.abs(quota.numpy() - exact).max() <= 1 + 1e-9


def test_uniform_quotas_are_equal():
    assert quotas(8, 512, 1024, 0.0).tolist() == [4] * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0.1}, "leaves a latent"),
        ({"k": 3, "options": {"zipf": -1.0}}, "must not be negative"),
        ({"k": 17}, "between 0 and the width 16"),
        ({"k": 3, "options": {"auxiliary": "aux_zip"}}, "auxiliary"),
        ({"k": None, "options": {"k": 40}}, "k=40 must lie between 0 and the 16 latents"),
        ({"k": 3, "options": {"apply_b_dec_to_input": False}}, "apply_b_dec_to_input is True"),
        ({"k": 3, "options": {"dtype": "bfloat16"}}, "dtype is float32 here"),
        ({"k": 3, "options": {"zipf": "abc"}}, "zipf"),
        ({"k": 3, "options": {"running_rate": float("nan")}}, "running_rate"),
    ],
)
def test_impossible_feature_choices_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        build_sae(config_of("feature_choice", **changes), SparseSource())


def test_mutual_choice_is_batch_topk():
    sae, x = training_sae("mutual_choice"), batch()
    acts, hidden = sae.encode_with_hidden_pre(x)
    assert torch.equal(acts, BatchTopK(3)(hidden))
    assert int((acts > 0).sum()) == 3 * BATCH


def test_each_latent_chooses_its_largest_matches():
    sae, x = training_sae("feature_choice"), batch()
    acts, hidden = sae.encode_with_hidden_pre(x)
    quota = quotas(3, BATCH, 16, 0.7)
    for latent in range(16):
        column = hidden[:, latent].relu()
        wanted = column.sort(descending=True).values[: int(quota[latent])]
        chosen = acts[:, latent].sort(descending=True).values
        assert torch.equal(chosen[: len(wanted)], wanted)
        assert not chosen[len(wanted) :].any()


def test_thresholds_are_running_means_of_the_smallest_chosen():
    sae, x = training_sae("feature_choice"), batch()
    batches = [x, 1.5 * x]
    smallest = []
    for part in batches:
        acts = step(sae, part).feature_acts
        smallest.append([float(column[column > 0].min()) for column in acts.detach().T])
    first, second = np.array(smallest)
    assert sae.threshold.numpy() == pytest.approx(first + 0.01 * (second - first), rel=1e-5)


# Auxiliary losses


def test_the_fit_of_a_zipf_law_is_that_law():
    density = 0.3 * torch.arange(1, 51).double() ** -0.8
    shuffled = density[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(zipf_density(shuffled), shuffled, rtol=1e-9)
    assert not underused(shuffled, 0.5, torch.zeros(50, dtype=torch.bool)).any()


def test_latents_far_below_their_rank_are_underused():
    density = 0.3 * torch.arange(1, 51).double() ** -0.8
    density[30] = 1e-6
    dead = torch.zeros(50, dtype=torch.bool)
    dead[40] = True
    assert torch.nonzero(underused(density, 0.1, dead))[:, 0].tolist() == [30, 40]


def reference_auxiliary(
    error: np.ndarray, hidden: np.ndarray, rows: np.ndarray, latents: list[int], k: int
) -> float:
    unexplained = 0.0
    for e, h in zip(error, hidden, strict=True):
        top = sorted(latents, key=lambda i: -h[i])[:k]
        unexplained += float(((e - sum(h[i] * rows[i] for i in top)) ** 2).sum())
    return unexplained / float((error**2).sum())


@pytest.mark.parametrize("dead", [[2], [1, 4, 9], list(range(1, 12))])
def test_dead_latents_alone_give_aux_k_loss(dead):
    generator = torch.Generator().manual_seed(1)
    error, hidden = (torch.randn(20, n, generator=generator) for n in (12, 16))
    rows = torch.randn(16, 12, generator=generator)
    density = torch.full((16,), 0.1)
    chosen = underused(density, 0.1, torch.isin(torch.arange(16), torch.tensor(dead)))
    assert torch.nonzero(chosen)[:, 0].tolist() == dead
    expected = reference_auxiliary(*(a.double().numpy() for a in (error, hidden, rows)), dead, k=6)
    assert float(auxiliary_loss(error, hidden, rows, chosen)) == pytest.approx(expected, rel=1e-5)


def test_aux_zipf_is_aux_k_where_only_the_dead_are_underused():
    losses = {}
    dead = torch.zeros(16, dtype=torch.bool)
    dead[[3, 7]] = True
    for auxiliary in ("aux_k", "aux_zipf"):
        sae = training_sae("mutual_choice", options={"auxiliary": auxiliary})
        sae.density.copy_(torch.where(dead, 1e-9, 0.2))
        losses[auxiliary] = step(sae, batch(), dead_neuron_mask=dead).losses[auxiliary].item()
    assert losses["aux_zipf"] == losses["aux_k"] > 0


def test_no_auxiliary_loss_where_none_is_asked_for():
    sae = training_sae("mutual_choice", options={"auxiliary": "none"})
    assert set(step(sae, batch()).losses) == {"mse_loss"}


# Forests


def test_levels_of_a_branching_forest():
    parents = branching_parents([2, 2, 1])
    assert parents == [-1, -1, 0, 0, 1, 1, 2, 3, 4, 5]
    assert [level.tolist() for level in Forest.from_parents(np.array(parents)).levels] == [
        [0, 1],
        [2, 3, 4, 5],
        [6, 7, 8, 9],
    ]


@given(st.integers(0, 2**32 - 1))
def test_gating_keeps_what_hangs_from_a_root(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 12))
    parents = np.array([generator.integers(-1, i) if i else -1 for i in range(n)])
    z = generator.integers(0, 2, (5, n)).astype(np.float32)
    expected = z.copy()
    for latent in range(n):
        if parents[latent] >= 0:
            expected[:, latent] *= expected[:, parents[latent]]
    kept = Forest.from_parents(parents).gated(SparseLatents.from_dense(z))
    assert np.array_equal(kept.to_dense(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either branching"),
        ({"branching": [4, 3], "parents": [-1] * 16}, "give either branching"),
        ({"branching": [4, 2]}, "forest of 12 latents does not fit the width 16"),
        ({"branching": [4, 0]}, "whole numbers from 1 on"),
        ({"parents": [1, 0, *[-1] * 14]}, "descend from themselves"),
        ({"parents": [-1, [0, 2], *[-1] * 14]}, "none can have two parents"),
        ({"parents": [-1, 16, *[-1] * 14]}, "latent 1 has parent 16"),
    ],
)
def test_what_is_no_forest_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        build_sae(config_of("tree", options=options), SparseSource())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 5}, "k=5 must lie between 0 and the 4 groups"),
        ({"options": {"group_size": 5}}, "group_size 5 does not divide the width 16"),
        ({"options": {"group_size": 16}, "k": 1}, "group_size 16 exceeds the width 12"),
        ({"options": {"group_size": 2.0}}, "group_size"),
        ({"k": 0.001}, "chooses nothing in a batch of 64 tokens"),
    ],
)
def test_impossible_groups_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        build_sae(config_of("group_sparse", **changes), SparseSource())


def test_a_child_is_chosen_only_with_its_parent():
    sae = training_sae("tree")
    acts = step(sae, batch()).feature_acts.detach().numpy()
    parents = np.array(branching_parents([4, 1, 2]))
    assert (acts > 0).sum() == pytest.approx(3 * BATCH, abs=8)
    for child in np.flatnonzero(parents >= 0):
        assert not (acts[acts[:, parents[child]] == 0, child] > 0).any()


def test_a_group_is_on_or_off_as_a_whole():
    sae = training_sae("group_sparse")
    acts = step(sae, batch()).feature_acts.detach().numpy().reshape(BATCH, 4, 4)
    on = (acts != 0).all(axis=2)
    assert np.array_equal(on, (acts != 0).any(axis=2))
    assert on.sum() == 2 * BATCH
    rows = sae.W_dec.detach().numpy().reshape(4, 4, -1)
    hidden = sae.encode_with_hidden_pre(batch())[1].detach().numpy().reshape(BATCH, 4, 4)
    norms = np.linalg.norm(np.einsum("tgm,gmd->tgd", hidden, rows), axis=2)
    assert norms[on].min() > norms[~on].max()


# The directly trained SAE


def test_the_rate_is_that_of_the_histogram():
    sae, x = training_sae("mdl"), batch()
    output = step(sae, x)
    hidden = output.hidden_pre.detach().relu().double().numpy()
    symbols = np.floor(hidden / 0.2 + 0.5).astype(int)
    histogram = np.stack([np.bincount(column, minlength=64) for column in symbols.T])
    pooled = histogram.sum(axis=0) + 1
    q = histogram + STRENGTH * pooled / pooled.sum()
    q = q / q.sum(axis=1, keepdims=True)
    bits = -sum(math.log2(q[i, s]) for token in symbols for i, s in enumerate(token)) / BATCH
    expected = math.log(2) / 6 * 0.2**2 * bits
    assert output.losses["rate"].item() == pytest.approx(expected, rel=1e-4)


def test_the_rates_gradient_is_the_slope_between_symbols():
    sae = training_sae("mdl")
    step(sae, batch())
    relative = torch.tensor([[0.0, 0.3, 0.8, 2.4] * 4], requires_grad=True)
    sae.bits(relative).sum().backward()
    prices = sae.prices()
    for latent, below in ((1, 0), (2, 0), (3, 2)):
        slope = prices[latent, below + 1] - prices[latent, below]
        assert float(relative.grad[0, latent]) == pytest.approx(float(slope), rel=1e-5)
    assert relative.grad[0, 0] == 0


def test_latents_in_training_are_what_the_harness_would_decode():
    sae, x = training_sae("mdl"), batch()
    acts = step(sae, x).feature_acts.detach().float().numpy()
    shipped = inference_sae(sae)
    latents = SparseLatents.from_dense(shipped.encode(x).detach().numpy())
    quantised = quantise(latents, 0.2)
    dense = np.zeros_like(acts)
    dense[quantised.token, quantised.latent] = quantised.symbol * 0.2
    assert dense == pytest.approx(acts, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, "step must be positive"),
        ({"step": float("inf")}, "step"),
        ({"rate_weight": -1.0}, "must not be negative"),
        ({"warm_up": "abc"}, "warm_up"),
    ],
)
def test_impossible_rates_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        build_sae(config_of("mdl", options=options), SparseSource())


# What is saved, and loaded again


@pytest.fixture(scope="module", params=OPTIONS)
def trained(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / request.param
    return train(config_of(request.param), SparseSource(), folder, progress=False)


def reference_latents(folder: Path, x: np.ndarray) -> np.ndarray:
    """Latents in float64 from the files alone."""
    w = {
        name: t.double().numpy()
        for name, t in load_file(folder / "sae_weights.safetensors").items()
    }
    architecture = json.loads((folder / "cfg.json").read_text())["architecture"]
    z = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    if architecture == "group_sparse":
        grouped = z.reshape(len(x), 4, 4)
        on = np.sqrt((grouped**2).sum(axis=2)) > w["threshold"]
        return (grouped * on[:, :, None]).reshape(z.shape)
    z = np.where(z > np.maximum(w["threshold"], 0), z, 0.0)
    if architecture == "tree":
        parents = w["parents"].astype(int)
        for latent in range(16):
            ancestor = parents[latent]
            while ancestor != -1:
                z[z[:, ancestor] == 0, latent] = 0
                ancestor = parents[ancestor]
    return z


def test_adapter_against_float64_and_saelens(trained):
    x = SparseSource().tokens["test"]
    coder = load_coder(str(trained))
    latents, side = coder.encode(x)
    expected = reference_latents(trained, x.double().numpy())
    assert side.shape == (len(x), 0)
    assert latents.nnz == np.count_nonzero(expected) > 0
    assert latents.to_dense() == pytest.approx(expected, abs=1e-5)
    w = load_file(trained / "sae_weights.safetensors")
    reconstruction = expected @ w["W_dec"].double().numpy() + w["b_dec"].double().numpy()
    assert coder.decode(latents, side).numpy() == pytest.approx(reconstruction, abs=1e-5)
    sae = SAE.load_from_disk(trained)
    assert sae.encode(x).detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert sae(x).detach().numpy() == pytest.approx(reconstruction, abs=1e-5)


def test_saved_architecture_is_the_simplest_that_is_exact(trained):
    config = json.loads((trained / "cfg.json").read_text())
    exact = {"tree": "tree", "group_sparse": "group_sparse"}
    assert config["architecture"] == exact.get(trained.name, "jumprelu")
    coder = load_coder(str(trained))
    assert coder.spec.architecture == trained.name
    assert (coder.spec.parents is not None) == (trained.name in exact)


def test_saved_sae_encodes_as_the_thresholds_of_training_do(tmp_path):
    """Folding norms and turning groups onto principal axes changes no reconstruction."""
    for architecture in OPTIONS:
        sae, x = training_sae(architecture), SparseSource().tokens["test"]
        for _ in range(3):
            step(sae, batch())
        hidden = sae.encode_with_hidden_pre(x)[1].detach()
        shipped = inference_sae(sae)
        if architecture == "group_sparse":
            grouped = hidden.unflatten(1, (-1, 4))
            on = sae.contributions(grouped).norm(dim=2) > sae.threshold
            z = (grouped * on[:, :, None]).flatten(1)
        elif architecture == "mdl":
            z = hidden * (hidden > 0.1)
        else:
            z = hidden * (hidden > sae.threshold)
            if architecture == "tree":
                gated = GIVEN.gated(SparseLatents.from_dense(z.numpy()))
                z = torch.from_numpy(gated.to_dense())
        expected = sae.decode(z).detach().numpy()
        assert shipped(x).detach().numpy() == pytest.approx(expected, abs=1e-5), architecture


def test_rows_of_a_saved_group_are_orthonormal_principal_axes():
    sae, x = training_sae("group_sparse"), batch()
    for _ in range(3):
        step(sae, x)
    sae.moments.zero_()
    sae.threshold.zero_()
    output = step(sae, x)
    shipped = inference_sae(sae)
    rows = shipped.W_dec.detach().unflatten(0, (4, 4))
    assert torch.allclose(rows @ rows.mT, torch.eye(4).expand(4, 4, 4), atol=1e-5)
    on = (output.feature_acts != 0).unflatten(1, (4, 4))[:, :, :1]
    latents = (x - shipped.b_dec) @ shipped.W_enc + shipped.b_enc
    axes = (latents.unflatten(1, (4, 4)) * on).detach()
    moments = torch.einsum("tgm,tgn->gmn", axes, axes) / BATCH
    assert torch.allclose(moments, torch.diag_embed(moments.diagonal(dim1=1, dim2=2)), atol=1e-5)
    assert (moments.diagonal(dim1=1, dim2=2).diff(dim=1) <= 1e-6).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_rounded_tree_decodes_no_orphans(seed):
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(16, 12)).astype(np.float32)
    z = SparseLatents.from_dense((generator.random((5, 16)) < 0.5).astype(np.float32))
    decoder = TreeDecoder(torch.from_numpy(rows), torch.zeros(12), GIVEN)
    expected = GIVEN.gated(z).to_dense() @ rows
    assert decoder(z).numpy() == pytest.approx(expected, abs=1e-5)


def tampered(folder: Path, copy: Path, **changes: torch.Tensor) -> Path:
    copy.mkdir()
    (copy / "cfg.json").write_bytes((folder / "cfg.json").read_bytes())
    weights = load_file(folder / "sae_weights.safetensors") | changes
    save_file(weights, copy / "sae_weights.safetensors")
    return copy


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        (torch.arange(16).roll(1), "descend from themselves"),
        (torch.full((16,), 99), "latent 0 has parent 99"),
        (torch.full((16, 2), -1), "parents"),
        (torch.full((16,), -1.0), "expected integers"),
    ],
)
def test_a_checkpoint_that_is_no_forest_is_refused(parents, message, tmp_path):
    folder = train(config_of("tree", epochs=1), SparseSource(), tmp_path / "a", progress=False)
    with pytest.raises(CheckpointError, match=message):
        load_coder(str(tampered(folder, tmp_path / "b", parents=parents)))


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    folder = train(config_of("tree", epochs=1), SparseSource(), tmp_path / "a", progress=False)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"architecture": "jumprelu"}))
    with pytest.raises(CheckpointError, match="unknown tensor 'parents'"):
        load_coder(str(folder))


def test_group_size_must_divide_the_width(tmp_path):
    folder = train(
        config_of("group_sparse", epochs=1), SparseSource(), tmp_path / "a", progress=False
    )
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"group_size": 5}))
    with pytest.raises(CheckpointError, match="group_size 5 does not divide d_sae=16"):
        load_coder(str(folder))


def test_the_last_epoch_is_kept_where_that_is_asked_for(tmp_path):
    config = config_of("mdl", keep="last", patience=1, epochs=4)
    folder = train(config, SparseSource(), tmp_path / "a", progress=False)
    result = json.loads((folder / "training.json").read_text())["result"]
    assert (result["epochs"], result["kept_epoch"]) == (4, 3)


class StoppedSource(SparseSource):
    """Fails when the given epoch is measured."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epochs_left = epoch

    def blocks(self, split: Split) -> Iterator[Block]:
        if split == "test":
            if self.epochs_left == 0:
                raise KeyboardInterrupt
            self.epochs_left -= 1
        return super().blocks(split)


@pytest.mark.parametrize("architecture", OPTIONS)
def test_an_interrupted_run_goes_on_to_the_same_weights(architecture, tmp_path):
    config = config_of(architecture, epochs=4, keep="last")
    whole = train(config, SparseSource(), tmp_path / "whole", progress=False, checkpoint_every=2)
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(config, StoppedSource(3), stopped, progress=False, checkpoint_every=2)
    assert (stopped / "checkpoint-000002").is_dir()
    train(config, SparseSource(), stopped, progress=False, checkpoint_every=2)
    for name in ("sae_weights.safetensors", "cfg.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("architecture", OPTIONS)
def test_a_diverging_run_is_named_and_keeps_no_sae(architecture, tmp_path):
    config = config_of(architecture, lr=1e30, warm_up_steps=0)
    with pytest.raises(TrainingError, match="lower lr"):
        train(config, SparseSource(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "sae_weights.safetensors").exists()
