"""`fetch`: what a run without a network needs."""

from __future__ import annotations

import sys

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import QuietOption, SuiteArgument, notice
from mdlbench.console.terminal import say


def fetch_suite(suite: SuiteArgument, quiet: QuietOption = False) -> None:
    """Get all that a later run without a network needs; check what is here already.

    Run it again after an interruption, or to check the files: a damaged file is fetched again.
    What is not available is reported (exit code 1); the rest is fetched all the same.
    """
    from mdlbench.scoring.fetch import Missed, fetch, shown_on
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite)
    n_missed = n_got = 0
    interrupt.keeps(lambda: f"{n_got} items are kept in the caches; run it again to go on")
    for outcome in fetch(chosen, shown_on(sys.stderr, quiet)):
        if isinstance(outcome, Missed):
            n_missed += outcome.instead is None
            notice(outcome.message)
        else:
            n_got += 1
            say(outcome.message)
    if n_missed:
        raise typer.Exit(1)
    say(f"All that suite {chosen.name!r} needs is on this machine.")
