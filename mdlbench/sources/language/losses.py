"""Next-token losses of a language model, without ever holding all of its logits.

Logits are computed for all tokens at once, one part of the vocabulary at a time: so each part of
the unembedding is read once, and log Z is added up over the parts.

KL(clean ‖ spliced) is linear in the spliced logits apart from their normaliser, and logits are
linear in the final hidden state h. With u = Σ_v p_v·W_v the mean unembedding under the clean
distribution p, and Z the normaliser, KL = u·(h_clean − h_spliced) + log Z_spliced − log Z_clean:
one vector a token saves a second pass through the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from mdlbench.sources.language.cut import Head
from mdlbench.sources.protocol import SpliceLoss

CHUNK_BYTES = 1 << 25
"""No matrix of logits is larger than this."""

Hidden = Float[torch.Tensor, "token d_model"]
Logits = Float[torch.Tensor, "token word"]


class Clean(NamedTuple):
    """The parts of the untouched model's predictions that are kept.

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


class _CrossEntropy:
    """log Z of hidden states and the logits of labels, as far as the vocabulary has been seen.

    Args:
        labels: the next token of each token.
        state: the hidden state of each token, of `n_states`.
    """

    def __init__(
        self, labels: Int64[torch.Tensor, " token"], state: torch.Tensor, n_states: int
    ) -> None:
        self._labels, self._state = labels, state
        self._logits = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        self.normaliser = torch.full_like(self._logits[:1], -torch.inf).repeat(n_states)

    def add(self, logits: Float[torch.Tensor, "state word"], words: slice) -> None:
        part = torch.logsumexp(logits, dim=1).double()
        self.normaliser = torch.logaddexp(self.normaliser, part)
        here = torch.nonzero((self._labels >= words.start) & (self._labels < words.stop))[:, 0]
        column = self._labels[here] - words.start
        self._logits[here] = logits[self._state[here], column].double()

    @property
    def ce(self) -> Float64[torch.Tensor, " token"]:
        return self.normaliser[self._state] - self._logits


def clean_predictions(head: Head, hidden: Hidden, labels: Int64[torch.Tensor, " token"]) -> Clean:
    """The untouched model's cross-entropy, and what KL needs of it."""
    sums, direction = _own_states(labels), torch.zeros_like(hidden)
    for words in _chunks(head, len(hidden)):
        logits, before = head(hidden, words), sums.normaliser
        sums.add(logits, words)
        weights, unit = _shares(logits, sums.normaliser)
        direction *= _column(before - sums.normaliser)
        direction += head.mean_direction(weights, words) * unit
    return Clean(hidden, direction, sums.normaliser, sums.ce)


def spliced_losses(
    head: Head, hidden: Hidden, labels: Int64[torch.Tensor, " token"], clean: Clean
) -> SpliceLoss:
    """CE and KL(clean ‖ spliced) of each token, in nats."""
    sums, fall, is_linear = _own_states(labels), torch.zeros_like(clean.ce), head.softcap <= 0
    for words in _chunks(head, len(hidden)):
        logits = head(hidden, words)
        sums.add(logits, words)
        if not is_linear:
            fall += _mean_fall(head(clean.hidden, words), logits, clean.normaliser)
    if is_linear:
        moved = (clean.hidden - hidden).double()
        fall = torch.linalg.vecdot(clean.direction.double(), moved)
    return SpliceLoss(_numpy(sums.ce), _numpy(fall + sums.normaliser - clean.normaliser))


def cross_entropies(
    head: Head,
    hidden: Float[torch.Tensor, "state d_model"],
    labels: Int64[torch.Tensor, " token"],
    state: Int64[torch.Tensor, " token"],
) -> Float64[np.ndarray, " token"]:
    """CE of each token in nats; several tokens may share a hidden state."""
    sums = _CrossEntropy(labels, state, len(hidden))
    for words in _chunks(head, len(hidden)):
        sums.add(head(hidden, words), words)
    return _numpy(sums.ce)


def _own_states(labels: Int64[torch.Tensor, " token"]) -> _CrossEntropy:
    return _CrossEntropy(labels, torch.arange(len(labels), device=labels.device), len(labels))


def _mean_fall(
    clean: Logits, spliced: Logits, normaliser: Float64[torch.Tensor, " token"]
) -> Float64[torch.Tensor, " token"]:
    """What these words add to Σ_v p_v·(clean logit − spliced logit), p the clean distribution."""
    weights, unit = _shares(clean, normaliser)
    return (weights * (clean - spliced)).sum(dim=1, dtype=torch.float64) * unit[:, 0]


def _shares(
    logits: Logits, normaliser: Float64[torch.Tensor, " token"]
) -> tuple[Logits, Float[torch.Tensor, "token 1"]]:
    """exp(logit − largest), and exp(largest − log Z), whose products are probabilities.

    Large logits would lose digits if they were taken from log Z in float32.
    """
    largest = logits.amax(dim=1, keepdim=True)
    return (logits - largest).exp_(), _column(largest[:, 0].double() - normaliser)


def _column(exponent: Float64[torch.Tensor, " token"]) -> Float[torch.Tensor, "token 1"]:
    return exponent.exp().float()[:, None]


def _chunks(head: Head, n_states: int) -> Iterator[slice]:
    """Parts of the vocabulary."""
    n_words = head.weight.shape[1]
    size = max(1, CHUNK_BYTES // (4 * max(1, n_states)))
    return (slice(i, min(i + size, n_words)) for i in range(0, n_words, size))


def _numpy(values: torch.Tensor) -> np.ndarray:
    return np.asarray(values.cpu())
