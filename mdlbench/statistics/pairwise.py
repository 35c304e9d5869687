"""Sums of floating-point terms that do not depend on how the terms were dealt out.

Terms are numbered. Neighbours are added first: term 2i to term 2i + 1, then pairs to pairs, and so
on, as in a binary tree over the numbers. Whoever has some consecutive terms can add those that the
tree adds; the sums of whole subtrees that are left are what it passes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Term = TypeVar("Term")


@dataclass(frozen=True, eq=False)
class Node(Generic[Term]):
    """The sum of the terms from `start`·2^`level` up to (`start` + 1)·2^`level`."""

    level: int
    start: int
    total: Term


def partial_sums(start: int, terms: Iterable[Term]) -> list[Node[Term]]:
    """The sums of consecutive terms, from number `start` on, as far as they are settled.

    A term is anything with `+`; one node is held for each level of the tree.
    """
    return joined(Node(0, number, term) for number, term in enumerate(terms, start))


def joined(nodes: Iterable[Node[Term]]) -> list[Node[Term]]:
    """Nodes in order, neighbours added wherever the tree adds them."""
    kept: list[Node[Term]] = []
    for node in nodes:
        while kept and _are_siblings(kept[-1], node):
            first = kept.pop()
            node = Node(first.level + 1, first.start // 2, _sum(first.total, node.total))
        kept.append(node)
    return kept


def pairwise_sum(parts: Iterable[Iterable[Node[Term]]], zero: Term) -> Term:
    """The sum of all terms, from the nodes of consecutive parts; `zero` where there are none."""
    nodes = joined(node for part in parts for node in part)
    total = nodes.pop().total if nodes else zero
    while nodes:
        total = _sum(nodes.pop().total, total)
    return total


def _are_siblings(first: Node[Any], second: Node[Any]) -> bool:
    return first.level == second.level and first.start % 2 == 0 and second.start == first.start + 1


def _sum(first: Any, second: Any) -> Any:
    return first + second
