"""Sentences for reports, each decided by its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom

from mdlbench.papers.simulation import Comparison, Priced
from mdlbench.statistics.bootstrap import CONFIDENCE

NEGLIGIBLE = 0.1
"""A bias of less than this share of half an interval moves few closed forms out of it."""

IN_WORDS: dict[bool | None, str] = {True: "holds", False: "does not hold", None: "cannot be said"}
"""A verdict within a sentence."""


class Finding(NamedTuple):
    """One claim, whether it holds (None: the numbers cannot say), and those that decide."""

    claim: str
    holds: bool | None
    evidence: str


def by_verdict(findings: Sequence[Finding], source: str) -> Iterator[str]:
    """Parts of a report: what holds, what does not, and what the `source` cannot say."""
    for title, verdict in (
        ("What holds", True),
        ("What does not hold", False),
        (f"What these {source} cannot say", None),
    ):
        found = [finding for finding in findings if finding.holds == verdict]
        if found:
            yield f"## {title}"
            yield "\n".join(f"- **{finding.claim}.** {finding.evidence}" for finding in found)


def capital(text: str) -> str:
    """The text, its first letter a capital."""
    return f"{text[:1].upper()}{text[1:]}"


def all_positive(signs: Iterable[int]) -> bool | None:
    """Whether all signs are 1; None where some are 0 and none is −1, and where there are none.

    A sign is 0 where an interval has both sides in it, or where there is no interval.
    """
    found = list(signs)
    if any(sign < 0 for sign in found):
        return False
    return True if found and all(sign > 0 for sign in found) else None


def coverage(name: str, hits: Sequence[bool]) -> str:
    """How many intervals contain the closed form, beside how many should."""
    low, high = (int(n) for n in binom.interval(CONFIDENCE, len(hits), CONFIDENCE))
    found = sum(hits)
    verdict = "too few" if found < low else "too many" if found > high else "as many as should"
    return (
        f"{name}: {found} of {len(hits)} intervals contain the closed form, {verdict}. With exact "
        f"95% intervals of independent draws, {low} to {high} would, 95% of the time."
    )


def learning_cost(codes: Sequence[Priced]) -> str:
    """Whether biases could have decided the coverage.

    `heldout` pays for its codebook, `plugin` gets it free: the closed form is to be expected
    between the two.
    """
    gap = np.array([code.heldout.bits - code.plugin for code in codes])
    half = np.array([(code.heldout.high - code.heldout.low) / 2 for code in codes])
    share = float(np.median(gap / half))
    verdict = "too little to matter here" if share < NEGLIGIBLE else "enough to lower the coverage"
    return (
        "`heldout` pays for learning its codebook, and `plugin` saves by fitting the scored data. "
        f"Together this makes at most {gap.max():.1g} bits, and {share:.1%} of half an interval in "
        f"the median: {verdict}."
    )


def agreement(name: str, comparisons: Sequence[Comparison]) -> str:
    """How the simulated verdicts compare with the exact ones."""
    ties = [abs(c.exact_saving) for c in comparisons if c.simulated_sign == 0]
    opposite = [abs(c.exact_saving) for c in comparisons if c.opposite]
    same = len(comparisons) - len(ties) - len(opposite)
    text = (
        f"{name}: of {len(comparisons)} simulated verdicts, {same} equal the exact one, "
        f"{len(opposite)} contradict it, and {len(ties)} cannot tell: the paired interval covers 0."
    )
    for margins, verb in ((ties, "cannot tell"), (opposite, "contradict")):
        if margins:
            text += f" The exact codes differ by at most {max(margins):.2g} bits where they {verb}."
    return text


def report_text(title: str, introduction: str, findings: Mapping[str, Sequence[str]]) -> str:
    """A report in Markdown: findings as one list under each heading."""
    parts = [f"# {title}", introduction]
    for heading, sentences in findings.items():
        parts += [f"## {heading}", "\n".join(f"- {sentence}" for sentence in sentences)]
    return "\n\n".join(parts) + "\n"
