"""A task whose answer is known: is an input like one of two targets? (V6)"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import output_spectrum
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task

D_IN = 64
THRESHOLD = 0.4
"""An input whose cosine with a target is larger is of that target's class."""
TRAIN, TEST = 8192, 4096
NEITHER = 2


@dataclass(frozen=True)
class Known:
    """What a network has found of one target.

    Attributes:
        share: of ‖λ‖₂² that the top eigenvector has: the strongest of those that raise the
            target's logit less the logit of neither.
        stronger: how many of those that lower it are stronger.
        cosine: |cosine| of the top eigenvector with the target, the constant's entry apart.
        accuracy: share of the test inputs that the logits' difference tells rightly to be of the
            target's class or not, at the best threshold.
        alone: the same of the top eigenvector alone.
        never: the same of the answer that no input is of the class.
    """

    share: float
    stronger: int
    cosine: float
    accuracy: float
    alone: float
    never: float


def known_config(seed: int, epochs: int) -> BilinearConfig:
    """The recipe of V6."""
    return BilinearConfig(
        hidden=64,
        bias=True,
        epochs=epochs,
        batch_size=512,
        weight_decay=1.0,
        noise=0.1,
        seed=seed,
    )


def known_task(seed: int) -> tuple[Task, Float64[np.ndarray, "2 d_in"]]:
    """Random inputs of norm √d, some near either of two random targets; and the targets.

    The cosine with a target is uniform between −0.4 and 0.9. Class 0 or 1: that target's cosine
    is above `THRESHOLD`; class 2: neither is.
    """
    generator = np.random.default_rng([seed, D_IN])
    targets = _unit(generator.standard_normal((2, D_IN)))
    n = TRAIN + TEST
    near = targets[generator.integers(2, size=n)]
    cosine = generator.uniform(-0.4, 0.9, (n, 1))
    across = generator.standard_normal((n, D_IN))
    across = _unit(across - (across * near).sum(axis=1, keepdims=True) * near)
    x = cosine * near + np.sqrt(1 - cosine**2) * across
    like = x @ targets.T
    classes = np.where(like.max(axis=1) > THRESHOLD, like.argmax(axis=1), NEITHER)
    inputs = torch.from_numpy(x * np.sqrt(D_IN)).float()
    y = torch.from_numpy(classes)
    return Task(inputs[:TRAIN], y[:TRAIN], inputs[TRAIN:], y[TRAIN:], 3), targets


def measure_known(
    layer: BilinearLayer, task: Task, targets: Float64[np.ndarray, "2 d_in"]
) -> list[Known]:
    """What a network has found of each target; the layer is all of the network."""
    train, test = (x.double().numpy() for x in (task.train_x, task.test_x))
    found = []
    for k, target in enumerate(targets):
        direction = np.zeros(3)
        direction[k], direction[NEITHER] = 1.0, -1.0
        form = output_spectrum(layer, direction)
        top = form.positive.strongest(1)
        is_train, is_test = ((y == k).numpy() for y in (task.train_y, task.test_y))
        vector = top.vectors[0, :D_IN]
        whole, alone = (
            _told(each.output(train), is_train, each.output(test), is_test) for each in (form, top)
        )
        found.append(
            Known(
                share=float(top.values[0] ** 2 / np.square(form.values).sum()),
                stronger=int((-form.values > top.values[0]).sum()),
                cosine=float(abs(vector @ target) / np.linalg.norm(vector)),
                accuracy=whole,
                alone=alone,
                never=float(1 - is_test.mean()),
            )
        )
    return found


def _told(
    train: Float64[np.ndarray, " train"],
    is_train: np.ndarray,
    test: Float64[np.ndarray, " test"],
    is_test: np.ndarray,
) -> float:
    """Test accuracy of "above the threshold", which is the best one on the training inputs."""
    choices = np.quantile(train, np.linspace(0.005, 0.995, 199))
    best = max(choices, key=lambda choice: float(((train > choice) == is_train).mean()))
    return float(((test > best) == is_test).mean())


def _unit(rows: Float64[np.ndarray, "row d"]) -> Float64[np.ndarray, "row d"]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
