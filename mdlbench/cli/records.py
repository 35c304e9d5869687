"""`ls`, `validate` and `verify`: what there is, and whether it can be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import (
    CacheOption,
    DeviceOption,
    GpusOption,
    JsonOption,
    QuietOption,
    RayOption,
    RecordsArgument,
    SuiteFileOption,
    WorkersOption,
    engine,
)
from mdlbench.console.terminal import say
from mdlbench.errors import UsageError
from mdlbench.extensions.foreign import each_on_stderr

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mdlbench.console.stages import OnStage
    from mdlbench.scoring.engine import Engine
    from mdlbench.scoring.repeat import Unverified, Verified
    from mdlbench.suite.suite import Suite

LINE_LENGTH = 2000
"""The most characters of the line about one record."""


LISTINGS = ("suites", "adapters", "records")
"""What `mdlbench ls` lists; any other word is a suite, whose SAEs are."""


def list_things(
    what: Annotated[
        str, typer.Argument(help="suites, adapters, records, or a suite, whose SAEs are listed")
    ] = "suites",
    folder: Annotated[Path, typer.Argument(help="Where to look for records.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """List suites, the SAEs of one, adapters, or the records under a folder."""
    from mdlbench.cli import rows

    if what == "suites":
        listed = rows.suites()
    elif what == "adapters":
        listed = rows.adapters()
    elif what == "records":
        listed = rows.records(folder)
    else:
        _refuse_misspelt(what)
        listed = rows.saes(what)
    rows.show(listed, as_json)


def _refuse_misspelt(what: str) -> None:
    from mdlbench.errors import did_you_mean
    from mdlbench.suite.folders import suite_names

    known = [*LISTINGS, *suite_names()]
    if what not in known and not Path(what).exists():
        raise UsageError(f"nothing to list by the name {what!r}. {did_you_mean(what, known)}")


def validate(
    records: RecordsArgument,
    suite: SuiteFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check records without running anything: schema, seal, identity, suite, derived numbers.

    The exit code is 1 if a record is not valid. Only `mdlbench verify` shows that an SAE really
    costs what its record says.
    """
    from mdlbench.records.checks import problems_of_files
    from mdlbench.records.store import all_record_paths
    from mdlbench.report.tables import printable
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite) if suite else None
    found = problems_of_files(all_record_paths(records), chosen)
    if as_json:
        rows = [{"record": str(path), "problems": problems} for path, problems in found.items()]
        say(json.dumps(rows, indent=1))
    else:
        for path, problems in found.items():
            say(printable(f"{path}: {'; '.join(problems) or 'valid'}", LINE_LENGTH))
    if any(found.values()):
        raise typer.Exit(1)


def verify(
    records: RecordsArgument,
    sae: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Where the SAE is, if its suite does not have it; only with a single record.",
        ),
    ] = None,
    suite: SuiteFileOption = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A file or folder with the text of a language suite [the text that the record "
            "names, which must be one of the suite's].",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    workers: WorkersOption = None,
    ray: RayOption = None,
    gpus_per_worker: GpusOption = None,
    cache: CacheOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure records again and compare, within what their suite allows.

    A second measurement of a record is called a repetition. If the two agree, the record is
    reproduced: the repetition is kept in `reproductions/` beside the records and counts until the
    record changes. If there are several, the one that is furthest off is kept. The exit code is 1
    if a record is not reproduced, or cannot be measured.
    """
    from mdlbench.cli import rows
    from mdlbench.cli.progress import stages
    from mdlbench.records.store import all_record_paths
    from mdlbench.suite.load import load_suite

    paths = all_record_paths(records)
    if sae is not None and len(paths) > 1:
        raise UsageError(f"--sae needs a single record, but there are {len(paths)}")
    chosen = load_suite(suite) if suite else None
    outcomes: list[rows.Row] = []
    interrupt.keeps(
        lambda: (
            f"{sum('error' not in row for row in outcomes)} of {len(paths)} records are "
            "reproduced, their repetitions kept beside them"
        )
    )
    with stages(quiet) as report, engine(workers, ray, gpus_per_worker, device) as had:
        again = _measured_again(paths, chosen, sae, text, device, report, had, cache)
        for outcome in each_on_stderr(again):
            outcomes.append(rows.verification_row(outcome))
            if not as_json:
                say(rows.verification_line(outcomes[-1]))
    if as_json:
        say(json.dumps(outcomes, indent=1))
    if any("error" in row for row in outcomes):
        raise typer.Exit(1)


def _measured_again(
    paths: Sequence[Path],
    suite: Suite | None,
    sae: str | None,
    text: str | None,
    device: str,
    on_stage: OnStage,
    engine: Engine,
    cache: bool,
) -> Iterator[Verified | Unverified]:
    """How each record fares; those that cannot be measured come first."""
    from mdlbench.scoring.repeat import Claim, Unverified, read_claim
    from mdlbench.scoring.repeat import verify as measure

    found = [read_claim(path, suite, sae) for path in paths]
    claims = [claim for claim in found if isinstance(claim, Claim)]
    refused = [claim for claim in found if isinstance(claim, Unverified)]
    yield from refused
    yield from measure(claims, device, text, on_stage, engine, cache)
