"""The app: its commands by name, and the options that come before a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mdlbench.cli.boards import cite, compare, leaderboard
from mdlbench.cli.cache import cache
from mdlbench.cli.eval import check_adapter, eval_suite
from mdlbench.cli.fetch import fetch_suite
from mdlbench.cli.papers import reproduce
from mdlbench.cli.records import list_things, validate, verify
from mdlbench.cli.stream import decode, encode
from mdlbench.cli.study import study
from mdlbench.cli.train import train
from mdlbench.console.terminal import inert, say
from mdlbench.errors import readable

COMMANDS: dict[str, Callable[..., None]] = {
    "eval": eval_suite,
    "ls": list_things,
    "fetch": fetch_suite,
    "check-adapter": check_adapter,
    "leaderboard": leaderboard,
    "cite": cite,
    "validate": validate,
    "verify": verify,
    "compare": compare,
    "train": train,
    "study": study,
    "reproduce": reproduce,
    "encode": encode,
    "decode": decode,
    "cache": cache,
}
"""Every command, in the order of `mdlbench --help`."""


DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether an error is shown with its traceback."""


def before_commands(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    DEBUG.set(debug)
    if version:
        from importlib.metadata import version as installed

        say(installed("mdlbench"))
        raise typer.Exit


class InertGroup(TyperGroup):
    """The commands; what is said of arguments repeats them, and may come from anywhere."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _inert_messages():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _inert_messages():
            return super().invoke(ctx)


class SpecCommand(TyperCommand):
    """A command; where an SAE is given as SAELens' two words, it says how to write them as one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            spelling = _as_one_word(given, ctx.params)
            if spelling and "unexpected extra argument" in getattr(error, "message", ""):
                error.message += f". An SAE is one word: {spelling}"  # type: ignore[attr-defined]
            raise


def _as_one_word(arguments: list[str], options: dict[str, Any]) -> str | None:
    """The SPEC of `RELEASE ID`, where what is said of an SAE is followed by a second word."""
    sae = options.get("sae") or options.get("spec") or ()
    saes = {sae} if isinstance(sae, str) else set(sae)
    for first, second in pairwise(arguments):
        name, equals, release = first.rpartition("=")
        release = release.removeprefix("saelens:")
        if first in saes and not second.startswith("-") and second not in saes and release:
            return f"{name}{equals}saelens:{release}/{second}"
    return None


@contextmanager
def _inert_messages() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = readable(inert(message))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=InertGroup,
    help="Score sparse autoencoders by description length: bits per token at a given loss.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.callback(invoke_without_command=True)(before_commands)
for name, command in COMMANDS.items():
    app.command(name, cls=SpecCommand)(command)
