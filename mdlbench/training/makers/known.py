"""Dictionaries that nobody trains.

    python -m mdlbench.training.makers.known --suite toy -o FOLDER

The features of a synthetic suite are known, so an SAE can be written down that has exactly these,
or others that describe the same activations: pairs split three ways, pairs merged, hierarchies
absorbed. Each is saved as a JumpReLU SAE in SAELens' layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float64
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors.torch import save
from scipy.linalg import block_diag

from mdlbench.codes.closed_forms import entropy, fixed_rates_bits
from mdlbench.disk.files import write_atomically
from mdlbench.errors import UsageError
from mdlbench.sources.kinds.synthetic import (
    SYNTHETIC,
    Features,
    LoneFeature,
    PairOfFeatures,
    ParentAndChild,
    SyntheticConfig,
)
from mdlbench.sources.synthetic import directions, outcomes
from mdlbench.suite.load import load_suite

DIAGONAL = 0.5**0.5
WIDEST_SPREAD = 0.15
"""Largest spread of magnitudes at which lines still tell the outcomes of a pair apart."""


@dataclass(frozen=True)
class Latent:
    """A latent of one group, in coordinates of the group's features.

    Attributes:
        reads: its encoder's weight on each feature's contribution.
        threshold: it is on where what it reads exceeds this.
        writes: its decoder row, of unit norm.
        probability: that it is on, if features are read without error.
    """

    reads: tuple[float, ...]
    threshold: float
    writes: tuple[float, ...]
    probability: float


Choice = Callable[[Features], list[Latent]]
"""How a dictionary describes a group of features."""


def truth(group: Features) -> list[Latent]:
    """A latent for each feature."""
    if isinstance(group, LoneFeature):
        return [Latent((1.0,), 0.5, (1.0,), group.probability)]
    if isinstance(group, PairOfFeatures):
        first, second = group.probabilities
    else:
        first, second = group.probability, group.probability * group.child
    return [Latent((1.0, 0.0), 0.5, (1.0, 0.0), first), Latent((0.0, 1.0), 0.5, (0.0, 1.0), second)]


def split(group: Features) -> list[Latent]:
    """A pair as A alone, B alone, and both; all else as it is.

    Three features in a plane, and linear reads that measure the distance from a dividing line: A
    alone is on beyond a − b/2 = ¾, both beyond a + b = 3/2. What distinguishes a from b where both
    are on is lost.
    """
    if not isinstance(group, PairOfFeatures):
        return truth(group)
    a, b = group.probabilities
    return [
        _first_alone(a - group.both),
        Latent((-0.5, 1.0), 0.75, (0.0, 1.0), b - group.both),
        _both(group.both),
    ]


def split_where_shorter(group: Features) -> list[Latent]:
    """A pair split where that is shorter for features without magnitudes (maths §9)."""
    return min(truth(group), split(group), key=support_bits)


def absorbed(group: Features) -> list[Latent]:
    """A hierarchy as child, its parent absorbed, and parent without child; all else as it is."""
    if not isinstance(group, ParentAndChild):
        return truth(group)
    child = group.probability * group.child
    return [_first_alone(group.probability - child), _both(child)]


def shortest(group: Features) -> list[Latent]:
    """Whichever of these is the shortest for features without magnitudes."""
    return min(truth(group), split(group), absorbed(group), key=support_bits)


def merged(group: Features) -> list[Latent]:
    """A pair as one latent that is on where either is; all else as it is."""
    if not isinstance(group, PairOfFeatures):
        return truth(group)
    either = sum(group.probabilities) - group.both
    return [Latent((DIAGONAL, DIAGONAL), 0.5 * DIAGONAL, (DIAGONAL, DIAGONAL), either)]


def _first_alone(probability: float) -> Latent:
    return Latent((1.0, -0.5), 0.75, (1.0, 0.0), probability)


def _both(probability: float) -> Latent:
    return Latent((DIAGONAL, DIAGONAL), 1.5 * DIAGONAL, (DIAGONAL, DIAGONAL), probability)


KNOWN: dict[str, Choice] = {
    "truth": truth,
    "split-all": split,
    "split-correlated": split_where_shorter,
    "absorbed": absorbed,
    "shortest": shortest,
    "merged": merged,
}


def support_bits(latents: list[Latent]) -> float:
    """Σ H₂ of the latents' firing probabilities: bits per token to tell which are on (maths §3)."""
    return fixed_rates_bits(np.array([latent.probability for latent in latents]))


