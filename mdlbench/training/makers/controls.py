"""Dictionaries that nobody trains, for suites that know their features but not by a formula.

    python -m mdlbench.training.makers.controls --suite superposed-flat -o FOLDER

`linear-256` has the 256 most frequent features for decoder rows and reads each by its own
direction, beyond a threshold: what an encoder of one layer finds that knows the dictionary. The
others a benchmark should place last. They are made of it or, with `--sae`, of a trained SAE:
`permuted`, its decoder rows in another order; `random`, random rows that read what they write,
beyond a threshold at which as many are on; and `best-64`, the 64 of its latents that find their
features best. All are JumpReLU SAEs in SAELens' layout.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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

LINEAR, BEST = 256, 64
SEED = 0x636F6E7472
"""Seed of the controls; a world's own directions come from its suite's seed."""
FIRST_BLOCKS = 16
"""Blocks of calibration tokens that thresholds and the best latents are found on."""
CONFIG = {
    "architecture": "jumprelu",
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
}


def linear(source: ActivationSource, n: int = LINEAR) -> Weights:
    """The n most frequent features, each on as often as its rate says, where it is read strongest.

    Raises:
        UsageError: the source does not know its features.
    """
    features = _known(source).features
    kept = np.sort(features.most_frequent(n))
    rows = torch.from_numpy(features.directions[kept]).float()
    x = _first_tokens(source)
    mean = x.mean(dim=0)
    reads = ((x - mean) @ rows.T).numpy()
    above = [
        np.quantile(column, 1 - rate)
        for column, rate in zip(reads.T, features.rates[kept], strict=True)
    ]
    return {
        "W_enc": rows.T.contiguous(),
        "b_enc": torch.zeros(len(rows)),
        "W_dec": rows,
        "b_dec": mean,
        "threshold": torch.tensor(above).float(),
    }


def permuted(weights: Weights) -> Weights:
    """The SAE with its decoder rows in a random order, so that latents say something else."""
    order = np.random.default_rng([SEED, 0]).permutation(len(weights["W_dec"]))
    return {**weights, "W_dec": weights["W_dec"][torch.from_numpy(order)]}


def random(weights: Weights, source: ActivationSource) -> Weights:
    """Random unit rows, encoder and decoder alike, of which as many are on as of the SAE's."""
    normal = np.random.default_rng([SEED, 1]).standard_normal(weights["W_dec"].shape)
    rows = torch.nn.functional.normalize(torch.from_numpy(normal)).float()
    x = _first_tokens(source)
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
    """The n latents of highest F1 on the first calibration tokens, without the others.

    Raises:
        UsageError: the source does not know its features.
    """
    knowing = _known(source)
    matches = Matches.of(weights["W_dec"].numpy(), knowing.features.directions)
    n_features = len(knowing.features.rates)
    counts = MatchCounts.zeros(len(matches.feature), n_features)
    for block in source.blocks("calibration", 0, FIRST_BLOCKS):
        latents = SparseLatents.from_dense(fires(weights, block.activations).float().numpy())
        firing = knowing.firing("calibration", block)
        counts = counts + block_matches(latents, firing, matches.feature, n_features)
    kept = torch.from_numpy(np.sort(np.argsort(-matches.f1(counts), kind="stable")[:n]))
    some = {name: weights[name][kept] for name in ("W_dec", "b_enc", "threshold")}
    return {**weights, **some, "W_enc": weights["W_enc"][:, kept]}


def controls(source: ActivationSource, sae: Weights | None = None) -> dict[str, Weights]:
    """All of them by name, the last three made of an SAE, or of the first.

    Raises:
        UsageError: the source does not know its features.
    """
    read = linear(source)
    weights = read if sae is None else sae
    return {
        f"linear-{LINEAR}": read,
        "permuted": permuted(weights),
        "random": random(weights, source),
        f"best-{BEST}": best(weights, source),
    }


def _known(source: ActivationSource) -> KnowsFeatures:
    if not isinstance(source, KnowsFeatures):
        raise UsageError("controls are made for a suite that knows its features, and this does not")
    return source


def _first_tokens(source: ActivationSource) -> Float32[torch.Tensor, "token d"]:
    blocks = source.blocks("calibration", 0, FIRST_BLOCKS)
    return torch.cat([block.activations for block in blocks])


def fires(
    weights: Weights, x: Float32[torch.Tensor, "token d"]
) -> Bool[torch.Tensor, "token latent"]:
    """Where the latents of a JumpReLU SAE are on."""
    reads = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    return reads > weights["threshold"].clamp_min(0.0)


def write_control(weights: Weights, name: str, hook: str, folder: Path) -> None:
    """A control in SAELens' layout, its weights in half precision."""
    d_sae, d_in = weights["W_dec"].shape
    metadata = {"hook_name": hook, "training_architecture": name}
    content = {**CONFIG, "d_in": d_in, "d_sae": d_sae, "metadata": metadata}
    half = {key: tensor.half().contiguous() for key, tensor in weights.items()}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / SAE_CFG_FILENAME, text.encode())
    write_atomically(folder / SAE_WEIGHTS_FILENAME, save(half))


def main(
    output: Annotated[Path, typer.Option("-o", help="Folder that gets one folder for each.")],
    suite: Annotated[str, typer.Option(help="A suite that knows its features.")],
    sae: Annotated[
        Path | None, typer.Option(help="Folder of the SAE that the others are made of.")
    ] = None,
) -> None:
    """Write the controls of a suite that knows its features."""
    opener = Opener(load_suite(suite))
    source = opener.open(training_site(opener))
    made = controls(source, None if sae is None else _trained(sae))
    for name, found in made.items():
        write_control(found, name, source.hook, output / name)
        typer.echo(f"{output / name}: written")


def _trained(sae: Path) -> Weights:
    if load_json(sae / SAE_CFG_FILENAME).get("architecture") != "jumprelu":
        raise UsageError(f"{sae}: not a JumpReLU SAE at inference")
    loaded = load_file(sae / SAE_WEIGHTS_FILENAME)
    return {name: value.float() for name, value in loaded.items()}


if __name__ == "__main__":
    typer.run(main)
