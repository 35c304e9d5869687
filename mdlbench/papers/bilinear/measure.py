"""What is measured on one network: accuracy with few eigenvectors, their rank, looks and groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from mdlbench.bilinear.hosvd import hosvd
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.network import BilinearNetwork
from mdlbench.bilinear.spectrum import Spectrum, spectra
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task
from mdlbench.training.bilinear.trainer import measure_classifier

KEPT = (1, 2, 3, 5, 10, 20, 30)
"""Eigenvectors of each class that a truncated network keeps."""
SHOWN = 30
"""Eigenvectors of each class that are kept of a measured network."""


@dataclass(frozen=True)
class Grouping:
    """How the strongest shared factor divides the classes.

    Attributes:
        direction: its entry for each class; the mean over classes is taken away before.
        share: how many test images are on their class's side of a threshold that was chosen on
            training images, the mean of both sides' shares: ½ for a factor that tells nothing.
    """

    direction: tuple[float, ...]
    share: float

    @property
    def groups(self) -> tuple[list[int], list[int]]:
        """The classes with a positive entry, and the others."""
        raised = [k for k, entry in enumerate(self.direction) if entry > 0]
        return raised, [k for k in range(len(self.direction)) if k not in raised]


@dataclass(frozen=True, eq=False)
class Measured:
    """One network.

    Attributes:
        accuracy: share of the test images that it names rightly.
        kept: the same with n eigenvectors of each class, by n.
        effective_rank: of each class's eigenvalues.
        spectra: of each class, the strongest eigenvectors.
        roughness: of the strongest eigenvectors that raise their class: Σ squared differences of
            neighbouring pixels over Σ squared pixels, the mean over classes. 4 for white noise
            far from the frame's edge.
        grouping: what the strongest shared factor tells.
    """

    config: BilinearConfig
    accuracy: float
    kept: dict[int, float]
    effective_rank: tuple[float, ...]
    spectra: tuple[Spectrum, ...]
    roughness: float
    grouping: Grouping

    @property
    def top(self) -> Float64[np.ndarray, "class pixel"]:
        """The strongest eigenvector of each class that raises it."""
        return np.stack([spectrum.positive.vectors[0] for spectrum in self.spectra])


def measure(config: BilinearConfig, network: BilinearNetwork, task: Task) -> Measured:
    """Everything about one network."""
    layer = network.quadratic()
    found = list(spectra(layer))
    shown = tuple(Spectrum(form.values[:SHOWN], form.vectors[:SHOWN]) for form in found)
    tops = [form.positive.vectors[0] for form in found if len(form.positive.values)]
    shape = task.image_shape or (1, task.d_in)
    return Measured(
        config,
        measure_classifier(network, task).accuracy,
        kept_accuracies(found, task),
        tuple(form.effective_rank for form in found),
        shown,
        float(np.mean([roughness(top.reshape(shape)) for top in tops])),
        grouping(layer, task),
    )


def kept_accuracies(forms: list[Spectrum], task: Task) -> dict[int, float]:
    """Test accuracy with the n strongest eigenvectors of each class, by n."""
    x, y = task.test_x.cpu().double().numpy(), task.test_y.cpu().numpy()
    most = max(KEPT)
    logits = np.zeros((len(KEPT), len(x), len(forms)))
    for k, form in enumerate(forms):
        parts = np.square(x @ form.vectors[:most].T) * form.values[:most]
        for row, n in enumerate(KEPT):
            logits[row, :, k] = parts[:, :n].sum(axis=1)
    return {n: float((logits[row].argmax(axis=1) == y).mean()) for row, n in enumerate(KEPT)}


def roughness(image: Float64[np.ndarray, "row column"]) -> float:
    """Σ squared differences of neighbouring pixels over Σ squared pixels."""
    differences = np.square(np.diff(image, axis=0)).sum() + np.square(np.diff(image, axis=1)).sum()
    return float(differences / np.square(image).sum())


def grouping(layer: BilinearLayer, task: Task) -> Grouping:
    """What the strongest factor shared by all classes tells, their common part taken away.

    A part that all logits share changes no probability.
    """
    n = layer.d_out
    shared = hosvd(layer.then(np.eye(n) - 1 / n))
    direction, form = shared.directions[0], shared.forms[0]
    train, test = (
        (form.output(x.cpu().double().numpy()), direction[y.cpu().numpy()] > 0)
        for x, y in ((task.train_x[:10_000], task.train_y[:10_000]), (task.test_x, task.test_y))
    )
    threshold = _best_threshold(*train)
    return Grouping(tuple(map(float, direction)), _balanced(test[0] > threshold, test[1]))


def _best_threshold(
    values: Float64[np.ndarray, " image"], raised: Bool[np.ndarray, " image"]
) -> float:
    """The threshold with the largest mean of both sides' shares."""
    choices = np.quantile(values, np.linspace(0.005, 0.995, 199))
    return float(max(choices, key=lambda choice: _balanced(values > choice, raised)))


def _balanced(above: Bool[np.ndarray, " image"], raised: Bool[np.ndarray, " image"]) -> float:
    if raised.all() or not raised.any():
        return 0.5
    return float((above[raised].mean() + (~above[~raised]).mean()) / 2)


def similarity(
    networks: list[Measured],
) -> Float64[np.ndarray, "seed seed"]:
    """|cosine| of the top eigenvectors of each pair of networks, the mean over classes."""
    tops = np.stack([network.top for network in networks])
    return np.asarray(np.abs(np.einsum("acd,bcd->abc", tops, tops)).mean(axis=2))
