"""`train`: the SAEs or bilinear networks of a suite's recipe, or one of your own."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import (
    CacheOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    GpusOption,
    QuietOption,
    RayOption,
    SuiteOption,
    TextOption,
    engine,
    output_option,
    setting,
    torch_device,
)
from mdlbench.console.terminal import say
from mdlbench.errors import UsageError
from mdlbench.training.catalogue import own_architectures

if TYPE_CHECKING:
    from mdlbench.scoring.engine import Engine
    from mdlbench.sources.open import Opener
    from mdlbench.training.bilinear.config import BilinearConfig
    from mdlbench.training.config import TrainingConfig

PATIENCE = 10
"""Epochs without a better test MSE, where --patience is not given."""

ARCHITECTURE_HELP = (
    "A training class of SAELens (standard, topk, batchtopk, jumprelu, gated, "
    f"matryoshka_batchtopk, …) or one of ours: {', '.join(own_architectures())} [batchtopk]."
)


class Kept(StrEnum):
    """Which epoch of a training run is kept."""

    best = "best"
    last = "last"


KeysArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY", help="SAEs of the suite's recipe to train [all of them]."),
]
FolderOption = Annotated[
    Path | None,
    output_option(
        "Folder of the SAE; for a recipe, the folder of the SAEs' folders [the suite's saes/]."
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Tokens of a language suite to train on [its calibration budget].",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="CPU threads; the weights depend on their number [1 for a recipe]."
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Latents of an SAE of your own; with --bilinear, hidden units of a network."
    ),
]
BilinearOption = Annotated[
    bool,
    typer.Option(
        "--bilinear", help="Train bilinear classifiers of the suite's images instead of SAEs."
    ),
]
LayersOption = Annotated[
    int | None, typer.Option(min=1, help="Bilinear layers of a network of your own [1].")
]
WeightDecayOption = Annotated[
    float | None, typer.Option(min=0, help="AdamW's weight decay, for a network of your own [0.5].")
]
NoiseOption = Annotated[
    float | None,
    typer.Option(
        min=0, help="Standard deviation of noise on each pixel, for a network of your own [0.3]."
    ),
]
KOption = Annotated[
    float | None,
    typer.Option(help="Active latents per token, on average; not all architectures have it."),
]
ArchitectureOption = Annotated[str | None, typer.Option(help=ARCHITECTURE_HELP)]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A further setting of the architecture, such as l1_coefficient=2. Repeatable.",
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Passes over the calibration split [50; with --bilinear 20]."),
]
BatchSizeOption = Annotated[
    int | None, typer.Option(min=1, help="Tokens per step [512; with --bilinear 2048].")
]
LrOption = Annotated[
    float | None, typer.Option(help="Adam's learning rate [0.003; with --bilinear 0.001].")
]
PatienceOption = Annotated[
    int | None,
    typer.Option(min=1, help=f"Stop after so many epochs without a better test MSE [{PATIENCE}]."),
]
KeepOption = Annotated[
    Kept | None,
    typer.Option(help="The epoch to keep: the one with the lowest test MSE, or the last [best]."),
]
SeedOption = Annotated[
    int | None,
    typer.Option(help="Seed of the initial weights and the batches [0]."),
]


@dataclass(frozen=True)
class OwnSettings:
    """Options that only apply to an SAE of your own; None where one is not given."""

    k: float | None
    architecture: str | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    patience: int | None
    keep: str | None
    seed: int | None
    set: list[str] | None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in (None, [])}

    def refuse(self) -> None:
        """Raise `UsageError` where one is given."""
        _refuse(self.given(), "only applies with --width")

    def config(self, width: int) -> TrainingConfig:
        from mdlbench.training.config import TrainingConfig
        from mdlbench.training.zoo import parse_options

        settings = {"patience": PATIENCE, **self.given()}
        options = parse_options(settings.pop("set", ()))
        return TrainingConfig(width=width, options=options, **settings)


@dataclass(frozen=True)
class NetworkSettings:
    """Options that only apply to a bilinear network of your own; None where one is not given."""

    layers: int | None
    weight_decay: float | None
    noise: float | None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    def config(self, width: int | None, own: OwnSettings) -> BilinearConfig | None:
        """The network that the options describe; None for those of a recipe.

        Raises:
            UsageError: an option does not apply.
        """
        from mdlbench.training.bilinear.config import BilinearConfig

        settings = {**own.given(), **self.given()}
        if width is None:
            _refuse(settings, "only applies with --width")
            return None
        known = {field.name for field in fields(BilinearConfig)}
        _refuse([name for name in settings if name not in known], "does not apply to --bilinear")
        return BilinearConfig(width, **settings)


def _refuse(options: Iterable[str], why: str) -> None:
    """Raise `UsageError` on the first of some options."""
    for name in options:
        raise UsageError(f"--{name.replace('_', '-')} {why}")


def train(
    keys: KeysArgument = None,
    suite: SuiteOption = "mnist",
    output: FolderOption = None,
    text: TextOption = None,
    tokens: TokensOption = None,
    threads: ThreadsOption = None,
    bilinear: BilinearOption = False,
    width: WidthOption = None,
    k: KOption = None,
    architecture: ArchitectureOption = None,
    options: SetOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    lr: LrOption = None,
    patience: PatienceOption = None,
    keep: KeepOption = None,
    seed: SeedOption = None,
    layers: LayersOption = None,
    weight_decay: WeightDecayOption = None,
    noise: NoiseOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Train N SAEs of a recipe at a time, one in each process (needs mdlbench[ray]) "
            "[one after the other, in this process].",
        ),
    ] = None,
    ray: RayOption = None,
    gpus_per_worker: GpusOption = None,
    cache: CacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train SAEs on a suite's calibration split and save them as SAELens does.

    Without --width: the SAEs of the suite's recipe (zoo.yaml), all of them or the KEYs named.
    Finished ones are skipped.

    With --width and -o: an SAE of your own. The settings from --k to --seed only apply to it.

    With --bilinear: bilinear classifiers of an image suite instead. Without --width, those of its
    recipe (bilinear.yaml), into -o [the suite's bilinear/]; with --width, one of your own, to
    which --layers, --weight-decay and --noise apply.

    Run the same command again after an interruption: it continues from its last checkpoint.
    """
    kept = None if keep is None else keep.value
    own = OwnSettings(k, architecture, epochs, batch_size, lr, patience, kept, seed, options)
    network = NetworkSettings(layers, weight_decay, noise)
    shared = (workers, ray, gpus_per_worker) != (None, None, None)
    if bilinear:
        if shared or text or tokens or cache:
            raise UsageError("--bilinear trains on images, one network at a time, in this process")
        config = network.config(width, own)
        _use_threads(threads or (1 if config is None else None))
        _train_bilinear(config, suite, torch_device(device), keys or [], output, quiet)
        return
    _refuse(network.given(), "only applies with --bilinear")
    opener = _opener(suite, device, dtype, text, tokens, cache)
    if width is None:
        own.refuse()
        with engine(workers, ray, gpus_per_worker, device) as had:
            _train_recipe(opener, keys or [], output, threads or 1, quiet, had)
    else:
        folder = _own_folder(keys or [], output)
        if shared:
            raise UsageError(
                "--workers, --ray and --gpus-per-worker share out a recipe's SAEs: not one with "
                "--width"
            )
        _use_threads(threads)
        interrupt.keeps(lambda: f"{folder}/ keeps {_kept([folder])}")
        _train_own(opener, own.config(width), folder, quiet)
        say(f"{folder}: score it with `{_scoring(suite, folder, text)}`")


