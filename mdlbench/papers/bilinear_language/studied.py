"""What the eigenvectors of one converted layer tell of the features of SAEs on its output."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sae_lens.constants import SAE_WEIGHTS_FILENAME

from mdlbench.adapters.formats.saelens.told import told_in
from mdlbench.console.stages import OnStage
from mdlbench.disk.files import sha256_of
from mdlbench.papers.bilinear_language.dictionaries import (
    Recorded,
    load_dictionary,
    train_on,
)
from mdlbench.papers.bilinear_language.explained import Feature, explain, interaction_shares
from mdlbench.papers.bilinear_language.gated import Gated
from mdlbench.papers.bilinear_language.inputs import Harvest
from mdlbench.papers.bilinear_language.kept import kept_result
from mdlbench.papers.bilinear_language.outputs import Half, outputs_of, variance
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.world import World
from mdlbench.sources.language.hooks import Hook

DRAWN = ("tokens", "held_out", "features", "least_active", "interacting", "seed")
"""Fields of the plan that decide which features are looked at, and on what."""


class Studied(NamedTuple):
    """What was found.

    Attributes:
        features: of each output SAE, by the length of its training.
        fvu: share of the outputs' variance that each loses on held-out tokens.
        shares: of interactions, for some features of the one trained for longest.
        sae: that one's folder.
    """

    features: dict[int, list[Feature]]
    fvu: dict[int, float]
    shares: list[list[float]]
    sae: Path


def study(
    layer: Gated, harvested: Harvest, world: World, plan: Plan, folder: Path, on_stage: OnStage
) -> Studied:
    """Train SAEs on a bilinear layer's input and output, and explain the output's features."""
    n = plan.studied
    x, held_out = harvested.trained_on(n), harvested.held_out(n)
    y, held_out_y = outputs_of(layer, x), outputs_of(layer, held_out)
    longest = max(plan.budgets)
    on_stage(f"SAE on the input of layer {n}")
    read = _recorded(world, Hook(n, "mlp_in"), x, held_out)
    inputs = train_on(read, plan, longest, folder / "saes" / f"input-{longest}x")
    written, saes = _recorded(world, Hook(n, "mlp_out"), y, held_out_y), {}
    for budget in plan.budgets:
        on_stage(f"SAE on the output of layer {n}: {budget}x")
        saes[budget] = train_on(written, plan, budget, folder / "saes" / f"output-{budget}x")
    settings = {name: value for name, value in asdict(plan).items() if name in DRAWN}
    origin = {**world.where, **settings, "layer": layer.sha256}
    features = {}
    for budget, sae in saes.items():
        on_stage(f"eigenvectors: {budget}x")
        features[budget] = _features(layer, sae, held_out, plan, origin, folder)
    on_stage("interactions")
    shares = _shares(layer, saes[longest], inputs, held_out, plan, origin, folder)
    spread = variance(held_out_y) / held_out_y.shape[1]
    fvu = {budget: _test_mse(sae) / spread for budget, sae in saes.items()}
    return Studied(features, fvu, shares, saes[longest])


def _recorded(world: World, hook: Hook, x: Half, held_out: Half) -> Recorded:
    return Recorded(world.site.model_copy(update={"hook": hook.name}), x, held_out)


def _features(
    layer: Gated, sae: Path, x: Half, plan: Plan, origin: dict[str, Any], folder: Path
) -> list[Feature]:
    def measure() -> list[dict[str, Any]]:
        found = explain(layer.bilinear(), load_dictionary(sae), x, plan)
        return [asdict(feature) for feature in found]

    depends_on = {**origin, "output": sha256_of(sae / SAE_WEIGHTS_FILENAME)}
    kept = kept_result(folder / "explained" / f"{sae.name}.json", depends_on, measure)
    return [Feature(**one) for one in kept]


def _shares(
    layer: Gated,
    sae: Path,
    inputs: Path,
    x: Half,
    plan: Plan,
    origin: dict[str, Any],
    folder: Path,
) -> list[list[float]]:
    def measure() -> list[list[float]]:
        both = (load_dictionary(sae), load_dictionary(inputs))
        return interaction_shares(layer.bilinear(), *both, x, plan)

    digests = {"output": sae, "input": inputs}
    depends_on = {
        **origin,
        **{name: sha256_of(path / SAE_WEIGHTS_FILENAME) for name, path in digests.items()},
    }
    shares: list[list[float]] = kept_result(
        folder / "explained" / "interactions.json", depends_on, measure
    )
    return shares


def _test_mse(sae: Path) -> float:
    return told_in(sae).mse or math.nan
