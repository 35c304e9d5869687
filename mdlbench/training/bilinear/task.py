"""What a classifier is trained and tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float32, Int64

from mdlbench.errors import UsageError
from mdlbench.sources.images import N_CLASSES, load_images
from mdlbench.sources.kinds.images import ImagesConfig
from mdlbench.suite.suite import Suite


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs and their classes, on one device.

    Attributes:
        n_classes: classes are numbered from 0.
        image_shape: rows and columns of an input, where it is an image.
    """

    train_x: Float32[torch.Tensor, "train d_in"]
    train_y: Int64[torch.Tensor, " train"]
    test_x: Float32[torch.Tensor, "test d_in"]
    test_y: Int64[torch.Tensor, " test"]
    n_classes: int
    image_shape: tuple[int, int] | None = None

    @property
    def d_in(self) -> int:
        return self.train_x.shape[1]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of inputs and classes."""
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def image_task(suite: Suite, device: str = "cpu") -> Task:
    """The images of a suite, pixels in [0, 1]: calibration split for training, test split.

    Raises:
        UsageError: the suite has no labelled images.
    """
    source = suite.source
    if not isinstance(source, ImagesConfig):
        raise UsageError(
            f"suite {suite.name!r} has no labelled images: a bilinear classifier needs some"
        )
    images, labels = load_images(suite.path(source.images), suite.path(source.labels))
    x = torch.from_numpy(images).to(device).flatten(1).float() / 255.0
    y = torch.from_numpy(labels).to(device).long()
    n = len(x) - source.n_test
    return Task(x[:n], y[:n], x[n:], y[n:], N_CLASSES, (images.shape[1], images.shape[2]))
