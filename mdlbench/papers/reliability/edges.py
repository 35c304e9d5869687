"""Whether the forest that is learned from an SAE's latents has the edges of the world's hierarchy.

An edge joins two latents. It is right where the features of which they are most like are parent and
child, whichever way round: which end is the parent does not matter to the code's length.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.forest import Forest, learn_forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts
from mdlbench.sources.protocol import ActivationSource, TrueFeatures
from mdlbench.statistics.truth import Matches


class Edges(NamedTuple):
    """Numbers of edges.

    Attributes:
        learned: of the learned forest.
        right: those of them that the hierarchy has.
        found: edges of the hierarchy that are among them.
        there: edges of the hierarchy of which both ends are the feature of some latent.
    """

    learned: int
    right: int
    found: int
    there: int


def edges_of(coder: SparseCoder, source: ActivationSource, truth: TrueFeatures) -> Edges:
    """The forest of which latents are on, learned from the calibration tokens, against the truth.

    Args:
        coder: an SAE.
        source: what its latents are of.
        truth: the features that the source's activations are made of.
    """
    blocks = [checked.encode(coder, block.given)[0] for block in source.blocks("calibration")]
    on = [_supports(latents) for latents in blocks]
    forest = learn_forest(
        Runs.here(lambda: on), SymbolCounts.of_runs(on, coder.spec.d_latents)
    ).forest
    return compared(forest, Matches.of(coder.decoder_rows(), truth.directions).feature, truth)


def compared(forest: Forest, feature: Int64[np.ndarray, " latent"], truth: TrueFeatures) -> Edges:
    """The edges of a forest whose latents stand for these features."""
    child = np.flatnonzero(forest.is_child)
    learned = _pairs(feature[child], feature[forest.parents[child]])
    below = np.flatnonzero(truth.parents >= 0)
    known = set(feature.tolist())
    there = {pair for pair in _pairs(below, truth.parents[below]) if pair <= known}
    right = [pair for pair in learned if pair in there]
    return Edges(len(learned), len(right), len(set(right)), len(there))


def _pairs(
    ones: Int64[np.ndarray, " edge"], others: Int64[np.ndarray, " edge"]
) -> list[frozenset[int]]:
    return [frozenset(pair) for pair in zip(ones.tolist(), others.tolist(), strict=True)]


def _supports(latents: SparseLatents) -> Symbols:
    ones = np.ones(latents.nnz, dtype=np.int32)
    return Symbols(latents.token, latents.latent, ones, latents.n_tokens, latents.n_latents)
