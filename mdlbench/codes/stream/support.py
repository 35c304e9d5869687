"""Which tokens a latent fires on, given how often: log₂ C(N, k) bits, by recursive halving."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int64

from mdlbench.codes.stream.channel import Channel, uniform, within
from mdlbench.codes.stream.counts import Hypergeometric, code_counts, first_half

LEAF_TOKENS = 16
"""Blocks up to this size are coded as one mask; C(16, 8) still is a small uniform alphabet."""

LARGEST_UNIFORM = 1 << 14
"""Larger uniform alphabets are rounded too coarsely by 24-bit probabilities; halve instead."""


@dataclass(frozen=True)
class Blocks:
    """Runs of `size` places from `start` that hold `ones` firings, numbered from `slot`."""

    start: Int64[np.ndarray, " block"]
    size: Int64[np.ndarray, " block"]
    ones: Int64[np.ndarray, " block"]
    slot: Int64[np.ndarray, " block"]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: np.ndarray) -> Blocks:
        return Blocks(self.start[index], self.size[index], self.ones[index], self.slot[index])

    def halves(self, left_ones: Int64[np.ndarray, " block"]) -> Blocks:
        """First and second half of each block, in order of their places."""
        left = first_half(self.size)
        return Blocks(
            _interleave(self.start, self.start + left),
            _interleave(left, self.size - left),
            _interleave(left_ones, self.ones - left_ones),
            _interleave(self.slot, self.slot + left_ones),
        )

    def slots(self) -> Int64[np.ndarray, " slot"]:
        """The slot of every firing of every block, in order."""
        slot: Int64[np.ndarray, " slot"] = within(self.ones)
        slot += np.repeat(self.slot, self.ones)
        return slot


def code_support(
    channel: Channel,
    tokens: Int64[np.ndarray, " row"],
    counts: Int64[np.ndarray, " row"],
    places: Int64[np.ndarray, " nnz_or_none"],
) -> Int64[np.ndarray, " nnz"]:
    """Which of its tokens each latent, or context of one, fires on, given how often.

    Args:
        channel: a writer, or a reader.
        tokens: tokens of each row; rows lie behind one another.
        counts: firings of each row.
        places: tokens of all rows before, and token within its row, of every firing, increasing;
            none when reading.

    Returns:
        `places`, as the stream has them.
    """
    coded = np.empty(int(counts.sum()), dtype=np.int64)
    start = np.cumsum(tokens) - tokens
    blocks = Blocks(start, tokens, counts, np.cumsum(counts) - counts)
    # C(N, k) equally likely supports are too many for one symbol of the coder. Halving gives the
    # same price in small ones: P(ones in the first half) · 1/C(first) · 1/C(second) = 1/C(whole).
    # All blocks of a depth go before the next depth (not one block to its end), since blocks of
    # equal size and count then share a model, and one call of the coder.
    while len(blocks := blocks[blocks.ones > 0]):
        full = blocks.ones == blocks.size
        lone = ~full & (blocks.ones == 1) & (blocks.size <= LARGEST_UNIFORM)
        leaf = ~full & ~lone & (blocks.size <= LEAF_TOKENS)
        _fill(blocks[full], coded)
        _code_lone(channel, blocks[lone], places, coded)
        _code_masks(channel, blocks[leaf], places, coded)
        blocks = _code_halves(channel, blocks[~(full | lone | leaf)], places)
    return coded


def _fill(blocks: Blocks, coded: Int64[np.ndarray, " nnz"]) -> None:
    """Blocks that fire throughout cost nothing."""
    coded[blocks.slots()] = np.repeat(blocks.start, blocks.ones) + within(blocks.ones)


def _code_halves(
    channel: Channel, blocks: Blocks, places: Int64[np.ndarray, " nnz_or_none"]
) -> Blocks:
    """Split each block and code how many of its firings are in the first half."""
    # a pair (size, ones) as one integer: ones never exceed the largest size
    order, members = _groups(blocks.size * (blocks.size.max(initial=0) + 1) + blocks.ones)
    middle = blocks.start + first_half(blocks.size)
    # places are sorted and a block owns a run of them from its slot: those before its middle are
    # its first half's
    left_ones = channel.given(len(blocks), lambda: np.searchsorted(places, middle) - blocks.slot)
    row = order[np.cumsum(members) - members]
    family = Hypergeometric(blocks.size[row], blocks.ones[row])
    left_ones[order] = code_counts(channel, family, members, left_ones[order])
    return blocks.halves(left_ones)


def _code_lone(
    channel: Channel,
    blocks: Blocks,
    places: Int64[np.ndarray, " nnz_or_none"],
    coded: Int64[np.ndarray, " nnz"],
) -> None:
    """Blocks with one firing: its offset, uniform over the block."""
    offset = channel.given(len(blocks), lambda: places[blocks.slot] - blocks.start)
    coded[blocks.slot] = blocks.start + _code_uniform(channel, blocks.size, offset)


def _code_masks(
    channel: Channel,
    blocks: Blocks,
    places: Int64[np.ndarray, " nnz_or_none"],
    coded: Int64[np.ndarray, " nnz"],
) -> None:
    """Short blocks: the rank of their bit mask among the masks with as many ones."""
    slots, start = blocks.slots(), np.repeat(blocks.start, blocks.ones)
    by_weight, rank, first = _mask_tables()

    def ranks() -> Int64[np.ndarray, " block"]:
        # a mask is the sum of its bits; no block here is empty, for `reduceat` would give an empty
        # one its neighbour's value
        bits = np.left_shift(1, places[slots] - start)
        return rank[np.add.reduceat(bits, np.cumsum(blocks.ones) - blocks.ones)]

    n_masks = _binomial_coefficients()[blocks.size, blocks.ones]
    ranked = _code_uniform(channel, n_masks, channel.given(len(blocks), ranks))
    masks = by_weight[first[blocks.ones] + ranked]
    # bits of a mask follow those of the mask before: firings come in the order of the slots
    bits = np.unpackbits(masks.astype("<u2").view(np.uint8), bitorder="little")
    coded[slots] = start + np.flatnonzero(bits) % LEAF_TOKENS


def _code_uniform(
    channel: Channel, sizes: Int64[np.ndarray, " n"], symbols: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Symbols uniform below their sizes, grouped by size."""
    order, members = _groups(sizes)
    coded = symbols[order].astype(np.int32)
    stop = 0
    for n in members.tolist():
        start, stop = stop, stop + n
        model = uniform(int(sizes[order[start]]))
        coded[start:stop] = channel.code(model, coded[start:stop])
    restored: Int64[np.ndarray, " n"] = np.empty_like(symbols)
    restored[order] = coded
    return restored


