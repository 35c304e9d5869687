"""Somebody else's code runs here: it may fail in any way, print, or try to end the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mdlbench.errors import MdlbenchError, heed_shortage

Item = TypeVar("Item")


@contextmanager
def blamed(what: str, kind: type[MdlbenchError]) -> Iterator[None]:
    """However somebody's code fails, even by `sys.exit`, it is an expected error.

    An error of ours passes as it is, and so does the user's Ctrl-C.

    Args:
        what: it, and what it fails at, in words.
        kind: of error to raise.
    """
    try:
        yield
    except (MdlbenchError, KeyboardInterrupt):
        raise
    except BaseException as error:
        heed_shortage(error)
        raise kind(f"{what}: {type(error).__name__}: {error}") from error


@contextmanager
def prints_on_stderr() -> Iterator[None]:
    """What is written to stdout meanwhile, by Python or below it, goes to stderr."""
    with contextlib.suppress(OSError):
        _flush()
    with contextlib.redirect_stdout(sys.stderr), _descriptor_on_stderr():
        yield


def each_on_stderr(items: Iterable[Item]) -> Iterator[Item]:
    """The items; what is printed while one is made goes to stderr."""
    iterator = iter(items)
    while True:
        with prints_on_stderr():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def end_stdout() -> None:
    """Send what is still printed to stderr: as a process ends, somebody's code may run again."""
    with contextlib.suppress(OSError):
        _flush()
        os.dup2(2, 1)


@contextmanager
def _descriptor_on_stderr() -> Iterator[None]:
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    """Write what Python and C still hold for stdout where it belongs."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)
