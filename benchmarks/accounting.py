"""What description lengths cost beside the encoder: time in one run, memory as tokens double.

    python benchmarks/accounting.py

Timed on one side, the dense encoder product of 65,536 tokens: [65,536 × 768] @ [768 × 24,576] in
float32 by torch. On the other, for the 65,536 × 24,576 sparse latents that such an encoder gives at
L0 = 65, at all 8 dyadic steps together:

    count   quantising to half-steps, distinct (latent, half-step) pairs, active latents per token
    fit     the 8 codebooks of `heldout`, from a tally of 65,536 other, calibration tokens
    price   plugin, heldout (support and magnitude), adaptive, enumerative and bound of each step
    by document   heldout bits of each of 512 documents at each step, for the bootstrap

The latents arrive in blocks of 8,192 tokens and none is kept, as in an evaluation. Not timed:
generating them, and counting the calibration tokens, which is `count` again on other tokens. Each
side runs several times, in turns, with the same threads; medians are compared. Memory is the peak
resident size of a child process that fits the codebooks on 65,536 tokens, then counts and prices
N or 2N tokens block by block. It does not depend on tokens, only on distinct pairs; the 2N tokens
are therefore once the N tokens again, and once others, which bring pairs not seen before.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import torch
from clock import Clock

from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.tally import Tally

N_TOKENS, D_IN, N_LATENTS, L0 = 65_536, 768, 24_576, 65
OCTAVES, LARGEST_USUAL = 8, 2**7
BLOCK, DOCUMENT, TURNS = 8_192, 128, 3
CALIBRATION, TEST, OTHER = 1, 2, 3


class Dictionary:
    """Zipf firing rates and gamma magnitudes, each latent with a scale of its own.

    Magnitudes need the 7 bits of the paper's illustration at the finest step: all but a thousandth
    stay within 128 symbols.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        rate = np.arange(1, N_LATENTS + 1) ** -0.7
        self._cumulative = np.cumsum(rng.permutation(rate / rate.sum()))
        self._scale = rng.lognormal(0.0, 0.4, N_LATENTS)
        block = self._block(rng)
        self.finest = float(np.quantile(block.value, 0.999)) / LARGEST_USUAL

    def blocks(self, seed: int) -> Iterator[SparseLatents]:
        for start in range(0, N_TOKENS, BLOCK):
            yield self._block(np.random.default_rng([seed, start]))

    def _block(self, rng: np.random.Generator) -> SparseLatents:
        drawn = round(1.03 * L0)
        latent = np.searchsorted(self._cumulative, rng.random((BLOCK, drawn)) * (1 - 1e-12))
        key = np.unique(latent + N_LATENTS * np.arange(BLOCK)[:, None])
        token, latent = np.divmod(key, N_LATENTS)
        value = rng.gamma(2.0, self._scale[latent])
        return SparseLatents(
            token.astype(np.int32),
            latent.astype(np.int32),
            value.astype(np.float32),
            BLOCK,
            N_LATENTS,
        )


def count(blocks: Iterable[SparseLatents], finest: float) -> Tally:
    return Tally.count_blocks(blocks, finest, OCTAVES, N_LATENTS)


def fit(calibration: Tally) -> list[Codebook]:
    return codelength.fit_codebooks(calibration)


def price(tally: Tally, codebooks: list[Codebook]) -> list[tuple[float, ...]]:
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(lambda o: price_octave(tally, o, codebooks[o]), range(OCTAVES)))


def price_octave(tally: Tally, octave: int, codebook: Codebook) -> tuple[float, ...]:
    counts = tally.at(octave)
    heldout = codebook.bits(counts)
    histogram = tally.active_per_token(octave)
    return (
        codelength.plugin(counts).total,
        heldout.total,
        codelength.adaptive(counts),
        codelength.enumerative(counts, histogram, heldout.magnitude),
        codelength.bound(counts),
    )


