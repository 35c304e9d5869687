"""What is measured: suites, worlds, SAEs, seeds and draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdlbench.errors import UsageError, did_you_mean
from mdlbench.papers.reliability.falsifiers import MATCHING_PURSUIT
from mdlbench.studies.plan import Architecture, Run, Study
from mdlbench.suite.base import MetricName
from mdlbench.suite.load import load_suite
from mdlbench.suite.source import TokenBudget
from mdlbench.suite.suite import Headline, Suite, Tolerance
from mdlbench.training.settings import Settings

FLAT = "normalised"
"""The operating mode of the usual code."""
MODES = (FLAT, "tree", "rdo-tree")
Variant = tuple[str, str]
"""An architecture of a study and a sparsity of it, by their keys."""


@dataclass(frozen=True)
class Training:
    """SAEs that are trained, and when they are looked at.

    Attributes:
        study: all of them.
        large: configurations that differ much; they are followed along training.
        small: configurations of one architecture that differ little; they are followed, too.
        beside: architectures of the study that are there for `small` alone.
        snapshots: steps after which SAEs are kept, to be scored beside the last.
    """

    study: Study
    large: tuple[Variant, ...]
    small: tuple[Variant, ...]
    beside: tuple[str, ...]
    snapshots: tuple[int, ...]

    @property
    def ranked(self) -> list[Run]:
        """The runs that are compared with the truth, or with each other."""
        return [run for run in self.study.runs() if run.architecture not in self.beside]

    @property
    def followed(self) -> list[Run]:
        """The runs that are scored along their training."""
        return self.of(self.large + self.small)

    def of(self, variants: tuple[Variant, ...]) -> list[Run]:
        """The runs of some configurations."""
        return [run for run in self.study.runs() if (run.architecture, run.label) in variants]

    @property
    def without_beside(self) -> Study:
        """The study without what is there for `small` alone."""
        kept = {key: one for key, one in self.study.architectures.items() if key not in self.beside}
        return self.study.model_copy(update={"architectures": kept})


@dataclass(frozen=True)
class Redrawn:
    """What is scored on data that are drawn anew.

    Attributes:
        saes: names of runs, oracles, or SAEs of the suite.
        draws: of calibration and test data together; of a suite whose data are fixed, none.
        of_calibration: draws of calibration data alone, after the first of those.
    """

    saes: tuple[str, ...]
    draws: int = 0
    of_calibration: int = 0


@dataclass(frozen=True)
class Part:
    """One suite.

    Attributes:
        suite: its name, or its path.
        metric: the loss whose tolerances are looked at.
        redrawn: which SAEs are scored on other draws. Of a suite whose data are fixed, they are
            scored on halves of the test documents.
        epsilons: tolerances of worlds; elsewhere they are the suite's own.
        worlds: seeds of worlds like the suite's; none where its data are fixed.
        tokens: of each world: `training`, `calibration`, `test`.
        training: the SAEs that are trained; None where only some of the suite's are scored.
        modes: operating modes that SAEs are scored in.
        first_only: those of them that take so long that one world must do.
        moved_modes: those of them in which SAEs are redrawn and followed along training.
        width: latents of the trained SAEs, and features of the oracle that they are held against.
        probed: how many features are probed for.
        replicates: of the bootstrap over test documents, in worlds.
        cache: whether a language model's activations are kept.
    """

    suite: str
    metric: MetricName
    redrawn: Redrawn
    epsilons: tuple[float, ...] = ()
    worlds: tuple[int, ...] = ()
    tokens: Mapping[str, int] = field(default_factory=dict)
    training: Training | None = None
    modes: tuple[str, ...] = MODES
    first_only: tuple[str, ...] = ()
    moved_modes: tuple[str, ...] = (FLAT, "tree")
    width: int = 256
    probed: int = 64
    replicates: int = 200
    cache: bool = False

    @property
    def key(self) -> str:
        return Path(self.suite).name

    @property
    def places(self) -> list[Place]:
        """Its worlds, or the suite itself."""
        return [Place(self, seed, i == 0) for i, seed in enumerate(self.worlds or (None,))]

    @property
    def oracle(self) -> str:
        """The name of the true features that trained SAEs are held against."""
        return f"oracle-{self.width}"


@dataclass(frozen=True)
class Place:
    """A part's suite in one of its worlds.

    Attributes:
        world: its seed; None where the suite's data are fixed.
        is_first: of its part: there SAEs are redrawn and followed, too.
    """

    part: Part
    world: int | None
    is_first: bool

    @property
    def name(self) -> str:
        return self.part.key if self.world is None else f"{self.part.key}-world{self.world}"

    @property
    def modes(self) -> tuple[str, ...]:
        """Operating modes that SAEs are scored in here."""
        if self.is_first:
            return self.part.modes
        return tuple(mode for mode in self.part.modes if mode not in self.part.first_only)

    @property
    def study(self) -> Study | None:
        """What is trained here."""
        training = self.part.training
        if training is None:
            return None
        return training.study if self.is_first else training.without_beside

    @property
    def suite(self) -> Suite:
        """What SAEs are scored on."""
        return self._suite(self.part.tokens.get("calibration", 0))

    @property
    def training_suite(self) -> Suite:
        """What they are trained on: the same, with more calibration tokens."""
        return self._suite(self.part.tokens.get("training", 0))

    def long_suite(self, draws: int) -> Suite:
        """The same with the tokens of so many draws beyond those that are used otherwise."""
        tokens = self.part.tokens
        return self._suite(tokens["training"] + draws * tokens["calibration"], 1 + draws)

    def _suite(self, calibration: int, times: int = 1) -> Suite:
        shipped = load_suite(self.part.suite)
        if self.world is None:
            return shipped
        part = self.part
        tokens = TokenBudget(calibration=calibration, test=times * part.tokens["test"])
        world = {"seed": self.world, "tokens": tokens, "sha256": None}
        suite = shipped.model_copy(
            update={
                "name": self.name,
                "source": shipped.source.model_copy(update=world),
                "tolerances": [Tolerance(metric=part.metric, epsilons=list(part.epsilons))],
                "headline": Headline(metric=part.metric, epsilon=part.epsilons[-1]),
                "replicates": part.replicates,
            }
        )
        suite._folder = shipped.folder
        return suite


@dataclass(frozen=True)
class Plan:
    """All parts."""

    parts: tuple[Part, ...]

    def chosen(self, keys: tuple[str, ...]) -> list[Part]:
        """The parts of these keys; all without any.

        Raises:
            UsageError: there is no such part.
        """
        known = {part.key: part for part in self.parts}
        for key in keys:
            if key not in known:
                raise UsageError(f"reliability has no part {key!r}. {did_you_mean(key, known)}")
        return [known[key] for key in keys or known]


SEEDS = (11, 12, 13)
WORLD_TOKENS = {"training": 96 * 1024, "calibration": 24 * 1024, "test": 12 * 1024}
WORLD_SHARED: Settings = {
    "batch_size": 1024,
    "lr": 0.001,
    "warm_up_steps": 50,
    "decay": 0.2,
    "dead_window": 200,
    "patience": None,
    "keep": "last",
    "epochs": 7,
}
"""Settings of every run in a world: those of its suite's zoo, for fewer tokens and steps."""