def expected_bits(config: SyntheticConfig, choice: Choice) -> float:
    """What a dictionary costs where every feature is on or off and no more (maths §9)."""
    return support_bits([latent for group in config.features for latent in choice(group)])


def joint_bits(config: SyntheticConfig) -> float:
    """The entropy of what fires: no code that tells it exactly needs less (maths §9)."""
    return sum(_group_bits(group) for group in config.features)


def _group_bits(group: Features) -> float:
    probabilities = [probability for _, probability in outcomes(group)]
    nothing = max(1 - sum(probabilities), 0.0)
    return float(entropy(np.array([*probabilities, nothing])[:, None])[0])


def dictionary(config: SyntheticConfig, choice: Choice) -> dict[str, torch.Tensor]:
    """The tensors of a JumpReLU SAE in float32, the same bytes on every machine.

    Raises:
        UsageError: magnitudes spread so far that no line divides the outcomes of a pair.
    """
    if config.spread > WIDEST_SPREAD:
        raise UsageError(
            f"a spread of magnitudes of {config.spread:g}: lines tell the outcomes of a pair apart "
            f"up to {WIDEST_SPREAD:g}"
        )
    chosen = [choice(group) for group in config.features]
    latents = [latent for group in chosen for latent in group]
    tensors = {
        "W_enc": _in_space(config, [[latent.reads for latent in group] for group in chosen]).T,
        "b_enc": np.zeros(len(latents)),
        "W_dec": _in_space(config, [[latent.writes for latent in group] for group in chosen]),
        "b_dec": np.zeros(config.d),
        "threshold": np.array([latent.threshold for latent in latents]),
    }
    return {name: torch.from_numpy(tensor).float().contiguous() for name, tensor in tensors.items()}


def _in_space(
    config: SyntheticConfig, groups: list[list[tuple[float, ...]]]
) -> Float64[np.ndarray, "latent d"]:
    """Vectors of each group, in coordinates of its features, as vectors of activations."""
    coordinates = block_diag(*(np.array(group) for group in groups))
    return np.asarray((coordinates[:, :, None] * directions(config)).sum(axis=1))


def write_sae(config: SyntheticConfig, name: str, folder: Path) -> None:
    """One of `KNOWN` in SAELens' layout."""
    tensors = dictionary(config, KNOWN[name])
    settings = {
        "architecture": "jumprelu",
        "d_in": config.d,
        "d_sae": len(tensors["b_enc"]),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"hook_name": SYNTHETIC, "training_architecture": "known"},
    }
    write_atomically(folder / SAE_CFG_FILENAME, (json.dumps(settings, indent=2) + "\n").encode())
    write_atomically(folder / SAE_WEIGHTS_FILENAME, save(tensors))


def main(
    output: Annotated[Path, typer.Option("-o", help="Folder that gets one folder for each SAE.")],
    suite: Annotated[str, typer.Option(help="A suite of synthetic activations.")] = "toy",
) -> None:
    """Write the known dictionaries of a suite's features, and print the rates to expect."""
    source = load_suite(suite).source
    if not isinstance(source, SyntheticConfig):
        raise typer.BadParameter(f"suite {suite!r} is not synthetic")
    for name, choice in KNOWN.items():
        write_sae(source, name, output / name)
        typer.echo(f"{name}: {expected_bits(source, choice):.3f} bits/token for what is on")
    typer.echo(f"joint entropy of the features: {joint_bits(source):.3f} bits/token")


if __name__ == "__main__":
    typer.run(main)
