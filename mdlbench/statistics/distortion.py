"""Losses of a reconstruction as sums per document, which merge exactly (maths §5)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from jaxtyping import Float64, Int64

PerDocument = Float64[np.ndarray, " document"]


@dataclass(frozen=True)
class Reference:
    """What a split's losses are measured against; the same for every SAE.

    Attributes:
        tokens: tokens of each document.
        d: dimensions of an activation.
        variation: Σ‖x − x̄‖² over the split, x̄ the per-dimension mean.
        clean_ce, ablated_ce: summed CE of each document in nats, untouched and with zeros.
        eigenvalues: of the covariance of the activations, descending.
    """

    tokens: PerDocument
    d: int
    variation: float
    clean_ce: PerDocument
    ablated_ce: PerDocument
    eigenvalues: Float64[np.ndarray, " d"]


@dataclass(frozen=True)
class ErrorSums:
    """Per-document sums of what a reconstruction alone shows.

    Attributes:
        squared_error: Σ‖x − x̂‖².
        cosine: Σ cos(x, x̂); 0 where either is zero.
    """

    squared_error: PerDocument
    cosine: PerDocument

    @classmethod
    def zeros(cls, n_documents: int) -> Self:
        return cls(*(np.zeros(n_documents) for _ in fields(cls)))

    def __add__(self, other: Self) -> Self:
        names = [field.name for field in fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True)
class DistortionSums(ErrorSums):
    """Per-document sums of one reconstruction of a split, spliced into the model.

    Attributes:
        ce, kl: spliced CE and KL(clean ‖ spliced) in nats.
    """

    ce: PerDocument
    kl: PerDocument

    def added_ce(self, reference: Reference) -> PerDocument:
        """CE(spliced) − CE(clean), paired on the same tokens."""
        return np.asarray(self.ce - reference.clean_ce)

    def metrics(self, reference: Reference) -> dict[str, Any]:
        """Means over all tokens, as in `maths §5`; `ce_recovered` is None where undefined."""
        n_tokens = reference.tokens.sum()
        clean, ablated = reference.clean_ce.sum(), reference.ablated_ce.sum()
        lost = ablated - clean
        return {
            "mse": float(self.squared_error.sum() / (n_tokens * reference.d)),
            "fvu": float(self.squared_error.sum() / reference.variation),
            "cosine": float(self.cosine.sum() / n_tokens),
            "ce": float(self.ce.sum() / n_tokens),
            "delta_ce": float(self.added_ce(reference).sum() / n_tokens),
            "ce_recovered": float((ablated - self.ce.sum()) / lost) if lost > 0 else None,
            "kl": float(self.kl.sum() / n_tokens),
        }


def document_sums(
    per_token: Float64[np.ndarray, " token"],
    document: Int64[np.ndarray, " token"],
    n_documents: int,
) -> PerDocument:
    return np.bincount(document, weights=per_token, minlength=n_documents)
