"""Bits of the true features of a hierarchical world: the flat code, parents alone, siblings too.

The world is one of `sae_lens.synthetic`: trees of exclusive children (four roots, four children
each, three levels). Its oracle reads the true coefficients of its most frequent features, which are
rounded to one step and coded as an SAE's latents are. The step is the coarsest, in twentieths of an
octave, that loses at most a share ε of the variance of test tokens. Prints one JSON object.

    python benchmarks/hierarchical_world.py --features 256 --epsilon 0.2
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np
import sae_lens.synthetic as synthetic
import torch

from mdlbench.codes.codelength import Codebook
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import Symbols, dequantise, quantise
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook

CALIBRATION_TOKENS, TEST_TOKENS = 32_768, 16_384
BATCH = 4096
STEPS = 2.0 ** (np.arange(80, -40, -1) / 20)


@dataclass(frozen=True)
class Oracle:
    """True coefficients of some features on both splits, and what they leave of the activations.

    Attributes:
        splits: calibration and test latents, times the norms of the features' directions.
        directions: of unit norm, by feature.
        activations: of the test tokens, less the world's bias.
        parents: each feature's true parent among them, −1 for none.
    """

    splits: tuple[SparseLatents, SparseLatents]
    directions: np.ndarray
    activations: np.ndarray
    parents: np.ndarray

    def fvu(self, step: float) -> float:
        """Share of the test tokens' variance that rounded coefficients lose."""
        values = dequantise(quantise(self.splits[1], step), step).to_dense()
        x = self.activations
        lost = np.square(x - values @ self.directions).sum()
        return float(lost / np.square(x - x.mean(axis=0)).sum())


def world(seed: int) -> synthetic.SyntheticModel:
    return synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=512,
            hidden_dim=128,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(
                exponent=0.5, max_prob=0.4, min_prob=0.002
            ),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=4,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                mutually_exclusive_min_depth=0,
                compensate_probabilities=True,
                scale_children_by_parent=True,
            ),
            orthogonalization=synthetic.OrthogonalizationConfig(num_steps=200, lr=0.01),
            correlation=synthetic.LowRankCorrelationConfig(rank=8, correlation_scale=0.1),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(5, 4),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(0.5, 0.5),
            bias=0.5,
            seed=seed,
        )
    )


def true_parents(model: synthetic.SyntheticModel) -> np.ndarray:
    """Each feature's parent in the world, −1 for none."""
    parents = np.full(model.cfg.num_features, -1)
    waiting = [(root, -1) for root in model.hierarchy.roots]
    while waiting:
        node, parent = waiting.pop()
        if node.feature_index is not None:
            parents[node.feature_index] = parent
            parent = node.feature_index
        waiting += [(child, parent) for child in node.children]
    return parents


def drawn(model: synthetic.SyntheticModel, seed: int, n_tokens: int) -> np.ndarray:
    torch.manual_seed(seed)
    batches = [model.activation_generator.sample(BATCH) for _ in range(n_tokens // BATCH)]
    return torch.cat([b.to_dense() if b.is_sparse else b for b in batches]).numpy()


def oracle(model: synthetic.SyntheticModel, n_features: int, draws: tuple[int, int]) -> Oracle:
    """The most frequent features on calibration tokens."""
    calibration = drawn(model, draws[0], CALIBRATION_TOKENS)
    test = drawn(model, draws[1], TEST_TOKENS)
    rows = model.feature_dict.feature_vectors.detach().numpy()
    kept = np.argsort(-(calibration > 0).sum(axis=0), kind="stable")[:n_features]
    number = np.full(len(rows) + 1, -1)
    number[kept] = np.arange(n_features)
    norms = np.linalg.norm(rows, axis=1)
    return Oracle(
        tuple(SparseLatents.from_dense((z * norms)[:, kept]) for z in (calibration, test)),
        (rows / norms[:, None])[kept],
        test @ rows,
        number[true_parents(model)[kept]],
    )


def bits(book: TreeCodebook, test: Symbols) -> float:
    return book.bits(SymbolCounts.of(test), book.met([test])).total


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--features", type=int, default=256)
    arguments.add_argument("--epsilon", type=float, default=0.2)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--draws", type=int, nargs=2, default=(12, 13))
    chosen = arguments.parse_args()
    truth = oracle(world(chosen.seed), chosen.features, tuple(chosen.draws))
    step = next(float(step) for step in STEPS if truth.fvu(step) <= chosen.epsilon)
    calibration, test = (quantise(split, step) for split in truth.splits)
    flat = Codebook.fit(SymbolCounts.of(calibration))
    forest = Forest.from_parents(truth.parents)
    alone = TreeCodebook.of_forest(flat, forest, forest.joint_counts([calibration])).pruned()
    runs = Runs.here(lambda: [calibration])
    told, learned = (TreeCodebook.fit(flat, runs, parents) for parents in (truth.parents, None))
    print(
        json.dumps(
            {
                "features": chosen.features,
                "epsilon": chosen.epsilon,
                "step": step,
                "fvu": truth.fvu(step),
                "l0": test.nnz / test.n_tokens,
                "flat": flat.bits(SymbolCounts.of(test)).total,
                "parents": bits(alone, test),
                "siblings": bits(told, test),
                "learned forest": bits(learned, test),
                "header bits": [told.header_bits, learned.header_bits],
                "rules": np.bincount(told.contexts.rule[told.forest.is_child]).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