def price_documents(
    blocks: Iterable[SparseLatents],
    finest: float,
    codebooks: list[Codebook],
    n_tokens: int = N_TOKENS,
) -> np.ndarray:
    bits = np.zeros((n_tokens // DOCUMENT, OCTAVES))
    for index, block in enumerate(blocks):
        document = np.arange(index * BLOCK, (index + 1) * BLOCK) // DOCUMENT
        bits += codelength.document_bits(block, finest, codebooks, document, len(bits))
    return bits


def fresh(tally: Tally) -> Tally:
    """The same tally without anything remembered from an earlier turn."""
    return Tally(
        tally.latent,
        tally.half_step,
        tally.occurrences,
        tally.active_histogram,
        tally.n_tokens,
        tally.n_latents,
    )


def encode(x: torch.Tensor, w: torch.Tensor) -> None:
    """The encoder's dense product, a block of tokens at a time."""
    for start in range(0, N_TOKENS, BLOCK):
        x[start : start + BLOCK] @ w


def compare_times() -> None:
    dictionary = Dictionary()
    finest = dictionary.finest
    test = list(dictionary.blocks(TEST))
    calibration = count(dictionary.blocks(CALIBRATION), finest)
    x, w = torch.randn(N_TOKENS, D_IN), torch.randn(D_IN, N_LATENTS)
    clock = Clock()
    for _ in range(TURNS):
        known = fresh(calibration)
        clock.time("encoder", lambda: encode(x, w))
        tally = clock.time("count", lambda: count(test, finest))
        codebooks = clock.time("fit", lambda known=known: fit(known))
        rates = clock.time("price", lambda t=tally, c=codebooks: price(t, c))
        bits = clock.time("by document", lambda c=codebooks: price_documents(test, finest, c))
    np.testing.assert_allclose(bits.sum(axis=0) / N_TOKENS, [r[1] for r in rates], rtol=1e-9)
    print_times(clock, sum(block.nnz for block in test), len(tally.occurrences))
    print_rates(finest, rates)


def print_times(clock: Clock, nnz: int, pairs: int) -> None:
    print(
        f"{N_TOKENS:,} tokens × {N_LATENTS:,} latents, L0 {nnz / N_TOKENS:.1f} ({nnz:,} nonzeros, "
        f"{pairs:,} distinct pairs),\n{OCTAVES} dyadic steps, {torch.get_num_threads()} threads, "
        f"medians of {TURNS} turns\n"
    )
    encoder = clock.median("encoder")
    parts = [name for name in clock.seconds if name != "encoder"]
    print(f"dense encoder product   {encoder:8.3f} s")
    for name in parts:
        seconds = clock.median(name)
        print(f"  {name:<20}  {seconds:8.3f} s   {100 * seconds / encoder:5.2f}%")
    turns = [sum(turn) for turn in zip(*(clock.seconds[name] for name in parts), strict=True)]
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(turns, clock.seconds["encoder"], strict=True)
    )
    total = statistics.median(turns)
    print(f"accounting in all       {total:8.3f} s   {100 * ratio:5.2f}%   (at most 5%)")


def print_rates(finest: float, rates: list[tuple[float, ...]]) -> None:
    print("\nbits per token\n      step    plugin   heldout  adaptive  enumerative     bound")
    for octave, (plugin, heldout, adaptive, enumerative, bound) in enumerate(rates):
        print(
            f"{finest * 2**octave:10.4f}{plugin:10.2f}{heldout:10.2f}{adaptive:10.2f}"
            f"{enumerative:13.2f}{bound:10.2f}"
        )


def compare_memory() -> None:
    """Before this process grows, whose size a child would start from."""
    print(f"peak memory of counting and pricing, codebooks of {N_TOKENS:,} tokens")
    first = 0.0
    for seeds in ([TEST], [TEST, TEST], [TEST, OTHER]):
        command = [sys.executable, __file__, CHILD, *map(str, seeds)]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, pairs = (float(word) for word in child.stdout.split())
        first = first or peak
        what = "tokens twice" if len(set(seeds)) < len(seeds) else "tokens"
        n_tokens = N_TOKENS * len(set(seeds))
        print(
            f"  {n_tokens:8,} {what:14}{peak:8.1f} MiB   × {peak / first:.3f}"
            f"   ({int(pairs):,} distinct pairs)"
        )
    print()


def count_and_price(seeds: list[int]) -> None:
    """In a child process: print the peak resident MiB and the tally's distinct pairs."""
    dictionary = Dictionary()
    finest = dictionary.finest
    codebooks = fit(count(dictionary.blocks(CALIBRATION), finest))
    tally = count(chain(*map(dictionary.blocks, seeds)), finest)
    price(tally, codebooks)
    blocks = chain(*map(dictionary.blocks, seeds))
    price_documents(blocks, finest, codebooks, N_TOKENS * len(seeds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(peak, len(tally.occurrences))


CHILD = "count-and-price"

if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        count_and_price([int(seed) for seed in sys.argv[2:]])
    else:
        compare_memory()
        compare_times()
