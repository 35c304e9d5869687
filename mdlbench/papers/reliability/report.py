"""What the dossier says: sentences that the numbers decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mdlbench.disk.files import write_atomically
from mdlbench.errors import MdlbenchError
from mdlbench.papers.reliability import figures, tables
from mdlbench.papers.reliability.evidence import TIGHTNESS, Evidence
from mdlbench.papers.reliability.falsifiers import TITLES, Verdict
from mdlbench.papers.reliability.plan import Part
from mdlbench.papers.reliability.verdicts import Setting, settings, verdicts
from mdlbench.report.outputs import frame_as_markdown, write_outputs
from mdlbench.statistics.metrics import metric_of
from mdlbench.studies.inference import Interval

Found = dict[Setting, list[Verdict]]


def evidence(parts: Sequence[Part], folder: Path) -> list[Evidence]:
    """What a folder has of the parts, without those that are not begun.

    Raises:
        MdlbenchError: it has nothing of any.
    """
    read = [Evidence(part, folder / part.key) for part in parts]
    begun = [one for one in read if one.places]
    if not begun:
        raise MdlbenchError(f"{folder}: no part has all its SAEs scored in one place yet")
    return begun


def write_report(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Figures, tables (CSV, Markdown, LaTeX) and a text; equal records give equal bytes."""
    read = evidence(parts, folder)
    found = {setting: verdicts(read, setting) for setting in settings(read)}
    compared = {one.part.key: tables.side_by_side(one) for one in read}
    words = to_markdown(read, found, compared)
    paths = write_outputs(folder, figures.drawings(read, found), tables.saes(read), words)
    begun = {key: table for key, table in compared.items() if not table.empty}
    extra = {"side-by-side.tex": tables.latex(begun)}
    for key, table in begun.items():
        extra[f"side-by-side-{key}.csv"] = table.to_csv(index=False, lineterminator="\n")
    for name, content in extra.items():
        write_atomically(folder / name, content.encode())
    return [*paths, *(folder / name for name in extra)]


def to_markdown(
    read: Sequence[Evidence], found: Found, compared: Mapping[str, pd.DataFrame]
) -> str:
    """The whole report."""
    setting = next(iter(found))
    parts = [
        "# Is the number reliable, and does it find the truth?",
        _scope(read),
        *_bullets(_extent(one) for one in read),
        "## Verdicts",
        _summary(found),
        _table(tables.verdict_table(found)),
        "![verdicts](verdicts.png)",
        f"### In the headline's setting: {setting.words}",
        *_bullets(_verdict(one) for one in found[setting]),
        "### In the other settings, what falsifies",
        *_bullets(_reasons(found, setting)),
    ]
    if not (above := tables.above_oracle(read, list(found))).empty:
        parts += ["## Trained SAEs above the oracle of their width", _table(above)]
    if not (rules := tables.tried(read)).empty:
        parts += ["## Other rules", TRIED, _table(rules)]
    for one in read:
        parts += [*_part(one, compared[one.part.key])]
    return "\n\n".join([*parts, "## How to read this", METHOD]) + "\n"


TRIED = (
    "Scores that the theory offers instead of bits at ε, computed from the same records. They were "
    "written after the falsifiers, of which 4 to 6 are asked here. The tables below have precision "
    "and training."
)
EDGES = (
    "Forests are learned from which latents are on at calibration tokens, as the tree code learns "
    "them. An edge is right if the features that its two latents are most like are parent and "
    "child. An edge of the hierarchy counts only if both its ends are the feature of some latent."
)
METHOD = (
    "The six falsifiers are in `mdlbench/papers/reliability/falsifiers.py`, and were written "
    "before any of this was run. Intervals are 95%. CV is s / mean over draws of the data, "
    "the root mean square over SAEs; on worlds a draw is calibration and test tokens that no SAE "
    "was trained on, on suites of fixed data a random half of the test documents. The least "
    "difference is t·√2·s, the paired one t·s of differences over shared draws, as shares of the "
    "mean. SNR is that of variants of one architecture: the SD of their means over √(s² of draws + "
    "s² of training seeds). Correlations are Spearman's, found within each world and then "
    "averaged; their intervals draw configurations anew, with all their runs. SAEs that miss a "
    "tolerance are placed last, by their floor. 'Within L0' is the mean over groups of "
    "configurations of equal size by L0; 'given L0' the partial rank correlation. Every statistic "
    "is oriented so that higher means better: −bits, −L0, −FVU. Means of configurations "
    "have intervals by Student's t over worlds and training seeds. Probes are logistic "
    "regressions on the k latents whose means differ most; their accuracy is balanced. `table.csv` "
    "has every SAE, and `side-by-side.tex` the tables for a paper."
)


def _scope(read: Sequence[Evidence]) -> str:
    names = ", ".join(one.part.key for one in read)
    return (
        "Three lenses after the audit of SAE benchmarks (arXiv 2605.18229): does the score move "
        "when the data are drawn anew, does it separate SAEs and improve in training, does it rank "
        f"true features first? Measured so far: {names}."
    )


