"""Dictionaries that find no features, made from one that may.

    python -m mdlbench.training.makers.controls FOLDER --suite superposed-flat -o FOLDER

A benchmark should place them last. They are made of a trained SAE of a suite that knows its
features, in SAELens' layout: `permuted`, its decoder rows in another order; `random`, random rows
that read what they write, beyond a threshold at which as many are on; and `best-64`, the 64 of its
latents that find their features best.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float32
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors.torch import load_file, save

from mdlbench.adapters.checkpoint import load_json
from mdlbench.codes.latents import SparseLatents
from mdlbench.disk.files import write_atomically
from mdlbench.errors import UsageError
from mdlbench.scoring.truth import block_matches
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource, KnowsFeatures
from mdlbench.statistics.truth import MatchCounts, Matches
from mdlbench.suite.load import load_suite
from mdlbench.training.zoo import training_site

Weights = dict[str, torch.Tensor]

BEST = 64
SEED = 0x636F6E7472
"""Of the controls; a world's own directions come from its suite's seed."""
QUANTILE_BLOCKS = 16
"""Blocks of calibration tokens that the random dictionary's threshold is found on."""


def permuted(weights: Weights) -> Weights:
    """The SAE with its decoder rows in a random order, so that latents say something else."""
    order = np.random.default_rng([SEED, 0]).permutation(len(weights["W_dec"]))
    return {**weights, "W_dec": weights["W_dec"][torch.from_numpy(order)]}


def random(weights: Weights, source: ActivationSource) -> Weights:
    """Random unit rows, encoder and decoder alike, of which as many are on as of the SAE's."""
    normal = np.random.default_rng([SEED, 1]).standard_normal(weights["W_dec"].shape)
    rows = torch.nn.functional.normalize(torch.from_numpy(normal)).float()
    blocks = list(source.blocks("calibration", 0, QUANTILE_BLOCKS))
    x = torch.cat([block.activations for block in blocks])
    mean = x.mean(dim=0)
    share = float(fires(weights, x).float().mean())
    threshold = float(np.quantile(((x - mean) @ rows.T).numpy(), 1 - share))
    return {
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(len(rows)),
        "W_dec": rows,
        "b_dec": mean,
        "threshold": torch.full((len(rows),), threshold),
    }


def best(weights: Weights, source: ActivationSource, n: int = BEST) -> Weights:
    """The n latents of highest F1 on the calibration split, without the others.

    Raises:
        UsageError: the source does not know its features.
    """
    if not isinstance(source, KnowsFeatures):
        raise UsageError("the best latents are those that find features: this suite knows none")
    matches = Matches.of(weights["W_dec"].numpy(), source.features.directions)
    n_features = len(source.features.rates)
    counts = MatchCounts.zeros(len(matches.feature), n_features)
    for block in source.blocks("calibration"):
        latents = SparseLatents.from_dense(fires(weights, block.activations).float().numpy())
        firing = source.firing("calibration", block)
        counts = counts + block_matches(latents, firing, matches.feature, n_features)
    kept = torch.from_numpy(np.sort(np.argsort(-matches.f1(counts), kind="stable")[:n]))
    some = {name: weights[name][kept] for name in ("W_dec", "b_enc", "threshold")}
    return {**weights, **some, "W_enc": weights["W_enc"][:, kept]}


def fires(
    weights: Weights, x: Float32[torch.Tensor, "token d"]
) -> Bool[torch.Tensor, "token latent"]:
    """Where the latents of a JumpReLU SAE are on."""
    reads = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    return reads > weights["threshold"].clamp_min(0.0)


def write_control(config: dict[str, Any], weights: Weights, name: str, folder: Path) -> None:
    """A control in SAELens' layout, its weights in half precision."""
    metadata = {**config["metadata"], "training_architecture": name}
    content = {**config, "d_sae": len(weights["W_dec"]), "metadata": metadata}
    half = {key: tensor.half().contiguous() for key, tensor in weights.items()}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / SAE_CFG_FILENAME, text.encode())
    write_atomically(folder / SAE_WEIGHTS_FILENAME, save(half))


def main(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE that is a JumpReLU one.")],
    output: Annotated[Path, typer.Option("-o", help="Folder that gets one folder for each.")],
    suite: Annotated[str, typer.Option(help="Its suite.")] = "superposed-flat",
) -> None:
    """Write the controls of a suite that knows its features."""
    opener = Opener(load_suite(suite))
    source = opener.open(training_site(opener))
    config = load_json(sae / SAE_CFG_FILENAME)
    if config.get("architecture") != "jumprelu":
        raise typer.BadParameter(f"{sae}: not a JumpReLU SAE at inference")
    weights = {key: value.float() for key, value in load_file(sae / SAE_WEIGHTS_FILENAME).items()}
    made = {
        "permuted": permuted(weights),
        "random": random(weights, source),
        f"best-{BEST}": best(weights, source),
    }
    for name, found in made.items():
        write_control(config, found, name, output / name)
        typer.echo(f"{output / name}: written")


if __name__ == "__main__":
    typer.run(main)
