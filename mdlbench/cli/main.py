"""The entry point of `mdlbench`."""

from __future__ import annotations

import os
import sys

try:
    from mdlbench.cli import interrupt

    interrupt.heed()
except KeyboardInterrupt:
    os.write(2, b"mdlbench: interrupted\n")
    sys.exit(130)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def main() -> None:
    """Run a command. Exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    interrupt.interruptible(_run)


def _run() -> None:
    from mdlbench.cli.app import DEBUG, app
    from mdlbench.console.terminal import print_anything, say
    from mdlbench.errors import MdlbenchError, readable, shortage
    from mdlbench.extensions.foreign import end_stdout

    print_anything()
    _show_own_warnings()
    _silence_matplotlib()
    try:
        app()
    except Exception as error:
        expected = shortage(error) or error
        if not isinstance(expected, MdlbenchError | OSError):
            raise
        if DEBUG.get():
            import traceback

            say(traceback.format_exc(), to_stderr=True)
        say(f"mdlbench: {readable(str(expected))}", to_stderr=True)
        sys.exit(expected.exit_code if isinstance(expected, MdlbenchError) else 1)
    finally:
        end_stdout()


def _show_own_warnings() -> None:
    """Each of ours is one line on stderr, and is said once."""
    import warnings

    from mdlbench.console.terminal import say
    from mdlbench.errors import MdlbenchWarning, readable

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
            say(f"mdlbench: {readable(str(message))}", to_stderr=True)
        else:
            shown_otherwise(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def _silence_matplotlib() -> None:
    """A home where it cannot keep its list of fonts is no fault that a reader must know of."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
