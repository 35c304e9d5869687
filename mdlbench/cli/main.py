"""The entry point of `mdlbench`."""

from __future__ import annotations

import sys

try:
    from mdlbench.cli import interrupt

    interrupt.heed()
except KeyboardInterrupt:
    print("mdlbench: interrupted", file=sys.stderr)
    sys.exit(130)


def main() -> None:
    """Run a command. Exit codes: 0 complete, 1 something failed, 2 usage, 130 interrupted."""
    interrupt.interruptible(_run)


def _run() -> None:
    from mdlbench.cli.app import DEBUG, app
    from mdlbench.errors import MdlbenchError

    try:
        app()
    except (MdlbenchError, OSError) as error:
        if DEBUG.get():
            import traceback

            traceback.print_exc()
        print(f"mdlbench: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, MdlbenchError) else 1)
