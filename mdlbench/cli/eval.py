"""`eval` and `check-adapter`: score SAEs, or look at one first."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import (
    AdapterOption,
    CacheOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    GpusOption,
    JsonOption,
    LimitOption,
    QuantisersOption,
    QuietOption,
    RayOption,
    SuiteOption,
    TextOption,
    WorkersOption,
    engine,
    notice,
    output_option,
    setting,
    torch_device,
)
from mdlbench.console.terminal import say
from mdlbench.errors import OutputError, WorkerError
from mdlbench.extensions.foreign import prints_on_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdlbench.cli.progress import SuiteProgress
    from mdlbench.scoring.suite_run import Failed, Scored, Shard
    from mdlbench.scoring.targets import Target
    from mdlbench.sources.open import Opener
    from mdlbench.suite.suite import Suite


def eval_suite(
    suite: SuiteOption,
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            metavar="[NAME=]SPEC",
            help="Score only this SAE: a key of the suite, ADAPTER:ARGUMENT, or a folder. NAME= "
            "gives it a name. Repeatable. Default: all of the suite's.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("Results folder [results/SUITE; with --limit results/SUITE-limit-N]."),
    ] = None,
    adapter: AdapterOption = None,
    limit: LimitOption = None,
    quantiser: QuantisersOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = Dtype.float32,
    workers: WorkersOption = None,
    ray: RayOption = None,
    gpus_per_worker: GpusOption = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score the I-th of N shares of the SAEs; N jobs may write into one folder at "
            "once. Make the tables afterwards, with `mdlbench leaderboard`.",
        ),
    ] = None,
    cache: CacheOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would be scored and fetched, and roughly how long it would take.",
        ),
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a suite's SAEs: records, leaderboard tables and figures in one folder.

    Finished SAEs are not computed again: interrupt the run and start it again as you like. An SAE
    that cannot be scored does not stop the others: it is reported at the end (exit code 1). Results
    of several quantisers share one folder and one board, which marks those of a quantiser other
    than the suite's.
    """
    from mdlbench.cli.progress import suite_progress
    from mdlbench.report.features import write_feature_grid
    from mdlbench.scoring.suite_run import WHOLE, Shard, run
    from mdlbench.scoring.targets import counted_as, in_modes, targets
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    with prints_on_stderr():
        chosen = load_suite(suite)
        wanted = in_modes(chosen, targets(chosen, sae or [], adapter), quantiser or [])
    share = Shard.parse(shard) if shard else WHOLE
    n_wanted, counted = len(wanted[share.part(len(wanted))]), counted_as(wanted)
    folder = output or Path("results") / (chosen.name + (f"-limit-{limit}" if limit else ""))
    if dry_run:
        said = setting(device, limit, text or next(iter(chosen.source.text_names), None), dtype)
        _show_plan(Opener(chosen, said), wanted, folder, share, workers or 1, as_json)
        return
    outcomes: list[Scored | Failed] = []
    with prints_on_stderr(), suite_progress(n_wanted, quiet, counted) as progress:
        interrupt.keeps(lambda: _kept(folder, progress.n_kept, n_wanted, counted))
        opener = Opener(chosen, setting(device, limit, text, dtype, cache), progress.stage, notice)
        try:
            with engine(workers, ray, gpus_per_worker, device) as had:
                draw = write_feature_grid
                for outcome in run(opener, wanted, folder, progress.stage, draw, had, share):
                    outcomes.append(outcome)
                    progress.finish(outcome)
        except (OutputError, WorkerError):
            _name_failures(outcomes, progress)
            raise
    _tell(outcomes, as_json)
    if share == WHOLE:
        _report(folder, chosen, printed=not as_json)
    else:
        _tell_shard(folder, str(shard))
    if failures := _name_failures(outcomes, progress):
        raise typer.Exit(max(failure.error.exit_code for failure in failures))


def _tell(outcomes: Sequence[Scored | Failed], as_json: bool) -> None:
    _name_repeated(outcomes)
    if as_json:
        _print_outcomes(outcomes)


