"""What is claimed of bilinear layers in language models, and whether it holds here."""

from __future__ import annotations

from itertools import pairwise

from mdlbench.papers.bilinear_language.board import SAE, called
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT
from mdlbench.papers.bilinear_language.evidence import (
    EXPLAINED,
    TUNED,
    ZERO,
    Evidence,
    alone,
    together,
)
from mdlbench.papers.wording import IN_WORDS, Finding, all_positive, capital
from mdlbench.statistics.bootstrap import side

PAPERS = (0.17, 0.28, 0.42, 0.52, 0.59)
"""L4 in the paper, at 1, 2, 4, 8 and 16 times the steps."""
METRIC = "delta_ce"
"""By which explanations of the output are compared."""
UNTESTED = {
    "L1: a bilinear transformer is about as good as one with SwiGLU": (
        "it takes two models of six layers of width 512, trained on some two billion tokens each: "
        "at 5,000 tokens a second nine days."
    ),
    "L2: the negation circuit of one feature": (
        "the SAEs in which it was found were not published, and their features' numbers mean "
        "nothing in others."
    ),
    "L5 as stated: a whole model turned bilinear costs about 0.05 nats": (
        "TinyLlama, 1.1 billion parameters, was trained on 400 million tokens for it. Here it is "
        "some layers of a model of 135 million, each on half a million tokens."
    ),
}
"""Claims that are not tested, and why."""


def claims(evidence: Evidence) -> list[Finding]:
    """All that are tested, in order."""
    return [
        cheap(evidence),
        gated(evidence),
        additive(evidence),
        tuned(evidence),
        explained(evidence),
        longer(evidence),
        shorter(evidence),
    ]


def cheap(evidence: Evidence) -> Finding:
    """L5, layer by layer."""
    plan = evidence.plan
    parts = [
        f"layer {layer}: {evidence.delta(alone(BILINEAR, layer)).text()} nats of "
        f"{evidence.delta(alone(ZERO, layer)).text()}"
        for layer in plan.layers
    ]
    return Finding(
        "L5a: an MLP turned bilinear costs less than half of what leaving it out costs, at every "
        "layer",
        all_positive(-evidence.beyond_half(layer).sign for layer in plan.layers),
        f"{capital('; '.join(parts))}.{_where_below(evidence)}",
    )


def _where_below(evidence: Evidence) -> str:
    below = [str(n) for n in evidence.plan.layers if evidence.beyond_half(n).sign < 0]
    return f" Below half, beyond chance: {', '.join(below) or 'none'}."


def gated(evidence: Evidence) -> Finding:
    """Whether it is the missing gate that costs."""
    layers = evidence.plan.layers
    parts = [
        f"layer {n}: {evidence.delta(alone(GATE_KEPT, n)).text('z.4f')} with the gate kept"
        for n in layers
    ]
    return Finding(
        "L5b: what it costs is the missing gate's doing: the same training with β = 1 costs less, "
        "at every layer",
        all_positive(evidence.gate(n).sign for n in layers),
        f"{capital('; '.join(parts))}. That training starts from what it is to match, and so "
        "measures what training and rounding alone do.",
    )


def additive(evidence: Evidence) -> Finding:
    """Several layers at once."""
    n, excess = len(evidence.plan.layers), evidence.beyond_sum()
    return Finding(
        f"L5c: {n} bilinear layers at once cost no more than the sum of what each costs",
        True if excess.high <= 0 else False if excess.low > 0 else None,
        f"At once {evidence.delta(together(n)).text()} nats, "
        f"{excess.text('+z.3f')} beside the sum.",
    )


def tuned(evidence: Evidence) -> Finding:
    """A short training of all of them."""
    plan, gained = evidence.plan, evidence.gained()
    return Finding(
        "L5d: a short training of all converted layers together wins some of that back",
        all_positive([-gained.sign]),
        f"From {evidence.delta(together(len(plan.layers))).text()} to "
        f"{evidence.delta(TUNED).text()} nats, by {gained.text('+z.3f')}, with "
        f"{plan.tuning_contexts:,} contexts.",
    )


def explained(evidence: Evidence) -> Finding:
    """L3 on the studied layer."""
    budget = evidence.longest
    share = evidence.explained(budget)
    return Finding(
        f"L3: for most features of the output, two eigenvectors correlate above {EXPLAINED:g} with "
        "the feature's latent on active tokens",
        all_positive([side(share.low, share.high, 0.5)]),
        f"Layer {evidence.plan.studied}: a share of {share.text('.2f')} of "
        f"{len(evidence.features[budget])} features (the paper: most; a reproduction elsewhere: "
        f".32 to .65). The mean correlation is {evidence.mean(budget, 'one').text('.2f')} with one "
        f"eigenvector (the paper: about .65) and {evidence.mean(budget, 'two').text('.2f')} with "
        "two.",
    )


def longer(evidence: Evidence) -> Finding:
    """L4 on the studied layer."""
    budgets = sorted(evidence.features)
    rises = all_positive(evidence.rise(*both).sign for both in pairwise(budgets))
    whole = evidence.rise(budgets[0], budgets[-1])
    parts = [f"{budget}: {evidence.explained(budget).text('.2f')}" for budget in budgets]
    return Finding(
        "L4: the longer the SAE is trained, the larger that share, throughout",
        rises,
        f"Share by length of training (the paper: {', '.join(f'{p:g}' for p in PAPERS)}): "
        f"{'; '.join(parts)}. That it rises from each length to the next {IN_WORDS[rises]}; from "
        f"the shortest to the longest it changes by {whole.text('+z.2f')}.",
    )


def shorter(evidence: Evidence) -> Finding:
    """Eigenvectors and an SAE at equal ΔCE."""
    found = [_outcome(evidence, epsilon) for epsilon in evidence.plan.epsilons]
    signs = [sign for sign, _ in found if sign is not None]
    return Finding(
        "Beyond the paper: at equal ΔCE, the shortest explanation of the output by eigenvectors "
        "takes fewer bits than the SAE, wherever either meets it",
        all_positive(signs),
        f"Layer {evidence.plan.studied}, bits per token: {'; '.join(text for _, text in found)}.",
    )


def _outcome(evidence: Evidence, epsilon: float) -> tuple[int | None, str]:
    """1, 0 or −1 where eigenvectors are shorter, as long or longer, or None; and in words."""
    at, best = f"ΔCE at most {epsilon:g}", evidence.shortest(METRIC, epsilon)
    sae = evidence.bits(SAE, METRIC, epsilon)
    if best is None:
        if sae is None:
            return None, f"{at}: infeasible for the SAE and for eigenvectors"
        return -1, f"{at}: {sae.text('.1f')} with the SAE, infeasible for eigenvectors"
    key, bits = best
    eigenvectors = f"{at}: {bits.text('.1f')} with {called(key, evidence.plan)}"
    difference = evidence.beyond_sae(key, METRIC, epsilon)
    if sae is None or difference is None:
        return 1, f"{eigenvectors}, infeasible for the SAE"
    word = {-1: "shorter", 0: "a tie", 1: "not shorter"}[difference.sign]
    return -difference.sign, (
        f"{eigenvectors}, {sae.text('.1f')} with the SAE, a difference of "
        f"{difference.text('+z.1f')}: {word}"
    )
