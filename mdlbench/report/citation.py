"""How to cite a result, and how to say in a paper what was measured."""

from __future__ import annotations

from importlib.metadata import version

from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import EvalRecord, ToleranceResult, operating_point
from mdlbench.report.exports import latex_text
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE
from mdlbench.suite.base import MetricName
from mdlbench.suite.suite import Suite

YEAR = 2026


def bibtex() -> str:
    """Entries for mdlbench and for the paper whose criterion it measures."""
    return f"""@software{{mdlbench,
  title = {{mdlbench: rate-distortion curves and description-length leaderboards of sparse
    autoencoders}},
  author = {{{{The mdlbench developers}}}},
  year = {{{YEAR}}},
  version = {{{version("mdlbench")}}}
}}

@misc{{ayonrinde2024interpretability,
  title = {{Interpretability as Compression: Reconsidering {{SAE}} Explanations of Neural
    Activations with {{MDL-SAEs}}}},
  author = {{Ayonrinde, Kola and Pearce, Michael T. and Sharkey, Lee}},
  year = {{2024}},
  eprint = {{2410.11179}},
  archivePrefix = {{arXiv}}
}}
"""


def methods(record: EvalRecord, suite: Suite) -> str:
    """A paragraph in LaTeX that says what a record measured, on what, and how.

    Everything in it is from the record and its suite.
    """
    sentences = [
        _what(record, suite),
        _where(record),
        _code(record, suite),
        _tolerances(record, suite),
        _result(record, suite),
        _software(record),
    ]
    return " ".join(sentences) + "\n"


def _what(record: EvalRecord, suite: Suite) -> str:
    coder = record.coder
    partial = " The result is partial: not all documents were measured." if record.partial else ""
    kind = "baseline" if record.is_baseline else "sparse autoencoder"
    return (
        f"The {kind} {latex_text(record.name)} ({latex_text(coder.architecture)}, "
        f"{coder.d_latents:,} latents, activations of width {coder.d_in:,}) was scored with "
        rf"mdlbench~\cite{{mdlbench}} on the suite {latex_text(suite.name)} (digest "
        f"\\texttt{{{record.identity.suite_digest[:12]}}}, protocol {record.identity.protocol})."
        f"{partial}"
    )


def _where(record: EvalRecord) -> str:
    site, tokens = record.site, record.n_tokens
    place = f"hook point \\texttt{{{latex_text(site.hook)}}}"
    if site.model is not None:
        bos = "with" if site.prepend_bos else "without"
        place += (
            f" of {latex_text(site.model)}, in contexts of {site.context} tokens {bos} BOS of "
            f"{latex_text(site.text or '')}, from position {site.first_position} on"
        )
    return (
        f"Activations are those at {place}: {tokens.calibration:,} calibration tokens, on which "
        f"codebooks were fitted, and {tokens.test:,} others, on which everything was measured."
    )


def _code(record: EvalRecord, suite: Suite) -> str:
    mode = mode_of(record.identity.quantiser or suite.quantiser)
    side = record.points[0].bits.side
    added = f", plus {side:g} bits of side information per token" if side else ""
    return (
        f"{mode.methods}; the rate is the length of the symbols in bits per token under the "
        rf"codebook, {mode.machinery.code.in_words}~\cite{{ayonrinde2024interpretability}}{added}."
    )


def _tolerances(record: EvalRecord, suite: Suite) -> str:
    by_metric: dict[MetricName, list[str]] = {}
    for metric, epsilon in suite.limits():
        by_metric.setdefault(metric, []).append(f"{epsilon:g}")
    limits = "; ".join(
        f"{metric_of(metric).in_words}: {', '.join(epsilons)}"
        for metric, epsilons in by_metric.items()
    )
    return (
        rf"Rates are compared where the total loss after quantisation is $\varepsilon$ "
        f"({latex_text(limits)}): on the lower convex hull of the measured steps, which are at "
        f"most {1 / STEPS_PER_OCTAVE:g} octave apart there. Intervals are percentile intervals of "
        f"{suite.replicates} bootstrap resamples of the test documents, each with a curve of its "
        "own."
    )


def _result(record: EvalRecord, suite: Suite) -> str:
    result = record.result(suite.headline.metric, suite.headline.epsilon)
    metric = metric_of(result.metric)
    limit = latex_text(metric.short_limit(result.epsilon))
    if result.bits is None or result.bits_ci is None:
        floor = metric.written(record.floor.loss(metric.name))
        return f"At {limit} it is infeasible: its loss before quantisation is {floor}."
    low, high = result.bits_ci
    return (
        f"At {limit} it takes {result.bits:.2f} bits per token "
        rf"(95\% interval {low:.2f} to {high:.2f}){_audit(record, result)}."
    )


def _audit(record: EvalRecord, result: ToleranceResult) -> str:
    point = operating_point(record, result)
    if point is None or point.bits.coded is None:
        return ""
    return f"; a range-coded file of the same symbols has {point.bits.coded:.2f}"


def _software(record: EvalRecord) -> str:
    environment, provenance = record.environment, record.provenance
    named = [
        f"{latex_text(name)} {latex_text(environment.versions[name])}"
        for name in ("torch", "numpy", "constriction", "sae-lens", "transformer-lens")
        if name in environment.versions
    ]
    commit = f", commit \\texttt{{{provenance.commit[:12]}}}" if provenance.commit else ""
    return (
        f"It was computed in {environment.dtype} on {latex_text(environment.device)} with "
        f"mdlbench {latex_text(environment.versions.get('mdlbench', ''))}{commit}, "
        f"{', '.join(named)}."
    )
