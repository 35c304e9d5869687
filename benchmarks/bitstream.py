"""How far a real file is from `heldout`, and what writing and reading it takes.

    python benchmarks/bitstream.py [--large]

Each row draws the symbols of a synthetic SAE, or of a signed transform coder, on calibration tokens
and on test tokens, fits a codebook on the first, encodes the second under it, decodes the bytes and
compares symbol by symbol. Payload against heldout should be within 0.5%. `--large` adds a language
model's size: 65,536 tokens × 24,576 latents at L0 = 65.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from mdlbench.codes import bitstream
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.symbols import Symbols
from mdlbench.codes.tally import SymbolCounts


def zipf(n_latents: int, l0: float, exponent: float = 1.0) -> np.ndarray:
    weight = np.arange(1, n_latents + 1) ** -exponent
    return np.minimum(l0 * weight / weight.sum(), 0.95)


def draw(rng: np.random.Generator, n_tokens: int, rate: np.ndarray, signed: bool) -> Symbols:
    """Bernoulli supports at each latent's rate; Laplace or gamma magnitudes, each its own scale."""
    firings = rng.binomial(n_tokens, rate)
    latent = np.repeat(np.arange(len(rate)), firings)
    token = np.concatenate([rng.choice(n_tokens, k, replace=False) for k in firings])
    scale = 4 * np.exp(0.5 * np.sin(latent))
    size = np.ceil(rng.gamma(1.0 if signed else 2.5, scale)).astype(np.int32)
    value = size * rng.choice([-1, 1], len(size)) if signed else size
    order = np.lexsort((latent, token))
    columns = (column[order].astype(np.int32) for column in (token, latent, value))
    return Symbols(*columns, n_tokens=n_tokens, n_latents=len(rate))


def row(name: str, n_tokens: int, rate: np.ndarray, signed: bool = False) -> str:
    rng = np.random.default_rng(0)
    codebook = Codebook.fit(SymbolCounts.of(draw(rng, 2 * n_tokens, rate, signed)))
    symbols = draw(rng, n_tokens, rate, signed)
    heldout = codebook.bits(SymbolCounts.of(symbols)).total
    begin = time.perf_counter()
    data = bitstream.encode(symbols, codebook, step=1.0, metadata={})
    encoded = time.perf_counter()
    decoded = bitstream.decode(data)
    finished = time.perf_counter()
    for column in ("token", "latent", "symbol"):
        assert np.array_equal(getattr(decoded.symbols, column), getattr(symbols, column))
    coded = 8 * decoded.sizes.payload_bytes / n_tokens
    return (
        f"{name:26} {n_tokens:>7} {len(rate):>7} {symbols.nnz:>9} {heldout:>10.4f} {coded:>10.4f} "
        f"{coded / heldout - 1:>+9.4%} {decoded.sizes.codebook_bytes:>10} "
        f"{encoded - begin:>8.2f} {finished - encoded:>8.2f}"
    )


def main() -> None:
    print(
        f"{'':26} {'tokens':>7} {'latents':>7} {'nonzeros':>9} {'heldout':>10} {'coded':>10} "
        f"{'':>9} {'codebook B':>10} {'encode s':>8} {'decode s':>8}"
    )
    print(row("narrow", 10_000, zipf(32, 3)))
    print(row("middling", 10_000, zipf(1024, 20)))
    print(row("wide, very sparse", 10_000, zipf(4096, 3)))
    print(row("wide", 10_000, zipf(4096, 20)))
    print(row("wide, dense", 10_000, zipf(4096, 60)))
    print(row("half of it dead", 10_000, zipf(4096, 20) * (np.arange(4096) % 2)))
    print(row("transform coder, coarse", 10_000, zipf(784, 80, 1.5), signed=True))
    print(row("transform coder, fine", 10_000, np.linspace(0.82, 0.98, 784), signed=True))
    if "--large" in sys.argv[1:]:
        print(row("language model", 65_536, zipf(24_576, 65, 0.8)))


if __name__ == "__main__":
    main()
