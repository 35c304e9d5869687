"""Directed forests of latents: each has one parent, or is a root."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64, Shaped

from mdlbench.errors import CoderError
from mdlbench.latents import SparseLatents

ROOT = -1


def check_parents(parents: Sequence[int] | Shaped[np.ndarray, ...], n_latents: int) -> None:
    """Raise unless these are the parents of a forest.

    Raises:
        CoderError: not one parent for each latent, one that does not exist, or a cycle.
    """
    array = np.asarray(parents)
    if array.shape != (n_latents,) or not np.issubdtype(array.dtype, np.integer):
        raise CoderError(
            f"parents: expected one latent, or {ROOT} for none, for each of {n_latents} latents; "
            f"found {array.dtype} of shape {array.shape}. A latent cannot have two parents."
        )
    if (outside := np.flatnonzero((array < ROOT) | (array >= n_latents))).size:
        raise CoderError(
            f"parents: latent {outside[0]} has parent {array[outside[0]]}, and there are "
            f"{n_latents} latents"
        )
    ancestors = array.astype(np.int64)
    for _ in range(n_latents.bit_length()):
        ancestors = np.where(ancestors == ROOT, ROOT, ancestors[ancestors])
    if (cyclic := np.flatnonzero(ancestors != ROOT)).size:
        raise CoderError(f"parents: latent {cyclic[0]} is, or hangs from, its own ancestor")


def levels(parents: Int[np.ndarray, " latent"]) -> list[Int64[np.ndarray, " member"]]:
    """The latents of each depth: the roots, their children, …"""
    depth = np.zeros(len(parents), dtype=np.int64)
    ancestors = np.asarray(parents, dtype=np.int64)
    while (ancestors != ROOT).any():
        depth += ancestors != ROOT
        ancestors = np.where(ancestors == ROOT, ROOT, parents[ancestors])
    return [np.flatnonzero(depth == level) for level in range(int(depth.max(initial=0)) + 1)]


def branching_parents(branching: Sequence[int]) -> list[int]:
    """Parents where so many roots have so many children each, those so many each, and so on.

    The roots come first, then their children in the roots' order, then theirs.
    """
    parents, level = [ROOT] * branching[0], list(range(branching[0]))
    for children in branching[1:]:
        first = len(parents)
        parents += [parent for parent in level for _ in range(children)]
        level = list(range(first, len(parents)))
    return parents


def without_orphans(latents: SparseLatents, parents: Int[np.ndarray, " latent"]) -> SparseLatents:
    """The latents whose parent is on, and its parent, up to a root."""
    place = latents.token.astype(np.int64) * latents.n_latents + latents.latent
    parent = parents[latents.latent]
    parent_place = place - latents.latent + parent
    kept = np.ones(latents.nnz, dtype=bool)
    for _ in levels(parents)[1:]:
        kept = (parent == ROOT) | np.isin(parent_place, place[kept])
    return SparseLatents(
        latents.token[kept],
        latents.latent[kept],
        latents.value[kept],
        latents.n_tokens,
        latents.n_latents,
    )
