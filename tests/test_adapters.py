import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mdlbench.adapters import parts
from mdlbench.adapters.check import check_coder
from mdlbench.adapters.formats.python import coder_of
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.parts import Decoder, blocks
from mdlbench.adapters.protocol import CoderSpec, SparseCoder
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import dequantise, quantise
from mdlbench.errors import CheckpointError, CoderError, MdlbenchError, UsageError
from mdlbench.sources.images import Images
from mdlbench.sources.protocol import Block, Split
from mdlbench.suite.load import suites_folder
from tests.tiny import D_IN, tiny_suite, write_sae

D, WIDTH, K = 20, 64, 7
ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
SHIPPED = sorted(file.parent for file in suites_folder().glob("*/saes/*/cfg.json"))
Tensors = dict[str, torch.Tensor]


def write_checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A folder in the SAELens layout with random weights."""
    config = {
        "architecture": "standard",
        "d_in": D,
        "d_sae": WIDTH,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12"},
    } | changes
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "W_enc": (D, WIDTH),
        "W_dec": (WIDTH, D),
        "b_dec": (D,),
        "b_enc": (WIDTH,),
    }
    if config["architecture"] == "gated":
        del shapes["b_enc"]
        shapes |= {"b_gate": (WIDTH,), "r_mag": (WIDTH,), "b_mag": (WIDTH,)}
    if config["architecture"] == "jumprelu":
        shapes["threshold"] = (WIDTH,)
    weights = {
        name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def variants() -> Iterator[dict[str, Any]]:
    for architecture in ARCHITECTURES:
        for normalisation in NORMALISATIONS:
            for centred in (True, False):
                options = {
                    "architecture": architecture,
                    "normalize_activations": normalisation,
                    "apply_b_dec_to_input": centred,
                }
                if "topk" not in architecture:
                    yield options
                    continue
                for rescaled in (True, False):
                    yield options | {"k": K, "rescale_acts_by_decoder_norm": rescaled}


VARIANTS = list(variants())


def activations(n: int = 200, d: int = D, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, d, generator=generator) + 0.3


def keep_largest(a: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    z = np.zeros_like(a)
    for row, (values, scores) in enumerate(zip(a, score, strict=True)):
        for i in sorted(range(len(values)), key=lambda i: -scores[i])[:k]:
            z[row, i] = values[i]
    return z


def reference_latents(config: dict[str, Any], w: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Latents in float64, formula by formula."""
    x = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
    if config["architecture"] == "gated":
        gate = x @ w["W_enc"] + w["b_gate"] > 0
        magnitude = x @ (w["W_enc"] * np.exp(w["r_mag"])) + w["b_mag"]
        return np.asarray(gate * np.maximum(magnitude, 0))
    a = x @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "standard":
        return np.maximum(a, 0)
    if config["architecture"] == "jumprelu":
        return np.where(a > w["threshold"], np.maximum(a, 0), 0)
    if config["rescale_acts_by_decoder_norm"]:
        a = a * np.linalg.norm(w["W_dec"], axis=1)
    if config["architecture"] == "abstopk":
        return keep_largest(a, np.abs(a), config["k"])
    return np.maximum(keep_largest(a, a, config["k"]), 0)


