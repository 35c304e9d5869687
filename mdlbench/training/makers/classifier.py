"""Trains the classifier of an image suite: `python -m mdlbench.training.classifier -o PATH`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Float, Int64
from safetensors.torch import save
from torch import nn

from mdlbench.disk.files import write_atomically
from mdlbench.sources.images import Classifier, load_images
from mdlbench.sources.kinds.images import ImagesConfig
from mdlbench.suite.load import load_suite

EPOCHS = 30
BATCH_IMAGES = 256
PEAK_LR = 2e-3
MAX_SHIFT = 2
"""Training images are moved by at most this many pixels along each axis."""


def train_classifier(
    images: Float[torch.Tensor, "image row column"],
    labels: Int64[torch.Tensor, " image"],
    seed: int,
) -> Classifier:
    """A `Classifier` fitted by Adam under a one-cycle schedule, on randomly shifted images."""
    torch.manual_seed(seed)
    model = Classifier(images[0].numel())
    steps = EPOCHS * (len(images) // BATCH_IMAGES)
    optimiser = torch.optim.Adam(model.parameters(), lr=PEAK_LR, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LR, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(images), (BATCH_IMAGES,))
        logits = model(_shifted(images[batch]).flatten(1))
        torch.autograd.backward(nn.functional.cross_entropy(logits, labels[batch]))
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return model.eval()


def _shifted(
    images: Float[torch.Tensor, "image row column"],
) -> Float[torch.Tensor, "image row column"]:
    """Each image moved by its own offset; what leaves the frame is lost, what enters is zero."""
    rows, columns = images.shape[1:]
    offset = torch.randint(2 * MAX_SHIFT + 1, (2, len(images), 1, 1))
    row = offset[0] + torch.arange(rows)[:, None]
    column = offset[1] + torch.arange(columns)
    padded = nn.functional.pad(images, (MAX_SHIFT,) * 4)
    return padded[torch.arange(len(images))[:, None, None], row, column]


@torch.no_grad()
def accuracy(
    model: Classifier,
    images: Float[torch.Tensor, "image row column"],
    labels: Int64[torch.Tensor, " image"],
) -> float:
    """The fraction of images that the model names rightly."""
    return float((model(images.flatten(1)).argmax(dim=-1) == labels).float().mean())


def main(
    output: Annotated[Path, typer.Option("-o", help="The safetensors file to write.")],
    suite: Annotated[str, typer.Option(help="An image suite.")] = "mnist",
    seed: Annotated[int, typer.Option(help="Of the initial weights and the batches.")] = 0,
) -> None:
    """Train the classifier on the calibration split, print its test accuracy, and save it."""
    loaded = load_suite(suite)
    source = loaded.source
    if not isinstance(source, ImagesConfig):
        raise typer.BadParameter(f"suite {suite!r} has no images")
    pixels, digits = load_images(loaded.path(source.images), loaded.path(source.labels))
    images = torch.from_numpy(pixels).float() / 255.0
    labels = torch.from_numpy(digits).long()
    n_train = len(images) - source.n_test
    model = train_classifier(images[:n_train], labels[:n_train], seed)
    typer.echo(f"test accuracy {accuracy(model, images[n_train:], labels[n_train:]):.4f}")
    write_atomically(output, save(model.state_dict()))


if __name__ == "__main__":
    typer.run(main)
