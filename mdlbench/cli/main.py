"""The command line: parse, call, print. What a command needs is imported when it runs."""

from __future__ import annotations

import itertools
import json
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdlbench.errors import MdlbenchError, OutputError, UsageError
from mdlbench.papers import EXPERIMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdlbench.boards.leaderboard import Leaderboard
    from mdlbench.scoring.suite_run import Failed, Scored
    from mdlbench.sources.open import Opener, Setting
    from mdlbench.suite.base import ModeName

app = typer.Typer(
    help="Score sparse autoencoders by description length: bits per token at a given loss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Dtype(StrEnum):
    """What a language model computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite", metavar="NAME", help="A shipped suite (see `mdlbench ls suites`) or a path."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, cuda:1, …")
]
TextOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Text of a language suite: one of its own by name, or a file or folder "
        "[the suite's first that can be had].",
    ),
]
DtypeOption = Annotated[Dtype, typer.Option(help="Of a language model; SAEs compute in float32.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Adapter for SPEC: a name, or package.module:Class of your own."
    ),
]

RecordsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="RECORD", help="Record files, results folders, or folders of such."),
]
SuiteFileOption = Annotated[
    str | None,
    typer.Option(
        "--suite", metavar="PATH", help="The suite of records that are not of a shipped one."
    ),
]

LINE_LENGTH = 2000
"""Characters of what is said of one record."""

_debug = False


class Kept(StrEnum):
    """Which epoch of a training run is kept."""

    best = "best"
    last = "last"


class Mode(StrEnum):
    """Operating modes of `mdlbench eval` and `encode`."""

    normalised = "normalised"
    uniform = "uniform"
    per_feature = "per-feature"
    rdo = "rdo"
    tree = "tree"


QuantiserOption = Annotated[
    Mode | None,
    typer.Option(
        help="normalised: one step for all latents times their decoder norms; uniform: without "
        "the norms; per-feature: a dyadic step for each latent; rdo: rate-aware rounding and "
        "centroids; tree: steps as in normalised, latents coded given their parents [the suite's]."
    ),
]


class Listing(StrEnum):
    """What `mdlbench ls` lists."""

    suites = "suites"
    adapters = "adapters"
    records = "records"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug
    if version:
        from importlib.metadata import version as installed

        print(installed("mdlbench"))
        raise typer.Exit


@app.command("eval")
def eval_suite(
    suite: SuiteOption,
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            metavar="SPEC",
            help="Score only this SAE: a key of the suite, ADAPTER:ARGUMENT, or a folder. "
            "Repeatable. Default: all of the suite's.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Results folder [results/SUITE]."),
    ] = None,
    adapter: AdapterOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Documents per split, for a quick look; never ranked."
        ),
    ] = None,
    quantiser: QuantiserOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Score a suite's SAEs: records, leaderboard tables and figures in one folder.

    Finished SAEs are not recomputed: interrupt it and run it again. An SAE that cannot be scored
    is reported at the end (exit code 1) and stops no other. Results of several quantisers stand in
    one folder, on one board; those of another than the suite's say so.
    """
    from mdlbench.boards.leaderboard import build_all
    from mdlbench.cli.progress import suite_progress
    from mdlbench.records.store import read_archive, read_records, read_references, record_paths
    from mdlbench.report import print_boards, write_report
    from mdlbench.scoring.suite_run import run
    from mdlbench.scoring.targets import targets
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite)
    wanted = targets(chosen, sae or [], adapter)
    folder = output or Path("results") / (chosen.name + (f"-limit-{limit}" if limit else ""))
    outcomes: list[Scored | Failed] = []
    with suite_progress(len(wanted), quiet) as progress:
        opener = Opener(chosen, _setting(device, limit, text, dtype), progress.stage)
        try:
            for outcome in run(opener, wanted, folder, progress.stage, _value(quantiser)):
                outcomes.append(progress.finish(outcome))
        except OutputError:
            _name_failures(outcomes)
            raise
    if as_json:
        _print_outcomes(outcomes)
    if record_paths(folder):
        records = read_records(folder)
        paths = write_report(records, read_references(folder), folder, read_archive(folder))
        if not as_json:
            print_boards(build_all(records, chosen.headline))
            print(f"\n{folder}/ holds the records and {', '.join(path.name for path in paths)}.")
    if failures := _name_failures(outcomes):
        raise typer.Exit(max(failure.error.exit_code for failure in failures))


