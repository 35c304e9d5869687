"""How short a description of a bilinear classifier's weights is, at equal loss, and how it compares
with an SAE's description of what the classifier reads."""

from __future__ import annotations

from pathlib import Path

from mdlbench.bilinear.network import NETWORK_FILE, load_network
from mdlbench.console.stages import OnStage
from mdlbench.papers.mechanism import figures, report
from mdlbench.papers.mechanism.evidence import Evidence
from mdlbench.papers.mechanism.latents import score
from mdlbench.papers.mechanism.measure import points_of
from mdlbench.papers.mechanism.plan import Plan
from mdlbench.report.outputs import write_outputs
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.suite.load import load_suite
from mdlbench.training.bilinear.task import image_task
from mdlbench.training.bilinear.trainer import measure_classifier
from mdlbench.training.bilinear.zoo import train_networks


def reproduce(folder: Path, on_stage: OnStage, engine: Engine = THIS_PROCESS) -> list[Path]:
    """Train, measure and score what is not there yet, and report into `folder`.

    Networks are in `folder/networks`, what their messages cost in `folder/points`, and the records
    of SAEs in `folder/scored`, a suite for each network; an interrupted run goes on where it was.

    Returns:
        The files written, those of networks, points and records apart.
    """
    return write_evidence(folder, gather(folder, Plan(), on_stage, engine))


def gather(folder: Path, plan: Plan, on_stage: OnStage, engine: Engine = THIS_PROCESS) -> Evidence:
    """Everything that the claims are decided by; what is there already is not made again."""
    task = image_task(load_suite(plan.suite))
    networks, configs = folder / "networks", plan.networks()
    for i, path in enumerate(train_networks(configs, task, networks, progress=False)):
        on_stage(f"network {i + 1} of {len(configs)}: {path.name}")
    points, records, accuracy = {}, {}, {}
    for key in configs:
        on_stage(f"messages of {key}")
        network = networks / key / NETWORK_FILE
        points[key] = points_of(folder / "points" / f"{key}.json", network, task, plan)
        accuracy[key] = measure_classifier(load_network(network), task).accuracy
    for key in configs:
        on_stage(f"SAEs before {key}")
        network = networks / key / NETWORK_FILE
        records[key] = score(network, folder / "scored" / key, plan, on_stage, engine)
    return Evidence(plan, points, records, accuracy, len(task.test_x))


def write_evidence(folder: Path, evidence: Evidence) -> list[Path]:
    """Figures, table and report; the same evidence, the same bytes."""
    words = report.to_markdown(evidence)
    return write_outputs(folder, figures.drawings(evidence), report.table(evidence), words)
