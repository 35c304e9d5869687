"""Would deeper contexts make the true dictionary the shortest? Supports given up to three parents.

    python benchmarks/contexts.py superposed-hier --epsilon 0.19 0.2 0.25 0.3

Each latent's support is a Bernoulli variable given up to M more frequent latents: its parents, its
earlier siblings, its grandparents, whichever tell most. They are chosen one after the other by the
calibration tokens, as long as one saves more than its name and its counts take,
log₂ D + 2^(m−1) · ½ log₂ N bits for the m-th. This estimates what a code with such contexts would
take: probabilities are those of Krichevsky and Trofimov, no header is charged, magnitudes cost what
they cost in the flat code. It is computed at the accepted step of the flat record. The bits of the
flat and of the tree record are those at ε. One SAE each, so nothing is claimed of architectures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.symbols import quantise
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import read_records
from mdlbench.scoring.targets import key_target
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource, Split
from mdlbench.suite.load import load_suite
from mdlbench.training.zoo import training_site

HERE = Path(__file__).resolve().parent.parent
MOST = 3
On = Bool[np.ndarray, "token latent"]
Own = tuple[Bool[np.ndarray, " token"], Bool[np.ndarray, " token"]]
Contexts = Int64[np.ndarray, " token"]
Marks = Float32[np.ndarray, "token latent"]
Counts = Float64[np.ndarray, "context *latent off_on"]


class Splits(NamedTuple):
    """Which latents are on after rounding."""

    calibration: On
    test: On


def splits(coder: SparseCoder, source: ActivationSource, step: float) -> Splits:
    """Supports of both splits at a step of the mode `normalised`."""

    def of(split: Split) -> On:
        runs = []
        for block in source.blocks(split):
            latents, _ = checked.encode(coder, block.given)
            symbols = quantise(latents.scaled(coder.spec.decoder_norms), step)
            on = np.zeros((symbols.n_tokens, symbols.n_latents), dtype=bool)
            on[symbols.token, symbols.latent] = True
            runs.append(on)
        return np.concatenate(runs)

    return Splits(of("calibration"), of("test"))


def adaptive_bits(counts: Counts) -> Float64[np.ndarray, " *latent"]:
    """N·H of the counts in each context, and ½ log₂ N for each context's parameter."""
    total = counts.sum(axis=-1)
    share = counts / np.maximum(total, 1.0)[..., None]
    entropy = -(share * np.log2(np.where(share > 0, share, 1.0))).sum(axis=-1)
    return np.asarray((total * entropy + 0.5 * np.log2(np.maximum(total, 2.0))).sum(axis=0))


def with_each(context: Contexts, n: int, own: Bool[np.ndarray, " token"], on: Marks) -> Counts:
    """Off and on of a latent in the contexts, each split by whether another latent is on."""
    marks = np.zeros((len(own), 2 * n), dtype=np.float32)
    marks[np.arange(len(own)), 2 * context + own] = 1.0
    met = (marks.T @ on).reshape(n, 2, -1).transpose(0, 2, 1).astype(np.float64)
    alone = marks.sum(axis=0).reshape(n, 1, 2) - met
    return np.concatenate([alone, met])


def held_out_bits(contexts: Sequence[Contexts], n: int, own: Own) -> float:
    """Bits of a latent's support at all test tokens, by the calibration tokens of each context."""
    tables = [
        np.bincount(2 * context + on, minlength=2 * n).reshape(n, 2)
        for context, on in zip(contexts, own, strict=True)
    ]
    chance = (tables[0] + 0.5) / (tables[0].sum(axis=1, keepdims=True) + 1.0)
    return float(-(tables[1] * np.log2(chance)).sum())


def best_split(
    marks: Marks, contexts: Contexts, n: int, own: Bool[np.ndarray, " token"], place: int
) -> int | None:
    """The latent before a place that saves most at its latent; None where none pays for itself."""
    as_is = np.bincount(2 * contexts + own, minlength=2 * n).reshape(n, 2).astype(np.float64)
    costs = adaptive_bits(with_each(contexts, n, own, marks))[:place]
    best = int(costs.argmin()) if place else 0
    pays = place > 0 and costs[best] + np.log2(marks.shape[1]) < adaptive_bits(as_is)
    return best if pays else None


def support_bits(found: Splits) -> Float64[np.ndarray, " parents"]:
    """Held-out bits per token of all supports, by the number of parents allowed, from 0 on."""
    order = np.argsort(-found.calibration.sum(axis=0), kind="stable")
    calibration, test = found.calibration[:, order], found.test[:, order]
    marks = calibration.astype(np.float32)
    bits = np.zeros(MOST + 1)
    for place in range(len(order)):
        own = calibration[:, place], test[:, place]
        contexts = [np.zeros(len(on), dtype=np.int64) for on in own]
        n = 1
        bits[0] += held_out_bits(contexts, n, own)
        parent: int | None = 0
        for allowed in range(1, MOST + 1):
            if parent is not None:
                parent = best_split(marks, contexts[0], n, own[0], place)
            if parent is not None:
                both = zip(contexts, (calibration, test), strict=True)
                contexts = [context + n * on[:, parent] for context, on in both]
                n *= 2
            bits[allowed] += held_out_bits(contexts, n, own)
    return np.asarray(bits / len(test))


def by_mode(folder: Path) -> dict[str, dict[str, EvalRecord]]:
    found: dict[str, dict[str, EvalRecord]] = {"": {}, "tree": {}}
    for record in read_records(folder):
        found.setdefault(record.identity.quantiser or "", {})[record.name] = record
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("--epsilon", type=float, nargs="+", required=True)
    options = parser.parse_args()
    suite = load_suite(options.suite)
    opener = Opener(suite)
    source = opener.open(training_site(opener))
    records = by_mode(HERE / "leaderboards" / options.suite)
    for epsilon in options.epsilon:
        print(f"\n{options.suite}, FVU ≤ {epsilon:g}: bits per token")
        print(f"{'':24}{'flat':>9}{'tree':>9}" + "".join(f"{f'{m} parents':>12}" for m in range(4)))
        for name, record in records[""].items():
            result = record.result("fvu", epsilon)
            if result.step is None or result.bits is None or record.coder.architecture == "pca":
                continue
            coder = key_target(suite, name).sae.load(source)
            supports = support_bits(splits(coder, source, result.step))
            point = next(one for one in record.points if one.step == result.step)
            tree = records["tree"][name].result("fvu", epsilon).bits
            totals = point.bits.total - supports[0] + supports
            print(
                f"{name:24}{result.bits:9.2f}{tree:9.2f}" + "".join(f"{x:12.2f}" for x in totals),
                flush=True,
            )


if __name__ == "__main__":
    main()
