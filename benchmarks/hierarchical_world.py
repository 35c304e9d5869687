"""Whether the true features of a hierarchical world are shorter than trained SAEs, by each code.

    python benchmarks/hierarchical_world.py -o runs/world        # about 4 minutes of one core
    python benchmarks/hierarchical_world.py -o runs/world --seed 1 --draws 21 22 23

The world is one of `sae_lens.synthetic`: trees of exclusive children (four roots, four children
each, three levels), 512 features in 128 dimensions. An oracle reads the true coefficients of its
most frequent features, which are rounded and coded as the latents of an SAE are. SAEs are trained
by mdlbench's trainer. Bits at ε are read off each curve as the score is (maths §6), along its lower
convex hull, of steps an eighth of an octave apart; and, to compare, at one step, the
coarsest within ε, without sharing tokens between two. Intervals redraw the test tokens, the same
ones for all, so that differences are paired. All that takes long is kept in the folder: a run that
was killed goes on.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import sae_lens.synthetic as synthetic
import torch
from jaxtyping import Float32, Float64, Int64

from mdlbench.adapters.load import NamedCoder
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.forest import learn_forest
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import dequantise, quantise
from mdlbench.codes.tally import SymbolCounts
from mdlbench.codes.tree import TreeCodebook
from mdlbench.sources.protocol import Block, Split
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval
from mdlbench.statistics.tolerance import cheapest_within, step_at
from mdlbench.suite.site import Site
from mdlbench.training.config import TrainingConfig
from mdlbench.training.trainer import train

BATCH = 4096
TRAINING_STEPS, STEP_TOKENS, EPOCHS = 1500, 1024, 4
TRAINING_TOKENS = TRAINING_STEPS * STEP_TOKENS // EPOCHS
"""The first of a pool of 400,000: four passes over these are 1,500 steps."""
CALIBRATION_TOKENS, TEST_TOKENS = 32_768, 16_384
N_FEATURES, WIDTH = 512, 256
ORACLES = (256, 512)
SAES: dict[str, dict[str, Any]] = {
    "batchtopk-256-k2": {"architecture": "batchtopk", "k": 2},
    "batchtopk-256-k4": {"architecture": "batchtopk", "k": 4},
    "topk-256-k4": {"architecture": "topk", "k": 4},
    "mp-256-3": {
        "architecture": "matching_pursuit",
        "options": {
            "max_iterations": 3,
            "residual_threshold": 0.0,
            "stop_on_duplicate_support": False,
            "decoder_init_norm": 1.0,
        },
    },
    "matryoshka-256-k4": {
        "architecture": "matryoshka_batchtopk",
        "k": 4,
        "options": {"matryoshka_widths": [16, 64, 256]},
    },
}
STEPS_OF_CURVE = np.array([step_at(2.0, position) for position in range(8 * 4 + 1)])
"""An eighth of an octave apart: at the finest, every dictionary is within the ε asked for, and at
the coarsest hardly a latent is on. Curves are not monotone here: magnitudes are much alike."""
REPLICATES = 1000
FLAT, PARENTS, SIBLINGS = "flat", "parents", "siblings"
GIVEN, LEARNED = "given", "learned"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the SAEs")
    parser.add_argument(
        "--draws", type=int, nargs=3, default=(11, 12, 13), help="training, calibration, test"
    )
    parser.add_argument("--epsilon", type=float, nargs="+", default=(0.18, 0.2, 0.25))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.output / f"seed-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    tokens = Tokens.drawn(world(arguments.seed), folder, arguments.draws)
    coders = [*oracles(tokens), *trained(tokens, folder, arguments.seed)]
    panel = Panel(
        [kept_curve(coder, tokens, folder) for coder in coders],
        Bootstrap(np.ones(TEST_TOKENS), REPLICATES, seed=0),
    )
    draws = ", ".join(map(str, arguments.draws))
    print(f"World of seed {arguments.seed}, pools drawn after seeds {draws}")
    print("\n".join(panel.report(arguments.epsilon)))


# --- the world and its tokens ---------------------------------------------------------------


def world(seed: int) -> synthetic.SyntheticModel:
    return synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=N_FEATURES,
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


def true_parents(model: synthetic.SyntheticModel) -> Int64[np.ndarray, " feature"]:
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


def batches(
    model: synthetic.SyntheticModel, seed: int, n_tokens: int
) -> Iterator[Float32[torch.Tensor, "token feature"]]:
    """Coefficients of the features; as many batches as have these tokens."""
    torch.manual_seed(seed)
    for _ in range(math.ceil(n_tokens / BATCH)):
        yield model.activation_generator.sample(BATCH)


@dataclass(frozen=True)
class Tokens:
    """A world's tokens. For training it is a source whose calibration split are training tokens.

    Attributes:
        model: the world.
        training: activations.
        features: true coefficients on calibration and test tokens.
    """

    model: synthetic.SyntheticModel
    training: Float32[torch.Tensor, "token d"]
    features: tuple[Float32[torch.Tensor, "token feature"], Float32[torch.Tensor, "token feature"]]

    @classmethod
    @torch.no_grad()
    def drawn(cls, model: synthetic.SyntheticModel, folder: Path, draws: Sequence[int]) -> Tokens:
        path = folder / f"training-{draws[0]}.npy"
        if not path.exists():
            pool = torch.cat(
                [model.feature_dict(z) for z in batches(model, draws[0], TRAINING_TOKENS)]
            )
            part = path.with_suffix(".part.npy")
            np.save(part, pool[:TRAINING_TOKENS].numpy())
            part.rename(path)
        calibration = torch.cat(list(batches(model, draws[1], CALIBRATION_TOKENS)))
        test = torch.cat(list(batches(model, draws[2], TEST_TOKENS)))
        return cls(model, torch.from_numpy(np.load(path)), (calibration, test))

    @cached_property
    def activations(self) -> tuple[Float32[torch.Tensor, "token d"], ...]:
        """On calibration and test tokens."""
        with torch.no_grad():
            return tuple(self.model.feature_dict(z) for z in self.features)

    @cached_property
    def variation(self) -> float:
        """Σ‖x − x̄‖² over the test tokens."""
        x = self.activations[1].double()
        return float((x - x.mean(dim=0)).square().sum())

    site = Site(hook="synthetic")
    device = torch.device("cpu")
    d_in = 128
    n_tokens: ClassVar = {"calibration": TRAINING_TOKENS, "test": TEST_TOKENS}

    def blocks(self, split: Split) -> Iterator[Block]:
        x = self.training if split == "calibration" else self.activations[1]
        yield Block(0, np.arange(len(x)), x)


# --- oracles and SAEs -----------------------------------------------------------------------


@dataclass(frozen=True)
class Coder:
    """A dictionary's latents on both splits, and how it decodes them.

    Attributes:
        splits: calibration and test latents, times the norms of their rows.
        rows: of unit norm.
        offset: what no latent at all decodes to.
        parents: each latent's true parent, −1 for none; None where that is not known.
    """

    name: str
    splits: tuple[SparseLatents, SparseLatents]
    rows: Float32[np.ndarray, "latent d"]
    offset: Float32[np.ndarray, " d"]
    parents: Int64[np.ndarray, " latent"] | None = None

    def errors(self, values: SparseLatents, tokens: Tokens) -> Float64[np.ndarray, " token"]:
        """‖x − x̂‖² of each test token."""
        decoded = values.to_dense() @ self.rows + self.offset
        lost = tokens.activations[1].numpy() - decoded
        return np.asarray(np.square(lost).sum(axis=1, dtype=np.float64))


def oracles(tokens: Tokens) -> Iterator[Coder]:
    """The true coefficients of the features that are most frequent on calibration tokens."""
    rows = tokens.model.feature_dict.feature_vectors.detach().numpy()
    norms = np.linalg.norm(rows, axis=1)
    parents = true_parents(tokens.model)
    by_rate = np.argsort(-(tokens.features[0] > 0).sum(dim=0).numpy(), kind="stable")
    for size in ORACLES:
        kept = by_rate[:size]
        number = np.full(N_FEATURES + 1, -1)
        number[kept] = np.arange(size)
        yield Coder(
            f"oracle-{size}",
            tuple(SparseLatents.from_dense((z.numpy() * norms)[:, kept]) for z in tokens.features),
            (rows / norms[:, None])[kept],
            tokens.model.feature_dict.bias.detach().numpy(),
            number[parents[kept]],
        )


@torch.no_grad()
def trained(tokens: Tokens, folder: Path, seed: int) -> Iterator[Coder]:
    """The SAEs, trained unless they are in the folder."""
    for name, settings in SAES.items():
        config = TrainingConfig(
            width=WIDTH,
            epochs=EPOCHS,
            batch_size=STEP_TOKENS,
            lr=1e-3,
            warm_up_steps=0,
            decay=0.2,
            patience=None,
            keep="last",
            dead_window=200,
            seed=seed,
            storage="float32",
            **settings,
        )
        with torch.enable_grad():
            path = train(config, tokens, folder / name, progress=False, checkpoint_every=1)
        coder = NamedCoder(str(path.resolve())).load()
        norms = coder.spec.decoder_norms
        splits = [
            concatenate([coder.encode(part)[0] for part in x.split(BATCH)]).scaled(norms)
            for x in tokens.activations
        ]
        nothing = SparseLatents.from_dense(np.zeros((1, WIDTH), dtype=np.float32))
        offset = coder.decode(nothing, np.zeros((1, 0), dtype=np.float32))[0]
        rows = coder.decoder_rows() / np.maximum(norms, 1e-12)[:, None]
        yield Coder(name, (splits[0], splits[1]), rows, offset.numpy())


# --- curves ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """What a dictionary loses and costs on each test token, by step (`STEPS_OF_CURVE`).

    Attributes:
        floor: share of the variance that it loses unrounded.
        fvu: by token; the mean is the FVU.
        bits: by code and forest: by token.
        header: bits sent once for what the tree code's decoder must be told beside the codebook.
        l0: nonzero symbols per token.
    """

    name: str
    floor: float
    l0: Float64[np.ndarray, " step"]
    fvu: Float64[np.ndarray, "step token"]
    bits: dict[str, Float64[np.ndarray, "step token"]]
    header: dict[str, Float64[np.ndarray, " step"]]


def kept_curve(coder: Coder, tokens: Tokens, folder: Path) -> Curve:
    """The curve from the folder, if it was measured there for the same latents and steps."""
    digest = zlib.crc32(STEPS_OF_CURVE.tobytes())
    for split in coder.splits:
        digest = zlib.crc32(split.value.tobytes(), digest)
    path = folder / f"{coder.name}-{digest:08x}.npz"
    if not path.exists():
        curve = measured(coder, tokens)
        arrays = {f"bits {key}": value for key, value in curve.bits.items()}
        arrays |= {f"header {key}": value for key, value in curve.header.items()}
        part = path.with_suffix(".part.npz")
        np.savez(part, floor=curve.floor, l0=curve.l0, fvu=curve.fvu, **arrays)
        part.rename(path)
    with np.load(path) as saved:
        by_code: dict[str, dict[str, np.ndarray]] = {
            kind: {key[len(kind) + 1 :]: saved[key] for key in saved if key.startswith(kind + " ")}
            for kind in ("bits", "header")
        }
        return Curve(
            coder.name,
            float(saved["floor"]),
            saved["l0"],
            saved["fvu"],
            by_code["bits"],
            by_code["header"],
        )


def measured(coder: Coder, tokens: Tokens) -> Curve:
    scale = TEST_TOKENS / tokens.variation
    test = coder.splits[1]
    rounded = [quantise(test, step) for step in STEPS_OF_CURVE]
    decoded = map(dequantise, rounded, STEPS_OF_CURVE)
    bits, header = zip(*(priced(coder, step) for step in STEPS_OF_CURVE), strict=True)
    return Curve(
        coder.name,
        float(scale * coder.errors(test, tokens).mean()),
        np.array([symbols.nnz / TEST_TOKENS for symbols in rounded]),
        np.stack([scale * coder.errors(values, tokens) for values in decoded]),
        {key: np.stack([each[key] for each in bits]) for key in bits[0]},
        {key: np.array([each[key] for each in header]) for key in header[0]},
    )


def priced(coder: Coder, step: float) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Held-out bits of each test token, and header bits, by code and forest."""
    calibration, test = (quantise(split, step) for split in coder.splits)
    counts = SymbolCounts.of(calibration)
    flat = Codebook.fit(counts)
    runs = Runs.here(lambda: [calibration])
    forests = {LEARNED: learn_forest(runs, counts).forest.parents}
    if coder.parents is not None:
        forests[GIVEN] = coder.parents
    token = np.arange(TEST_TOKENS)
    bits = {FLAT: flat.document_bits(test, token, TEST_TOKENS)}
    header = {}
    for forest, parents in forests.items():
        books = {
            PARENTS: TreeCodebook.by_parents(flat, runs, parents),
            SIBLINGS: TreeCodebook.fit(flat, runs, parents),
        }
        for code, book in books.items():
            bits[f"{code} {forest}"] = book.document_bits(test, token, TEST_TOKENS)
            header[f"{code} {forest}"] = book.header_bits
    return bits, header