def _train_bilinear(
    config: BilinearConfig | None,
    suite: str,
    device: str,
    keys: Sequence[str],
    output: Path | None,
    quiet: bool,
) -> None:
    """Train the networks of a recipe, or the one of a config."""
    from mdlbench.suite.load import load_suite
    from mdlbench.training.bilinear.task import image_task
    from mdlbench.training.bilinear.trainer import train_bilinear
    from mdlbench.training.bilinear.zoo import NETWORKS_FOLDER, chosen_networks, train_networks

    loaded = load_suite(suite)
    if config is not None:
        folder = _own_folder(keys, output)
        interrupt.keeps(lambda: f"{folder}/ keeps {_kept([folder])}")
        train_bilinear(config, image_task(loaded, device), folder, progress=not quiet)
        say(f"{folder}: trained")
        return
    recipe, root = chosen_networks(loaded, keys), output or loaded.folder / NETWORKS_FOLDER
    interrupt.keeps(lambda: f"{root}/ keeps {_kept([root / key for key in recipe])}")
    for folder in train_networks(recipe, image_task(loaded, device), root, progress=not quiet):
        say(f"{folder}: trained")


def _scoring(suite: str, folder: Path, text: str | None) -> str:
    """The command that scores the SAE in a folder, and no other, as a shell reads it."""
    from mdlbench.scoring.targets import path_spec

    words = ["mdlbench", "eval", "--suite", suite, "--sae", path_spec(folder)]
    return shlex.join([*words, *(["--text", text] if text else [])])


def _opener(
    suite: str, device: str, dtype: Dtype, text: str | None, tokens: int | None, cache: bool
) -> Opener:
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    usual = setting(torch_device(device), None, text, dtype, cache)
    return Opener(load_suite(suite), replace(usual, calibration_tokens=tokens))


def _train_recipe(
    opener: Opener,
    keys: Sequence[str],
    output: Path | None,
    threads: int,
    quiet: bool,
    engine: Engine,
) -> None:
    from mdlbench.training.zoo import SAES_FOLDER, chosen_recipe, train_zoo

    finished: list[Path] = []
    root = output or opener.suite.folder / SAES_FOLDER
    under_way = [root / key for key in chosen_recipe(opener.suite, keys)]
    interrupt.keeps(
        lambda: (
            f"{root}/ keeps {len(finished)} of {len(under_way)} trained SAEs and {_kept(under_way)}"
        )
    )
    trained = train_zoo(opener, keys, root, threads=threads, progress=not quiet, engine=engine)
    for folder in trained:
        finished.append(folder)
        say(f"{folder}: trained")


def _kept(folders: Sequence[Path]) -> str:
    """The checkpoints that an interruption leaves, and what then to do."""
    found = [path for folder in folders for path in folder.glob("checkpoint-*")]
    epochs = [f"a checkpoint of epoch {path.name.rpartition('-')[2].lstrip('0')}" for path in found]
    return f"{' and '.join(epochs) or 'no checkpoint yet'}; run it again to go on"


def _own_folder(keys: Sequence[str], output: Path | None) -> Path:
    """Where an SAE of your own is saved; raises `UsageError` if nothing says where."""
    if keys:
        raise UsageError(f"{keys[0]}: a KEY and --width cannot be combined")
    if output is None:
        raise UsageError("--width needs -o FOLDER")
    return output


def _train_own(opener: Opener, config: TrainingConfig, folder: Path, quiet: bool) -> None:
    from mdlbench.training.trainer import train
    from mdlbench.training.zoo import training_site

    train(config, opener.open(training_site(opener)), folder, progress=not quiet)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
