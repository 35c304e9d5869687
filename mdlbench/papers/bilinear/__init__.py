"""Bilinear MLPs on MNIST: what is claimed of weights alone, tested on networks trained here."""

from __future__ import annotations

from pathlib import Path

from mdlbench.bilinear.network import NETWORK_FILE, load_network
from mdlbench.console.stages import OnStage
from mdlbench.papers.bilinear import figures, report
from mdlbench.papers.bilinear.evidence import Evidence
from mdlbench.papers.bilinear.known_task import Known, known_config, known_task, measure_known
from mdlbench.papers.bilinear.masks import measure_masks
from mdlbench.papers.bilinear.measure import measure
from mdlbench.papers.bilinear.plan import Plan
from mdlbench.report.outputs import write_outputs
from mdlbench.suite.load import load_suite
from mdlbench.training.bilinear.task import Task, image_task
from mdlbench.training.bilinear.trainer import train_bilinear
from mdlbench.training.bilinear.zoo import train_networks

NETWORKS = "networks"


def reproduce(folder: Path, on_stage: OnStage) -> list[Path]:
    """Train the networks that are not there yet, measure them, and report into `folder`.

    Networks are in `folder/networks`, one folder each; an interrupted run goes on where it was.

    Returns:
        The files written, those of the networks apart.
    """
    task = image_task(load_suite("mnist"))
    return write_evidence(folder, gather(folder, task, Plan(), on_stage))


def gather(folder: Path, task: Task, plan: Plan, on_stage: OnStage) -> Evidence:
    """Everything that the claims are decided by; what is trained already is not trained again."""
    networks, configs = folder / NETWORKS, plan.networks()
    on_stage(f"{len(configs)} networks")
    for i, path in enumerate(train_networks(configs, task, networks, progress=False)):
        on_stage(f"network {i + 1} of {len(configs)}: {path.name}")
    on_stage("eigenvectors")
    measured = {
        key: measure(config, load_network(networks / key / NETWORK_FILE), task)
        for key, config in configs.items()
    }
    on_stage("masks")
    masked = {
        config.key: measure_masks(load_network(networks / config.key / NETWORK_FILE), task)
        for config in (*plan.accurate, *plan.noiseless)
    }
    on_stage("a task whose answer is known")
    known = [_known(networks, seed, plan.known_epochs) for seed in range(plan.known_seeds)]
    return Evidence(plan, task.image_shape or (1, task.d_in), measured, masked, known)


def write_evidence(folder: Path, evidence: Evidence) -> list[Path]:
    """Figures, table and report; the same evidence, the same bytes."""
    words = report.to_markdown(evidence)
    return write_outputs(folder, figures.drawings(evidence), report.table(evidence), words)


def _known(networks: Path, seed: int, epochs: int) -> list[Known]:
    task, targets = known_task(seed)
    config = known_config(seed, epochs)
    folder = train_bilinear(config, task, networks / f"known-s{seed}", progress=False)
    return measure_known(load_network(folder / NETWORK_FILE).quadratic(), task, targets)
