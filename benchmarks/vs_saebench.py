"""The rate of the same symbols by SAEBench's `calculate_dl` and by mdlbench, in one run.

    pip install --no-deps sae-bench==0.6.0
    pip install collectibles loguru tabulate
    python benchmarks/vs_saebench.py                    # 512 of SAEBench's 4,096 latents, a minute
    python benchmarks/vs_saebench.py --latents 4096     # all of them

SAEBench is imported, not copied, and three things that bind it to its own script are neutralised:
the global `config`, which exists only under its `__main__`; `.cuda()`, a no-op here; and the
progress bar, through which `--latents` ends its loop early. Every turn of that loop does the same
work, so the time of a whole run is that of the turns measured times 4,096 / turns; it is labelled
as extrapolated. SAEBench is handed activations that are already multiples of the step, so that both
sides code the same symbols.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import torch
from sae_bench.evals.mdl import main as saebench

from mdlbench.codes import codelength
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import Symbols, dequantise, quantise
from mdlbench.codes.tally import SymbolCounts

N_TOKENS, N_LATENTS, L0, STEP, REPEATS = 4096, 4096, 65, 0.25, 15
Result = TypeVar("Result")


class Activations:
    """What `calculate_dl` asks of an activation store and of an SAE: the latents we give it."""

    def __init__(self, latents: torch.Tensor) -> None:
        self._latents = latents

    def get_filtered_llm_batch(self) -> torch.Tensor:
        return self._latents

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x


def neutralise(turns: int) -> None:
    saebench.config = SimpleNamespace(sae_batch_size=1)
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor

    def first_turns(latents: range, **_: object) -> Iterator[int]:
        yield from latents[:turns]

    saebench.tqdm = first_turns


def synthetic_latents(seed: int) -> SparseLatents:
    """Zipf firing rates, gamma magnitudes of a scale of each latent's own."""
    rng = np.random.default_rng(seed)
    rate = np.arange(1, N_LATENTS + 1) ** -0.7
    rate = rng.permutation(np.minimum(rate * L0 / rate.sum(), 0.9))
    on = rng.random((N_TOKENS, N_LATENTS), dtype=np.float32) < rate
    z = rng.gamma(2.0, rng.lognormal(0, 0.4, N_LATENTS), on.shape) * on
    return SparseLatents.from_dense(z.astype(np.float32))


def theirs(symbols: Symbols, first_edge: float, turns: int) -> tuple[float, float]:
    """SAEBench's bits per token over the first `turns` latents, and seconds."""
    dense = torch.from_numpy(dequantise(symbols, STEP).to_dense())
    largest = (int(symbols.symbol.max()) + 0.5) * STEP
    edges = torch.arange(first_edge, largest + STEP / 2, STEP)
    neutralise(turns)
    source = Activations(dense)
    start = time.perf_counter()
    bits = saebench.calculate_dl(N_LATENTS, [edges] * N_LATENTS, "cpu", source, source, k=L0)
    return bits, time.perf_counter() - start


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """What a function returns, and its median seconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def plugin_bits(latents: SparseLatents) -> float:
    return codelength.plugin(SymbolCounts.of(quantise(latents, STEP))).total


def first_latents(symbols: Symbols, turns: int) -> Symbols:
    kept = symbols.latent < turns
    return Symbols(symbols.token[kept], symbols.latent[kept], symbols.symbol[kept], N_TOKENS, turns)


def with_zeros_given_active(symbols: Symbols) -> float:
    """SAEBench's definition from our counts: Σ H₂(k/N) + (k/N)·H(all symbols, zero among them)."""
    counts = SymbolCounts.of(symbols)
    total = 0.0
    for latent, k in enumerate(counts.active):
        n = np.append(counts.count[counts.latent == latent], N_TOKENS - k)
        share = n[n > 0] / N_TOKENS
        support = codelength.binary_entropy(np.array([k / N_TOKENS]))[0]
        total += support - k / N_TOKENS * float(share @ np.log2(share))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=512, help="turns of SAEBench's loop")
    turns = parser.parse_args().latents
    latents = synthetic_latents(seed=0)
    symbols = quantise(latents, STEP)
    dense = latents.to_dense()
    print(
        f"{N_TOKENS:,} tokens × {N_LATENTS:,} latents, L0 {symbols.nnz / N_TOKENS:.1f}, "
        f"one step, {torch.get_num_threads()} threads"
    )

    _, from_dense = timed(lambda: plugin_bits(SparseLatents.from_dense(dense)))
    whole, from_latents = timed(lambda: plugin_bits(latents))
    part = codelength.plugin(SymbolCounts.of(first_latents(symbols, turns))).total
    bits, seconds = theirs(symbols, first_edge=STEP / 2, turns=turns)
    print(f"\nsame definition (bins of nonzero symbols only), latents 0 to {turns - 1:,}")
    print(f"  SAEBench calculate_dl   {bits:14.6f} bits/token")
    print(f"  mdlbench plugin         {part:14.6f} bits/token")
    print(f"  relative difference     {abs(bits / part - 1):14.1e}   (SAEBench sums in float32)")

    run = seconds * N_LATENTS / turns
    label = "measured" if turns == N_LATENTS else f"extrapolated from {seconds:.1f} s measured"
    print(f"\nwhole dictionary, {whole:.3f} bits/token")
    print(f"  SAEBench calculate_dl   {run:12.3f} s    ({label})")
    print(f"  mdlbench, dense input   {from_dense:12.5f} s    {run / from_dense:12,.0f} × faster")
    print(
        f"  mdlbench, sparse input  {from_latents:12.5f} s    {run / from_latents:12,.0f} × faster"
    )

    few = min(turns, 128)
    shipped, _ = theirs(symbols, first_edge=-STEP / 2, turns=few)
    ours = first_latents(symbols, few)
    plain = codelength.plugin(SymbolCounts.of(ours)).total
    print(f"\ntheir definition as shipped (bins start at zero), latents 0 to {few - 1:,}")
    print(f"  SAEBench calculate_dl   {shipped:14.6f} bits/token")
    print(f"  the same from our counts{with_zeros_given_active(ours):14.6f} bits/token")
    print(f"  mdlbench plugin         {plain:14.6f} bits/token")
    print(
        f"  it understates the rate by {100 * (1 - shipped / plain):.1f}%: zeros are counted in\n"
        "  the histogram of values given active, so a rare latent seems to have little left to send"
    )


if __name__ == "__main__":
    main()
