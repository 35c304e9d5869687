"""The table and the report of the bilinear layers in a language model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdlbench.papers.bilinear_language.board import SAE, called
from mdlbench.papers.bilinear_language.claims import METRIC, UNTESTED, claims
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT
from mdlbench.papers.bilinear_language.evidence import (
    ALONE,
    EXPLAINED,
    ZERO,
    Evidence,
    alone,
)
from mdlbench.papers.bilinear_language.explained import COUNTS
from mdlbench.papers.bilinear_language.figures import LABELS
from mdlbench.papers.bilinear_language.scores import CLEAN
from mdlbench.papers.wording import by_verdict
from mdlbench.report.outputs import frame_as_markdown
from mdlbench.report.tables import ABSENT


def table(evidence: Evidence) -> pd.DataFrame:
    """A row for each replacement, for each output SAE, and for each explanation; unrounded."""
    rows: list[dict[str, object]] = []
    for name in evidence.sums:
        if name != CLEAN:
            delta = evidence.delta(name)
            rows.append(
                {
                    "what": name,
                    "ΔCE": delta.value,
                    "low": delta.low,
                    "high": delta.high,
                    "FVU of the output": evidence.fvu.get(name),
                }
            )
    for budget in sorted(evidence.features):
        share = evidence.explained(budget)
        rows.append(
            {
                "what": f"output SAE, {budget}x",
                "FVU of the output": evidence.sae_fvu[budget],
                "features": len(evidence.features[budget]),
                "explained": share.value,
                "explained low": share.low,
                "explained high": share.high,
                "correlation, one": evidence.mean(budget, "one").value,
                "correlation, two": evidence.mean(budget, "two").value,
                "effective rank": evidence.mean(budget, "effective_rank").value,
            }
        )
    return pd.DataFrame(rows + [_board_row(evidence, key) for key in evidence.board])


def _board_row(evidence: Evidence, key: str) -> dict[str, object]:
    """An explanation of the output: its losses before quantisation, and bits at tolerances."""
    record = evidence.board[key]
    row: dict[str, object] = {
        "what": f"explanation, {key}",
        "ΔCE": record.floor.delta_ce,
        "FVU of the output": record.floor.fvu,
        "latents": record.coder.d_latents,
        "decoder bits": record.coder.decoder_bits,
    }
    for result in record.tolerances:
        low, high = result.bits_ci or (None, None)
        name = f"bits, {result.metric} {result.epsilon:g}"
        row |= {name: result.bits, f"{name} low": low, f"{name} high": high}
    return row


def to_markdown(evidence: Evidence) -> str:
    """The whole report."""
    found = claims(evidence)
    parts = [
        "# Bilinear layers in a language model",
        _scope(evidence),
        *by_verdict(found, "numbers"),
        "## Not tested",
        "\n".join(f"- **{claim}**: {why}" for claim, why in UNTESTED.items()),
        "## One MLP replaced: ΔCE in nats",
        frame_as_markdown(_layers_table(evidence)).rstrip(),
        f"## Eigenvectors of the output's features, layer {evidence.plan.studied}",
        frame_as_markdown(_features_table(evidence)).rstrip(),
        _interactions(evidence),
        f"## Explanations of the output on one board, layer {evidence.plan.studied}",
        frame_as_markdown(_board_table(evidence)).rstrip(),
        _board_notes(evidence),
        _definitions(evidence),
    ]
    return "\n\n".join(parts) + "\n"


def _scope(evidence: Evidence) -> str:
    plan = evidence.plan
    numbers = ", ".join(str(n) for n in plan.layers)
    return (
        f"The MLPs of layers {numbers} of {evidence.model}, a SwiGLU model, each trained to match "
        f"its own outputs on {plan.tokens:,} tokens of the training text, {plan.epochs} times, "
        "while β of the gate Swish_β(z) = z·σ(βz) falls from 1 to 0 (Swish_0(z) = z/2, times a "
        "learned scale). What the model then loses is measured on the test contexts of suite "
        f"`{plan.suite}` (text `{evidence.text}`: {int(evidence.tokens.sum()):,} tokens of "
        f"{len(evidence.tokens)} contexts), whose cross-entropy is "
        f"{evidence.clean().text()} nats with the model as it is. `table.csv` has every number."
    )


def _layers_table(evidence: Evidence) -> pd.DataFrame:
    rows = []
    for layer in evidence.plan.layers:
        deltas = {
            LABELS[kind]: evidence.delta(alone(kind, layer)).text(
                "z.4f" if kind == GATE_KEPT else "z.3f"
            )
            for kind in ALONE
        }
        bilinear, zero = (evidence.delta(alone(kind, layer)).value for kind in (BILINEAR, ZERO))
        rows.append(
            {
                "Layer": layer,
                **deltas,
                "bilinear / left out": f"{bilinear / zero:.2f}",
                "FVU, bilinear": f"{evidence.fvu[alone(BILINEAR, layer)]:.3f}",
            }
        )
    return pd.DataFrame(rows)


def _features_table(evidence: Evidence) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Training": f"{budget}×",
            "FVU of the SAE": f"{evidence.sae_fvu[budget]:.3f}",
            "Features drawn": len(evidence.features[budget]),
            f"above {EXPLAINED:g}, one": evidence.explained(budget, "one").text(".2f"),
            f"above {EXPLAINED:g}, two": evidence.explained(budget, "two").text(".2f"),
            "Mean correlation, one": evidence.mean(budget, "one").text(".2f"),
            "two": evidence.mean(budget, "two").text(".2f"),
            "Effective rank": evidence.mean(budget, "effective_rank").text(".0f"),
        }
        for budget in sorted(evidence.features)
    )


def _interactions(evidence: Evidence) -> str:
    shares = np.median(np.array(evidence.shares), axis=0)
    told = [n for n in (10, 100, 1000, 10_000) if n in COUNTS[: len(shares)]]
    parts = ", ".join(f"{shares[COUNTS.index(n)]:.0%} in the strongest {n:,}" for n in told)
    features = evidence.plan.width + 1
    pairs = features * (features + 1) // 2 - 1
    return (
        f"**Interactions.** An output feature is a weighted sum over {pairs:,} pairs of input "
        "features, the decoder's bias counted as one that is always 1. In the median of "
        f"{len(evidence.shares)} output features, the strongest pairs have these shares of the "
        f"squares of the weights (each input latent in units of its root mean square): {parts}."
    )


def _board_table(evidence: Evidence) -> pd.DataFrame:
    rows = []
    for key, record in evidence.board.items():
        row: dict[str, object] = {
            "Explanation": called(key, evidence.plan),
            "Latents": record.coder.d_latents,
            "ΔCE": f"{record.floor.delta_ce:.3f}",
            "FVU": f"{record.floor.fvu:.2f}",
        }
        for result in record.tolerances:
            label = "ΔCE" if result.metric == METRIC else "FVU"
            bits = evidence.bits(key, result.metric, result.epsilon)
            row[f"bits, {label} ≤ {result.epsilon:g}"] = bits.text(".1f") if bits else ABSENT
        size = record.coder.decoder_bits
        row["Decoder, kbit"] = ABSENT if size is None else f"{size / 1000:,.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def _board_notes(evidence: Evidence) -> str:
    plan = evidence.plan
    record = evidence.board[SAE]
    differences = [
        f"{called(key, plan)} at {epsilon:g} {found.text('+z.1f')}"
        for key in evidence.board
        for epsilon in plan.epsilons
        if key != SAE and (found := evidence.beyond_sae(key, METRIC, epsilon))
    ]
    compared = "; ".join(differences) or "no other explanation meets a ΔCE that the SAE meets"
    return (
        "Here the model with its bilinear MLP is the language model: ΔCE is measured against it, "
        f"on {record.n_tokens.test:,} tokens of {plan.test_contexts} of the test contexts, and "
        f"codebooks and PCA are fitted on {record.n_tokens.calibration:,} other tokens of the same "
        "text. ΔCE and FVU without a tolerance are those before quantisation; – is infeasible. "
        "SAE and eigenvectors are fitted on the training text, PCA is at home. Among the "
        "explanations by eigenvectors the verdict takes the shortest, in their favour. "
        f"Bits beside the SAE's at equal ΔCE, paired over documents: {compared}."
    )


def _definitions(evidence: Evidence) -> str:
    plan = evidence.plan
    return (
        "The outputs that the suite measures are replaced, not those of special tokens and first "
        "positions. Inputs to train on are those of the model in bfloat16; losses are measured in "
        "float32. ΔCE is that of the next token. Intervals are 95%: of ΔCE, by resampling "
        f"{len(evidence.tokens)} test contexts, the same for all; of shares and means, by "
        "resampling the features drawn. They say nothing about other texts or training seeds: each "
        "layer and SAE was trained once. FVU is the squared error over the variance of the "
        f"outputs, on {plan.held_out:,} held-out tokens of the training text. Training together "
        "lowers KL(untouched ‖ converted), so that nothing is gained by learning the text. SAEs "
        f"are {plan.architecture}, {plan.width:,} latents, k {plan.k}; 1× is {1 / plan.parts:g} of "
        "a pass over the tokens. Of the features that are active on at least "
        f"{plan.least_active} held-out tokens, at most {plan.features} are drawn; eigenvectors "
        "are those of the interaction matrix of the feature's encoder direction (docs/maths.md "
        "§11), the strongest by |λ|."
    )