# --- what is read off the curves ------------------------------------------------------------

HULL, ONE_STEP = "hull", "one step"
"""How bits at ε are read: as the score is, along the lower convex hull; at the coarsest of the
measured steps within ε, or the finest where none is."""


@dataclass(frozen=True)
class Reading:
    """Bits at ε on a curve, and on that of every redraw."""

    value: float
    draws: Float64[np.ndarray, " replicate"]

    def __sub__(self, other: Reading) -> Reading:
        return Reading(self.value - other.value, self.draws - other.draws)

    @property
    def interval(self) -> tuple[float, float]:
        return percentile_interval(self.draws)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}]"


class How(NamedTuple):
    """A code, the forest of it, and how its bits are read."""

    code: str
    forest: str = LEARNED
    rule: str = HULL

    @property
    def key(self) -> str:
        return self.code if self.code == FLAT else f"{self.code} {self.forest}"


def bits_at(
    rule: str,
    bits: Float64[np.ndarray, "draw step"],
    fvu: Float64[np.ndarray, "draw step"],
    epsilon: float,
) -> Float64[np.ndarray, " draw"]:
    if rule == HULL:
        return cheapest_within(bits, fvu, epsilon).of(bits)
    steps = np.arange(fvu.shape[1])
    coarsest = np.where(fvu <= epsilon, steps, 0).max(axis=1)
    return np.asarray(np.take_along_axis(bits, coarsest[:, None], axis=1)[:, 0])