@app.command("ls")
def list_things(
    what: Annotated[Listing, typer.Argument(help="suites, adapters or records")],
    folder: Annotated[Path, typer.Argument(help="Where to look for records.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List suites, adapters, or the records under a folder."""
    from mdlbench.cli import listing

    if what is Listing.suites:
        rows = listing.suites()
    elif what is Listing.adapters:
        rows = listing.adapters()
    else:
        rows = listing.records(folder)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        listing.print_table(rows)


@app.command("fetch")
def fetch_suite(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE", help="A shipped suite (see `mdlbench ls suites`) or a path."
        ),
    ],
    quiet: QuietOption = False,
) -> None:
    """Get all that a later run without a network needs; check what is here already.

    Run it again after an interruption, or to check the files: one that is damaged is fetched again.
    What cannot be had is reported (exit code 1) and stops nothing else.
    """
    from mdlbench.scoring.fetch import Missed, fetch, shown_on
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite)
    n_missed = 0
    for outcome in fetch(chosen, shown_on(sys.stderr, quiet)):
        if isinstance(outcome, Missed):
            n_missed += outcome.instead is None
            print(f"mdlbench: {outcome.message}", file=sys.stderr)
        else:
            print(outcome.message, flush=True)
    if n_missed:
        raise typer.Exit(1)
    print(f"All that suite {chosen.name!r} needs is on this machine.")


@app.command("check-adapter")
def check_adapter(
    spec: Annotated[
        str, typer.Argument(help="ADAPTER:ARGUMENT or a folder; with --suite, or a key of it.")
    ],
    suite: Annotated[
        str | None,
        typer.Option(help="Check on this suite's activations instead of standard-normal ones."),
    ] = None,
    adapter: AdapterOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a SPEC loads, and whether it behaves as an SAE should."""
    from mdlbench.adapters.check import check_coder
    from mdlbench.adapters.load import NamedCoder
    from mdlbench.cli import listing
    from mdlbench.scoring.targets import open_target
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    if suite:
        opener = Opener(load_suite(suite), _setting(device, limit=None, text=text))
        coder, source = open_target(opener, spec, adapter)
    else:
        named = NamedCoder(spec, adapter=adapter)
        coder, source = named.load(device=_torch_device(device)), None
    checks = check_coder(coder, source)
    rows = listing.check_rows(checks)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        listing.print_table(rows)
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)


class Format(StrEnum):
    """Formats of a table, beside the terminal's."""

    latex = "latex"
    csv = "csv"
    markdown = "markdown"
    parquet = "parquet"


@app.command()
def leaderboard(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A results folder, such as results/mnist; or NAME for results/NAME or "
            "leaderboards/NAME."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Folder to write tables and figures to; with --format, the file.",
        ),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write index.html, a page in one file, into the folder, or with tables and "
            "figures to -o; of a folder of results folders, one for each and one over all.",
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every tolerance.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="With -o, figures as PDF, too.")] = False,
    table_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Print the table for a paper or for further work; csv, markdown and parquet have "
            "every tolerance.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Rank the records of a folder at every tolerance; draw their curves again with -o.

    With --html, write them as one web page that needs no network.
    """
    from mdlbench.boards.leaderboard import build_all, to_json
    from mdlbench.records.store import read_archive, read_records, read_references, results_folder
    from mdlbench.report import print_boards, write_report

    if sum((html, table_format is not None, as_json)) > 1:
        raise UsageError("--html, --format and --json are each of another output: give one")
    if pdf and (output is None or table_format):
        raise UsageError("--pdf is of the figures that -o FOLDER writes")
    folder = results_folder(folder)
    if html:
        from mdlbench.report.page import write_pages

        for path in write_pages(folder, output, pdf):
            print(path)
        return
    records, references = read_records(folder), read_references(folder)
    whole = every or as_json or table_format is not None
    boards = build_all(records, references.headline, whole)
    if table_format is not None:
        _write_table(boards, table_format, every, output)
        return
    if output is not None:
        write_report(records, references, output, read_archive(folder), pdf)
    if as_json:
        print(to_json(boards))
    else:
        print_boards(boards, every_tolerance=every)


def _write_table(
    boards: Sequence[Leaderboard], table_format: Format, every: bool, file: Path | None
) -> None:
    from mdlbench.files import write_atomically
    from mdlbench.report import formatted

    content = formatted(boards, table_format.value, every)
    if file is not None:
        write_atomically(file, content)
    elif table_format is Format.parquet:
        raise UsageError("--format parquet is not text: say with -o FILE where to")
    else:
        sys.stdout.write(content.decode())


@app.command()
def cite(
    records: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECORD", help="Records to write a methods paragraph for."),
    ] = None,
    suite: SuiteFileOption = None,
) -> None:
    """Print BibTeX entries and, for each RECORD, a methods paragraph in LaTeX."""
    from mdlbench.records.checks import suite_of
    from mdlbench.records.store import all_record_paths, read_record
    from mdlbench.report.citation import bibtex, methods
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite) if suite else None
    for path in all_record_paths(records or []):
        record = read_record(path)
        print(methods(record, suite_of(record, chosen)))
    print(bibtex(), end="")


@app.command()
def validate(
    records: RecordsArgument,
    suite: SuiteFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check records without running anything: schema, seal, identity, suite, derived numbers.

    Exit code 1 if one is not valid. That an SAE really costs what its record says, only
    `mdlbench verify` shows.
    """
    from mdlbench.records.checks import problems_of_file
    from mdlbench.records.store import all_record_paths
    from mdlbench.report.tables import printable
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite) if suite else None
    found = {path: problems_of_file(path, chosen) for path in all_record_paths(records)}
    if as_json:
        rows = [{"record": str(path), "problems": problems} for path, problems in found.items()]
        print(json.dumps(rows, indent=1))
    else:
        for path, problems in found.items():
            print(printable(f"{path}: {'; '.join(problems) or 'valid'}", LINE_LENGTH))
    if any(found.values()):
        raise typer.Exit(1)


