"""The claims V1 to V8: whether each holds here, decided by the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mdlbench.papers.bilinear.evidence import Evidence, MaskLevel
from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.wording import IN_WORDS, Finding, all_positive, capital

ACCURATE = 0.97
ALIKE = (0.8, 0.9)
ALIKE_FROM = 100
"""Hidden units from which the top eigenvectors of different seeds are said to be that alike."""
FEW, SMALL_DROP = 10, 0.001
"""A network of so many eigenvectors a class loses at most this accuracy."""
KNOWN_SHARE = 0.95
SEPARATED = 0.9
"""Share of images on their group's side from which groups count as separated."""


def claims(evidence: Evidence) -> list[Finding]:
    """All of them, in order."""
    return [
        accurate(evidence),
        alike(evidence),
        truncated(evidence),
        ranked(evidence),
        noisy(evidence),
        known(evidence),
        masked(evidence),
        grouped(evidence),
    ]


def accurate(evidence: Evidence) -> Finding:
    found = evidence.accuracy(evidence.plan.accurate)
    config = evidence.plan.accurate[0]
    return Finding(
        "V1: a network of one bilinear layer reaches 97%, and its eigenvectors look like strokes",
        all_positive([found.side(ACCURATE)]),
        f"Test accuracy {found.text('.2f', 100)}% at h = {config.hidden} (weight decay "
        f"{config.weight_decay:g}, noise {config.noise:g}, {config.epochs} epochs). What its "
        "eigenvectors look like is for the eye: `eigenvectors.png`.",
    )


def alike(evidence: Evidence) -> Finding:
    found = {width: evidence.similarity(width) for width in evidence.plan.widths}
    low, high = ALIKE
    wide = [mean for width, mean in found.items() if width >= ALIKE_FROM]
    within = [sign for mean in wide for sign in (mean.side(low), -mean.side(high))]
    steps = [evidence.similarity_step(*both) for both in pairwise(evidence.plan.widths)]
    rises = [step.sign for step in steps]
    shown = "; ".join(f"h = {width}: {mean.text()}" for width, mean in found.items())
    return Finding(
        f"V2: the top eigenvectors of different seeds have a mean cosine of {low:g} to {high:g} "
        f"from h = {ALIKE_FROM} on, rising with h",
        all_positive([*within, *rises]) if wide else None,
        f"{shown}. From each h to the next it changes by {_texts(steps)}: that it rises throughout "
        f"{IN_WORDS[all_positive(rises)]}. That it is {low:g} to {high:g} "
        f"{IN_WORDS[all_positive(within)]}.",
    )


def truncated(evidence: Evidence) -> Finding:
    drops = {width: evidence.drop(width, FEW) for width in evidence.plan.widths}
    shown = "; ".join(f"h = {w}: {drop.text('z.2f', 100)}" for w, drop in drops.items())
    return Finding(
        f"V3: {FEW} eigenvectors a class lose at most {100 * SMALL_DROP:g} points of accuracy",
        all_positive(-drop.side(SMALL_DROP) for drop in drops.values()),
        f"Points lost with {FEW}: {shown}.",
    )


def ranked(evidence: Evidence) -> Finding:
    widths = sorted({width for width, *_ in evidence.ranks})
    parts, signs = [], []
    for width in widths:
        decay = evidence.rank_change(width, "weight_decay")
        noise = evidence.rank_change(width, "noise")
        signs += [-decay.sign, noise.sign]
        parts.append(
            f"at h = {width} weight decay {_ends(evidence.zoo_values('weight_decay'))} changes "
            f"the effective rank by {decay.text('+.2f')}, noise "
            f"{_ends(evidence.zoo_values('noise'))} by {noise.text('+.2f')}"
        )
    return Finding(
        "V4: weight decay lowers the effective rank, and noise raises it",
        all_positive(signs),
        f"{capital('; '.join(parts))}.",
    )