def _tell_shard(folder: Path, shard: str) -> None:
    tables = shlex.join(["mdlbench", "leaderboard", str(folder), "-o", str(folder)])
    notice(f"shard {shard} is done; when all are, `{tables}` makes the tables")


def _kept(folder: Path, n_kept: int, n_wanted: int, counted: str) -> str:
    whose = "the records of " if counted == "SAE" else ""
    return f"{folder}/ keeps {whose}{n_kept} of {n_wanted} {counted}s; run it again to go on"


def _show_plan(
    opener: Opener,
    wanted: Sequence[Target],
    folder: Path,
    share: Shard,
    n_workers: int,
    as_json: bool,
) -> None:
    from mdlbench.cli import rows
    from mdlbench.scoring.plan import planned

    plan = planned(opener, wanted, folder, share)
    listed, seconds = rows.plan_rows(plan), rows.plan_seconds(plan, n_workers)
    if as_json:
        facts = {"tokens": plan.tokens, "downloads": plan.downloads, "seconds": seconds}
        say(json.dumps({"saes": listed, **facts}))
        return
    rows.show(listed, as_json=False)
    for line in rows.plan_lines(plan, seconds):
        say(line)


def _report(folder: Path, suite: Suite, printed: bool) -> None:
    """Write the tables and figures of a results folder, if it holds records."""
    from mdlbench.boards.leaderboard import build_all
    from mdlbench.records.store import read_archive, read_records, read_references, record_paths
    from mdlbench.report import archived, print_boards, write_report

    if not record_paths(folder):
        return
    records = read_records(folder)
    archive = read_archive(folder)
    paths = write_report(records, read_references(folder), folder, archive)
    if printed:
        print_boards(build_all(records, suite.headline), suite=suite)
        say(archived(len(archive), folder), end="")
        say(f"\n{folder}/ holds the records and {', '.join(path.name for path in paths)}.")


def _print_outcomes(outcomes: Sequence[Scored | Failed]) -> None:
    from mdlbench.scoring.suite_run import Scored

    records = [json.loads(o.record.to_json()) for o in outcomes if isinstance(o, Scored)]
    failed = [
        {"sae": o.target.label, "error": str(o.error)}
        for o in outcomes
        if not isinstance(o, Scored)
    ]
    say(json.dumps({"records": records, "failed": failed}, allow_nan=False))


def _name_repeated(outcomes: Sequence[Scored | Failed]) -> None:
    """Say on stderr which finished SAEs were scored again, and why."""
    from mdlbench.scoring.suite_run import Scored

    for outcome in outcomes:
        if isinstance(outcome, Scored) and outcome.again:
            notice(f"{outcome.target.label}: scored again: {outcome.again}")


def _name_failures(outcomes: Sequence[Scored | Failed], progress: SuiteProgress) -> list[Failed]:
    """Say on stderr what failed and why, unless that stands there already.

    Those that failed alike are named together.
    """
    from mdlbench.scoring.suite_run import Failed, failure_lines

    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    for line in failure_lines(failures) if not progress.leaves_lines else ():
        notice(line)
    return failures


def check_adapter(
    spec: Annotated[
        str,
        typer.Argument(help="ADAPTER:ARGUMENT or a folder; with --suite, also a key of the suite."),
    ],
    suite: Annotated[
        str | None,
        typer.Option(help="Check on this suite's activations instead of standard-normal ones."),
    ] = None,
    adapter: AdapterOption = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Say what a SPEC loads, and whether it behaves as an SAE should."""
    from mdlbench.adapters.check import check_coder
    from mdlbench.adapters.load import load_coder
    from mdlbench.cli import rows
    from mdlbench.scoring.targets import open_target
    from mdlbench.sources.open import Opener
    from mdlbench.suite.load import load_suite

    with prints_on_stderr():
        if suite:
            opener = Opener(load_suite(suite), setting(device, limit=None, text=text))
            coder, source = open_target(opener, spec, adapter)
        else:
            coder, source = load_coder(spec, device=torch_device(device), adapter=adapter), None
        checks = check_coder(coder, source)
    rows.show(rows.check_rows(checks), as_json)
    if any(check.passed is False for check in checks):
        raise typer.Exit(1)