@app.command()
def verify(
    records: RecordsArgument,
    sae: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Where the SAE is, if its suite does not have it; then of one record only.",
        ),
    ] = None,
    suite: SuiteFileOption = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A file or folder of the text of a language suite [the text that the record "
            "names, which must be one of the suite's].",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Measure records again and compare, within what their suite allows.

    One that agrees counts as reproduced: `reproductions/` beside its records says so, until the
    record changes. Of several repetitions the one furthest off is kept. Exit code 1 if one does not
    agree, or cannot be measured.
    """
    from mdlbench.cli import listing
    from mdlbench.cli.progress import stages
    from mdlbench.records.store import all_record_paths
    from mdlbench.scoring import repeat as verification
    from mdlbench.suite.load import load_suite

    paths = all_record_paths(records)
    if sae is not None and len(paths) > 1:
        raise UsageError(f"--sae is of one record, but there are {len(paths)}")
    chosen = load_suite(suite) if suite else None
    found = [verification.read_claim(path, chosen, sae) for path in paths]
    claims = [claim for claim in found if isinstance(claim, verification.Claim)]
    refused = (claim for claim in found if isinstance(claim, verification.Unverified))
    rows = []
    with stages(quiet) as report:
        measured = verification.verify(claims, _torch_device(device), text, report)
        for outcome in itertools.chain(refused, measured):
            rows.append(listing.verification_row(outcome))
            if not as_json:
                print(listing.verification_line(rows[-1]), flush=True)
    if as_json:
        print(json.dumps(rows, indent=1))
    if any("error" in row for row in rows):
        raise typer.Exit(1)


@app.command()
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C …]",
            help="Each a record file, an id or its start, an SAE's name as on the board, a family "
            '("all topk", "all topk [tree]"), or "all": every family not named.',
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--in",
            metavar="FOLDER",
            help="Results folder, or its name, that ids and names are of "
            "[the only one under results/].",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="mse, fvu or delta_ce [the headline's].")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Only this tolerance [all of the metric's].")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Folder to write compare.png, .pdf, .csv, .json and .md into.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare SAEs, or families of them, with the first: the anchor.

    Averages over whole curves (BD-bits, BD-rate) where two are comparable, crossings, and who is
    shortest at each tolerance, with paired 95% intervals.
    """
    from mdlbench.boards.compare.choice import choose
    from mdlbench.boards.compare.contest import compare as compare_all
    from mdlbench.report.compare import write_comparison
    from mdlbench.report.compare.data import to_json
    from mdlbench.report.compare.terminal import print_comparison

    choice = choose(words, folder)
    contest = compare_all(choice.contenders, metric or choice.metric, epsilon)
    paths = [] if output is None else write_comparison(contest, output)
    if as_json:
        print(to_json(contest), end="")
        return
    print_comparison(contest)
    if paths:
        print(f"\n{output}/ holds {', '.join(path.name for path in paths)}.")


@app.command()
def train(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY", help="SAEs of the suite's recipe to train [all of them]."),
    ] = None,
    suite: SuiteOption = "mnist",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Folder of the SAE; of a recipe, the folder of the SAEs' folders "
            "[the suite's saes/].",
        ),
    ] = None,
    text: TextOption = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Of a language suite, to train on [its calibration budget]."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="CPU threads; the weights depend on it [1 for a recipe]."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Latents of an SAE of your own.")] = None,
    k: Annotated[
        float | None,
        typer.Option(
            help="Active latents per token, on average; not all architectures have it.",
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="A training class of SAELens (standard, topk, batchtopk, jumprelu, gated, "
            "matryoshka_batchtopk, …) or one of ours: mutual_choice, feature_choice, tree, "
            "group_sparse, mdl [batchtopk]."
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A further setting of that class, such as l1_coefficient=2. Repeatable.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the calibration split [50]."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Tokens per step [512].")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate [0.003].")] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many epochs without a better test MSE [10].",
        ),
    ] = None,
    keep: Annotated[
        Kept | None,
        typer.Option(help="The epoch to keep: of lowest test MSE, or the last [best]."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the initial weights and the batches [0]."),
    ] = None,
    device: DeviceOption = "cpu",
    quiet: QuietOption = False,
) -> None:
    """Train SAEs on a suite's calibration split and save them as SAELens does.

    Without --width, those that the suite is shipped with, by its recipe (zoo.yaml): all of them, or
    the KEYs named. Finished ones are skipped.

    With --width and -o, one of your own; only then do the settings from --width on apply.

    Run either again after an interruption: it goes on from its last checkpoint.
    """
    from mdlbench.sources.open import Opener, Setting
    from mdlbench.suite.load import load_suite

    own = {
        "k": k,
        "architecture": architecture,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "patience": patience,
        "keep": None if keep is None else keep.value,
        "seed": seed,
        "set": options or None,
    }
    given = {name: value for name, value in own.items() if value is not None}
    setting = Setting(_torch_device(device), text=text, calibration_tokens=tokens)
    opener = Opener(load_suite(suite), setting)
    if width is not None:
        _use_threads(threads)
        folder = _train_own(opener, keys, width, given, output, quiet)
        print(f"{folder}: score it with `mdlbench eval --suite {suite} --sae {folder}`")
        return
    if given:
        option = next(iter(given)).replace("_", "-")
        raise UsageError(f"--{option} is of an SAE of your own: give its --width, too")
    from mdlbench.training.zoo import train_zoo

    _use_threads(threads or 1)
    for folder in train_zoo(opener, keys or [], output, progress=not quiet):
        print(f"{folder}: trained", flush=True)