def noisy(evidence: Evidence) -> Finding:
    accuracy = evidence.by_noise(lambda network: network.accuracy)
    rough = evidence.by_noise(lambda network: network.roughness)
    changes = evidence.noise_steps(lambda network: network.accuracy)
    rougher = evidence.noise_steps(lambda network: network.roughness)
    falls = [-step.sign for step in changes]
    smoother = [-step.sign for step in rougher]
    rows = "; ".join(
        f"noise {noise:g}: accuracy {accuracy[noise].text('.2f', 100)}%, roughness "
        f"{rough[noise].text('.2f')}"
        for noise in accuracy
    )
    return Finding(
        "V5: with more noise in training, features get cleaner and the accuracy falls, throughout",
        all_positive([*falls, *smoother]),
        f"{rows}. From each noise to the next, paired by seed, the accuracy changes by "
        f"{_texts(changes, 100)} points: that it falls throughout "
        f"{IN_WORDS[all_positive(falls)]}. The roughness changes by {_texts(rougher)}: that it "
        "falls throughout "
        f"{IN_WORDS[all_positive(smoother)]}.",
    )


def known(evidence: Evidence) -> Finding:
    share = SeedMean.of(
        [
            sum(one.alone for one in both) / sum(one.accuracy for one in both)
            for both in evidence.known
        ]
    )
    cosine = evidence.known_mean(lambda one: one.cosine)
    large = evidence.known_mean(lambda one: one.share)
    whole = evidence.known_mean(lambda one: one.accuracy)
    never = evidence.known_mean(lambda one: one.never)
    stronger = evidence.known_mean(lambda one: one.stronger)
    return Finding(
        "V6: where the label is the cosine with a target, one eigenvector does it",
        all_positive([share.side(KNOWN_SHARE)]),
        f"The top eigenvector alone has {share.text('.1f', 100)}% of the accuracy "
        f"({whole.text('.1f', 100)}% with all; {never.text('.1f', 100)}% if no input is taken to "
        f"be of the class); its cosine with the target is {cosine.text()}. Its eigenvalue has "
        f"{large.text('.1f', 100)}% of the squares of all, and {stronger.text('.1f')} eigenvectors "
        "that lower the logit are stronger.",
    )


def masked(evidence: Evidence) -> Finding:
    plan = evidence.plan
    parts, signs = [], []
    for name, configs in (("with noise", plan.accurate), ("without noise", plan.noiseless)):
        levels = evidence.under_masks(configs)
        signs += [level.lower.sign for level in levels]
        last = levels[-1]
        parts.append(
            f"{name} ({configs[0].noise:g} in training) {last.accuracy.value:.1%} under a mask of "
            f"norm {last.strength:g} against {last.permuted.value:.1%} under its permuted pixels, "
            f"{_apart(levels)}; "
            f"{last.towards.value:.1%} of other classes' images become the mask's class"
        )
    return Finding(
        "V7: a mask read off the weights lowers the accuracy more than its permuted pixels do, at "
        "every strength",
        all_positive(signs),
        f"{'. '.join(map(capital, parts))}. The table below has every norm. There is a "
        "mask for each class: the input that excites its top eigenvector and no other class's.",
    )


def _apart(levels: Sequence[MaskLevel]) -> str:
    """At which norms a mask does not lower the accuracy more, in words."""
    said = [
        f"{words} {', '.join(norms)}"
        for words, sign in (("not apart at", 0), ("the other way round at", -1))
        if (norms := [f"{level.strength:g}" for level in levels if level.lower.sign == sign])
    ]
    return ", ".join(said) or "apart at every norm"


def grouped(evidence: Evidence) -> Finding:
    networks = evidence.of(evidence.plan.accurate)
    share = SeedMean.of([network.grouping.share for network in networks]).within(0, 1)
    groups = [" | ".join(map(_digits, network.grouping.groups)) for network in networks]
    return Finding(
        "V8: the strongest factor that all classes share separates groups of digits",
        all_positive([share.side(SEPARATED)]),
        f"It tells {share.text('.1f', 100)}% of the test images by their group (50% is chance; "
        f"called separated from {SEPARATED:.0%}). The groups by seed: {'; '.join(groups)}.",
    )


def _digits(classes: list[int]) -> str:
    return " ".join(map(str, classes)) or "none"


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:g} → {values[-1]:g}"


def _texts(steps: Sequence[SeedMean], scale: float = 1.0) -> str:
    return ", ".join(step.text("+z.2f", scale) for step in steps)
