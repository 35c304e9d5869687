"""What each message costs at each step, and what the classifier loses by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mdlbench.bilinear.network import BilinearNetwork, load_network
from mdlbench.disk.files import sha256_of, write_atomically
from mdlbench.papers.mechanism import messages
from mdlbench.papers.mechanism.code import rounded
from mdlbench.papers.mechanism.messages import Logits, Message
from mdlbench.papers.mechanism.plan import BASIS, EIGENVECTORS, SVD, WEIGHTS, Plan
from mdlbench.training.bilinear.task import Task

VERSION = 1
"""The version of what is measured; points of another one are measured again."""


@dataclass(frozen=True)
class Point:
    """One message, rounded at one step.

    Attributes:
        kind, size: of the message.
        share: step over root mean square, of each of its matrices.
        bits: of all of it, sent once.
        delta_ce: CE on the test images with it, less that of the network, in nats.
        accuracy: share of the test images that it names rightly.
    """

    kind: str
    size: int
    share: float
    bits: float
    delta_ce: float
    accuracy: float


def points_of(file: Path, network: Path, task: Task, plan: Plan) -> list[Point]:
    """All points of a network; those that `file` keeps of the same one are not measured again."""
    determined_by = {
        "version": VERSION,
        "network": sha256_of(network),
        "task": task.sha256,
        "sizes": {kind: list(sizes) for kind, sizes in plan.sizes.items()},
        "shares": list(plan.shares),
    }
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["determined_by"] == determined_by:
            return [Point(**one) for one in kept["points"]]
    found = list(measure(load_network(network), task, plan))
    content = {"determined_by": determined_by, "points": [asdict(point) for point in found]}
    write_atomically(file, (json.dumps(content, indent=1) + "\n").encode())
    return found


def measure(network: BilinearNetwork, task: Task, plan: Plan) -> Iterator[Point]:
    """Every message at every step."""
    x, y = task.test_x.cpu().numpy(), task.test_y.cpu().numpy()
    own = messages.weights(network)
    clean = cross_entropy(own.logits(own.matrices, x), y)
    for kind, size, message in _messages(network, plan):
        for share in plan.shares:
            steps = [share * float(np.sqrt(np.square(one).mean())) for one in message.matrices]
            sent = [rounded(*pair) for pair in zip(message.matrices, steps, strict=True)]
            logits = message.logits([one.matrix for one in sent], x)
            yield Point(
                kind,
                size,
                share,
                message.signs + sum(one.bits for one in sent),
                cross_entropy(logits, y) - clean,
                float((logits.argmax(axis=1) == y).mean()),
            )


def _messages(network: BilinearNetwork, plan: Plan) -> Iterator[tuple[str, int, Message]]:
    """Each kind in each size. Without what logits have in common, but for the network's weights."""
    layer = messages.centred(network.quadratic())
    for kind, sizes in plan.sizes.items():
        for size in sizes:
            if kind == WEIGHTS:
                yield kind, size, messages.weights(network)
            elif kind == SVD:
                yield kind, size, messages.truncated(layer, size)
            elif kind == EIGENVECTORS:
                yield kind, size, messages.eigenvectors(layer, size)
            elif kind == BASIS:
                yield kind, size, messages.shared_basis(layer, size)


def cross_entropy(logits: Logits, y: Int64[np.ndarray, " image"]) -> float:
    """The mean cross-entropy of classes, in nats, in float64."""
    centred = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(centred).sum(axis=1)) - centred[np.arange(len(y)), y]))
