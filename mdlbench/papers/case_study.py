"""The paper's MNIST case study: a sweep over width and sparsity, and the shortest SAE within ε."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mdlbench.console.stages import OnStage
from mdlbench.papers import sweep_figures, sweep_report
from mdlbench.papers.feature_sheet import Sheet, sheet
from mdlbench.papers.sweep import Level, Regime, Study
from mdlbench.records.record import EvalRecord
from mdlbench.report.features import write_feature_grid
from mdlbench.report.outputs import write_outputs
from mdlbench.scoring import suite_run
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.targets import in_modes, open_target, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Suite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPSILON = 0.0150
"""The paper's tolerance on the test MSE after quantisation."""
SWEEP = "batchtopk-"
"""What the keys of the sweep's SAEs begin with."""
MODES: tuple[str, ...] = ("normalised", "per-feature", "rdo", "tree")
"""Operating modes of the quantiser; the first is what the others are compared with."""
FEATURES_SHOWN = 24


def reproduce(folder: Path, on_stage: OnStage, engine: Engine = THIS_PROCESS) -> list[Path]:
    """Score the sweep, then write figures, table and report from the records alone.

    Finished SAEs are not scored again; each mode has its own results folder, `folder/MODE`.

    Returns:
        The files written, those of the records apart.

    Raises:
        MdlbenchError: an SAE cannot be scored, or none meets ε.
        OutputError: the folder cannot be written; what was finished before is kept.
    """
    suite = load_suite("mnist")
    modes: dict[str, list[EvalRecord]] = {
        mode: score(suite, mode, folder / mode, on_stage, engine) for mode in MODES
    }
    study = Study.of(modes, EPSILON)
    on_stage("features")
    sheets = feature_sheets(Opener(suite, Setting()), study.at)
    on_stage("figures")
    return write_study(folder, study, sheets)


def score(
    suite: Suite, mode: str, folder: Path, on_stage: OnStage, engine: Engine = THIS_PROCESS
) -> list[EvalRecord]:
    """Records of all SAEs of the sweep in one mode, kept in `folder`.

    Raises:
        MdlbenchError: one of them cannot be scored; the message names all of those.
    """
    keys = [key for key in suite.keys if key.startswith(SWEEP)]
    opener = Opener(suite, Setting(), on_stage)
    wanted = in_modes(suite, targets(suite, keys, None), [mode])
    run = suite_run.run(opener, wanted, folder, on_stage, write_feature_grid, engine)
    return suite_run.all_scored(run)


def feature_sheets(opener: Opener, at: Level) -> dict[Regime, Sheet]:
    """The most used decoder rows of each regime's SAE."""
    sheets: dict[Regime, Sheet] = {}
    for regime, entry in at.regimes().items():
        coder, source = open_target(opener, entry.name, None)
        sheets[regime] = sheet(entry.name, coder, source, FEATURES_SHOWN)
    return sheets


def write_study(folder: Path, study: Study, sheets: Mapping[Regime, Sheet]) -> list[Path]:
    """Figures, table and report; the same study, the same bytes."""
    words = sweep_report.to_markdown(study, sheets)
    return write_outputs(folder, drawings(study, sheets), sweep_report.table(study), words)


def drawings(study: Study, sheets: Mapping[Regime, Sheet]) -> dict[str, Figure]:
    """The figures by file name; those of features and modes only where there are any."""
    figures = {
        "description-length": sweep_figures.description_length(study.at, study.widths),
        "dead-latents": sweep_figures.dead_latents(study.levels, study.widths),
        "tolerances": sweep_figures.tolerances(study.levels, study.records),
        "crossings": sweep_figures.curve_crossings(study.records, study.curves, study.levels),
    }
    if sheets:
        figures["features"] = sweep_figures.feature_panels(sheets, study.at)
    if study.gains:
        figures["modes"] = sweep_figures.mode_gains(study.gains, study.anchor)
    return figures
