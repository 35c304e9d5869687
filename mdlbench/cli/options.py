"""Options and arguments that commands share, each declared once, and what they stand for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdlbench.console.terminal import say
from mdlbench.errors import UsageError
from mdlbench.quantisers.modes import MODES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mdlbench.scoring.engine import Engine
    from mdlbench.sources.open import Setting


class Dtype(StrEnum):
    """What a language model computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


_QUANTISERS = "; ".join(f"{mode.name}: {mode.help}" for mode in MODES.values())
QuantiserOption = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"{_QUANTISERS} [the suite's].")
]
QuantisersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--quantiser",
        metavar="NAME",
        help=f"{_QUANTISERS} [the suite's]. Repeat it for several: `tree` and `normalised` share "
        "their losses.",
    ),
]

SUITE_HELP = "A shipped suite (see `mdlbench ls suites`) or a path."

SuiteArgument = Annotated[str, typer.Argument(metavar="SUITE", help=SUITE_HELP)]
SuiteOption = Annotated[str, typer.Option("--suite", metavar="NAME", help=SUITE_HELP)]
SuiteFileOption = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="PATH",
        help="The suite of the records, if it is not a shipped one.",
    ),
]
RecordsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="RECORD", help="Record files, results folders, or folders of them."),
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Adapter for SPEC: a name, or package.module:Class of your own."
    ),
]
TextOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Text for a language suite: the name of one of its texts, or a file or folder "
        "[the first of its texts that is available].",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Documents per split, for a quick look; never ranked."),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1, …")
]
DtypeOption = Annotated[
    Dtype, typer.Option(help="Precision of a language model; SAEs compute in float32.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Share the work among N processes (needs mdlbench[ray]); records are the same "
        "[this process alone].",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Start the workers in a running Ray cluster: its address, or auto for the one that "
        "this machine belongs to [one for this run, on this machine].",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="SHARE",
        help="GPUs of each worker, with --device cuda; below 1, several workers share one [1].",
    ),
]
CacheOption = Annotated[
    bool,
    typer.Option(
        "--cache",
        help="Keep a language model's activations for later runs (see `mdlbench cache`).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def output_option(help: str) -> typer.models.OptionInfo:
    """`-o PATH`: exactly that path; `help` says what is written there."""
    option: typer.models.OptionInfo = typer.Option("-o", "--output", metavar="PATH", help=help)
    return option


def engine(
    n_workers: int | None, address: str | None, gpus: float | None, device: str
) -> AbstractContextManager[Engine]:
    """The engine that the options ask for; notices are said on stderr.

    Raises:
        UsageError: GPUs are asked for and not used, or for no other process.
    """
    from mdlbench.scoring.cluster import Workers
    from mdlbench.scoring.engine import engine_of

    uses_gpus = device.startswith("cuda")
    if n_workers is None and address is None:
        if gpus is not None:
            raise UsageError("--gpus-per-worker needs --workers or --ray")
        return engine_of(None)
    if gpus and not uses_gpus:
        raise UsageError("--gpus-per-worker needs --device cuda")
    share = (1.0 if uses_gpus else 0.0) if gpus is None else gpus
    return engine_of(Workers(n_workers, address, share), notice)


def notice(text: str) -> None:
    """Say on stderr what a reader must know."""
    say(f"mdlbench: {text}", to_stderr=True)


def setting(
    device: str,
    limit: int | None,
    text: str | None,
    dtype: Dtype = Dtype.float32,
    cache: bool = False,
) -> Setting:
    """How a suite is run."""
    from mdlbench.sources.open import Setting

    return Setting(device, limit, text, dtype.value, cache=cache)


def torch_device(name: str) -> str:
    """The device, if torch can compute on it; raises `UsageError` otherwise."""
    from mdlbench.sources.protocol import available_device

    return available_device(name)
