"""Is the number reliable, and does it find the truth? Three lenses, six falsifiers, a verdict."""

from __future__ import annotations

from pathlib import Path

from mdlbench.console.stages import OnStage
from mdlbench.papers.reliability.measure import examine_place, measure_place
from mdlbench.papers.reliability.plan import PLAN, Plan
from mdlbench.papers.reliability.report import write_report
from mdlbench.scoring.engine import THIS_PROCESS, Engine


def reproduce(
    folder: Path,
    on_stage: OnStage,
    engine: Engine = THIS_PROCESS,
    parts: tuple[str, ...] = (),
    plan: Plan = PLAN,
) -> list[Path]:
    """Measure what is not there yet, then report on all that is.

    Each part has a folder in `folder`; an interrupted run goes on where it was, to the same
    numbers.

    Args:
        folder: where everything is kept.
        on_stage: told what is done.
        engine: has the workers that train and score; redraws and probes are done here.
        parts: keys of the parts to measure; all by default. The report has all that are there.
        plan: what is measured.

    Returns:
        The files of the report.

    Raises:
        UsageError: there is no such part.
        MdlbenchError: an SAE cannot be scored.
    """
    chosen = [place for part in plan.chosen(parts) for place in part.places]
    for work, places in (
        (measure_place, chosen),
        (examine_place, [place for place in chosen if place.is_first]),
    ):
        for place in places:
            work(place, folder / place.part.key / place.name, on_stage, engine)
    on_stage("report")
    return write_report(plan.parts, folder)
