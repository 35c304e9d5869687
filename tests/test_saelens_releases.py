"""Releases by name, from caches that hold random weights under the releases' own file names."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from mdlbench.adapters.formats.saelens import releases
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import Origin, SparseCoder
from mdlbench.errors import CheckpointError, HubError, MdlbenchError, UsageError
from tests.surrogate_hub import write_repository
from tests.test_adapters import WIDTH, D, activations, reference, write_checkpoint
from tests.test_hub import DISCARD, FakeHub, fake, set_endpoint

__all__ = ["fake"]

RES_JB = "saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre"
V5 = "saelens:gpt2-small-resid-post-v5-32k/blocks.8.hook_resid_post"
MLP_TM = "saelens:gpt2-small-mlp-tm/blocks.8.hook_mlp_out"
HOOK_Z = "saelens:gpt2-small-hook-z-kk/blocks.8.hook_z"
MISTRAL = "saelens:mistral-7b-res-wg/blocks.8.hook_resid_pre"
TOPK_DL = "saelens:sae_bench_pythia70m_sweep_topk_ctx128_0730/blocks.3.hook_resid_post__trainer_0"
QWEN = "saelens:mwhanna-qwen3-0.6b-transcoders-lowl0/layer_0"
GEMMA_3 = "saelens:gemma-scope-2-4b-pt-res-all/layer_0_width_16k_l0_small"

JB_REPO = "jbloom/GPT2-Small-SAEs-Reformatted"
Z_REPO = "ckkissane/attn-saes-gpt2-small-all-layers"
Z_FILE = (
    "gpt2-small_L8_Hcat_z_lr1.20e-03_l11.30e+00_ds24576_bs4096_dc1.00e-05_rsanthropic_rie25000"
    "_nr4_v6"
)
TRAINER = "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0"
OLD = {"d_in": D, "d_sae": WIDTH, "dtype": "torch.float32", "device": "cpu"}


def affine(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, WIDTH), "b_enc": (WIDTH,), "W_dec": (WIDTH, D), "b_dec": (D,)}
    return {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def folder_files(path: str, config: dict[str, Any]) -> dict[str, bytes]:
    return {
        f"{path}/cfg.json": json.dumps(OLD | config).encode(),
        f"{path}/sae_weights.safetensors": save(affine()),
    }


def repositories() -> dict[str, dict[str, bytes]]:
    trainer = {
        "dict_class": "AutoEncoderTopK",
        "k": 6,
        "activation_dim": D,
        "dict_size": WIDTH,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    return {
        JB_REPO: folder_files(
            "blocks.8.hook_resid_pre",
            {
                "model_name": "gpt2-small",
                "hook_point": "blocks.8.hook_resid_pre",
                "context_size": 128,
            },
        ),
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs": folder_files(
            "v5_32k_layer_8.pt",
            {
                "model_name": "gpt2-small",
                "hook_name": "blocks.8.hook_resid_post",
                "activation_fn_str": "topk",
                "activation_fn_kwargs": {"k": 7},
                "normalize_activations": "layer_norm",
                "apply_b_dec_to_input": True,
                "prepend_bos": False,
                "context_size": 64,
            },
        ),
        "tommmcgrath/gpt2-small-mlp-out-saes": folder_files(
            "sae_group_gpt2_blocks.8.hook_mlp_out_24576:v1",
            {
                "model_name": "gpt2-small",
                "hook_name": "blocks.8.hook_mlp_out",
                "normalize_activations": "expected_average_only_in",
                "prepend_bos": True,
                "context_size": 128,
            },
        ),
        "JoshEngels/Mistral-7B-Residual-Stream-SAEs": folder_files(
            "mistral_7b_layer_8",
            {"hook_name": "blocks.8.hook_resid_pre", "normalize_activations": "none"},
        ),
        Z_REPO: {
            f"{Z_FILE}.pt": saved(affine()),
            f"{Z_FILE}_cfg.json": json.dumps(
                {"act_size": D, "dict_size": WIDTH, "act_name": "blocks.8.attn.hook_z"}
            ).encode(),
        },
        "canrager/lm_sae": {
            f"{TRAINER}/config.json": json.dumps(
                {"trainer": trainer, "buffer": {"ctx_len": 128}}
            ).encode(),
            "pythia70m_sweep_topk_ctx128_0730/resid_post_layer_3/trainer_0/ae.pt": saved(
                topk_of_dictionary_learning()
            ),
        },
        "mwhanna/qwen3-0.6b-transcoders-lowl0": {
            "config.yaml": b"model_name: Qwen/Qwen3-0.6B\n",
            "wandb-config.yaml": f"d_model: {{value: {D}}}\nd_feature: {{value: {WIDTH}}}\n"
            "batch_size: {value: 256}\n".encode(),
            "layer_0.safetensors": save(
                affine() | {"W_enc": affine()["W_enc"].T.contiguous()},
            ),
        },
    }


def topk_of_dictionary_learning() -> dict[str, torch.Tensor]:
    weights = affine()
    return {
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T.contiguous(),
        "b_dec": weights["b_dec"],
        "threshold": torch.tensor(-1.0),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("hub")
    for repo, files in repositories().items():
        write_repository(cache, repo, files)
    return cache


@pytest.fixture
def cache(written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(written))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return written


def run(coder: SparseCoder, x: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    latents, side = coder.encode(x)
    return latents.to_dense(), coder.decode(latents, side)


@pytest.mark.parametrize("spec", [RES_JB, V5, MLP_TM, HOOK_Z, MISTRAL, TOPK_DL, QWEN])
def test_a_release_is_what_saelens_loads(cache: Path, spec: str) -> None:
    from sae_lens import SAE

    release, id = spec.removeprefix("saelens:").split("/", 1)
    theirs = SAE.from_pretrained(release, id)
    theirs.turn_off_forward_pass_hook_z_reshaping()
    coder, x = load_coder(spec), activations()
    with torch.no_grad():
        expected_z, expected_x = theirs.encode(x), theirs(x)
    z, decoded = run(coder, x)
    assert (z != 0).any()
    np.testing.assert_allclose(z, expected_z, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(decoded, expected_x, rtol=1e-4, atol=5e-5)
    assert coder.spec.name == f"{release}/{id}"
    assert coder.spec.identity.arguments["release"] == release
    assert coder.spec.identity.arguments["id"] == id
    assert coder.spec.hook == theirs.cfg.metadata.hook_name
    assert coder.spec.identity == NamedCoder(spec).identify()
    assert coder.spec.origin == NamedCoder(spec).origin()


@pytest.mark.parametrize("spec", [RES_JB, HOOK_Z])
def test_a_release_against_float64(cache: Path, spec: str) -> None:
    options = {
        "architecture": "standard",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
    }
    x = activations()
    z, decoded = run(load_coder(spec), x)
    expected_z, expected_x = reference(options, affine(), x)
    np.testing.assert_allclose(z, expected_z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(decoded, expected_x, rtol=1e-4, atol=5e-5)


def test_the_scale_of_a_release_is_folded(cache: Path) -> None:
    options = {
        "architecture": "standard",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
    }
    scale, x = 0.9123762783479742, activations()
    coder = load_coder(MLP_TM)
    expected_z, expected_x = reference(options, affine(), x.double() * scale)
    z, decoded = run(coder, x)
    np.testing.assert_allclose(z, expected_z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(decoded, expected_x / scale, rtol=1e-4, atol=5e-5)
    assert coder.spec.identity.arguments["norm_scaling_factor"] == scale


def test_what_decides_numbers_is_part_of_the_identity(cache: Path) -> None:
    assert NamedCoder(RES_JB).identify().arguments == {
        "release": "gpt2-small-res-jb",
        "id": "blocks.8.hook_resid_pre",
    }
    assert (
        NamedCoder(MISTRAL).identify().arguments["normalize_activations"] == "constant_norm_rescale"
    )
    assert load_coder(MISTRAL).spec.side_bits == 32
    digests = [NamedCoder(spec).identify().weights_sha256 for spec in (RES_JB, HOOK_Z, TOPK_DL)]
    assert len(set(digests)) == 3


def test_converted_weights_are_told_apart(cache: Path) -> None:
    config = load_coder(HOOK_Z).spec
    tensors = affine()
    parsed = releases.releases()["gpt2-small-hook-z-kk"].published("blocks.8.hook_z")
    digest = releases.digest_converted(parsed.converted_config(), tensors)
    assert digest == config.weights_sha256
    tensors["b_enc"][3] += 1e-6
    assert digest != releases.digest_converted(parsed.converted_config(), tensors)


def test_origins(cache: Path) -> None:
    centred = {"center_writing_weights": True}
    small = {"model": "gpt2-small"}
    assert NamedCoder(RES_JB).origin() == Origin(
        hook="blocks.8.hook_resid_pre", context=128, model_options=centred, **small
    )
    assert NamedCoder(V5).origin() == Origin(
        hook="blocks.8.hook_resid_post", context=64, prepend_bos=False, **small
    )
    assert NamedCoder(MLP_TM).origin() == Origin(
        hook="blocks.8.hook_mlp_out",
        context=128,
        prepend_bos=True,
        model_options=centred,
        **small,
    )
    assert NamedCoder(HOOK_Z).origin() == Origin(
        hook="blocks.8.attn.hook_z", context=128, prepend_bos=True, **small
    )
    assert NamedCoder(QWEN).origin() == Origin(
        model="Qwen/Qwen3-0.6B",
        hook="blocks.0.mlp.hook_in",
        hook_out="blocks.0.hook_mlp_out",
        context=256,
        model_options={"fold_ln": False},
    )


def test_an_origin_needs_the_config_alone(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        name: content
        for name, content in repositories()[JB_REPO].items()
        if name.endswith("cfg.json")
    }
    write_repository(tmp_path, JB_REPO, files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert NamedCoder(RES_JB).origin().hook == "blocks.8.hook_resid_pre"
    with pytest.raises(HubError, match=r"sae_weights\.safetensors' is not in the cache"):
        load_coder(RES_JB)


def test_corrections_reach_configs_of_either_age(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {"hook_name": "blocks.8.hook_resid_pre", "context_size": 9}
    config = {"architecture": "standard", "metadata": metadata}
    write_repository(tmp_path, JB_REPO, folder_files("blocks.8.hook_resid_pre", config))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert NamedCoder(RES_JB).origin() == Origin(
        hook="blocks.8.hook_resid_pre",
        context=9,
        model_options={"center_writing_weights": True},
    )


def expanded(spec: str, adapter: str | None = None) -> list[str]:
    return [named.spec for named in NamedCoder(spec, adapter=adapter).expand()]


def test_patterns() -> None:
    assert expanded("saelens:gpt2-small-res-jb/blocks.8.*") == [RES_JB]
    splits = expanded("saelens:gpt2-small-res-jb-feature-splitting/*")
    assert [spec.rsplit("_", 1)[1] for spec in splits] == [
        "768",
        "1536",
        "3072",
        "6144",
        "12288",
        "24576",
        "49152",
        "98304",
    ]
    assert len(expanded("saelens:gpt2-small-res-jb/blocks.*.hook_resid_pre")) == 12
    layers = expanded("saelens:gpt2-small-mlp-tm/blocks.[89].*")
    assert layers == [MLP_TM, MLP_TM.replace(".8.", ".9.")]
    assert expanded(RES_JB) == [RES_JB]
    assert expanded("gpt2-small-mlp-tm/*8*", adapter="saelens") == [MLP_TM.removeprefix("saelens:")]
    with pytest.raises(CheckpointError, match=r"has no SAE 'blocks\.99\*'. The nearest of 13"):
        expanded("saelens:gpt2-small-res-jb/blocks.99*")


def test_a_folder_of_that_name_comes_first(cache: Path, tmp_path: Path) -> None:
    argument = RES_JB.removeprefix("saelens:")
    write_checkpoint(tmp_path / argument, seed=3)
    local = load_coder(RES_JB, folder=tmp_path).spec
    assert local.identity.arguments == {}
    assert local.weights_sha256 != load_coder(RES_JB).spec.weights_sha256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "gpt2-smal-res-jb/blocks.8.hook_resid_pre",
            "no such folder, and 'gpt2-smal-res-jb' is no release.*: gpt2-small-res-jb,",
        ),
        ("gpt2-small-res-jb", r"several SAEs: name one, or all as gpt2-small-res-jb/\*"),
        (
            "gpt2-small-res-jb/blocks.8.hook_resid_prey",
            r"has no SAE .*The nearest of 13: blocks\.8\.hook_resid_pre,",
        ),
        ("mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0", "a layer of a cross-layer transcoder"),
    ],
)
def test_names_that_are_not_there(cache: Path, spec: str, message: str) -> None:
    named = NamedCoder
    for ask in (load_coder, lambda spec: named(spec).identify(), lambda spec: named(spec).origin()):
        with pytest.raises(CheckpointError, match=message):
            ask(f"saelens:{spec}")


def test_a_release_takes_no_options(cache: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'k'"):
        load_coder(f"{RES_JB}?k=3")


def test_a_temporal_sae_is_refused_by_its_config(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = {
        "exp_factor": 4,
        "n_heads": 1,
        "n_attn_layers": 1,
        "bottleneck_factor": 1,
        "sae_diff_type": "topk",
        "kval_topk": 3,
        "tied_weights": True,
        "scaling_factor": 1.0,
    }
    config = {"llm": {"dimin": D}, "sae": sae, "data": {"dtype": "float32"}}
    files = {"gemma-2-2B/layer_12/temporal/conf.yaml": json.dumps(config).encode()}
    write_repository(tmp_path, "canrager/temporalSAEs", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="'temporal' is not supported yet: its latents"):
        load_coder("saelens:temporal-sae-gemma-2-2b/blocks.12.hook_resid_post")


def test_loaders_that_fail(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(tmp_path, Z_REPO, {f"{Z_FILE}_cfg.json": b"{}"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"loader 'connor_rob_hook_z' fails: KeyError"):
        load_coder(HOOK_Z)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(HubError, match=rf"{Z_REPO} is not in the cache .*mdlbench fetch"):
        load_coder(HOOK_Z)
    config = repositories()[Z_REPO][f"{Z_FILE}_cfg.json"]
    write_repository(tmp_path / "half", Z_REPO, {f"{Z_FILE}_cfg.json": config})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "half"))
    with pytest.raises(HubError, match=rf"{Z_REPO} is not in the cache"):
        load_coder(HOOK_Z)


def test_what_is_cached_is_loaded_though_the_hub_refuses(
    fake: FakeHub, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(written))
    fake.refusals[Z_REPO] = (403, "")
    np.testing.assert_array_equal(load_coder(HOOK_Z).decoder_rows(), affine()["W_dec"])


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((403, ""), r"refuses access \(403\)"),
        ((403, "GatedRepo"), "access is restricted"),
        ((404, "RepoNotFound"), "no such repository on the hub"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_why_a_loader_has_no_files(
    tmp_path: Path,
    fake: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    cached: bool,
    refusal: tuple[int, str],
    message: str,
) -> None:
    if cached:
        write_repository(tmp_path, Z_REPO, {"README.md": b""})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    fake.refusals[Z_REPO] = refusal
    with pytest.raises(HubError, match=f"{Z_REPO}: .*{message}") as caught:
        load_coder(HOOK_Z)
    assert "HF_HUB_OFFLINE" not in str(caught.value)


def test_saelens_asks_the_network_whatever_is_cached(
    tmp_path: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-4b-pt"}
    path = "resid_post_all/layer_0_width_16k_l0_small"
    files = {
        f"{path}/config.json": json.dumps(config).encode(),
        f"{path}/params.safetensors": save(affine()),
    }
    write_repository(tmp_path, "google/gemma-scope-2-4b-pt", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = rf"{GEMMA_3[8:]}: SAELens itself asks the network .*, even where everything is cached"
    set_endpoint(monkeypatch, DISCARD)
    with pytest.raises(HubError, match=f"{message}: ConnectionError"):
        NamedCoder(GEMMA_3).origin()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=f"{message}: HF_HUB_OFFLINE is set"):
        load_coder(GEMMA_3)


def test_a_loader_must_give_tensors(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = repositories()[Z_REPO] | {f"{Z_FILE}.pt": saved(affine() | {"b_dec": None})}
    write_repository(tmp_path, Z_REPO, files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"blocks\.8\.hook_z: 'b_dec' is a NoneType"):
        load_coder(HOOK_Z)


def test_a_pickle_of_a_release_runs_no_code(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = repositories()[Z_REPO] | {f"{Z_FILE}.pt": saved({"W_enc": Trap(tmp_path / "sprung")})}
    write_repository(tmp_path, Z_REPO, files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="fails: UnpicklingError"):
        load_coder(HOOK_Z)
    assert not (tmp_path / "sprung").exists()


@dataclasses.dataclass
class Trap:
    file: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_the_directory_is_saelens_own() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    theirs, ours = get_pretrained_saes_directory(), releases.releases()
    assert list(ours) == list(theirs)
    for name, release in ours.items():
        known = theirs[name]
        assert (release.repo, release.converter) == (known.repo_id, known.conversion_func)
        assert release.overrides == (known.config_overrides or {})
        assert {id: str(sae["path"]) for id, sae in release.saes.items()} == {
            str(id): path for id, path in known.saes_map.items()
        }
        factors = {
            str(id): releases.Published(release, str(id)).norm_scaling_factor
            for id in known.norm_scaling_factor
        }
        assert factors == {str(id): f for id, f in known.norm_scaling_factor.items()}


def test_a_directory_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "DIRECTORY_FILE", "absent.yaml")
    releases.releases.cache_clear()
    with pytest.raises(MdlbenchError, match=r"absent\.yaml: SAELens' directory of releases"):
        releases.releases()
    monkeypatch.undo()
    releases.releases.cache_clear()


def test_a_release_in_saelens_layout_needs_neither_saelens_nor_a_network(written: Path) -> None:
    code = (
        "import sys\n"
        "from mdlbench.adapters.load import load_coder\n"
        f"print(load_coder({MLP_TM!r}).spec.name, 'sae_lens' in sys.modules)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(written)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout == "gpt2-small-mlp-tm/blocks.8.hook_mlp_out False\n"


def test_what_the_release_says_of_l0_is_shown(cache: Path) -> None:
    assert load_coder(RES_JB).spec.details["average_l0"] == 60
    assert "average_l0" not in load_coder(TOPK_DL).spec.details