class Panel:
    """Curves, their redraws and what is read off them, each made once."""

    def __init__(self, curves: list[Curve], bootstrap: Bootstrap) -> None:
        self.curves, self.bootstrap = curves, bootstrap
        self.saes = [curve for curve in curves if curve.name in SAES]
        self.oracles = [curve for curve in curves if curve.name not in SAES]
        self._redrawn: dict[tuple[str, str], Float64[np.ndarray, "replicate step"]] = {}
        self._read: dict[tuple[str, How, float], Reading] = {}

    def redrawn(
        self, curve: Curve, what: str, values: Float64[np.ndarray, "step token"]
    ) -> Float64[np.ndarray, "replicate step"]:
        key = curve.name, what
        if key not in self._redrawn:
            self._redrawn[key] = np.stack([self.bootstrap.means(row) for row in values], axis=-1)
        return self._redrawn[key]

    def reading(self, curve: Curve, how: How, epsilon: float) -> Reading | None:
        """None where even the unrounded latents are not within ε."""
        if curve.floor > epsilon:
            return None
        key = curve.name, how, epsilon
        if key not in self._read:
            bits, fvu = curve.bits[how.key], curve.fvu
            point = bits.mean(axis=1)[None], fvu.mean(axis=1)[None]
            draws = self.redrawn(curve, how.key, bits), self.redrawn(curve, "fvu", fvu)
            value = float(bits_at(how.rule, *point, epsilon)[0])
            self._read[key] = Reading(value, bits_at(how.rule, *draws, epsilon))
        return self._read[key]

    def paired(self, oracle: Curve, sae: Curve, how: How, epsilon: float) -> Reading | None:
        """The oracle's bits less the SAE's, whose forest is always learned."""
        ours = self.reading(oracle, how, epsilon)
        theirs = self.reading(sae, how._replace(forest=LEARNED), epsilon)
        return None if ours is None or theirs is None else ours - theirs

    # --- the tables ---

    def report(self, epsilons: Sequence[float]) -> Iterator[str]:
        tightest = min(self.saes, key=lambda curve: curve.floor)
        yield f"{CALIBRATION_TOKENS:,} calibration and {TEST_TOKENS:,} test tokens"
        yield (
            f"Smallest floor of a trained SAE: {tightest.floor:.4f}, {tightest.name}; so ε is "
            + (f"tight up to {1.5 * tightest.floor:.4f}.")
        )
        for epsilon in epsilons:
            yield f"\n=== FVU <= {epsilon:g} ===\n"
            yield from self.costs(epsilon)
            for oracle in self.oracles:
                yield ""
                yield from self.differences(oracle, epsilon)
                yield from self.verdicts(oracle, epsilon)

    def costs(self, epsilon: float) -> Iterator[str]:
        """A row a dictionary and forest."""
        yield "Held-out bits per token [95% interval], L0 and header at the coarsest step within ε"
        yield _row("", f"{'floor':>7}{'L0':>6}{'header':>8}", [*COSTS])
        for curve in self.curves:
            step = max(np.flatnonzero(curve.fvu.mean(axis=1) <= epsilon), default=0)
            for forest in (GIVEN, LEARNED):
                header = curve.header.get(f"{SIBLINGS} {forest}")
                if header is not None:
                    found = (how._replace(forest=forest) for how in COSTS.values())
                    yield _row(
                        f"{curve.name}, {forest}",
                        f"{curve.floor:7.3f}{curve.l0[step]:6.2f}{header[step]:8,.0f}",
                        [str(self.reading(curve, how, epsilon) or "-") for how in found],
                    )

    def differences(self, oracle: Curve, epsilon: float) -> Iterator[str]:
        """A row an SAE."""
        yield f"{oracle.name} less each SAE [paired 95% interval], the oracle's forest as named"
        yield _row("", "", [*DIFFERENCES])
        for sae in self.saes:
            pairs = (self.paired(oracle, sae, how, epsilon) for how in DIFFERENCES.values())
            yield _row(sae.name, "", [str(pair or "-") for pair in pairs])

    def verdicts(self, oracle: Curve, epsilon: float) -> Iterator[str]:
        """A sentence a column: whether the oracle is shorter than every SAE."""
        for title, how in DIFFERENCES.items():
            pairs = {sae.name: self.paired(oracle, sae, how, epsilon) for sae in self.saes}
            known = {name: pair for name, pair in pairs.items() if pair is not None}
            yield f"{title}: {oracle.name} is {_verdict(known)}" if known else f"{title}: no SAE"


