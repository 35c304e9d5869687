"""The entry point of `mdlbench`."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import TextIO

from mdlbench.cli.app import DEBUG, app
from mdlbench.errors import MdlbenchError, MdlbenchWarning
from mdlbench.foreign import end_stdout
from mdlbench.terminal import print_anything, say


def main() -> None:
    """Run a command. Exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    print_anything()
    _show_own_warnings()
    try:
        app()
    except (MdlbenchError, OSError) as error:
        if DEBUG.get():
            traceback.print_exc()
        say(f"mdlbench: {error}", to_stderr=True)
        sys.exit(error.exit_code if isinstance(error, MdlbenchError) else 1)
    finally:
        end_stdout()


def _show_own_warnings() -> None:
    """Each of ours is one line on stderr, and is said once."""
    warnings.simplefilter("default", MdlbenchWarning)
    shown_otherwise = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MdlbenchWarning):
            say(f"mdlbench: {message}", to_stderr=True)
        else:
            shown_otherwise(message, category, filename, lineno, file, line)

    warnings.showwarning = show
