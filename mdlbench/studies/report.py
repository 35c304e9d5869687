"""What a study shows: sentences that the numbers decide, tables, figures."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from mdlbench.boards.pairing import refuse_unpaired
from mdlbench.disk.files import write_atomically
from mdlbench.errors import MdlbenchError
from mdlbench.report.exports import latex_text
from mdlbench.report.outputs import frame_as_markdown, write_outputs
from mdlbench.report.tables import ABSENT
from mdlbench.studies import figures
from mdlbench.studies.figures import limit_words
from mdlbench.studies.inference import Interval, Shares, Standing, standing, variance_shares
from mdlbench.studies.plan import Run, Study
from mdlbench.studies.results import (
    Configuration,
    Done,
    EqualGrid,
    Level,
    equal_grid,
    level,
)
from mdlbench.studies.run import STUDY_FILE, diverged, read_study, records_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report"
SEED = 0
"""Seed by which the bootstrap draws training seeds."""
MORE = "more than the shortest"
BITS_COLUMNS = ("tolerance", "architecture", "bits", "low", "high")
MORE_COLUMNS = ("more", "more low", "more high")
CONFIGURATION_COLUMNS = ("best configuration", "configurations", "left out")
METHOD = (
    "Each architecture has its best configuration, the one of fewest bits in the mean over "
    "training seeds. Intervals are from a crossed bootstrap: test documents and training seeds are "
    "both drawn anew, and the best configuration is chosen again in every draw. Few seeds estimate "
    "a variance poorly, so that intervals are widened by Student's t; those of differences are "
    "simultaneous over all pairs of architectures at a tolerance (Games and Howell). With two or "
    "three seeds they hold in a little less than 95% of studies. Tolerances are not corrected for "
    "one another."
)
METHOD_OF_ONE_SEED = (
    "Each architecture has its best configuration, the one of fewest bits. There is one training "
    "seed only, so that architectures are not compared. Intervals are from a bootstrap over test "
    "documents alone: the best configuration is chosen again in every draw."
)


class Compared(NamedTuple):
    """A tolerance, what the architectures cost there, and how they compare."""

    level: Level
    standing: Standing

    @property
    def words(self) -> str:
        return limit_words(self.level.metric, self.level.epsilon)


@dataclass(frozen=True)
class Findings:
    """All that a report says.

    Attributes:
        study: what was to be run.
        n_runs: of how many runs.
        done: those with a record.
        diverged: others that diverged, with their reasons.
        unfinished: training seeds of which runs are missing, and how many of how many are there;
            they are left out of the comparison where others are finished.
        grid: the runs that are compared.
        compared: at each tolerance of the suite.
    """

    study: Study
    n_runs: int
    done: tuple[Done, ...]
    diverged: dict[str, str]
    unfinished: dict[int, tuple[int, int]]
    grid: EqualGrid
    compared: tuple[Compared, ...]

    @property
    def has_one_seed(self) -> bool:
        """Whether there is one training seed only, so that nothing is compared."""
        return len(self.grid.seeds) == 1

    @property
    def method(self) -> str:
        """How bits and intervals come about."""
        return METHOD_OF_ONE_SEED if self.has_one_seed else METHOD

    @property
    def shares(self) -> dict[str, Shares]:
        """Shares of the variance, at each tolerance where runs differ."""
        found = {one.words: variance_shares(one.level.met) for one in self.compared}
        return {words: one for words, one in found.items() if one is not None}

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(one.level.metric for one in self.compared))


def findings(folder: Path) -> Findings:
    """What a study's folder shows so far.

    Raises:
        SuiteError: it holds no study.
        RecordError: its records are not of one suite and data.
        MdlbenchError: no run has a record yet.
    """
    study, _ = read_study(folder / STUDY_FILE)
    records = {record.name: record for record in records_of(folder) if not record.is_edited}
    runs = study.runs()
    done = tuple(Done(run, records[run.key]) for run in runs if run.key in records)
    if not done:
        raise MdlbenchError(f"{folder}: no run is scored yet: `mdlbench study run` does it")
    for one in done:
        refuse_unpaired(done[0].record, one.record)
    reasons = {run.key: diverged(folder, run.key) for run in runs}
    excluded = {key: reason for key, reason in reasons.items() if reason is not None}
    unfinished = _unfinished(runs, records.keys() | excluded.keys())
    finished = [one for one in done if one.run.seed not in unfinished]
    grid = equal_grid(finished or done)
    limits = [(result.metric, result.epsilon) for result in done[0].record.tolerances]
    levels = [level(grid.done, metric, epsilon) for metric, epsilon in limits]
    return Findings(
        study=study,
        n_runs=len(runs),
        done=done,
        diverged=excluded,
        unfinished=unfinished if finished else {},
        grid=grid,
        compared=tuple(Compared(one, standing(one, SEED)) for one in levels),
    )


def _unfinished(runs: Sequence[Run], ended: Collection[str]) -> dict[int, tuple[int, int]]:
    """By training seed, how many of how many runs have ended; without seeds that are finished."""
    counts = {}
    for seed in dict.fromkeys(run.seed for run in runs):
        own = [run.key in ended for run in runs if run.seed == seed]
        if not all(own):
            counts[seed] = (sum(own), len(own))
    return counts


def write_report(folder: Path, output: Path) -> list[Path]:
    """Write figures, tables (CSV, Markdown, LaTeX) and a text; equal records give equal bytes.

    Args:
        folder: the study's.
        output: where the report goes.

    Returns:
        The paths of the files.

    Raises:
        MdlbenchError: as `findings` does, or a file cannot be written.
    """
    found = findings(folder)
    table = comparison_table(found)
    extra = {
        "comparison.csv": table.to_csv(index=False, lineterminator="\n"),
        "comparison.tex": latex_table(found, table),
    }
    paths = write_outputs(output, drawings(found), runs_table(found), text(found, table))
    for name, content in extra.items():
        write_atomically(output / name, content.encode())
    return [*paths, *(output / name for name in extra)]


def drawings(found: Findings) -> dict[str, Figure]:
    """The figures by file name."""
    drawn: dict[str, Figure] = {}
    for metric in found.metrics:
        own = [one for one in found.compared if one.level.metric == metric]
        drawn[f"bits-{metric}"] = figures.intervals(own)
        drawn[f"hulls-{metric}"] = figures.hulls(found.grid.done, metric)
    if found.shares:
        drawn["variance"] = figures.shares(found.shares)
    return drawn


def runs_table(found: Findings) -> pd.DataFrame:
    """A row for each run with a record, compared or not; NaN where a tolerance is not met."""
    compared = {one.run.key for one in found.grid.done}
    rows = []
    for one in found.done:
        run, record = one.run, one.record
        row: dict[str, object] = {
            "run": run.key,
            "architecture": run.architecture,
            "width": run.width,
            "sparsity": run.label,
            "seed": run.seed,
            "compared": run.key in compared,
            "L0": record.coder.l0,
            "dead": record.coder.dead_fraction,
            "floor": record.floor.loss(found.metrics[0]),
        }
        for result in record.tolerances:
            bits = result.bits if result.feasible else float("nan")
            row[limit_words(result.metric, result.epsilon)] = bits
        rows.append(row)
    return pd.DataFrame(rows)


def comparison_table(found: Findings) -> pd.DataFrame:
    """A row for each tolerance and architecture: bits, and how much more than the shortest.

    How much more is left out where there is one training seed.
    """
    rows = []
    for one in found.compared:
        for family in one.level.families:
            row: dict[str, object] = {"tolerance": one.words, "architecture": family.name}
            if family.is_met:
                row |= _row(one.standing, family.name)
                row["best configuration"] = family.configurations[family.best].words
            row["configurations"] = len(family.configurations)
            row["left out"] = len(family.left_out)
            rows.append(row)
    more = () if found.has_one_seed else MORE_COLUMNS
    return pd.DataFrame(rows, columns=[*BITS_COLUMNS, *more, *CONFIGURATION_COLUMNS])


def _row(found: Standing, name: str) -> dict[str, object]:
    bits, low, high = found.shortest[name]
    row: dict[str, object] = {"bits": bits, "low": low, "high": high}
    if name in found.more:
        more = found.more[name]
        row |= {"more": more.value, "more low": more.low, "more high": more.high}
    return row


def latex_table(found: Findings, table: pd.DataFrame) -> str:
    """The comparison with booktabs; differences to the shortest architecture at the tolerance."""
    lines = [
        r"\begin{tabular}{llrrl}",
        r"\toprule",
        r"Tolerance & Architecture & Bits/token & More than the shortest & Best configuration \\",
        r"\midrule",
    ]
    for row in table.to_dict("records"):
        cells = [
            str(row["tolerance"]),
            str(row["architecture"]),
            _cell(row, "bits", "low", "high"),
            _cell(row, "more", "more low", "more high"),
            str(row.get("best configuration", "")) if row.get("bits") == row.get("bits") else "",
        ]
        lines.append(" & ".join(latex_text(cell) for cell in cells) + r" \\")
    comments = [f"% study {found.study.name}", *(f"% {line}" for line in wrap(found.method))]
    return "\n".join([*comments, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cell(row: Mapping[Hashable, object], *keys: str) -> str:
    value, low, high = (float(str(row.get(key, "nan"))) for key in keys)
    return ABSENT if value != value else _interval(Interval(value, low, high))


def text(found: Findings, table: pd.DataFrame) -> str:
    """The report in Markdown."""
    parts = [f"# Study {found.study.name}", _extent(found), found.method, *_warnings(found)]
    for one in found.compared:
        parts += [f"## {one.words}", " ".join([*verdict(one), *_at_the_edge(one.level)])]
        if one.level.families:
            parts.append(_level_table(table[table["tolerance"] == one.words]))
    parts += ["## Where the variance is", *_variance(found)]
    parts += [f"![{name}]({name}.png)" for name in drawings_of(found)]
    return "\n\n".join(parts) + "\n"


def _level_table(table: pd.DataFrame) -> str:
    """The comparison at one tolerance, those of fewest bits first."""
    shown = [
        {
            "architecture": row["architecture"],
            "bits": _cell(row, "bits", "low", "high"),
            **({MORE: _cell(row, *MORE_COLUMNS)} if "more" in row else {}),
            "best configuration": row["best configuration"],
            "configurations": row["configurations"],
            "left out": row["left out"],
        }
        for row in table.sort_values("bits", kind="stable").to_dict("records")
    ]
    return frame_as_markdown(pd.DataFrame(shown)).strip()


def _at_the_edge(level: Level) -> Iterator[str]:
    """Whose best configuration is at the edge of the grid."""
    grid = [one for family in level.families for one in (*family.configurations, *family.left_out)]
    edges = {
        family.name: list(_edges(family.configurations[family.best], grid)) for family in level.met
    }
    names = [f"{name} ({', '.join(own)})" for name, own in edges.items() if own]
    if names:
        yield (
            "The best configuration is at the edge of the grid, so that others may be shorter: "
            f"{', '.join(names)}."
        )


def _edges(best: Configuration, grid: Sequence[Configuration]) -> Iterator[str]:
    """At which ends of the grid's widths and sparsities a configuration is."""
    widths, levels = ({one.width for one in grid}, {one.level for one in grid})
    ends = (
        ("narrowest", best.width, min, widths),
        ("widest", best.width, max, widths),
        ("sparsest", best.level, min, levels),
        ("densest", best.level, max, levels),
    )
    for words, own, end, values in ends:
        if len(values) > 1 and own == end(values):
            yield words


