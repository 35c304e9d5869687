"""Explanations of a bilinear MLP's output, each scored as `mdlbench eval` scores an SAE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sae_lens.constants import SAE_WEIGHTS_FILENAME

from mdlbench.adapters.load import NamedCoder
from mdlbench.console.stages import OnStage, labelled
from mdlbench.disk.files import sha256_of
from mdlbench.papers.bilinear_language.converted import (
    open_converted,
    output_site,
    transcoder_site,
)
from mdlbench.papers.bilinear_language.eigencoders import VERSION, Explainer
from mdlbench.papers.bilinear_language.gated import Gated
from mdlbench.papers.bilinear_language.kept import kept_result
from mdlbench.papers.bilinear_language.outputs import Half
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.world import World
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.worker import HeldSae, Sae
from mdlbench.suite.site import Site

SAE, PCA, RANDOM, SQUARES, SCALED = "sae", "pca", "random", "squares", "squares-scaled"
"""Keys of explanations; those of eigenvectors have their number."""
DECIDING = ("epsilons", "fvus", "test_contexts", "code_contexts", "replicates")
"""Fields of the plan that decide what is measured of any explanation."""


def eigen(n: int) -> str:
    """The key of n eigenvectors a feature."""
    return f"eigen-{n}"


@dataclass(frozen=True, eq=False)
class Explanation:
    """An explanation of the output.

    Attributes:
        site: where it reads and writes.
        sae: how it is had.
        depends_on: what decides it, beside layer and texts, as JSON has it.
    """

    site: Site
    sae: Sae
    depends_on: Mapping[str, Any]


def keys(plan: Plan) -> tuple[str, ...]:
    """Explanations in the order in which they are scored and shown."""
    return (SAE, *map(eigen, plan.eigenvectors), SQUARES, SCALED, PCA, RANDOM)


def explaining(plan: Plan) -> tuple[str, ...]:
    """Those that are read off the layer's weights."""
    return (*map(eigen, plan.eigenvectors), SQUARES, SCALED)


def called(key: str, plan: Plan) -> str:
    """An explanation as figures and tables call it."""
    names = {
        SAE: "SAE",
        SQUARES: f"{plan.squares:,} squares",
        SCALED: f"{plan.squares:,} squares, inputs scaled",
        PCA: "PCA",
        RANDOM: f"{plan.directions} random directions",
    }
    if key in names:
        return names[key]
    n = key.removeprefix(eigen(0)[:-1])
    return f"{n} eigenvector{'' if n == '1' else 's'} a feature"


def score_explanations(
    layer: Gated, x: Half, sae: Path, world: World, plan: Plan, folder: Path, on_stage: OnStage
) -> dict[str, EvalRecord]:
    """The record of each explanation by its key; those that `folder` keeps are not scored again.

    Args:
        layer: the studied one.
        x: its inputs at training tokens.
        sae: the folder of the SAE on its output.
        world: the model and its texts.
        plan: which explanations, and at which tolerances.
        folder: keeps a file for each.
        on_stage: told what is scored.
    """
    found = explanations(layer, x[: plan.fitted], sae, world, plan)
    executor = cache(lambda: InProcess(open_converted(world, layer, plan, on_stage)))
    bench = cache(lambda site: Bench.open(executor(), Site.model_validate_json(site)))
    settings = {name: value for name, value in asdict(plan).items() if name in DECIDING}
    origin = {**world.where, "scored": world.scored.sha256, "layer": layer.sha256, **settings}
    records = {}
    for key, one in found.items():

        def measure(key: str = key, one: Explanation = one) -> Any:
            on_stage(f"explanation: {called(key, plan)}")
            return _scored(bench(one.site.model_dump_json()), one.sae, key, on_stage)

        depends_on = {**origin, **one.depends_on, "site": one.site.label}
        kept = kept_result(folder / f"{key}.json", depends_on, measure)
        records[key] = EvalRecord.model_validate_json(json.dumps(kept))
    return records


def explanations(
    layer: Gated, x: Half, sae: Path, world: World, plan: Plan
) -> dict[str, Explanation]:
    """All that are scored, by key; nothing of them is computed yet."""
    out, through = output_site(world, plan), transcoder_site(world, plan)
    named = NamedCoder(str(sae.resolve()), adapter="saelens")
    digest = sha256_of(sae / SAE_WEIGHTS_FILENAME)
    fitted = {"version": VERSION, "fitted": len(x)}
    explainer = Explainer(layer, x, max(plan.eigenvectors))

    def predicted(n: int) -> Explanation:
        held = HeldSae(lambda source: explainer.predicted(named.load(source), n))
        return Explanation(through, held, {**fitted, "sae": digest, "eigenvectors": n})

    def squares(scaled: bool) -> Explanation:
        held = HeldSae(lambda source: explainer.squares(plan.squares, scaled))
        return Explanation(through, held, {**fitted, "squares": plan.squares, "scaled": scaled})

    def baseline(spec: str) -> Explanation:
        return Explanation(out, NamedCoder(f"baseline:{spec}"), {"baseline": spec})

    made = {
        SAE: Explanation(out, named, {"sae": digest}),
        **{eigen(n): predicted(n) for n in plan.eigenvectors},
        SQUARES: squares(False),
        SCALED: squares(True),
        PCA: baseline("pca"),
        RANDOM: baseline(f"random?directions={plan.directions}"),
    }
    return {key: made[key] for key in keys(plan)}


def _scored(bench: Bench, sae: Sae, key: str, on_stage: OnStage) -> dict[str, Any]:
    """The record of an explanation, as JSON has it."""
    identity = bench.identity(bench.identify(sae), key)
    record = evaluate_coder(bench, sae, identity, labelled(on_stage, key)).record
    return record.model_dump(mode="json", exclude_none=True)
