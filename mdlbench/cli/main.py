"""The entry point of `mdlbench`."""

from __future__ import annotations

import sys
import traceback

from mdlbench.cli.app import DEBUG, app
from mdlbench.errors import MdlbenchError
from mdlbench.terminal import print_anything, say


def main() -> None:
    """Run a command. Exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    print_anything()
    try:
        app()
    except (MdlbenchError, OSError) as error:
        if DEBUG.get():
            say(traceback.format_exc(), to_stderr=True)
        say(f"mdlbench: {error}", to_stderr=True)
        sys.exit(error.exit_code if isinstance(error, MdlbenchError) else 1)
