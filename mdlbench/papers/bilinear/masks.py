"""Adversarial masks: what a fixed image, read off the weights, does to the accuracy (V7)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from mdlbench.bilinear.masks import masks
from mdlbench.bilinear.network import BilinearNetwork
from mdlbench.bilinear.spectrum import spectra
from mdlbench.training.bilinear.task import Task

STACKED = 1
"""Eigenvectors of each class, those that raise it most, that a mask excites one of.

The recipe's "top 10" are read as one for each of ten classes.
"""
STRENGTHS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
"""Norms of a mask; an image of a digit has a norm of about 9."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Masked:
    """Accuracy of one network under masks, one mask for each class.

    Attributes:
        masks: of unit norm.
        accuracy: under each mask at each of `STRENGTHS`.
        permuted: the same with the mask's pixels in a random order.
        towards: share of the test images of other classes that the mask makes its own class.
    """

    masks: Float64[np.ndarray, "class pixel"]
    accuracy: Float64[np.ndarray, "class strength"]
    permuted: Float64[np.ndarray, "class strength"]
    towards: Float64[np.ndarray, "class strength"]


def measure_masks(network: BilinearNetwork, task: Task) -> Masked:
    """A mask for the strongest raising eigenvector of each class, from the weights alone."""
    found = class_masks(network)
    generator = np.random.default_rng(SEED)
    shuffled = np.stack([generator.permutation(mask) for mask in found])
    own, other = (_under(network, task, each) for each in (found, shuffled))
    return Masked(found, own[0], other[0], own[1])


def class_masks(network: BilinearNetwork) -> Float64[np.ndarray, "class pixel"]:
    """Masks: each excites one class's strongest raising eigenvector and no other of the stack.

    The stack has up to `STACKED` raising eigenvectors of each class, as many as are independent.
    """
    raising = [form.positive.vectors for form in spectra(network.quadratic())]
    room = network.embed.out_features // len(raising)
    most = max(min(STACKED, room, *map(len, raising)), 1)
    stacked = np.concatenate([vectors[:most] for vectors in raising])
    return masks(stacked)[::most]


@torch.no_grad()
def _under(
    network: BilinearNetwork, task: Task, added: Float64[np.ndarray, "class pixel"]
) -> tuple[Float64[np.ndarray, "class strength"], Float64[np.ndarray, "class strength"]]:
    """Accuracy with each mask at each strength, and the share of other images made its class."""
    accuracy, towards = np.zeros((2, len(added), len(STRENGTHS)))
    embedded = network.embed(task.test_x)
    directions = network.embed(torch.from_numpy(added).float().to(task.test_x.device))
    for k, direction in enumerate(directions):
        others = task.test_y != k
        for i, strength in enumerate(STRENGTHS):
            x = embedded + strength * direction
            for layer in network.layers:
                x = layer(x)
            named = network.head(x).argmax(dim=1)
            accuracy[k, i] = float((named == task.test_y).double().mean())
            towards[k, i] = float((named[others] == k).double().mean())
    return accuracy, towards
