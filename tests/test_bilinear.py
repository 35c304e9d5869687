"""Bilinear layers against sums written out, and the properties of their decompositions."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.bilinear.features import feature_interactions
from mdlbench.bilinear.hosvd import hosvd
from mdlbench.bilinear.interaction import interaction_matrix
from mdlbench.bilinear.layer import BilinearLayer, layer_of, require_bilinear
from mdlbench.bilinear.masks import decoder_of, masks
from mdlbench.bilinear.network import BilinearNetwork, load_network, save_network
from mdlbench.bilinear.spectrum import Spectrum, effective_rank, output_spectrum, spectra
from mdlbench.bilinear.squares import strongest_squares
from mdlbench.errors import CheckpointError, UsageError


def random_layer(seed, hidden=7, d_in=5, d_out=3, bias=False):
    draw = np.random.default_rng(seed).standard_normal
    biases = (draw(hidden), draw(hidden), draw(d_out)) if bias else ()
    return BilinearLayer(draw((hidden, d_in)), draw((hidden, d_in)), draw((d_out, hidden)), *biases)


def written_out(layer, x):
    """The layer's output, by loops."""
    outputs = np.zeros(layer.d_out)
    for k in range(layer.d_out):
        for a in range(len(layer.w)):
            one = sum(layer.w[a, i] * x[i] for i in range(layer.d_in))
            other = sum(layer.v[a, i] * x[i] for i in range(layer.d_in))
            one += 0 if layer.w_bias is None else layer.w_bias[a]
            other += 0 if layer.v_bias is None else layer.v_bias[a]
            outputs[k] += layer.p[k, a] * one * other
        outputs[k] += 0 if layer.p_bias is None else layer.p_bias[k]
    return outputs


layers = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(1, 4),
    st.booleans(),
)
"""What `random_layer` takes."""