def drawings_of(found: Findings) -> list[str]:
    """Names of the figures."""
    names = [f"{kind}-{metric}" for metric in found.metrics for kind in ("bits", "hulls")]
    return [*names, *(["variance"] if found.shares else [])]


def _extent(found: Findings) -> str:
    runs = [one.run for one in found.done]
    n = len({run.architecture for run in runs})
    widths = sorted({run.width for run in runs})
    seeds = list(dict.fromkeys(run.seed for run in runs))
    return (
        f"{len(found.done)} of {found.n_runs} runs on suite {found.study.suite} are scored: "
        f"{n} architecture{'s' * (n != 1)}, {_listed('width', widths)}, "
        f"{_listed('training seed', seeds)}. "
        f"{_epochs(found.study)}; the test split was not looked at before an SAE was scored."
    )


def _epochs(study: Study) -> str:
    """Which epoch of each run was kept."""
    last = {run.architecture: run.settings.get("keep") == "last" for run in study.runs()}
    chosen = (
        f"The epoch of each was chosen on the last {study.validation:.0%} of the calibration "
        "blocks, which it was not trained on"
    )
    if all(last.values()):
        return "The last epoch of each was kept"
    names = [name for name, is_so in last.items() if is_so]
    return f"{chosen}; {', '.join(names)} kept the last one" if names else chosen