def reference(
    config: dict[str, Any], weights: Tensors, x: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Latents and reconstruction in float64."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}
    given = x.double().numpy()
    shift, scale = np.zeros((len(x), 1)), np.ones((len(x), 1))
    divisor = scale
    if config["normalize_activations"] == "layer_norm":
        shift = given.mean(axis=1, keepdims=True)
        scale = given.std(axis=1, ddof=1, keepdims=True)
        divisor = scale + 1e-5
    elif config["normalize_activations"] == "constant_norm_rescale":
        scale = np.linalg.norm(given, axis=1, keepdims=True) / np.sqrt(D)
        divisor = scale
    z = reference_latents(config, w, (given - shift) / divisor)
    rows = w["W_dec"]
    if config.get("rescale_acts_by_decoder_norm"):
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return z, (z @ rows + w["b_dec"]) * scale + shift


def describe(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.mark.parametrize("options", VARIANTS, ids=describe)
def test_saelens_folders_against_float64(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_checkpoint(tmp_path / "sae", **options)
    coder, x = load_coder(str(folder)), activations()
    expected_z, expected_x = reference(options, load_file(folder / "sae_weights.safetensors"), x)
    latents, side = coder.encode(x)
    np.testing.assert_allclose(latents.to_dense(), expected_z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(
        coder.decode(latents, side).numpy(), expected_x, rtol=1e-4, atol=5e-5
    )
    assert coder.spec.side_bits == 32 * side.shape[1]
    assert all(check.passed for check in check_coder(coder))


@pytest.mark.parametrize("options", VARIANTS, ids=describe)
def test_saelens_folders_against_saelens(tmp_path: Path, options: dict[str, Any]) -> None:
    from sae_lens import SAE

    folder = write_checkpoint(tmp_path / "sae", seed=5, **options)
    theirs, ours, x = SAE.load_from_disk(folder), load_coder(str(folder)), activations()
    with torch.no_grad():
        expected_z = theirs.encode(x)
        expected_x = theirs.decode(expected_z)
    latents, side = ours.encode(x)
    np.testing.assert_allclose(latents.to_dense(), expected_z.numpy(), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(ours.decode(latents, side), expected_x, rtol=1e-4, atol=5e-5)
    in_memory = coder_of(theirs)
    again, _ = in_memory.encode(x)
    np.testing.assert_array_equal(again.to_dense(), latents.to_dense())
    assert in_memory.spec.side_bits == ours.spec.side_bits


def test_batchtopk_saved_for_inference_is_jumprelu(tmp_path: Path) -> None:
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    torch.manual_seed(0)
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D, d_sae=WIDTH, k=5))
    sae.topk_threshold = torch.tensor(0.05, dtype=torch.float64)
    sae.save_inference_model(tmp_path / "sae")
    coder, x = load_coder(str(tmp_path / "sae")), activations()
    theirs = SAE.load_from_disk(tmp_path / "sae")
    latents, _ = coder.encode(x)
    assert (coder.spec.architecture, coder.spec.details["k"]) == ("batchtopk", 5)
    assert coder.spec.details["inference_architecture"] == "jumprelu"
    assert coder.spec.promised_l0 is None
    np.testing.assert_allclose(latents.to_dense(), theirs.encode(x).detach().numpy(), atol=1e-5)
    assert 0.05 < latents.value.min() < 0.06


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_saes_against_saelens(folder: Path) -> None:
    from sae_lens import SAE

    import mdlbench.training.architectures  # noqa: F401  (registers ours)

    coder, theirs = load_coder(str(folder)), SAE.load_from_disk(folder)
    mixed = torch.rand(64, coder.spec.d_latents, generator=torch.Generator().manual_seed(0))
    directions = theirs.decode(mixed * (mixed > 0.9)).detach() - theirs.b_dec.detach()
    along = theirs.b_dec.detach() + 40 * torch.nn.functional.normalize(directions, dim=1)
    x = torch.cat([activations(64, d=coder.spec.d_in).abs() / 4, along])
    expected = theirs.encode(x).detach()
    latents, side = coder.encode(x)
    assert latents.nnz > 0
    close = {"rtol": 1e-4, "atol": 1e-2}
    np.testing.assert_allclose(latents.to_dense(), expected.numpy(), **close)
    decoded = theirs.decode(expected).detach()
    torch.testing.assert_close(coder.decode(latents, side), decoded, **close)


def test_configs_older_than_saelens_6(tmp_path: Path) -> None:
    from sae_lens import SAE

    folder = write_checkpoint(tmp_path / "sae")
    old = {
        "hook_point": "blocks.8.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": False,
        "dtype": "torch.float32",
        "d_in": D,
        "d_sae": WIDTH,
        "device": "cpu",
    }
    (folder / "cfg.json").write_text(json.dumps(old))
    weights = load_file(folder / "sae_weights.safetensors")
    save_file(weights | {"scaling_factor": torch.ones(WIDTH)}, folder / "sae_weights.safetensors")
    coder, theirs, x = load_coder(str(folder)), SAE.load_from_disk(folder), activations()
    assert (coder.spec.architecture, coder.spec.promised_l0) == ("topk", K)
    assert coder.spec.hook == "blocks.8.hook_resid_pre"
    expected = theirs.encode(x).detach().numpy()
    np.testing.assert_allclose(coder.encode(x)[0].to_dense(), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_dtypes_are_computed_in_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = write_checkpoint(tmp_path / "sae")
    file = folder / "sae_weights.safetensors"
    stored = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(stored, file)
    coder, x = load_coder(str(folder)), activations()
    config = {
        "architecture": "standard",
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
    }
    latents, side = coder.encode(x)
    np.testing.assert_allclose(
        latents.to_dense(), reference(config, stored, x)[0], rtol=1e-4, atol=2e-5
    )
    assert coder.decode(latents, side).dtype == torch.float32
    assert coder.spec.details["stored_dtype"] == str(dtype).removeprefix("torch.")


def test_jumprelu_is_off_at_its_threshold() -> None:
    threshold = torch.tensor([0.5, 0.0, -1.0])
    a = torch.tensor([[0.5, 0.0, 0.0], [0.5000001, 1e-30, -0.5], [-1.0, -1.0, 2.0]])
    found = parts.JumpReLU(threshold)(a)
    assert list(zip(found.token.tolist(), found.latent.tolist(), strict=True)) == [
        (1, 0),
        (1, 1),
        (2, 2),
    ]


def test_side_information_survives_a_sweep(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sae", normalize_activations="layer_norm")
    coder = load_coder(str(folder))
    x = activations(50)
    latents, side = coder.encode(x)
    first = coder.decode(latents, side)
    coder.encode(activations(30, seed=9))
    assert torch.equal(coder.decode(latents, side), first)
    part = coder.decode(latents.rows(10, 20), side[10:20])
    torch.testing.assert_close(part, first[10:20])
    assert coder.spec.side_bits == 64


def test_a_zero_token_has_a_norm() -> None:
    normalisation = parts.ConstantNorm()
    x = torch.zeros(1, 4)
    normalised, side = normalisation.apply(x)
    assert torch.equal(normalised, x)
    assert torch.equal(normalisation.undo(torch.ones(1, 4), side), x)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = load_coder(str(write_checkpoint(tmp_path / "sae")))
    x = activations(50)
    whole, side = coder.encode(x)
    decoded = coder.decode(whole, side)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * WIDTH * 7)
    pieces, _ = coder.encode(x)
    np.testing.assert_array_equal(pieces.token, whole.token)
    np.testing.assert_allclose(pieces.to_dense(), whole.to_dense(), atol=1e-5)
    torch.testing.assert_close(coder.decode(pieces, side), decoded, rtol=1e-4, atol=1e-5)


@st.composite
def sparse_runs(draw: st.DrawFn) -> SparseLatents:
    n_tokens, n_latents = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]))
    z = generator.normal(size=(n_tokens, n_latents)) * (
        generator.random((n_tokens, n_latents)) < share
    )
    return SparseLatents.from_dense(z.astype(np.float32))


@given(sparse_runs(), st.integers(1, 9))
def test_decoding_is_a_weighted_sum_of_rows(latents: SparseLatents, d_out: int) -> None:
    generator = torch.Generator().manual_seed(latents.nnz)
    decoder = Decoder(
        torch.randn(latents.n_latents, d_out, generator=generator),
        torch.randn(d_out, generator=generator),
    )
    expected = latents.to_dense().astype(np.float64) @ decoder.W_dec.double().numpy()
    expected = expected + decoder.b_dec.double().numpy()
    np.testing.assert_allclose(decoder(latents).numpy(), expected, rtol=1e-4, atol=1e-5)
    if latents.nnz:
        np.testing.assert_allclose(decoder._sparse(latents), decoder._dense(latents), atol=1e-5)


def test_a_decoder_refuses_latents_of_another_dictionary() -> None:
    latents = SparseLatents.from_dense(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(CoderError, match="3 latents given to a dictionary of 4"):
        Decoder(torch.zeros(4, 2), torch.zeros(2))(latents)


@given(st.integers(2, 24), st.integers(0, 1000))
def test_rounded_weights_are_the_nearest_levels(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(
        torch.randn(5, 3, generator=generator), 4 * torch.randn(3, generator=generator)
    )
    rounded = decoder.rounded(bits)
    largest = max(decoder.W_dec.abs().max().item(), decoder.b_dec.abs().max().item())
    step = largest / (2 ** (bits - 1) - 1)
    for before, after in ((decoder.W_dec, rounded.W_dec), (decoder.b_dec, rounded.b_dec)):
        levels = after.double() / step
        assert (levels - levels.round()).abs().max() < 1e-6 * 2**bits
        assert (after.double() - before.double()).abs().max() <= 0.501 * step + 1e-6 * largest


def test_decoder_precision_reaches_the_spec(tmp_path: Path) -> None:
    coder = load_coder(str(write_checkpoint(tmp_path / "sae")))
    coarse, fine = coder.with_decoder_precision(3), coder.with_decoder_precision(32)
    assert coarse is not None
    assert fine is not None
    assert len(np.unique(coarse.decoder_rows())) <= 7
    np.testing.assert_allclose(
        coarse.spec.decoder_norms, np.linalg.norm(coarse.decoder_rows(), axis=1), rtol=1e-6
    )
    np.testing.assert_allclose(fine.decoder_rows(), coder.decoder_rows(), atol=1e-8)
    for bits in (1, 33):
        with pytest.raises(UsageError, match="from 2 to 32 bits"):
            coder.with_decoder_precision(bits)


def corrupt(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    file = folder / "sae_weights.safetensors"
    weights = load_file(file)
    weights.pop(name, None)
    save_file(weights | ({} if tensor is None else {name: tensor}), file)


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "cfg.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_one(shape: tuple[int, ...], value: float) -> torch.Tensor:
    tensor = torch.zeros(shape)
    tensor.view(-1)[3] = value
    return tensor


def truncate(folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickle_only(folder: Path) -> None:
    torch.save({}, folder / "sae_weights.pt")
    (folder / "sae_weights.safetensors").unlink()


DAMAGE = {
    "no weights": (
        lambda f: (f / "sae_weights.safetensors").unlink(),
        r"sae_weights\.safetensors: no such file",
    ),
    "pickle": (pickle_only, r"no such file \(sae_weights\.pt beside it is a pickle: not read\)"),
    "truncated": (truncate, r"sae_weights\.safetensors: truncated, or not a safetensors file"),
    "empty": (
        lambda f: (f / "sae_weights.safetensors").write_bytes(b""),
        "truncated, or not a safetensors file",
    ),
    "config not JSON": (lambda f: (f / "cfg.json").write_text("{"), r"cfg\.json: not JSON"),
    "config a list": (lambda f: (f / "cfg.json").write_text("[]"), "expected an object"),
    "config binary": (lambda f: (f / "cfg.json").write_bytes(b"\xff\xfe"), "not JSON"),
    "no d_in": (lambda f: (f / "cfg.json").write_text("{}"), r"cfg\.json: d_in: Field required"),
    "d_in of text": (lambda f: configure(f, d_in="wide"), r"cfg\.json: d_in: Input should be"),
    "missing tensor": (lambda f: corrupt(f, "b_enc", None), r"no tensor 'b_enc'; it has W_dec"),
    "unknown tensor": (
        lambda f: corrupt(f, "W_encc", torch.ones(2)),
        r"unknown tensor 'W_encc'.*Did you mean 'W_enc'",
    ),
    "scaled": (
        lambda f: corrupt(f, "scaling_factor", torch.full((WIDTH,), 2.0)),
        "unknown tensor 'scaling_factor'",
    ),
    "wrong shape": (
        lambda f: corrupt(f, "W_dec", torch.zeros(WIDTH, D + 1)),
        r"W_dec has shape \(64, 21\), but its config says \(64, 20\)",
    ),
    "NaN": (
        lambda f: corrupt(f, "W_enc", with_one((D, WIDTH), float("nan"))),
        "W_enc: 1 of 1280 weights are NaN or infinite",
    ),
    "infinite": (
        lambda f: corrupt(f, "b_dec", with_one((D,), float("inf"))),
        "b_dec: 1 of 20 weights are NaN or infinite",
    ),
    "integers": (
        lambda f: corrupt(f, "b_enc", torch.zeros(WIDTH, dtype=torch.int64)),
        "b_enc has dtype torch.int64, expected floats",
    ),
    "unknown architecture": (
        lambda f: configure(f, architecture="jumprelo"),
        r"architecture: unknown 'jumprelo'.*Did you mean 'jumprelu'",
    ),
    "transcoder": (
        lambda f: configure(f, architecture="transcoder"),
        "apply_b_dec_to_input: a transcoder's b_dec belongs to its output, not its input",
    ),
    "temporal": (
        lambda f: configure(f, architecture="temporal"),
        "'temporal' is not supported yet: its latents depend on other tokens",
    ),
    "unfolded": (
        lambda f: configure(f, normalize_activations="expected_average_only_in"),
        "normalize_activations: 'expected_average_only_in' is not supported yet",
    ),
    "no k": (lambda f: configure(f, architecture="topk"), "k must be from 1 to d_sae=64"),
    "k too large": (
        lambda f: configure(f, architecture="topk", k=65),
        "k must be from 1 to d_sae=64, not 65",
    ),
    "k not in an object": (
        lambda f: configure(f, activation_fn="topk", activation_fn_kwargs=[1]),
        r"cfg\.json: activation_fn_kwargs: Input should be a valid dictionary",
    ),
    "k a list": (
        lambda f: configure(f, activation_fn="topk", activation_fn_kwargs={"k": [3]}),
        r"cfg\.json: k: Input should be a valid integer",
    ),
    "k of text": (
        lambda f: configure(f, architecture="topk", k="few"),
        r"cfg\.json: k: Input should be a valid integer",
    ),
    "d_sae a list": (
        lambda f: configure(f, d_sae=[WIDTH]),
        r"cfg\.json: d_sae: Input should be a valid integer",
    ),
    "architecture a list": (
        lambda f: configure(f, architecture=["topk"]),
        r"cfg\.json: architecture: Input should be a valid string",
    ),
    "metadata a list": (
        lambda f: configure(f, metadata=[1]),
        r"cfg\.json: metadata: Input should be a valid dictionary",
    ),
    "hook a list": (
        lambda f: configure(f, metadata={"hook_name": ["pixels"]}),
        r"cfg\.json: metadata\.hook_name: Input should be a valid string",
    ),
    "training details a list": (
        lambda f: configure(f, metadata={"training_architecture_details": [5]}),
        r"training_architecture_details: Input should be a valid dictionary",
    ),
    "config too deep": (
        lambda f: (f / "cfg.json").write_text("[" * 100_000),
        r"cfg\.json: not JSON",
    ),
    "rows of norm zero": (
        lambda f: (
            configure(f, architecture="topk", k=3, rescale_acts_by_decoder_norm=True),
            corrupt(f, "W_dec", torch.zeros(WIDTH, D)),
        ),
        "W_dec has 64 rows of norm zero",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str) -> None:
    folder = write_checkpoint(tmp_path / "sae")
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(CheckpointError, match=message):
        load_coder(f"saelens:{folder}")


def test_only_plain_facts_of_the_metadata_are_shown(tmp_path: Path) -> None:
    details = {"k": [5]}
    folder = write_checkpoint(
        tmp_path / "sae",
        metadata={
            "hook_name": None,
            "sparsity": float("nan"),
            "layers": [1, 2],
            "seed": 3,
            "training_architecture_details": details,
        },
    )
    spec = load_coder(str(folder)).spec
    assert (spec.hook, spec.architecture) == ("", "standard")
    assert spec.details == {
        "seed": 3,
        "inference_architecture": "standard",
        "normalize_activations": "none",
        "stored_dtype": "float32",
    }


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "ae.pt")
    with pytest.raises(CheckpointError, match="a pickle can run code and is not read"):
        load_coder(f"saelens:{tmp_path}/ae.pt")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        load_coder("saelens:absent", folder=tmp_path)


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    coder = load_coder(str(write_checkpoint(tmp_path / "sae")))
    x = activations(4)
    x[2, 1] = float("nan")
    with pytest.raises(CoderError, match="pre-activations are NaN or infinite"):
        coder.encode(x)
    with pytest.raises(CoderError, match="given activations of width 19, reads width 20"):
        coder.encode(activations(4, d=19))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tiny_suite(tmp_path_factory.mktemp("tiny")))


def split(source: Images, name: Split) -> torch.Tensor:
    return torch.cat([block.activations for block in source.blocks(name)])


def test_pca_against_float64(source: Images) -> None:
    coder = load_coder("baseline:pca", source=source)
    calibration = split(source, "calibration").double().numpy()
    test = split(source, "test")
    covariance = np.cov(calibration.T, bias=True)
    rows = coder.decoder_rows().astype(np.float64)
    assert coder.spec.d_latents == np.linalg.matrix_rank(covariance)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-5)
    spread = rows @ covariance @ rows.T
    eigenvalues = np.sort(np.linalg.eigvalsh(covariance))[::-1][: len(rows)]
    np.testing.assert_allclose(np.diag(spread), eigenvalues, rtol=1e-4, atol=1e-7)
    latents, side = coder.encode(test)
    mean = calibration.mean(axis=0)
    expected = (test.double().numpy() - mean) @ rows.T
    np.testing.assert_allclose(latents.to_dense(), expected, atol=1e-5)
    assert (latents.value < 0).any()
    np.testing.assert_allclose(coder.decode(latents, side).numpy(), test.numpy(), atol=1e-5)


def test_kmeans_takes_the_nearest_centroid(source: Images) -> None:
    coder = load_coder("baseline:kmeans?k=8", source=source)
    test = split(source, "test").double().numpy()
    centroids = coder.decoder_rows().astype(np.float64)
    distances = ((test[:, None] - centroids) ** 2).sum(axis=2)
    latents, side = coder.encode(split(source, "test"))
    np.testing.assert_array_equal(latents.latent, distances.argmin(axis=1))
    np.testing.assert_array_equal(latents.value, 1)
    np.testing.assert_allclose(
        coder.decode(latents, side).numpy(), centroids[latents.latent], atol=1e-6
    )
    mean = split(source, "calibration").double().numpy().mean(axis=0)
    assert distances.min(axis=1).mean() < 0.8 * ((test - mean) ** 2).sum(axis=1).mean()
    assert coder.spec.promised_l0 == 1


def test_kmeans_symbols_survive_steps_below_twice_the_norm(source: Images) -> None:
    coder = load_coder("baseline:kmeans?k=8", source=source)
    latents, _ = coder.encode(split(source, "test"))
    norms = coder.spec.decoder_norms
    step = 1.9 * float(norms.min())
    symbols = quantise(latents.scaled(norms), step)
    assert len(symbols.symbol) == latents.nnz
    per_centroid = {(i, s) for i, s in zip(symbols.latent, symbols.symbol, strict=True)}
    assert len(per_centroid) == len(np.unique(latents.latent))
    fine = dequantise(quantise(latents.scaled(norms), 1 / 32), 1 / 32).scaled(1 / norms)
    np.testing.assert_allclose(fine.value, 1, atol=1 / 64 / norms.min())


def test_dense_is_the_activations_themselves(source: Images) -> None:
    coder = load_coder("baseline:dense", source=source)
    test = split(source, "test")
    latents, side = coder.encode(test)
    np.testing.assert_array_equal(latents.to_dense(), test.numpy())
    assert torch.equal(coder.decode(latents, side), test)
    np.testing.assert_array_equal(coder.decoder_rows(), np.eye(D_IN))
    assert coder.with_decoder_precision(8) is None


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_dense_of_some_bits_has_that_many_levels(source: Images, bits: int) -> None:
    coder = load_coder(f"baseline:dense?bits={bits}", source=source)
    latents, _ = coder.encode(split(source, "calibration"))
    levels = np.unique(latents.to_dense())
    step = float(split(source, "calibration").max()) / (2**bits - 1)
    assert len(levels) <= 2**bits
    np.testing.assert_allclose(levels / step, np.round(levels / step), atol=1e-4)
    error = latents.to_dense() - split(source, "calibration").numpy()
    assert np.abs(error).max() <= step / 2 + 1e-6


def test_mean_has_no_latents(source: Images) -> None:
    coder = load_coder("baseline:mean", source=source)
    latents, side = coder.encode(split(source, "test"))
    mean = split(source, "calibration").double().mean(dim=0)
    assert (latents.n_latents, latents.nnz) == (0, 0)
    decoded = coder.decode(latents, side)
    np.testing.assert_allclose(decoded, mean.expand(len(decoded), -1), atol=1e-6)
    assert coder.decoder_rows().shape == (0, D_IN)
    assert coder.with_decoder_precision(8) is not None


def test_random_directions_are_orthonormal_and_their_coefficients_those_of_what_differs(
    source: Images,
) -> None:
    coder = load_coder("baseline:random?directions=7&seed=3", source=source)
    rows = coder.decoder_rows().astype(np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(7), atol=1e-6)
    x = split(source, "test").double().numpy()
    mean = split(source, "calibration").double().mean(dim=0).numpy()
    latents, side = coder.encode(split(source, "test"))
    np.testing.assert_allclose(latents.to_dense(), (x - mean) @ rows.T, atol=1e-5)
    nearest = mean + (x - mean) @ rows.T @ rows
    np.testing.assert_allclose(coder.decode(latents, side), nearest, atol=1e-5)
    assert (coder.spec.fitted, coder.spec.architecture) == (True, "random")
    other = load_coder("baseline:random?directions=7", source=source).decoder_rows()
    assert np.abs(other - rows).max() > 0.1
    with pytest.raises(UsageError, match="directions=65: activations have only 64 dimensions"):
        load_coder("baseline:random?directions=65", source=source)


class Unread(Images):
    """Its calibration split must not be read."""

    def blocks(self, split: Split) -> Iterator[Block]:
        raise AssertionError("a baseline was fitted to tell its identity")


BASELINES = ["pca", "kmeans?k=8", "dense", "dense?bits=4", "mean", "random?directions=5"]


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_known_before_they_are_fitted(
    source: Images, name: str, tmp_path: Path
) -> None:
    unread = Unread(tiny_suite(tmp_path / "tiny"))
    identity = NamedCoder(f"baseline:{name}").identify(unread)
    coder = load_coder(f"baseline:{name}", source=source)
    again = load_coder(f"baseline:{name}", source=source)
    assert identity == coder.spec.identity
    np.testing.assert_array_equal(again.decoder_rows(), coder.decoder_rows())
    assert all(check.passed for check in check_coder(coder, source))


def test_baselines_of_other_data_or_arguments_differ(source: Images, tmp_path: Path) -> None:
    digests = {NamedCoder(f"baseline:{name}").identify(source).weights_sha256 for name in BASELINES}
    fewer = Images(tiny_suite(tmp_path / "tiny"), limit=50)
    digests.add(NamedCoder("baseline:pca").identify(fewer).weights_sha256)
    assert len(digests) == len(BASELINES) + 1
    default = NamedCoder("baseline:kmeans").identify(source)
    assert default.arguments == {"baseline": "kmeans", "k": 1024}


def test_baselines_that_cannot_be_fitted(source: Images) -> None:
    with pytest.raises(UsageError, match=r"unknown baseline 'pcaa'.*Did you mean 'pca'"):
        load_coder("baseline:pcaa", source=source)
    with pytest.raises(UsageError, match="fitted to activations: name a suite"):
        load_coder("baseline:pca")
    with pytest.raises(UsageError, match="there are only 600 calibration tokens"):
        load_coder("baseline:kmeans?k=1000", source=source)
    with pytest.raises(UsageError, match=r"unknown option 'k'"):
        load_coder("baseline:pca?k=3", source=source)


class NumpySAE:
    """ReLU SAE on numpy arrays, without a matrix that says what it is."""

    d_in = D

    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.weights = generator.normal(size=(D, WIDTH)).astype(np.float32)
        self.bias = generator.normal(size=D).astype(np.float32)

    def encode(self, x: np.ndarray) -> np.ndarray:
        return np.maximum((x - self.bias) @ self.weights, 0)

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z @ self.weights.T / D + self.bias


class TorchSAE(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.encoder = torch.nn.Linear(D, WIDTH)
        self.decoder = torch.nn.Linear(WIDTH, D)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(x))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.decoder(z))


class SquashedSAE(TorchSAE):
    d_in = D

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.decoder(z))


class MislabelledSAE(TorchSAE):
    d_in = D

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return 2 * torch.as_tensor(self.decoder(z))


class RememberingSAE(TorchSAE):
    d_in = D

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.scale = x.norm(dim=1, keepdim=True)
        return torch.relu(self.encoder(x / self.scale))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.decoder(z)) * self.scale


