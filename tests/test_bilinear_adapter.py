"""A bilinear network's eigenvectors as a coder, against least squares in float64."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mdlbench.adapters.check import check_coder
from mdlbench.adapters.load import load_coder
from mdlbench.bilinear.hosvd import hosvd
from mdlbench.bilinear.network import NETWORK_FILE, BilinearNetwork, load_network
from mdlbench.bilinear.spectrum import spectra
from mdlbench.errors import UsageError
from mdlbench.sources.images import Images
from tests.tiny import D_IN, N_TEST, tiny_suite


def write_network(folder, d_in=D_IN, hidden=30, **options):
    torch.manual_seed(5)
    folder.mkdir(parents=True)
    save_file(BilinearNetwork(d_in, hidden, 10, **options).state_dict(), folder / NETWORK_FILE)
    return folder


@pytest.mark.parametrize(("basis", "factors"), [("eigen", 2), ("hosvd", 1)])
def test_the_input_is_projected_onto_the_factors(basis, factors, tmp_path):
    folder = write_network(tmp_path / "net")
    coder = load_coder(f"bilinear:{folder}?factors={factors}&basis={basis}")
    layer = load_network(folder / NETWORK_FILE).quadratic()
    forms = spectra(layer) if basis == "eigen" else hosvd(layer).forms
    vectors = np.concatenate([form.vectors[:factors] for form in forms])
    x = torch.rand(40, D_IN)
    latents, side = coder.encode(x)
    np.testing.assert_allclose(latents.to_dense(), x.double().numpy() @ vectors.T, atol=1e-5)
    nearest = np.linalg.lstsq(vectors.T, x.double().numpy().T, rcond=None)[0].T @ vectors
    np.testing.assert_allclose(coder.decode(latents, side).numpy(), nearest, atol=1e-4)
    assert coder.spec.d_latents == 10 * factors
    assert coder.spec.architecture == f"bilinear-{basis}"
    assert coder.spec.name == f"net-{basis}{factors}"
    assert coder.spec.model_bits is None  # rows and a bias: charged as any decoder is
    assert [check.name for check in check_coder(coder) if not check.passed] == []


def test_a_folder_is_recognised(tmp_path):
    folder = write_network(tmp_path / "net", d_in=200, hidden=150)
    found = load_coder(str(folder)).spec
    assert found.identity.arguments == {"basis": "eigen", "factors": 10}
    assert found.identity == load_coder(f"bilinear:{folder}").spec.identity


@pytest.mark.parametrize(
    ("options", "network", "message"),
    [
        ("factors=40", {}, "40 factors of a form of rank 30: ask for at most that many"),
        ("factors=4", {}, "40 factors span only 30 dimensions"),
        ("factors=0", {}, "factors must be an integer from 1 to 4096, not '0'"),
        ("basis=eigne", {}, "unknown basis 'eigne'. Did you mean 'eigen'"),
        ("factor=3", {}, "unknown option 'factor'"),
        ("factors=1", {"layers": 2}, "a network of 2 bilinear layers computes polynomials"),
        ("factors=1", {"bias": True}, "a network with biases reads the input with a 1 appended"),
    ],
)
def test_what_cannot_be_is_refused(options, network, message, tmp_path):
    folder = write_network(tmp_path / "net", **network)
    with pytest.raises(UsageError) as error:
        load_coder(f"bilinear:{folder}?{options}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_suites_classifier_may_be_bilinear(tmp_path):
    suite = tiny_suite(tmp_path / "tiny")
    network = write_network(tmp_path / "net") / NETWORK_FILE
    (tmp_path / "tiny" / "classifier.safetensors").write_bytes(network.read_bytes())
    source = Images(suite)
    (block,) = source.blocks("test")
    logits = load_network(network)(block.activations).detach().double()
    labels = torch.from_numpy(source._labels["test"].astype(np.int64))
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(source.clean_ce(block), expected.numpy(), rtol=1e-6)
    assert len(source.clean_ce(block)) == N_TEST
