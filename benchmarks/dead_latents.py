"""Dead latents and error of TopK, Mutual Choice and Feature Choice with and without auxiliary loss.

    python benchmarks/dead_latents.py -o runs/dead-latents    # half an hour on two threads

Every SAE is trained on MNIST with the same settings but for its architecture and auxiliary loss, at
the same mean number of active latents per token, and measured on the test images as it is at
inference. A latent is dead if it is on for none of them. Runs are kept in the folder and continued.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train
from mdlbench.training.zoo import training_site


@dataclass(frozen=True)
class Variant:
    """An architecture with an auxiliary loss."""

    name: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("TopK, no auxiliary loss", "topk", {"aux_loss_coefficient": 0.0}),
    Variant("Mutual Choice, aux_zipf_loss · 1/32", "mutual_choice"),
    Variant("Feature Choice, uniform m, aux_zipf_loss · 1/32", "feature_choice"),
    Variant("Feature Choice, Zipf m, aux_zipf_loss · 1/32", "feature_choice", {"zipf": 0.7}),
    Variant("Mutual Choice, aux_zipf_loss · 1/4", "mutual_choice", {"aux_loss_coefficient": 0.25}),
    Variant("TopK, SAELens' aux_k_loss", "topk"),
)


def measured(folder: Path) -> dict[str, float]:
    result: dict[str, float] = json.loads((folder / "training.json").read_text())["result"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--width", type=int, nargs="+", default=[2048])
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=1024)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    opener = Opener(load_suite("mnist"), Setting("cpu"))
    source = opener.open(training_site(opener))
    print(
        f"MNIST, k {arguments.k}, {arguments.epochs} epochs, batches of {arguments.batch_size}, "
        f"one seed; 10,000 test images\n\n{'':50}{'dead':>8}{'L0':>8}{'MSE':>10}"
    )
    for width in arguments.width:
        print(f"{width:,} latents")
        for variant in VARIANTS:
            config = TrainingConfig(
                width=width,
                k=arguments.k,
                architecture=variant.architecture,
                epochs=arguments.epochs,
                batch_size=arguments.batch_size,
                lr=2e-3,
                patience=None,
                options=variant.options,
            )
            name = f"{width}-{VARIANTS.index(variant)}"
            result = measured(train(config, source, arguments.output / name, progress=False))
            print(
                f"  {variant.name:48}{result['dead_fraction']:8.1%}{result['l0']:8.2f}"
                f"{result['test_mse']:10.5f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
