"""k-sparse probing of the true features: can k latents tell whether a feature is on?

As in SAEBench's sparse probing (2503.09532), with the true features for concepts: for each, the k
latents whose means differ most between tokens with and without it; a logistic regression on them;
its accuracy on other tokens, the mean of both classes'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from sklearn.linear_model import LogisticRegression

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.errors import SourceError
from mdlbench.sources.protocol import ActivationSource, KnowsFeatures, Split

KS = (1, 5)
BLOCKS = 8
"""Blocks of calibration tokens that probes are trained on, and of test tokens."""
LEAST = 10
"""A feature that is on for fewer tokens of either is not probed for."""
Latents = Float32[np.ndarray, "token latent"]
On = Bool[np.ndarray, "token feature"]


def probe(
    coder: SparseCoder, source: ActivationSource, n: int, among: int, ks: Sequence[int] = KS
) -> dict[int, float]:
    """The mean balanced accuracy over features, by k.

    Args:
        coder: the SAE.
        source: one that knows its features.
        n: how many features, evenly spaced in rank by frequency.
        among: so many most frequent ones.
        ks: latents of a probe.

    Raises:
        SourceError: the source does not know its features, or none is on often enough.
    """
    if not isinstance(source, KnowsFeatures):
        raise SourceError("features can only be probed for where they are known")
    ranks = np.unique(np.linspace(0, among - 1, min(n, among)).round().astype(np.int64))
    chosen = source.features.most_frequent(among)[ranks]
    train_z, train_on = _tokens(coder, source, source, "calibration", chosen)
    test_z, test_on = _tokens(coder, source, source, "test", chosen)
    kept = [i for i in range(len(chosen)) if _varies(train_on[:, i]) and _varies(test_on[:, i])]
    if not kept:
        raise SourceError(f"no feature is on for {LEAST} tokens that probes are made of")
    differences = mean_differences(train_z, train_on)
    scale = np.maximum(train_z.std(axis=0), 1e-6)
    return {
        k: float(
            np.mean(
                [
                    _accuracy(
                        (train_z[:, best] / scale[best], train_on[:, i]),
                        (test_z[:, best] / scale[best], test_on[:, i]),
                    )
                    for i in kept
                    for best in [np.argsort(-differences[i], kind="stable")[:k]]
                ]
            )
        )
        for k in ks
    }


def mean_differences(z: Latents, on: On) -> Float64[np.ndarray, "feature latent"]:
    """|mean of each latent with each feature − mean without it|."""
    with_it = on.T.astype(np.float64)
    n = with_it.sum(axis=1, keepdims=True)
    sums = with_it @ z.astype(np.float64)
    rest = z.sum(axis=0, dtype=np.float64) - sums
    means = sums / np.maximum(n, 1), rest / np.maximum(len(z) - n, 1)
    return np.asarray(np.abs(means[0] - means[1]))


def _tokens(
    coder: SparseCoder,
    source: ActivationSource,
    knowing: KnowsFeatures,
    split: Split,
    chosen: Int64[np.ndarray, " feature"],
) -> tuple[Latents, On]:
    """Latents of the first tokens of a split, and which of the features are on there."""
    latents, on = [], []
    column = np.full(len(knowing.features.rates), -1)
    column[chosen] = np.arange(len(chosen))
    for block in source.blocks(split, 0, BLOCKS):
        found, _ = checked.encode(coder, block.given)
        latents.append(found.to_dense())
        firing = knowing.firing(split, block)
        own = column[firing.feature] >= 0
        fires = np.zeros((len(block.document), len(chosen)), dtype=bool)
        fires[firing.token[own], column[firing.feature[own]]] = True
        on.append(fires)
    return np.concatenate(latents), np.concatenate(on)


def _varies(on: Bool[np.ndarray, " token"]) -> bool:
    return LEAST <= int(on.sum()) <= len(on) - LEAST


def _accuracy(
    train: tuple[Float32[np.ndarray, "token k"], Bool[np.ndarray, " token"]],
    test: tuple[Float32[np.ndarray, "other k"], Bool[np.ndarray, " other"]],
) -> float:
    fitted = LogisticRegression(class_weight="balanced").fit(*train)
    said = fitted.predict(test[0])
    return float((said[test[1]].mean() + (~said[~test[1]]).mean()) / 2)
