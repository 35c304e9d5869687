"""The table and the report of the bilinear networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd

from mdlbench.papers.bilinear.claims import claims
from mdlbench.papers.bilinear.evidence import Evidence
from mdlbench.papers.bilinear.known_task import D_IN, known_config
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
        frame_as_markdown(_recipes(evidence)).rstrip(),
        *by_verdict(found, "networks"),
        "## Not tested as stated",
        f"- {UNTESTED}",
        "## Effective rank by weight decay and noise",
        frame_as_markdown(_rank_table(evidence)).rstrip(),
        "## Accuracy with n eigenvectors a class",
        frame_as_markdown(_kept_table(evidence)).rstrip(),
        "## Accuracy under masks",
        frame_as_markdown(_mask_table(evidence)).rstrip(),
        _DEFINITIONS,
    ]
    return "\n\n".join(parts) + "\n"


_DEFINITIONS = (
    "Eigenvectors are those of the space of pixels, EᵀQE (docs/maths.md §11): found in the "
    "embedding's space they are neither unit nor orthogonal. The top eigenvector of a class is the "
    "strongest of those that raise its logit. Effective rank is (‖λ‖₁/‖λ‖₂)², the mean over the "
    "classes. The norm of a mask is that of what is added; an image of a digit has about 9. Noise "
    "is the standard deviation on each pixel. Roughness is the sum of squared differences of "
    "neighbouring pixels of the top eigenvectors over that of squared pixels. "
    "Intervals are 95%, Student's t over training seeds; for cosines of pairs of seeds, by the "
    "jackknife over seeds. They say nothing of other test images. A verdict needs whole intervals "
    "on one side of what is claimed, and is not corrected for their number. Weights are stored in "
    "half precision, and measured as stored."
)


def _scope(evidence: Evidence) -> str:
    return (
        f"{len(evidence.measured)} classifiers of MNIST's images: an embedding, one bilinear "
        "layer, a head, no biases. AdamW, rate 0.001 falling along half a cosine, batches of "
        f"{evidence.plan.batch_size:,}. The claims are those of the paper on bilinear MLPs; "
        "`table.csv` has every network. Claims are tested on:"
    )


def _recipes(evidence: Evidence) -> pd.DataFrame:
    """The settings of each claim's networks; some networks serve several claims."""
    plan = evidence.plan
    known = [known_config(seed, plan.known_epochs) for seed in range(plan.known_seeds)]
    groups = {
        "V1, V7 with noise, V8": plan.accurate,
        "V2, V3": list(chain.from_iterable(plan.of_widths.values())),
        "V4": list(plan.zoo.values()),
        "V5": list(chain.from_iterable(plan.of_noises.values())),
        f"V6, on random inputs of {D_IN} dimensions, with biases": known,
        "V7 without noise": plan.noiseless,
    }
    return pd.DataFrame(
        {
            "Claim": claim,
            "h": _values([config.hidden for config in configs]),
            "Weight decay": _values([config.weight_decay for config in configs]),
            "Noise": _values([config.noise for config in configs]),
            "Epochs": _values([config.epochs for config in configs]),
            "Seeds": len({config.seed for config in configs}),
        }
        for claim, configs in groups.items()
    )


def _values(of: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(of)))


def _mask_table(evidence: Evidence) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Noise in training": f"{configs[0].noise:g}",
            "Norm": f"{level.strength:g}",
            "Mask": level.accuracy.text(".3f"),
            "Permuted": level.permuted.text(".3f"),
            "Lower by": level.lower.text("z.3f"),
            "Made the mask's class": level.towards.text(".3f"),
        }
        for configs in (evidence.plan.accurate, evidence.plan.noiseless)
        for level in evidence.under_masks(configs)
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
