"""Two ways to count on how many tokens two latents are on together, which learning a forest needs.

    python benchmarks/forests.py

Random supports of a dictionary, latents of Zipf rates; the counts of both ways are equal. Seconds
are the CPU's, in which other processes do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mdlbench.codes import forest

N_TOKENS = 2048
SHAPES = ((128, 16), (512, 12), (1024, 24), (1024, 64), (1024, 200), (1024, 400), (4096, 48))
"""Latents, and how many of them are on at a token, about."""
LARGEST_RATE = 0.95


def supports(n_latents: int, active: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and latents of the nonzeros."""
    rates = 1 / np.arange(1, n_latents + 1) ** 0.7
    rates = np.minimum(rates * active / rates.sum(), LARGEST_RATE)
    on = np.random.default_rng(0).random((N_TOKENS, n_latents)) < rates
    token, latent = np.nonzero(on)
    return token.astype(np.int32), latent.astype(np.int32)


def counted(n_latents: int, add: Callable[..., None], *run: object) -> tuple[np.ndarray, float]:
    """The pairs above the diagonal, and the seconds."""
    table = np.zeros((n_latents, n_latents), dtype=np.int32)
    start = time.process_time()
    add(table, *run)
    return np.triu(table, 1), time.process_time() - start


def main() -> None:
    print(f"{N_TOKENS} tokens; milliseconds")
    print("latents      on   share   pair by pair   by a product   ratio")
    for n_latents, active in SHAPES:
        token, latent = supports(n_latents, active)
        one, slow = counted(n_latents, forest.add_pair_by_pair, token, latent)
        two, fast = counted(n_latents, forest.add_product, token, latent, N_TOKENS)
        if (one != two).any():
            raise SystemExit("the counts differ")
        on = len(token) / N_TOKENS
        print(
            f"{n_latents:7}{on:8.1f}{on / n_latents:8.1%}{1e3 * slow:15.1f}{1e3 * fast:15.1f}"
            f"{slow / fast:8.2f}"
        )
    print(f"a product from a share of {forest.DENSE:.1%} on")


if __name__ == "__main__":
    main()
