"""Next-token losses of a language model, without ever holding all of its logits.

KL(clean ‖ spliced) is linear in the spliced logits but for their normaliser, and logits are linear
in the final hidden state h. With u = Σ_v p_v·W_v the mean unembedding under the clean distribution
p, and Z the normaliser, KL = u·(h_clean − h_spliced) + log Z_spliced − log Z_clean: one vector a
token keeps what would else be a second pass through the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mdlbench.sources import SpliceLoss
from mdlbench.sources.models import Head

CHUNK_BYTES = 1 << 26
"""No matrix of logits is larger than this."""

Hidden = Float[torch.Tensor, "token d_model"]


class Clean(NamedTuple):
    """What is kept of the untouched model's predictions.

    Attributes:
        hidden: final hidden state h.
        direction: u, its product with a hidden state is the mean logit under the clean model.
        normaliser: log Z.
        ce: cross-entropy, nats.
    """

    hidden: Hidden
    direction: Hidden
    normaliser: Float64[torch.Tensor, " token"]
    ce: Float64[torch.Tensor, " token"]


def clean_predictions(head: Head, hidden: Hidden, labels: Int64[torch.Tensor, " token"]) -> Clean:
    """The untouched model's cross-entropy, and what KL needs of it."""
    directions, normalisers, ces = [], [], []
    for part in _chunks(head, len(hidden)):
        logits = head(hidden[part])
        normaliser, ce = _cross_entropy(logits, labels[part])
        directions.append(head.mean_direction(torch.softmax(logits, dim=1)))
        normalisers.append(normaliser)
        ces.append(ce)
    return Clean(hidden, torch.cat(directions), torch.cat(normalisers), torch.cat(ces))


def spliced_losses(
    head: Head, hidden: Hidden, labels: Int64[torch.Tensor, " token"], clean: Clean
) -> SpliceLoss:
    """CE and KL(clean ‖ spliced) of each token, in nats."""
    ces, kls = [], []
    for part in _chunks(head, len(hidden)):
        logits = head(hidden[part])
        normaliser, ce = _cross_entropy(logits, labels[part])
        if head.softcap > 0:
            kl = _divergence(head(clean.hidden[part]), logits)
        else:
            moved = (clean.hidden[part] - hidden[part]).double()
            kl = torch.linalg.vecdot(clean.direction[part].double(), moved)
            kl += normaliser - clean.normaliser[part]
        ces.append(ce)
        kls.append(kl)
    return SpliceLoss(_numpy(torch.cat(ces)), _numpy(torch.cat(kls)))


def _cross_entropy(
    logits: Float[torch.Tensor, "token vocabulary"], labels: Int64[torch.Tensor, " token"]
) -> tuple[Float64[torch.Tensor, " token"], Float64[torch.Tensor, " token"]]:
    """log Z and −log p(label)."""
    normaliser = torch.logsumexp(logits, dim=1).double()
    return normaliser, normaliser - logits.gather(1, labels[:, None])[:, 0].double()


def _divergence(
    clean: Float[torch.Tensor, "token vocabulary"], spliced: Float[torch.Tensor, "token vocabulary"]
) -> Float64[torch.Tensor, " token"]:
    log_p, log_q = torch.log_softmax(clean, dim=1), torch.log_softmax(spliced, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1, dtype=torch.float64)


def _chunks(head: Head, n_tokens: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // (4 * head.weight.shape[1]))
    return (slice(start, start + size) for start in range(0, n_tokens, size))


def _numpy(values: torch.Tensor) -> np.ndarray:
    return np.asarray(values.cpu())