@given(layers, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_forms_and_eigenvectors_are_the_layer(drawn, seed):
    layer = random_layer(*drawn)
    generator = np.random.default_rng(seed)
    x, u = generator.standard_normal((3, layer.d_in)), generator.standard_normal(layer.d_out)
    expected = np.array([written_out(layer, token) for token in x])
    scale = np.abs(expected).max() + 1
    assert np.abs(layer.output(x) - expected).max() < 1e-12 * scale
    q = interaction_matrix(layer, u)
    assert np.array_equal(q, q.T)
    whole = np.hstack([x, np.ones((3, 1))]) if layer.has_biases else x
    assert np.abs(np.einsum("ti,ij,tj->t", whole, q, whole) - expected @ u).max() < 1e-10 * scale
    found = output_spectrum(layer, u)
    assert np.abs(found.output(x) - expected @ u).max() < 1e-10 * scale
    assert np.allclose(found.vectors @ found.vectors.T, np.eye(found.rank), atol=1e-10)
    assert np.allclose(found.matrix(), q, atol=1e-10 * scale)
    shared = hosvd(layer)
    assert np.abs(shared.output(x) - expected).max() < 1e-6 * scale


@given(layers)
@settings(max_examples=25)
def test_antisymmetric_part_is_irrelevant(drawn):
    layer = random_layer(*drawn)
    whole = layer.without_biases()
    u = np.arange(1.0, layer.d_out + 1)
    lopsided = whole.w.T @ ((u @ whole.p)[:, None] * whole.v)
    x = np.random.default_rng(0).standard_normal((4, whole.d_in))
    difference = lopsided - interaction_matrix(layer, u)
    assert np.allclose(difference, -difference.T)
    assert np.abs(np.einsum("ti,ij,tj->t", x, difference, x)).max() < 1e-9


@given(layers, st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_order_scale_and_roles_of_hidden_units_are_irrelevant(drawn, seed):
    layer = random_layer(*drawn)
    generator = np.random.default_rng(seed)
    order, scale = generator.permutation(len(layer.w)), generator.uniform(0.5, 2, len(layer.w))
    whole = layer.without_biases()
    scale = scale if len(scale) == len(whole.w) else np.append(scale, 1.0)
    order = order if len(order) == len(whole.w) else np.append(order, len(order))
    other = BilinearLayer(
        (scale[:, None] * whole.v)[order], whole.w[order], (whole.p / scale)[:, order]
    )
    u = generator.standard_normal(layer.d_out)
    assert np.allclose(interaction_matrix(other, u), interaction_matrix(layer, u))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_rotation_of_the_embedding_is_irrelevant_in_the_space_of_the_input(seed):
    generator = np.random.default_rng(seed)
    layer, embedding = random_layer(seed), generator.standard_normal((5, 9))
    turn = np.linalg.qr(generator.standard_normal((5, 5)))[0]
    turned = BilinearLayer(layer.w @ turn.T, layer.v @ turn.T, layer.p)
    u = generator.standard_normal(3)
    one = output_spectrum(layer.reading(embedding), u)
    other = output_spectrum(turned.reading(turn @ embedding), u)
    assert np.allclose(one.values, other.values)
    assert one.vectors.shape == (5, 9)
    q = embedding.T @ interaction_matrix(layer, u) @ embedding
    assert np.allclose(one.matrix(), q)


@given(layers)
@settings(max_examples=25)
def test_truncation_error_falls_with_n(drawn):
    layer = random_layer(*drawn)
    q = interaction_matrix(layer, np.ones(layer.d_out))
    whole = Spectrum.of(q)
    errors = [np.linalg.norm(q - whole.strongest(n).matrix()) for n in range(whole.rank + 1)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-9 * (1 + errors[0])
    missing = [np.sqrt(np.square(whole.values[n:]).sum()) for n in range(whole.rank + 1)]
    assert np.allclose(errors, missing, atol=1e-9 * (1 + errors[0]))


def test_a_layer_written_down():
    layer = BilinearLayer(np.array([[1.0, 1.0]]), np.array([[1.0, -1.0]]), np.array([[2.0]]))
    found = next(spectra(layer))  # 2(x + y)(x − y) = 2x² − 2y²
    assert np.allclose(sorted(found.values), [-2, 2])
    assert np.allclose(sorted(np.abs(found.vectors).tolist()), [[0, 1], [1, 0]])
    assert found.positive.values.tolist() == pytest.approx([2.0])
    assert found.effective_rank == pytest.approx(2.0)
    assert effective_rank(np.array([3.0, -1.0])) == pytest.approx(16 / 10)
    assert effective_rank(np.zeros(3)) == 0.0


def test_eigenvectors_of_an_embeddings_space_are_none_of_the_inputs():
    """The trap: mapped to the input they are neither unit nor orthogonal."""
    layer, embedding = random_layer(3), np.random.default_rng(4).standard_normal((5, 9))
    u = np.array([1.0, 0.0, 0.0])
    mapped = output_spectrum(layer, u).vectors @ embedding
    assert not np.allclose(np.linalg.norm(mapped, axis=1), 1, atol=0.1)
    assert np.abs(np.triu(mapped @ mapped.T, 1)).max() > 0.1
    right = output_spectrum(layer.reading(embedding), u).vectors
    assert np.allclose(right @ right.T, np.eye(5))


@given(layers)
@settings(max_examples=25)
def test_hosvd_is_the_svd_of_the_flattened_tensor(drawn):
    layer = random_layer(*drawn)
    tensor = np.stack([interaction_matrix(layer, u).ravel() for u in np.eye(layer.d_out)])
    left, strengths, _ = np.linalg.svd(tensor, full_matrices=False)
    shared = hosvd(layer)
    n = len(shared.strengths)
    assert np.allclose(shared.strengths, strengths[:n], atol=1e-6 * strengths[0])
    assert (strengths[n:] <= 2e-7 * strengths[0] + 1e-12).all()
    assert abs(shared.directions[0] @ left[:, 0]) == pytest.approx(1, abs=1e-5) or (
        len(strengths) > 1 and strengths[1] > 0.99 * strengths[0]
    )
    assert np.allclose([np.linalg.norm(f.matrix()) for f in shared.forms], 1, atol=1e-5)


@given(layers, st.integers(1, 12))
@settings(max_examples=25)
def test_the_strongest_squares_are_those_of_all_shared_factors(drawn, n):
    layer = random_layer(*drawn[:4])
    x = np.random.default_rng(0).standard_normal((4, layer.d_in))
    terms = sorted(
        (-abs(strength * value), strength * value, tuple(vector), tuple(direction))
        for strength, direction, form in zip(*vars(hosvd(layer)).values(), strict=True)
        for value, vector in zip(form.values, form.vectors, strict=True)
    )
    scale = np.abs(layer.output(x)).max() + 1
    every = strongest_squares(layer, 1000)
    assert len(every.rows) == len(terms)
    assert np.abs(every.output(x) - layer.output(x)).max() < 1e-6 * scale
    few = strongest_squares(layer, n)
    sizes = np.linalg.norm(few.rows, axis=1)
    assert np.allclose(sizes, [-size for size, *_ in terms[:n]], atol=1e-9 * scale)
    assert np.allclose(np.linalg.norm(few.vectors, axis=1), 1)
    if len(np.unique(np.round([size for size, *_ in terms], 9))) == len(terms):
        expected = sum(
            value * np.square(x @ np.array(vector))[:, None] * np.array(direction)
            for _, value, vector, direction in terms[:n]
        )
        assert np.abs(few.output(x) - expected).max() < 1e-6 * scale


def test_interactions_of_features_make_up_the_output():
    layer = random_layer(5, hidden=6, d_in=8)
    generator = np.random.default_rng(1)
    features, u = generator.standard_normal((700, 8)), generator.standard_normal(3)
    found = feature_interactions(layer, u, features, 50)
    q = interaction_matrix(layer, u)
    every = features @ q @ features.T
    every = np.triu(every) + np.triu(every, 1)
    assert np.allclose(found.weight, every[found.first, found.second])
    assert np.abs(found.weight).min() == pytest.approx(np.sort(np.abs(every).ravel())[-50])
    assert (np.diff(np.abs(found.weight)) <= 0).all()
    few = features[:6]
    whole = feature_interactions(layer, u, few, 21)
    z = generator.random(6)
    made = (whole.weight * z[whole.first] * z[whole.second]).sum()
    assert made == pytest.approx(float((layer.output((z @ few)[None]) @ u)[0]))


def test_masks_excite_one_vector_and_no_other():
    vectors = np.random.default_rng(2).standard_normal((4, 9))
    excited = masks(vectors) @ vectors.T
    assert np.abs(excited - np.diag(np.diag(excited))).max() < 1e-12
    assert np.allclose(np.linalg.norm(masks(vectors), axis=1), 1)
    assert (masks(vectors).sum(axis=1) >= 0).all()
    assert np.allclose(decoder_of(vectors) @ vectors.T, np.eye(4))
    with pytest.raises(UsageError, match="5 factors span only 4 dimensions"):
        masks(np.vstack([vectors, vectors.sum(axis=0)]))


def test_a_large_layer_takes_seconds():
    layer = random_layer(0, hidden=1024, d_in=784, d_out=10)
    start = time.process_time()
    found = list(spectra(layer))
    assert time.process_time() - start < 60
    x = np.random.default_rng(1).standard_normal((4, 784))
    expected = layer.output(x)
    apart = np.stack([form.output(x) for form in found], axis=1) - expected
    assert np.abs(apart).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_a_network_and_its_layers_agree(layers, bias, tmp_path):
    torch.manual_seed(0)
    network = BilinearNetwork(12, 6, 4, layers, bias).double()
    x = torch.randn(5, 12, dtype=torch.float64)
    y = x.numpy()
    for i in range(layers):
        y = network.layer(i).output(y)
    assert np.allclose(y, network(x).detach().numpy(), atol=1e-12)
    save_network(network, tmp_path / "n.safetensors", torch.float32)
    loaded = load_network(tmp_path / "n.safetensors")
    assert torch.allclose(loaded(x.float()), network(x).float(), atol=1e-5)
    if layers == 2:
        with pytest.raises(UsageError, match="polynomials of degree 4"):
            loaded.quadratic()
    with pytest.raises(UsageError, match="there is no layer 2"):
        loaded.layer(2)


def state(**changed):
    layer = random_layer(0)
    return {"W": layer.w, "V": torch.from_numpy(layer.v), "P": layer.p, **changed}


def test_a_state_dict_is_a_layer():
    layer, x = random_layer(0), np.random.default_rng(0).standard_normal((2, 5))
    assert np.allclose(layer_of(state()).output(x), layer.output(x))
    biased = layer_of(state(W_bias=np.ones(7), P_bias=torch.ones(3)))
    assert np.allclose(biased.output(x), ((x @ layer.w.T + 1) * (x @ layer.v.T)) @ layer.p.T + 1)
    require_bilinear(layer, lambda x: ((x @ layer.w.T) * (x @ layer.v.T)) @ layer.p.T)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (state(V=np.ones((6, 5))), "W and V have different shapes, (7, 5) and (6, 5)"),
        ({"W": np.ones((2, 2)), "V": np.ones((2, 2))}, "there is no P"),
        ({}, "there is no W: a bilinear layer has W and V"),
        (state(P=np.ones((3, 6))), "one column for each of the 7 hidden units"),
        (state(W_bias=np.ones(6)), "W_bias has shape (6,), expected (7,)"),
        (state(P_bias=np.ones(7)), "P_bias has shape (7,), expected (3,)"),
        (state(V=np.full((7, 5), np.nan)), "V holds NaN"),
        (state(W=np.ones(5)), "W has shape (5,), expected 2 axes"),
        (state(U=np.ones(5)), "U is no part of a bilinear layer"),
        (state(P="no"), "P holds something other than numbers"),
        ({"mlp.gate_proj.weight": np.ones((2, 2))}, "belongs to a gated layer (SwiGLU"),
    ],
)
def test_what_is_no_layer_is_refused(weights, message):
    with pytest.raises(CheckpointError) as error:
        layer_of(weights)
    assert message in str(error.value)


def test_layers_with_an_activation_function_are_refused():
    layer = random_layer(0)
    for activation in (torch.nn.functional.silu, torch.relu):

        def gated(x, activation=activation):
            gate = activation(torch.from_numpy(x @ layer.w.T)).numpy()
            return (gate * (x @ layer.v.T)) @ layer.p.T

        with pytest.raises(CheckpointError, match="as in SwiGLU or ReGLU"):
            require_bilinear(layer, gated)
    with pytest.raises(CheckpointError, match=r"output of shape \(16, 1\)"):
        require_bilinear(layer, lambda x: x[:, :1])


def test_more_factors_than_the_rank_are_refused():
    with pytest.raises(UsageError, match="9 factors of a form of rank 5"):
        output_spectrum(random_layer(0), np.ones(3)).strongest(9)
    with pytest.raises(UsageError, match="6 features have 21 pairs, not 22"):
        feature_interactions(random_layer(0), np.ones(3), np.ones((6, 5)), 22)
    with pytest.raises(UsageError, match="has biases"):
        feature_interactions(random_layer(0, bias=True), np.ones(3), np.ones((6, 5)), 2)
    with pytest.raises(UsageError, match=r"a direction of shape \(2,\)"):
        interaction_matrix(random_layer(0), np.ones(2))
    with pytest.raises(CheckpointError, match="must have 5 rows"):
        random_layer(0).reading(np.ones((4, 9)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"x": w["embed.weight"]}, "a bilinear network has embed.weight"),
        (lambda w: w | {"head.weight": w["head.weight"] * torch.nan}, "head.weight holds NaN"),
        (lambda w: w | {"layers.0.v.weight": torch.ones(3, 6)}, "size mismatch"),
    ],
)
def test_broken_networks_are_refused(change, message, tmp_path):
    from safetensors.torch import save_file

    weights = BilinearNetwork(12, 6, 4).state_dict()
    save_file(change(weights), tmp_path / "n.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_network(tmp_path / "n.safetensors")
    (tmp_path / "n.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a bilinear network that can be read"):
        load_network(tmp_path / "n.safetensors")
