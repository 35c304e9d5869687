"""The table and the report of the bilinear networks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdlbench.papers.bilinear.claims import claims
from mdlbench.papers.bilinear.evidence import Evidence
from mdlbench.papers.wording import by_verdict
from mdlbench.report.outputs import frame_as_markdown

UNTESTED = (
    "**Networks of 100 epochs, and weight decay and noise in steps of 0.2 at h = 512** (the "
    "recipes of V2 and V4): on two cores they take hours. Here it is fewer epochs and a grid of "
    "three weight decays by two noises."
)


def table(evidence: Evidence) -> pd.DataFrame:
    """A row for each network, unrounded."""
    rows: list[dict[str, object]] = []
    for key, network in evidence.measured.items():
        config = network.config
        kept = {f"accuracy n={n}": accuracy for n, accuracy in network.kept.items()}
        rows.append(
            {
                "network": key,
                "h": config.hidden,
                "weight decay": config.weight_decay,
                "noise": config.noise,
                "seed": config.seed,
                "epochs": config.epochs,
                "accuracy": network.accuracy,
                **kept,
                "effective rank": float(np.mean(network.effective_rank)),
                "roughness": network.roughness,
                "grouping": network.grouping.share,
            }
        )
    return pd.DataFrame(rows)


def to_markdown(evidence: Evidence) -> str:
    """The whole report."""
    found = claims(evidence)
    parts = [
        "# Bilinear MNIST classifiers",
        _scope(evidence),
        *by_verdict(found, "networks"),
        "## Not tested as stated",
        f"- {UNTESTED}",
        "## Effective rank by weight decay and noise",
        frame_as_markdown(_rank_table(evidence)).rstrip(),
        "## Accuracy with n eigenvectors a class",
        frame_as_markdown(_kept_table(evidence)).rstrip(),
        _DEFINITIONS,
    ]
    return "\n\n".join(parts) + "\n"


_DEFINITIONS = (
    "Eigenvectors are those of the space of pixels, EᵀQE (docs/maths.md §11): found in the "
    "embedding's space they are neither unit nor orthogonal. The top eigenvector of a class is the "
    "strongest of those that raise its logit. Effective rank is (‖λ‖₁/‖λ‖₂)², the mean over the "
    "classes. Noise is the standard deviation on each pixel. Roughness is the sum of squared "
    "differences of neighbouring pixels of the top eigenvectors over that of squared pixels. "
    "Intervals are 95%, Student's t over training seeds; for cosines of pairs of seeds, by the "
    "jackknife over seeds. They say nothing of other test images. Weights are stored in half "
    "precision, and measured as stored."
)


def _scope(evidence: Evidence) -> str:
    plan = evidence.plan
    return (
        f"{len(evidence.measured)} classifiers of MNIST's images: an embedding, one bilinear "
        "layer, a head, no biases. AdamW, rate 0.001 falling along half a cosine, batches of "
        f"{plan.batch_size:,}; {plan.epochs} epochs, and {plan.long_epochs} for V1. The claims are "
        "those of the paper on bilinear MLPs; `table.csv` has every network."
    )


def _rank_table(evidence: Evidence) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "h": width,
            "Weight decay": decay,
            "Noise": noise,
            "Effective rank": evidence.rank(width, decay, noise).text(".2f"),
        }
        for width, decay, noise in evidence.ranks
    )


def _kept_table(evidence: Evidence) -> pd.DataFrame:
    rows = []
    for width, configs in evidence.plan.of_widths.items():
        networks = evidence.of(configs)
        kept = {
            f"n = {n}": f"{np.mean([network.kept[n] for network in networks]):.4f}"
            for n in networks[0].kept
        }
        rows.append({"h": width, "All": f"{evidence.accuracy(configs).value:.4f}", **kept})
    return pd.DataFrame(rows)