def world_part(
    suite: str,
    worlds: tuple[int, ...],
    epsilons: tuple[float, ...],
    ks: tuple[int, int],
    penalties: tuple[float, float],
) -> Part:
    """A world's part: five architectures, each with two sparsities, by k or by a penalty on L0."""
    low, high = (f"k{k}" for k in ks)
    near = {f"k{k}": {"k": k} for k in (ks[1] - 1, ks[1] + 1)}
    training = Training(
        study=Study(
            name=f"reliability-{suite}",
            suite=suite,
            shared=WORLD_SHARED,
            widths=[256],
            seeds=list(SEEDS),
            validation=1 / 12,
            architectures={**_five(ks, penalties), "near": _by_k("batchtopk", near)},
        ),
        large=tuple((name, label) for name in ("batchtopk", "matryoshka") for label in (low, high)),
        small=(*(("near", label) for label in near), ("batchtopk", high)),
        beside=("near",),
        snapshots=(25, 100, 300),
    )
    redrawn = tuple(
        f"{name}-256-{label}-seed{seed}"
        for name, label, seed in (
            ("batchtopk", low, 11),
            ("matryoshka", high, 12),
            (MATCHING_PURSUIT, low, 13),
        )
    )
    return Part(
        suite=suite,
        metric="fvu",
        redrawn=Redrawn((*redrawn, "oracle-256"), draws=10, of_calibration=4),
        epsilons=epsilons,
        worlds=worlds,
        tokens=WORLD_TOKENS,
        training=training,
        first_only=("rdo-tree",),
    )


