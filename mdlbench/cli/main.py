"""The entry point of `mdlbench`."""

from __future__ import annotations

import sys
import traceback

from mdlbench.cli.app import DEBUG, app
from mdlbench.errors import MdlbenchError
from mdlbench.foreign import end_stdout


def main() -> None:
    """Run a command. Exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    try:
        app()
    except (MdlbenchError, OSError) as error:
        if DEBUG.get():
            traceback.print_exc()
        print(f"mdlbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, MdlbenchError) else 1)
    finally:
        end_stdout()