def _verdict(pairs: dict[str, Reading]) -> str:
    shorter = [name for name, pair in pairs.items() if pair.interval[0] > 0]
    open_ = [name for name, pair in pairs.items() if pair.interval[0] <= 0 <= pair.interval[1]]
    hardest = max(pairs, key=lambda name: pairs[name].value)
    if shorter:
        return f"NOT shortest: {', '.join(shorter)} shorter, {hardest} by {pairs[hardest]}"
    if open_:
        return f"NOT SHOWN to be shortest: {', '.join(open_)} may be as short, {pairs[hardest]}"
    return f"SHORTEST: least ahead of {hardest}, {pairs[hardest]}"


def _row(name: str, numbers: str, cells: list[str]) -> str:
    return f"{name:28}{numbers}" + "".join(f"{cell:>24}" for cell in cells)


COSTS = {
    "flat": How(FLAT),
    "given parents": How(PARENTS),
    "and siblings": How(SIBLINGS),
    "siblings, one step": How(SIBLINGS, rule=ONE_STEP),
}
DIFFERENCES = {
    "flat": How(FLAT),
    "parents, given": How(PARENTS, GIVEN),
    "siblings, given": How(SIBLINGS, GIVEN),
    "siblings, learned": How(SIBLINGS, LEARNED),
    "given, one step": How(SIBLINGS, GIVEN, ONE_STEP),
    "learned, one step": How(SIBLINGS, LEARNED, ONE_STEP),
}


if __name__ == "__main__":
    main()
