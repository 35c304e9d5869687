"""Ctrl-C: at any moment exit code 130 and one line that says what was kept.

Nothing but what every Python process has loaded is imported here, so that the signal is heeded
before the imports that take long.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

INTERRUPTED = 130
"""The exit code, as shells have it: 128 and the number of the signal."""
SHOW_CURSOR = "\x1b[?25h"
"""For a terminal whose cursor a bar has hidden."""
_IMPORT = "<frozen importlib._bootstrap>"


class _State:
    """What the next interrupt means."""

    working = False
    interrupted = False
    kept: Callable[[], str] | None = None


def heed() -> None:
    """End the process by the first interrupt from now on, unless it was started deaf to them."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
        sys.unraisablehook = _unraisable


def keeps(said: Callable[[], str]) -> None:
    """From now on, an interrupt says this of what is kept."""
    _State.kept = said


def interruptible(work: Callable[[], None]) -> None:
    """Do some work; an interrupt unwinds it by `KeyboardInterrupt` and then ends the process.

    One that arrives during an import ends it at once: extension modules turn the exception into
    others, or lose it. So does a second one.
    """
    try:
        _State.working = True
        work()
    except BaseException:
        if _State.interrupted:
            _end()
        raise
    finally:
        _State.working = False


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if _State.interrupted or not _State.working or _is_import(frame):
        _end()
    _State.interrupted = True
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that a finaliser or a callback of C would have swallowed counts as well."""
    if unraisable.exc_type is KeyboardInterrupt:
        _end()
    sys.__unraisablehook__(unraisable)


def _is_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            return True
        frame = frame.f_back
    return False


def _end() -> None:
    """Say in one line what was kept, and go; files are whole at any time, spools have no name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
        os.write(2, _line().encode())
    finally:
        os._exit(INTERRUPTED)


def _line() -> str:
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    kept = f"; {_State.kept()}" if _State.kept else ""
    return f"{cursor}mdlbench: interrupted{kept}\n"
