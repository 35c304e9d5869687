"""The table and the report of the descriptions of weights."""

from __future__ import annotations

import pandas as pd

from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.mechanism.claims import claims
from mdlbench.papers.mechanism.evidence import Evidence
from mdlbench.papers.mechanism.plan import CALLED
from mdlbench.papers.wording import by_verdict
from mdlbench.report.outputs import frame_as_markdown
from mdlbench.report.tables import ABSENT


def table(evidence: Evidence) -> pd.DataFrame:
    """A row for each network, ε and kind of message, and for the SAE there; unrounded."""
    rows: list[dict[str, object]] = []
    for key in evidence.keys:
        for epsilon in evidence.epsilons:
            for kind in evidence.kinds:
                point = evidence.shortest(key, kind, epsilon)
                if point is not None:
                    rows.append(
                        {
                            "network": key,
                            "ΔCE at most": epsilon,
                            "description": kind,
                            "size": point.size or None,
                            "step over RMS": point.share,
                            "bits once": point.bits,
                            "bits per token": None,
                            "ΔCE": point.delta_ce,
                            "accuracy": point.accuracy,
                        }
                    )
            latents = evidence.latents(key, epsilon)
            if latents is not None:
                rows.append(
                    {
                        "network": key,
                        "ΔCE at most": epsilon,
                        "description": latents.name,
                        "bits once": latents.model,
                        "bits per token": latents.bits,
                    }
                )
    return pd.DataFrame(rows)


def to_markdown(evidence: Evidence) -> str:
    """The whole report."""
    found = claims(evidence)
    parts = [
        "# The description length of a bilinear classifier",
        _scope(evidence),
        *by_verdict(found, "networks"),
        "## Bits of the shortest description within ε",
        frame_as_markdown(_kinds_table(evidence)).rstrip(),
        "## Against SAEs on the same pixels",
        frame_as_markdown(_latents_table(evidence)).rstrip(),
        _WHAT_IS_SENT,
        _DEFINITIONS,
    ]
    return "\n\n".join(parts) + "\n"


_WHAT_IS_SENT = (
    "**What either sends.** A description of the weights tells what the classifier does with any "
    "image; whoever receives it has the images. An SAE's latents tell what an image is; whoever "
    "receives them has the classifier. Both lose the same ΔCE, and neither can stand in for the "
    "other. The board of suite `mnist-bilinear` compares eigenvectors and SAEs on one message: "
    "there both send the image."
)

_DEFINITIONS = (
    "Every matrix is rounded to multiples of a step, which is a share of its own root mean square, "
    "and is sent by the adaptive code (docs/maths.md §3, §11), whose parameters are charged. Each "
    "ε has the shortest description, over all sizes and steps measured, whose ΔCE on the test "
    "images is at most ε. Nothing is interpolated, because half a description is of no use. `size` "
    "is eigenvectors a class, or a rank. An SAE's bits are those of its record. Its decoder and "
    "codebook are those that the record has at the suite's headline. Intervals are 95%, Student's "
    "t over training seeds, on logarithms where ratios are given. They do not cover other test "
    "images."
)


def _scope(evidence: Evidence) -> str:
    plan = evidence.plan
    accuracy = SeedMean.of(list(evidence.accuracy.values())).text(".2f", 100)
    *kinds, last = (CALLED[kind] for kind in evidence.kinds)
    saes = ", ".join(f"`{key}`" for key in plan.saes)
    return (
        f"{plan.seeds} classifiers of MNIST's images, which differ by their seed: h = "
        f"{plan.hidden}, weight decay {plan.weight_decay:g}, noise {plan.noise:g}, {plan.epochs} "
        f"epochs; test accuracy {accuracy}%. Each is sent as {', '.join(kinds)} or {last}, at "
        f"{len(plan.shares)} steps, and SAEs on pixels ({saes}) are scored with it for a "
        "classifier. `table.csv` has the shortest of each."
    )


def _kinds_table(evidence: Evidence) -> pd.DataFrame:
    """Thousands of bits of each kind."""
    return pd.DataFrame(
        {
            "ΔCE at most": f"{epsilon:g}",
            **{
                f"{CALLED[kind]}, kbit": _shown(evidence.mean_bits(kind, epsilon), ".1f", 1e-3)
                for kind in evidence.kinds
            },
        }
        for epsilon in evidence.epsilons
    )


def _latents_table(evidence: Evidence) -> pd.DataFrame:
    rows = []
    for epsilon in evidence.epsilons:
        kind = evidence.shortest_kinds.get(epsilon)
        message = None if kind is None else evidence.mean_bits(kind, epsilon)
        back = None if kind is None else evidence.paid_back(kind, epsilon)
        rows.append(
            {
                "ΔCE at most": f"{epsilon:g}",
                "Shortest description": ABSENT if kind is None else CALLED[kind],
                "kbit": _shown(message, ".1f", 1e-3),
                "SAE's latents, bits per image": _shown(evidence.mean_latents(epsilon), ".1f"),
                "its decoder and codebook, kbit": _shown(evidence.mean_model(epsilon), ".0f", 1e-3),
                "paid back after images, decoder free": _shown(back, ",.0f"),
            }
        )
    return pd.DataFrame(rows)


def _shown(mean: SeedMean | None, form: str, scale: float = 1.0) -> str:
    return ABSENT if mean is None else mean.text(form, scale)