def _extent(part: Evidence) -> str:
    limits, runs = part.limits, part.runs
    label = metric_of(limits.metric).label
    words = [f"**{part.part.key}**:"]
    if runs:
        n_configurations = len(dict.fromkeys(part.configurations))
        seeds = len({run.seed for _, run in runs})
        worlds = len(part.places)
        words.append(
            f"{len(runs)} trained SAEs, {n_configurations} configurations with {seeds} training "
            f"seeds in {worlds} of {len(part.part.places)} worlds."
            if part.part.worlds
            else f"{len(runs)} trained SAEs, {n_configurations} configurations with {seeds} seeds."
        )
    words.append(f"Tight is {label} ≤ {limits.tight:g}, coarse {label} ≤ {limits.coarse:g}.")
    suite = part.part.places[0].suite
    if not part.part.worlds and (limits.metric, limits.tight) not in suite.tight:
        words.append("The tight one is the suite's headline, which the suite does not call tight.")
    if runs:
        times = limits.tight / part.smallest_floor
        words.append(
            f"The smallest floor of a trained SAE is {part.smallest_floor:.3f}: the tight one is "
            f"{times:.2f} times that, {'within' if part.is_tight else 'beyond'} the "
            f"{TIGHTNESS:g} of the rule."
        )
    words += [
        f"{key} diverged in {one.place.name} and is excluded: {why}."
        for one in part.places
        for key, why in one.diverged.items()
    ]
    return " ".join(words)


def _summary(found: Found) -> str:
    passed = [s.words for s, own in found.items() if all(one.falsified is False for one in own)]
    if passed:
        return f"All six hold in: {'; '.join(passed)}."
    whole = {s: own for s, own in found.items() if all(one.falsified is not None for one in own)}
    best = _least_falsified(found)
    words = ["No setting passes all six.", f"Fewest are falsified in {_fate(best, found)}"]
    if whole and best not in whole:
        words.append(
            "Among the settings where all six could be decided, fewest are falsified in "
            f"{_fate(_least_falsified(whole), whole)}"
        )
    return " ".join(words)


def _least_falsified(found: Found) -> Setting:
    """The setting of which fewest are falsified; of several, the one where most are decided."""
    return min(found, key=lambda setting: (_n(found, setting, True), _n(found, setting, None)))


def _n(found: Found, setting: Setting, falsified: bool | None) -> int:
    return sum(one.falsified is falsified for one in found[setting])


def _fate(setting: Setting, found: Found) -> str:
    """Which are falsified in a setting, and which nobody can tell."""
    failed, open_ = (
        ", ".join(str(one.number) for one in found[setting] if one.falsified is falsified)
        for falsified in (True, None)
    )
    untold = f"; {open_} could not be decided" if open_ else ""
    return f"{setting.words}: {failed or 'none'}{untold}."


def _verdict(verdict: Verdict) -> str:
    word = tables.WORDS[verdict.falsified]
    text = f"**{verdict.number}. {word[:1].upper()}{word[1:]}**: {TITLES[verdict.number]}."
    if verdict.why:
        label = "Why" if verdict.falsified is None else "Decided by"
        text += f" {label}: {'; '.join(verdict.why)}."
    if verdict.untold:
        text += f" Cannot say: {'; '.join(verdict.untold)}."
    shown = [f"{name} {_shown(name, value)}" for name, value in verdict.numbers.items()]
    return f"{text} {'; '.join(shown)}." if shown else text


def _shown(name: str, value: Interval) -> str:
    if name.startswith("SNR"):
        return tables.interval_text(value, ".1f")
    return tables.interval_text(value, "+.2f" if name.startswith("ρ") else ".2%")


def _reasons(found: Found, headline: Setting) -> Iterator[str]:
    for setting, own in found.items():
        if setting != headline:
            why = [
                f"({one.number}) {'; '.join(one.why)}" for one in own if one.falsified and one.why
            ]
            yield f"**{setting.words}**: {'. '.join(why) or 'nothing'}."


def _part(part: Evidence, compared: pd.DataFrame) -> Iterator[str]:
    yield f"## {part.part.key}: statistics side by side"
    yield "Nothing is measured yet." if compared.empty else _table(compared)
    if notes := list(tables.movement_notes(part)):
        yield f"Other calibration data alone, the CV of flat bits: {'; '.join(notes)}."
    if part.runs:
        yield f"### {part.part.key}: configurations"
        yield _table(tables.configurations(part))
    if part.part.worlds:
        yield f"### {part.part.key}: the oracle and the controls, world by world"
        yield _table(tables.references(part))
        yield f"![truth](truth-{part.part.key}.png)"
    if not (learned := tables.edges(part)).empty:
        yield f"### {part.part.key}: does a learned forest have the hierarchy's edges?"
        yield EDGES
        yield _table(learned)


def _bullets(lines: Iterator[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield "\n".join(f"- {line}" for line in found)


def _table(table: pd.DataFrame) -> str:
    return frame_as_markdown(table).rstrip()