class BatchSAE(TorchSAE):
    """Keeps the largest latents of the whole batch."""

    d_in = D

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.relu(self.encoder(x))
        return z * (z >= z.flatten().topk(5 * len(x)).values[-1])


class RandomSAE(TorchSAE):
    d_in = D

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(x) + torch.randn(WIDTH))


def make_sae() -> NumpySAE:
    return NumpySAE()


def encode_decode(coder: SparseCoder, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    latents, side = coder.encode(x)
    return latents.to_dense(), coder.decode(latents, side).numpy()


@pytest.mark.parametrize("found", [NumpySAE, NumpySAE(), make_sae, lambda: NumpySAE()])
def test_a_numpy_object(found: Any) -> None:
    coder, x = coder_of(found), activations()
    sae = NumpySAE()
    weights, bias = sae.weights.astype(np.float64), sae.bias.astype(np.float64)
    expected = np.maximum((x.double().numpy() - bias) @ weights, 0)
    z, decoded = encode_decode(coder, x)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoded, expected @ weights.T / D + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(coder.decoder_rows(), weights.T / D, atol=1e-5)
    assert coder.spec.details["affine_decoder"]
    assert all(check.passed for check in check_coder(coder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_torch_module(dtype: torch.dtype, source: Images) -> None:
    sae = TorchSAE().to(dtype)
    sae.d_in = D
    coder, x = coder_of(sae), activations()
    with torch.no_grad():
        expected = sae.encode(x.to(dtype))
        decoded = sae.decode(expected)
    precision = 0.05 if dtype == torch.bfloat16 else 1e-5
    z, reconstruction = encode_decode(coder, x)
    np.testing.assert_allclose(z, expected.float().numpy(), atol=1e-5)
    np.testing.assert_allclose(reconstruction, decoded.float().numpy(), atol=precision)
    assert coder.spec.details["decoder_rows"] == "decoder.weight"
    np.testing.assert_allclose(
        coder.decoder_rows(), sae.decoder.weight.detach().float().T, atol=1e-6
    )
    assert all(check.passed for check in check_coder(coder))


def test_the_width_is_the_sources_if_the_object_does_not_say(source: Images) -> None:
    class Unsized:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z

    assert coder_of(Unsized(), source=source).spec.d_latents == D_IN
    with pytest.raises(UsageError, match="does not say its width"):
        coder_of(Unsized())


def test_a_matrix_that_decode_does_not_use_is_not_believed() -> None:
    sae = MislabelledSAE()
    coder = coder_of(sae)
    assert coder.spec.details["decoder_rows"] == "probed one latent at a time"
    np.testing.assert_allclose(coder.decoder_rows(), 2 * sae.decoder.weight.detach().T, atol=1e-6)


def test_a_decoder_that_is_not_affine_is_called_itself() -> None:
    sae = SquashedSAE()
    coder, x = coder_of(sae), activations()
    with torch.no_grad():
        expected = sae.decode(sae.encode(x))
        origin = sae.decode(torch.zeros(1, WIDTH))
        rows = sae.decode(torch.eye(WIDTH)) - origin
    np.testing.assert_allclose(encode_decode(coder, x)[1], expected, atol=1e-6)
    np.testing.assert_allclose(coder.spec.decoder_norms, rows.norm(dim=1), rtol=1e-5)
    assert coder.with_decoder_precision(8) is None
    verdicts = {check.name: check.passed for check in check_coder(coder)}
    assert verdicts["decoder"] == "warning"
    assert all(verdicts.values())


def test_a_decoder_that_remembers_is_refused() -> None:
    with pytest.raises(CoderError, match="decode depends on what was encoded before it"):
        coder_of(RememberingSAE())


def test_objects_that_are_no_saes_are_refused() -> None:
    class Half:
        d_in = D

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x

    class Tupled(NumpySAE):
        def encode(self, x: np.ndarray) -> Any:
            return super().encode(x).sum(), None

    class Failing(NumpySAE):
        def decode(self, z: np.ndarray) -> np.ndarray:
            raise RuntimeError("no decoder today")

    class Overflowing(NumpySAE):
        def encode(self, x: np.ndarray) -> np.ndarray:
            return np.full((len(x), WIDTH), np.inf, dtype=np.float32)

    with pytest.raises(CoderError, match="encode returned NaN or infinite values"):
        coder_of(Overflowing())
    with pytest.raises(UsageError, match="Half has no method decode"):
        coder_of(Half())
    with pytest.raises(CoderError, match=r"encode of \[2, 20\] returned tuple"):
        coder_of(Tupled())
    with pytest.raises(CoderError, match=r"decode fails on numpy .*RuntimeError: no decoder today"):
        coder_of(Failing())


def test_objects_are_told_apart_by_their_weights_and_settings() -> None:
    first, same, other = (coder_of(NumpySAE(seed)).spec for seed in (0, 0, 1))
    assert first.identity == same.identity
    assert first.weights_sha256 != other.weights_sha256
    tuned = NumpySAE()
    tuned.k = 3  # type: ignore[attr-defined]
    assert coder_of(tuned).spec.weights_sha256 != first.weights_sha256


def test_objects_are_told_apart_by_what_their_code_does() -> None:
    class Sharper(NumpySAE):
        def encode(self, x: np.ndarray) -> np.ndarray:
            z = super().encode(x)
            return z * (z > 0.5)

    class Louder(NumpySAE):
        def decode(self, z: np.ndarray) -> np.ndarray:
            return 2 * super().decode(z)

    Sharper.__name__ = Louder.__name__ = "NumpySAE"
    digests = [coder_of(kind()).spec.weights_sha256 for kind in (NumpySAE, Sharper, Louder)]
    assert len(set(digests)) == 3
    assert digests == [coder_of(kind()).spec.weights_sha256 for kind in (NumpySAE, Sharper, Louder)]


def test_an_object_of_another_width_is_refused(source: Images, tmp_path: Path) -> None:
    rows = TorchSAE()
    rows.W_dec = torch.zeros(WIDTH, D)
    coder = load_coder(str(write_checkpoint(tmp_path / "sae")))
    for found in (NumpySAE(), rows, coder):
        with pytest.raises(CheckpointError, match=rf"width {D}, .*'pixels' have width {D_IN}"):
            coder_of(found, source=source)
        assert coder_of(found).spec.d_in == D


def test_an_object_is_named_by_module_and_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_sae_module.py").write_text(
        "d_in = 3\ndef encode(x): return x.clip(0)\ndef decode(z): return z\n"
        "class Namespace:\n    broken = 1 / 2\n"
    )
    (tmp_path / "my_failing_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    coder = load_coder("python:my_sae_module")
    assert coder.spec.identity.arguments == {"object": "my_sae_module"}
    latents, _ = coder.encode(torch.tensor([[1.0, -1.0, 2.0]]))
    assert latents.to_dense().tolist() == [[1, 0, 2]]
    with pytest.raises(UsageError, match="No module named 'no_such_module'"):
        load_coder("python:no_such_module:SAE")
    with pytest.raises(UsageError, match="has no attribute 'SAE'"):
        load_coder("python:my_sae_module:SAE")
    with pytest.raises(MdlbenchError, match="importing it fails: ZeroDivisionError"):
        load_coder("python:my_failing_module:SAE")


def failures(coder: SparseCoder, source: Images | None = None) -> dict[str, str]:
    return {
        check.name: check.message for check in check_coder(coder, source) if check.passed is False
    }


def test_a_coder_that_looks_at_other_tokens_is_found_out() -> None:
    found = failures(coder_of(BatchSAE()))
    assert list(found) == ["token by token"]
    assert "encode looks at other tokens" in found["token by token"]


def test_a_random_coder_is_found_out() -> None:
    torch.manual_seed(0)
    assert set(failures(coder_of(RandomSAE()))) == {"deterministic", "token by token"}


class Broken:
    """A real coder with one thing wrong."""

    def __init__(self, coder: SparseCoder, **changes: Any) -> None:
        self._coder = coder
        self._changes = changes
        facts = ("promised_l0", "decoder_norms", "side_bits")
        wrong = {key: changes[key] for key in facts if key in changes}
        self.spec = CoderSpec(**(vars(coder.spec) | wrong))

    def encode(self, x: torch.Tensor) -> tuple[SparseLatents, np.ndarray]:
        latents, side = self._coder.encode(x)
        if "encode_raises" in self._changes:
            raise self._changes["encode_raises"]
        if self._changes.get("reversed"):
            token, latent, value = latents.token[::-1], latents.latent[::-1], latents.value[::-1]
            return SparseLatents(token, latent, value, len(x), WIDTH), side
        return latents, side

    def decode(self, latents: SparseLatents, side: np.ndarray) -> torch.Tensor:
        decoded = self._coder.decode(latents, side)
        if "decode_raises" in self._changes:
            raise self._changes["decode_raises"]
        decoded = decoded * self._changes.get("stretch", 1.0)
        if self._changes.get("noisy_bias"):
            decoded = decoded + torch.arange(len(decoded))[:, None]
        return decoded

    def decoder_rows(self) -> np.ndarray:
        return self._coder.decoder_rows()

    def with_decoder_precision(self, bits: int) -> None:
        return None


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"promised_l0": 3.0}, "L0"),
        ({"decoder_norms": np.ones(WIDTH, dtype=np.float32)}, "decoder norms"),
        ({"stretch": 1.5}, "decoder"),
        ({"stretch": float("nan")}, "finite"),
        ({"noisy_bias": True}, "decode(0)"),
        ({"reversed": True}, "runs"),
    ],
)
def test_what_is_wrong_with_a_coder_is_named(
    tmp_path: Path, wrong: dict[str, Any], name: str
) -> None:
    coder = load_coder(str(write_checkpoint(tmp_path / "sae")))
    assert not failures(coder)
    assert name in failures(Broken(coder, **wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"encode_raises": ZeroDivisionError("by zero")},
            "sae: encode failed: ZeroDivisionError: by zero",
        ),
        ({"decode_raises": IndexError("past")}, "sae: decode failed: IndexError: past"),
        ({"reversed": True}, "sae: encode: latents must be in range and sorted by token"),
    ],
)
def test_a_coder_that_fails_is_reported(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    coder = Broken(load_coder(str(write_checkpoint(tmp_path / "sae"))), **wrong)
    loaded, runs = check_coder(coder)
    assert (loaded.passed, runs.name, runs.passed) == (True, "runs", False)
    assert runs.message.startswith(message)


def test_side_information_must_be_charged(tmp_path: Path) -> None:
    plain = load_coder(str(write_checkpoint(tmp_path / "sae")))
    coder = load_coder(str(write_checkpoint(tmp_path / "ln", normalize_activations="layer_norm")))
    rows = {
        bits: {c.name: c for c in check_coder(Broken(coder, side_bits=bits))}
        for bits in (0.0, 31.0, 64.0)
    }
    assert "side information cost no bits" in rows[0.0]["runs"].message
    few, fair = rows[31.0]["side information"], rows[64.0]["side information"]
    assert few.passed == "warning"
    assert few.message == "2 numbers and 31 bits per token: fewer than 16 bits each"
    assert (fair.passed, fair.message) == (True, "2 numbers and 64 bits per token")
    none = next(c for c in check_coder(plain) if c.name == "side information")
    assert (none.passed, none.message) == (True, "0 numbers and 0 bits per token")


def test_checks_on_real_activations_tell_more(source: Images, tmp_path: Path) -> None:
    write_sae(tmp_path / "sae")
    file = tmp_path / "sae" / "cfg.json"
    config = json.loads(file.read_text())
    config["metadata"]["training_architecture_details"] = {"k": 0.5}
    file.write_text(json.dumps(config))
    checks = {c.name: c for c in check_coder(load_coder(str(tmp_path / "sae")), source)}
    assert checks["L0"].passed == "warning"
    assert "but it was trained to 0.5" in checks["L0"].message
    assert checks["loaded"].message.startswith("sae: jumprelu by adapter saelens 1; 64 → 24 → 64;")
    x = split(source, "test")
    latents, side = load_coder(str(tmp_path / "sae")).encode(x)
    decoded = load_coder(str(tmp_path / "sae")).decode(latents, side)
    fvu = ((x - decoded) ** 2).sum() / ((x - x.mean(dim=0)) ** 2).sum()
    assert f"{fvu:.4f}" in checks["reconstruction"].message
    dead = 24 - len(np.unique(latents.latent))
    assert checks["dead latents"].message.startswith(f"{dead} of 24 latents")
