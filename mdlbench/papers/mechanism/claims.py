"""What is asked of descriptions of weights, and whether it holds here, decided by the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.mechanism.evidence import Evidence
from mdlbench.papers.mechanism.plan import BASIS, CALLED, EIGENVECTORS, SVD, WEIGHTS
from mdlbench.papers.wording import Finding, all_positive


def claims(evidence: Evidence) -> list[Finding]:
    """All of them, in order."""
    return [
        shorter("M1", evidence, EIGENVECTORS, WEIGHTS),
        shorter("M2", evidence, EIGENVECTORS, SVD),
        shorter("M3", evidence, BASIS, SVD),
        decoder(evidence),
        paid_back(evidence),
    ]


def shorter(name: str, evidence: Evidence, kind: str, other: str) -> Finding:
    """Whether one kind of message is shorter than another at every ε that all networks meet."""
    found = {e: evidence.log_ratio(kind, other, e) for e in evidence.epsilons}
    return Finding(
        f"{name}: at every ΔCE that all networks meet, {CALLED[kind]} are a shorter description "
        f"than {CALLED[other]}",
        all_positive(-mean.sign for mean in _known(found)),
        f"Bits of the one over those of the other: {_by_epsilon(found, factor)}.",
    )


def decoder(evidence: Evidence) -> Finding:
    """The shortest message against what an SAE sends once."""
    found = {e: evidence.log_beyond_decoder(kind, e) for e, kind in evidence.shortest_kinds.items()}
    return Finding(
        "M4: at every ΔCE that all networks meet, the shortest description of the weights takes "
        "fewer bits than the decoder and codebook of the SAE whose latents are shortest",
        all_positive(-mean.sign for mean in _known(found)),
        f"Bits of the one over those of the other: {_by_epsilon(found, factor)}. Where this "
        "holds, the weights are the shorter ones from the first token on.",
    )


def paid_back(evidence: Evidence) -> Finding:
    """The shortest message against an SAE's latents, its decoder free."""
    found = {e: evidence.paid_back(kind, e) for e, kind in evidence.shortest_kinds.items()}
    return Finding(
        "M5: at every ΔCE that all networks meet, the shortest description of the weights takes "
        f"fewer bits than the latents alone of {evidence.n_test:,} images",
        all_positive(-mean.side(evidence.n_test) for mean in _known(found)),
        "Images whose latents cost as much as the weights, the SAE's decoder free: "
        f"{_by_epsilon(found, lambda mean: mean.text(',.0f'))}.",
    )


def factor(log: SeedMean) -> str:
    """A ratio and its interval, of their logarithms to base 2."""
    value, low, high = (2.0**x for x in (log.value, log.low, log.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _known(found: Mapping[float, SeedMean | None]) -> Iterator[SeedMean]:
    """Those of every ε that all networks meet."""
    return (mean for mean in found.values() if mean is not None)


def _by_epsilon(found: Mapping[float, SeedMean | None], shown: Callable[[SeedMean], str]) -> str:
    said = [
        f"{shown(mean) if mean is not None else 'not met by all networks'} at {epsilon:g}"
        for epsilon, mean in found.items()
    ]
    return "; ".join(said) or "nothing to compare"
