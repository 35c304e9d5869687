"""The dossier's tables: SAEs one by one, configurations, statistics side by side, oracles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64

from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.reliability import precision, ranks
from mdlbench.papers.reliability.edges import Edges
from mdlbench.papers.reliability.evidence import Evidence
from mdlbench.papers.reliability.falsifiers import Verdict
from mdlbench.papers.reliability.movement import Movement
from mdlbench.papers.reliability.panel import (
    Ranked,
    Redraws,
    Values,
    but_for_seed,
    infeasible_last,
    numbered,
)
from mdlbench.papers.reliability.plan import FLAT, MODES
from mdlbench.papers.reliability.ranks import NOTHING
from mdlbench.papers.reliability.rules import rules
from mdlbench.papers.reliability.statistics import (
    SETTINGS,
    TIGHT,
    TRUTHS,
    Statistic,
    Told,
    bits_of,
    statistics,
)
from mdlbench.papers.reliability.verdicts import Setting, against_truth
from mdlbench.records.record import EvalRecord
from mdlbench.report.exports import latex_text
from mdlbench.studies.inference import Interval

WORDS = {True: "falsified", False: "holds", None: "cannot say"}
NONE = "–"
HALVED = {bits_of(mode, which).name: which for mode in MODES for which in SETTINGS}
"""The statistics that are scored on halves where data are fixed, with their tolerances."""


def saes(parts: Sequence[Evidence]) -> pd.DataFrame:
    """A row for each SAE of each place, unrounded: trained ones, oracles, controls."""
    rows = []
    for part in parts:
        asked = statistics(part.part.modes)
        for scored in part.places:
            trained = {run.key: run for run in scored.runs}
            for name in scored.records[FLAT]:
                told, run = scored.told(name), trained.get(name)
                row: dict[str, object] = {
                    "place": scored.place.name,
                    "SAE": name,
                    "architecture": told.flat.coder.architecture,
                    "training seed": None if run is None else run.seed,
                }
                rows.append(row | {one.name: part.value(one, told) for one in asked})
    return pd.DataFrame(rows)


def verdict_table(found: dict[Setting, list[Verdict]]) -> pd.DataFrame:
    """A row for each falsifier, a column for each setting."""
    numbers = [verdict.number for verdict in next(iter(found.values()))]
    columns = {
        setting.words: [WORDS[verdict.falsified] for verdict in own]
        for setting, own in found.items()
    }
    return pd.DataFrame({"falsifier": numbers, **columns})


def configurations(part: Evidence) -> pd.DataFrame:
    """A row for each configuration: means over worlds and training seeds, 95% by Student's t.

    Statistics that none of them has are left out.
    """
    names = part.configurations
    rows = []
    for name in dict.fromkeys(names):
        own = np.array([other == name for other in names])
        row: dict[str, object] = {"configuration": name, "SAEs": int(own.sum())}
        for statistic in statistics(part.part.modes):
            row[statistic.name] = _seed_mean(part.values(statistic)[own])
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.loc[:, (table != NONE).any()]


def _seed_mean(values: Values) -> str:
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return NONE
    digits = max(0, 2 - int(np.floor(np.log10(max(float(np.abs(known).mean()), 0.1)))))
    text = SeedMean.of(known.tolist()).text(f".{digits}f")
    return text if len(known) == len(values) else f"{text} ({len(known)} of {len(values)})"


def references(part: Evidence) -> pd.DataFrame:
    """The oracle and the controls: means over worlds, of which each has one; no interval for two.

    Every value is shown, world by world.
    """
    asked = [one for one in statistics(part.part.modes) if one.mode in part.part.modes]
    rows = []
    training = part.part.training
    trained = set() if training is None else {run.key for run in training.study.runs()}
    names = dict.fromkeys(
        name for scored in part.places for name in scored.records[FLAT] if name not in trained
    )
    for name in names:
        told = [one.told(name) for one in part.places if name in one.records[FLAT]]
        row: dict[str, object] = {"SAE": name}
        for statistic in asked:
            values = [part.value(statistic, one) for one in told]
            row[statistic.name] = "; ".join(_number(value) for value in values)
        rows.append(row)
    return pd.DataFrame(rows)


def edges(part: Evidence) -> pd.DataFrame:
    """Learned forests against the hierarchy: the oracle of each world, and each architecture.

    Shares are of the edges of all its SAEs together.
    """
    groups: dict[str, list[Edges]] = {}
    for scored in part.places:
        for run in scored.runs:
            if run.key in scored.edges:
                groups.setdefault(run.architecture, []).append(scored.edges[run.key])
        if part.part.oracle in scored.edges:
            name = f"{part.part.oracle}, {scored.place.name}"
            groups[name] = [scored.edges[part.part.oracle]]
    rows = []
    for name, found in groups.items():
        all_ = Edges(*(sum(column) for column in zip(*found, strict=True)))
        rows.append(
            {
                "SAEs": name,
                "edges learned, an SAE": f"{all_.learned / len(found):.0f}",
                "of them right": _share(all_.right, all_.learned),
                "of the hierarchy's, found": _share(all_.found, all_.there),
            }
        )
    return pd.DataFrame(rows)


def _share(some: int, of: int) -> str:
    return f"{some / of:.0%}" if of else NONE


def above_oracle(parts: Sequence[Evidence], settings: Sequence[Setting]) -> pd.DataFrame:
    """How many trained SAEs each setting places above the oracle, clustered by configuration."""
    rows = []
    for setting in settings:
        for part in parts:
            found = part.ranked(setting.score)
            if found is not None:
                share = ranks.mean(found.above_oracle, found.configuration)
                rows.append(
                    {
                        "suite": part.part.key,
                        "code": setting.words,
                        "ε": f"{getattr(part.limits, setting.which):g}",
                        "trained SAEs": len(found.bits),
                        "of them feasible": len(found.feasible),
                        "above the oracle": interval_text(share, ".0%"),
                    }
                )
    return pd.DataFrame(rows)


def tried(parts: Sequence[Evidence]) -> pd.DataFrame:
    """A row for each other rule: what the falsifiers that ask for the truth say of it.

    With the share of trained SAEs above the oracle of their width, suite by suite.
    """
    modes = dict.fromkeys(mode for part in parts for mode in part.part.modes)
    rows = []
    for rule in rules(tuple(modes)):
        row: dict[str, object] = {"rule": rule.name}
        for part in parts:
            found = part.ranked(rule)
            if found is not None:
                share = ranks.mean(found.above_oracle, found.configuration)
                row[f"above the oracle, {part.part.key}"] = interval_text(share, ".0%")
        if len(row) > 1:
            row |= {str(one.number): WORDS[one.falsified] for one in against_truth(parts, rule)}
            rows.append(row)
    return pd.DataFrame(rows).fillna(NONE)


def side_by_side(part: Evidence) -> pd.DataFrame:
    """A row for each statistic of which something is known, on the same SAEs and seeds."""
    rows = []
    base = part.ranked(bits_of(FLAT, TIGHT))
    for statistic in (*statistics(part.part.modes), *rules(part.part.modes)):
        values = part.values(statistic)
        if np.isnan(values).all() and len(values):
            continue
        row: dict[str, object] = {"statistic": statistic.name, **_movement(part, statistic)}
        if base is not None:
            row |= _agreement(part, base, statistic)
        if set(row.values()) != {statistic.name, NONE}:
            rows.append(row)
    return pd.DataFrame(rows)


def _movement(part: Evidence, statistic: Statistic) -> dict[str, str]:
    """How far it moves on other data, whether it separates, and its way along training."""
    cv, paired, reseed = NOTHING, NOTHING, float("nan")
    moved = part.moved.get(statistic.mode)
    if moved is None:
        return _movement_row(cv, paired, NOTHING, NOTHING)
    drawn = moved.values(statistic)
    if drawn is None and (which := HALVED.get(statistic.name)):
        halves = moved.redraws(which)
        drawn = None if halves is None else halves.bits
    if drawn is not None:
        kept = precision.met_always(Redraws(tuple(map(str, range(len(drawn)))), *[drawn] * 3))
        reseed = precision.reseed_deviation(kept)
        if len(kept.bits) and (np.abs(kept.bits.mean(axis=1)) > 0).all():
            cv, paired = precision.cv(kept), precision.least_paired_difference(kept)
    panel = _panel(part, statistic, moved.small)
    snr = None if np.isnan(reseed) else precision.signal_to_noise(panel, reseed)
    return _movement_row(cv, paired, snr or NOTHING, _along_training(part, moved, statistic))


def _movement_row(
    cv: Interval, paired: Interval, snr: Interval, along_training: Interval
) -> dict[str, str]:
    return {
        "CV": interval_text(cv, ".2%"),
        "paired least difference": interval_text(paired, ".2%"),
        "SNR": interval_text(snr, ".1f"),
        "ρ with step": interval_text(along_training, "+.2f"),
    }


def _panel(
    part: Evidence, statistic: Statistic, records: Sequence[Sequence[EvalRecord]]
) -> Float64[np.ndarray, "row column"]:
    """A number of records, row by row."""
    if not records:
        return np.zeros((0, 0))
    anchor = part.places[0].oracle.get(FLAT)
    return np.array(
        [
            [part.value(statistic, Told({statistic.mode: one}, {}, anchor)) for one in row]
            for row in records
        ]
    )


def _along_training(part: Evidence, moved: Movement, statistic: Statistic) -> Interval:
    """ρ of the oriented number with the step, the mean over runs, clustered by configuration."""
    panel = _panel(part, statistic, list(moved.followed.values()))
    found = np.array(
        [
            ranks.spearman(statistic.sign * row[known], np.flatnonzero(known).astype(np.float64))
            for row in panel
            for known in [~np.isnan(row)]
        ]
    )
    defined = found[~np.isnan(found)]
    keys = numbered([but_for_seed(key) for key in moved.followed])
    return ranks.mean(defined, keys[~np.isnan(found)]) if len(defined) else NOTHING


def scores(part: Evidence, statistic: Statistic) -> Values:
    """A statistic of each ranked SAE, oriented so that higher is said to be better.

    Where it has a value within a tolerance alone, the others come last, by their floor.
    """
    values = part.values(statistic)
    if not statistic.at_limit:
        return statistic.sign * values
    has_mode = np.array([statistic.mode in scored.records for scored, _ in part.runs])
    return np.where(has_mode, infeasible_last(values, part.floors), np.nan)


def _agreement(part: Evidence, base: Ranked, statistic: Statistic) -> dict[str, str]:
    """Its rank correlations with the truths, in all, given L0, and within strata of L0."""
    score = scores(part, statistic)
    clusters, world = base.configuration, base.world
    row = {}
    kinds: dict[str, Callable[[Values], Interval]] = {
        "ρ with {}": lambda truth: ranks.correlation(score, truth, clusters, world),
        "ρ with {} given L0": lambda truth: ranks.partial(score, truth, base.l0, clusters, world),
        "ρ with {} within L0": lambda truth: ranks.correlation(
            score, truth, clusters, world, base.strata()
        ),
    }
    for form, of in kinds.items():
        for truth in TRUTHS:
            text = NONE if truth.name == statistic.name else None
            row[form.format(truth.name)] = text or interval_text(
                of(base.truths[truth.name]), "+.2f"
            )
    return row


def movement_notes(part: Evidence) -> Iterator[str]:
    """What other calibration data alone do to the score."""
    for which in SETTINGS:
        found = part.moved[FLAT].redraws(which, "calibration") if part.part.worlds else None
        if found is not None:
            kept = precision.met_always(found)
            if kept.saes:
                yield f"{which}: {interval_text(precision.cv(kept), '.2%')}"


def interval_text(found: Interval, form: str) -> str:
    """A number and its interval as a table has them; a dash where either is missing."""
    if np.isnan(found).any():
        return NONE
    value, low, high = (format(end, form) for end in found)
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    return NONE if np.isnan(value) else f"{value:.4g}"


def latex(tables: dict[str, pd.DataFrame]) -> str:
    """Statistics side by side with booktabs, a table for each part."""
    lines = ["% \\usepackage{booktabs}"]
    for name, table in tables.items():
        layout = "l" + "r" * (len(table.columns) - 1)
        header = " & ".join(_latex_cell(column) for column in table.columns)
        lines += [
            f"% {name}; 95% intervals, of correlations by a bootstrap over configurations",
            rf"\begin{{tabular}}{{{layout}}}",
            r"\toprule",
            rf"{header} \\",
            r"\midrule",
        ]
        for row in table.itertuples(index=False):
            lines.append(" & ".join(_latex_cell(str(cell)) for cell in row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_cell(text: str) -> str:
    found = latex_text(text)
    for character, command in {"ρ": r"$\rho$", "ε": r"$\varepsilon$", "−": "$-$"}.items():
        found = found.replace(character, command)
    return found