def _five(ks: tuple[int, int], penalties: tuple[float, float]) -> dict[str, Architecture]:
    by_k: dict[str, Settings] = {f"k{k}": {"k": k} for k in ks}
    nested = {"options": {"matryoshka_widths": [16, 64, 256]}}
    jump = {
        "jumprelu_init_threshold": 0.5,
        "jumprelu_bandwidth": 2.0,
        "jumprelu_sparsity_loss_mode": "tanh",
    }
    pursuit = {
        "residual_threshold": 0.0,
        "stop_on_duplicate_support": False,
        "decoder_init_norm": 1.0,
    }
    return {
        "batchtopk": _by_k("batchtopk", by_k),
        "matryoshka": _by_k("matryoshka_batchtopk", by_k, nested),
        "topk": _by_k("topk", by_k),
        "jumprelu": _by_k(
            "jumprelu",
            {f"c{c:g}": {"options": {"l0_coefficient": c}} for c in penalties},
            {"options": jump},
        ),
        MATCHING_PURSUIT: _by_k(
            MATCHING_PURSUIT,
            {f"k{k}": {"options": {"max_iterations": k}} for k in ks},
            {"options": pursuit},
        ),
    }


def _by_k(
    name: str, sparsities: dict[str, Settings], settings: Settings | None = None
) -> Architecture:
    return Architecture(architecture=name, settings=settings or {}, sparsities=sparsities)


def mnist_part() -> Part:
    """MNIST: no truth is known; SAEs are followed along training, and scored on halves."""
    by_k: dict[str, Settings] = {f"k{k}": {"k": k} for k in (9, 19)}
    near: dict[str, Settings] = {f"k{k}": {"k": k} for k in (18, 20)}
    nested = {"options": {"matryoshka_widths": [16, 64, 256]}}
    training = Training(
        study=Study(
            name="reliability-mnist",
            suite="mnist",
            shared={"epochs": 12, "batch_size": 512, "lr": 0.004, "keep": "last"},
            widths=[256],
            seeds=list(SEEDS),
            validation=0.1,
            architectures={
                "batchtopk": _by_k("batchtopk", by_k),
                "matryoshka": _by_k("matryoshka_batchtopk", by_k, nested),
                "near": _by_k("batchtopk", near),
            },
        ),
        large=tuple((name, label) for name in ("batchtopk", "matryoshka") for label in by_k),
        small=(("near", "k18"), ("near", "k20"), ("batchtopk", "k19")),
        beside=("near",),
        snapshots=(25, 100, 400),
    )
    saes = ("batchtopk-128-k11", "mdl-256-s1.2", "jumprelu-128-c0.5", "relu-128-c0.4")
    return Part("mnist", "mse", Redrawn(saes), training=training, modes=(FLAT, "tree"))


def language_part() -> Part:
    """A layer of a language model, from activations that are kept: halves alone."""
    saes = ("batchtopk-2048-k48", "batchtopk-2048-k96", "jumprelu-1024", "gated-1024")
    return Part("smollm2-l15", "delta_ce", Redrawn(saes), modes=(FLAT, "tree"), cache=True)


PLAN = Plan(
    (
        world_part("superposed-flat", (0, 100), (0.28, 0.3, 0.4), (6, 12), (1.5, 3.0)),
        world_part("superposed-hier", (1, 101), (0.23, 0.25, 0.4), (4, 8), (1.5, 3.0)),
        mnist_part(),
        language_part(),
    )
)
"""What `mdlbench reproduce reliability` measures."""