def _train_own(
    opener: Opener,
    keys: Sequence[str] | None,
    width: int,
    given: dict[str, Any],
    output: Path | None,
    quiet: bool,
) -> Path:
    from mdlbench.training.config import TrainingConfig
    from mdlbench.training.trainer import train
    from mdlbench.training.zoo import parse_options, training_source

    if keys:
        raise UsageError(
            f"{keys[0]}: a KEY is of the suite's recipe, --width of an SAE of your own: not both"
        )
    if output is None:
        raise UsageError("--width trains an SAE of your own: say with -o where to")
    settings = {"patience": 10, **given}
    options = parse_options(settings.pop("set", ()))
    config = TrainingConfig(width=width, options=options, **settings)
    return train(config, training_source(opener), output, progress=not quiet)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(EXPERIMENTS))],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="PATH", help="Results folder [results/NAME]."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Run an experiment of the paper again: figures, a table and a report in one folder."""
    from mdlbench.cli.progress import stages
    from mdlbench.papers import run_experiment

    with stages(quiet) as report:
        paths = run_experiment(name, output or Path("results") / name, report)
    for path in paths:
        print(path)


@app.command()
def encode(
    spec: Annotated[str, typer.Argument(help="A key of the suite, ADAPTER:ARGUMENT or a folder.")],
    suite: SuiteOption,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="The file to write.")
    ],
    step: Annotated[
        float | None,
        typer.Option(min=0, help="Quantiser step [the coarsest within the headline tolerance]."),
    ] = None,
    adapter: AdapterOption = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Documents per split, for a quick look.")
    ] = None,
    quantiser: QuantiserOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
) -> None:
    """Write a test split's quantised latents as a real file, so that its size shows the rate.

    The file is decoded again and compared symbol by symbol before it is kept.
    """
    from mdlbench.cli import listing
    from mdlbench.codes import bitstream
    from mdlbench.scoring.single import encode_target
    from mdlbench.scoring.targets import targets
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite)
    opener = Opener(chosen, _setting(device, limit, text, dtype))
    target = targets(chosen, [spec], adapter)[0]
    data = encode_target(opener, target, step, _value(quantiser))
    bitstream.write(output, data)
    listing.print_pairs({"file": str(output), **listing.stream_facts(bitstream.decode(data))})


@app.command()
def decode(
    file: Annotated[Path, typer.Argument(help="A file written by `mdlbench encode`.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="Write the symbols as .npz: token, latent, symbol, value.",
        ),
    ] = None,
) -> None:
    """Decode such a file, check it against its checksum and say what it holds."""
    from mdlbench.cli import listing
    from mdlbench.codes import bitstream
    from mdlbench.files import write_atomically

    decoded = bitstream.decode(bitstream.read(file))
    if output is not None:
        write_atomically(output, listing.symbols_npz(decoded))
    listing.print_pairs({"file": str(file), **listing.stream_facts(decoded)})


def main() -> None:
    """Entry point; exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    try:
        app()
    except MdlbenchError as error:
        if _debug:
            traceback.print_exc()
        print(f"mdlbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if _debug:
            traceback.print_exc()
        print(f"mdlbench: {error}", file=sys.stderr)
        sys.exit(1)


def _setting(
    device: str, limit: int | None, text: str | None, dtype: Dtype = Dtype.float32
) -> Setting:
    from mdlbench.sources.open import Setting

    return Setting(_torch_device(device), limit, text, dtype.value)


def _value(mode: Mode | None) -> ModeName | None:
    return None if mode is None else mode.value


def _torch_device(name: str) -> str:
    """The device if torch has it here; raises `UsageError` otherwise."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: not to be had here: {error}") from error
    return name


def _print_outcomes(outcomes: Sequence[Scored | Failed]) -> None:
    from mdlbench.scoring.suite_run import Scored

    records = [json.loads(o.record.to_json()) for o in outcomes if isinstance(o, Scored)]
    failed = [
        {"sae": o.target.label, "error": str(o.error)}
        for o in outcomes
        if not isinstance(o, Scored)
    ]
    print(json.dumps({"records": records, "failed": failed}, allow_nan=False))


def _name_failures(outcomes: Sequence[Scored | Failed]) -> list[Failed]:
    """Say on stderr what failed and why."""
    from mdlbench.scoring.suite_run import Failed

    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    for failure in failures:
        print(f"mdlbench: {failure.message}", file=sys.stderr)
    return failures


if __name__ == "__main__":
    main()