def _warnings(found: Findings) -> Iterator[str]:
    lines = [
        f"Training seed {seed} is not finished ({n} of {whole} runs): left out of the comparison."
        for seed, (n, whole) in found.unfinished.items()
        if n
    ]
    lines += [f"Grids differ: {line}." for line in found.grid.warnings]
    lines += [f"{key} diverged and is excluded: {why}." for key, why in found.diverged.items()]
    if lines:
        yield "\n".join(f"- **{line}**" for line in lines)


def verdict(one: Compared) -> Iterator[str]:
    """Which architecture is shortest at a tolerance, by how much, and who cannot be told apart."""
    found = one.standing
    missed = [family.name for family in one.level.families if not family.is_met]
    if not one.level.families:
        yield "Nothing is compared: no width, sparsity and seed is common to all architectures."
        return
    if not found.order:
        yield f"No configuration meets {one.words} with every seed."
        return
    if len(one.level.families) == 1:
        (name,) = found.order
        yield f"{name} takes {_interval(found.shortest[name])} bits per token."
    elif one.level.n_seeds > 1:
        yield from _comparison(found)
    else:
        yield "One training seed cannot say which architecture is the shortest."
    if missed:
        yield f"No configuration meets it with every seed: {', '.join(missed)}."


def _comparison(found: Standing) -> Iterator[str]:
    first = found.order[0]
    bits = f"{_interval(found.shortest[first])} bits per token."
    yield f"Shortest is {first}: {bits}" if found.more else f"Only {first} meets it: {bits}"
    if apart := [name for name, more in found.more.items() if more.sign > 0]:
        listed = "; ".join(f"{name} by {_interval(found.more[name])}" for name in apart)
        yield f"It is shorter beyond chance than {listed}."
    if ties := [name for name, more in found.more.items() if more.sign <= 0]:
        listed = "; ".join(f"{name} ({_interval(found.more[name])})" for name in ties)
        yield f"It cannot be told apart from {listed}."


def _variance(found: Findings) -> Iterator[str]:
    if not found.shares:
        yield "There are too few runs, or none differ."
        return
    rows = [{"tolerance": words, **one._asdict()} for words, one in found.shares.items()]
    yield (
        "Shares of the variance of log₂ bits over the compared runs, nested in this order: "
        "architectures, widths within them, sparsities within those, training seeds within a "
        "configuration."
    )
    if any(math.isnan(one.seed) for one in found.shares.values()):
        yield "Where no configuration has two training seeds, their share is not known."
    yield frame_as_markdown(pd.DataFrame(rows)).strip()


def _interval(of: Interval) -> str:
    return f"{of.value:.2f} [{of.low:.2f}, {of.high:.2f}]"


def _listed(noun: str, values: Sequence[int]) -> str:
    return f"{noun}{'s' * (len(values) != 1)} {', '.join(map(str, values))}"