def _groups(
    key: Int64[np.ndarray, " n"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " group"]]:
    """An order that brings equal keys together, and how many there are of each."""
    order = np.argsort(key, kind="stable")
    bounds = np.flatnonzero(np.diff(key[order], prepend=-1, append=-1))
    return order, np.diff(bounds)


def _interleave(
    left: Int64[np.ndarray, " block"], right: Int64[np.ndarray, " block"]
) -> Int64[np.ndarray, " half"]:
    return np.column_stack([left, right]).ravel()


@cache
def _mask_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks sorted by (ones, value); each mask's rank among its equals; where each run begins.

    Masks of n < 16 bits are the smallest of their run, so that one table serves all block sizes.
    """
    masks = np.arange(1 << LEAF_TOKENS, dtype=np.int64)
    ones = np.bitwise_count(masks).astype(np.int64)
    by_weight = np.argsort(ones, kind="stable")
    first = np.searchsorted(ones[by_weight], np.arange(LEAF_TOKENS + 1))
    rank = np.empty_like(masks)
    rank[by_weight] = masks - first[ones[by_weight]]
    return by_weight, rank, first


@cache
def _binomial_coefficients() -> Int64[np.ndarray, "n k"]:
    n = range(LEAF_TOKENS + 1)
    return np.array([[math.comb(i, j) for j in n] for i in n], dtype=np.int64)
