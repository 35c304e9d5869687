"""What can be sent of a bilinear classifier so that its logits can be computed (maths §11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64

from mdlbench.bilinear.interaction import interaction_matrix
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.network import Bilinear, BilinearNetwork
from mdlbench.bilinear.spectrum import Spectrum, row_space, spectra

Matrix = Float32[np.ndarray, "_ _"]
Inputs = Float32[np.ndarray, "image pixel"]
Logits = Float32[np.ndarray, "image class"]


@dataclass(frozen=True, eq=False)
class Message:
    """Matrices from which logits follow; each is rounded on its own.

    Attributes:
        matrices: what is sent.
        signs: bits that are sent beside them, as they are.
        logits: of inputs, from the matrices as they arrive.
    """

    matrices: tuple[Matrix, ...]
    signs: int
    logits: Callable[[Sequence[Matrix], Inputs], Logits]


def weights(network: BilinearNetwork) -> Message:
    """The network's own: embedding, W, V and head. Of one layer, without biases."""
    layer = network.layers[0]
    assert isinstance(layer, Bilinear)
    linear = (network.embed, layer.w, layer.v, network.head)
    return Message(tuple(_array(one.weight) for one in linear), 0, _by_weights)


def _by_weights(matrices: Sequence[Matrix], x: Inputs) -> Logits:
    embed, w, v, head = matrices
    embedded = x @ embed.T
    return np.asarray(((embedded @ w.T) * (embedded @ v.T)) @ head.T)


def truncated(layer: BilinearLayer, rank: int) -> Message:
    """The SVD of both maps of the input, stacked, of some rank: two factors, and the projection.

    Each singular value is shared out evenly: the stronger a direction, the finer it is sent.
    """
    left, strengths, right = np.linalg.svd(np.vstack([layer.w, layer.v]), full_matrices=False)
    root = np.sqrt(strengths[:rank])
    factors = (left[:, :rank] * root, root[:, None] * right[:rank], layer.p)
    return Message(tuple(_single(one) for one in factors), 0, _by_factors)


def _by_factors(matrices: Sequence[Matrix], x: Inputs) -> Logits:
    left, right, p = matrices
    maps = (x @ right.T) @ left.T
    hidden = maps.shape[1] // 2
    return np.asarray((maps[:, :hidden] * maps[:, hidden:]) @ p.T)


def eigenvectors(layer: BilinearLayer, n: int) -> Message:
    """The n strongest eigenvectors of each logit, times √|λ|, and a sign each."""
    forms = [strongest(form, n) for form in spectra(layer)]
    owner = np.repeat(np.arange(len(forms)), [form.rank for form in forms])
    shares = np.eye(len(forms), dtype=np.float32)[owner] * _signs(forms)[:, None]

    def logits(matrices: Sequence[Matrix], x: Inputs) -> Logits:
        return np.asarray(np.square(x @ matrices[0].T) @ shares)

    return Message((_rows(forms),), len(owner), logits)


def shared_basis(layer: BilinearLayer, rank: int) -> Message:
    """The logits' forms within one space that they share: a basis, and a triangle for each logit.

    The space is spanned by the strongest eigenvectors of ΣQ², as in a Tucker decomposition. Basis
    and forms share out each direction's strength evenly.
    """
    inside, basis = _inside(layer)
    forms = np.stack([interaction_matrix(inside, one) for one in np.eye(layer.d_out)])
    squares, vectors = np.linalg.eigh(np.einsum("kab,kbc->ac", forms, forms))
    kept = vectors[:, ::-1][:, :rank]
    root = np.clip(squares[::-1][:rank], np.finfo(np.float64).tiny, None) ** 0.25
    rows = (root * kept).T @ basis
    cores = np.einsum("ai,kab,bj->kij", kept / root, forms, kept / root)
    upper = np.triu_indices(cores.shape[1])
    double = np.where(upper[0] == upper[1], 1.0, 2.0).astype(np.float32)

    def logits(matrices: Sequence[Matrix], x: Inputs) -> Logits:
        z = x @ matrices[0].T
        return np.asarray((z[:, upper[0]] * z[:, upper[1]]) @ (matrices[1] * double).T)

    return Message((_single(rows), _single(cores[:, upper[0], upper[1]])), 0, logits)


def _inside(layer: BilinearLayer) -> tuple[BilinearLayer, Float64[np.ndarray, "rank d_in"]]:
    """The layer as a function of coordinates within the space that it reads, and its basis."""
    basis = row_space(np.vstack([layer.w, layer.v]))
    return BilinearLayer(layer.w @ basis.T, layer.v @ basis.T, layer.p), basis


def strongest(form: Spectrum, n: int) -> Spectrum:
    """The n strongest eigenvectors, or all where there are fewer."""
    return form.strongest(min(n, form.rank))


def centred(layer: BilinearLayer) -> BilinearLayer:
    """The layer without what all logits have in common, which changes no probability."""
    return layer.then(np.eye(layer.d_out) - 1 / layer.d_out)


def _rows(forms: Sequence[Spectrum]) -> Matrix:
    return _single(
        np.concatenate([np.sqrt(np.abs(form.values))[:, None] * form.vectors for form in forms])
    )


def _signs(forms: Sequence[Spectrum]) -> Float32[np.ndarray, " row"]:
    return np.concatenate([np.sign(form.values) for form in forms]).astype(np.float32)


def _array(tensor: torch.Tensor) -> Matrix:
    return _single(tensor.detach().cpu().double().numpy())


def _single(matrix: Float64[np.ndarray, "row column"]) -> Matrix:
    return np.ascontiguousarray(matrix, dtype=np.float32)
