"""Work that is killed right before its n-th change of the file system, as a power cut would.

Opening a file counts as one, since that may create it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import torch

KILLED = 137
CHANGES = ("open", "fsync", "chmod", "link", "replace", "rename", "unlink", "mkdir", "rmdir")
CHANGES += ("write",)


def every_crash(work: Callable[[], object]) -> Iterator[None]:
    """Kill `work` in a process of its own at its first change, at its second, … until it ends.

    Yields after each kill; what was left is the caller's to look at and to clear away.
    """
    for n in itertools.count(1):
        if not killed_before(n, work):
            return
        yield


def killed_before(n: int, work: Callable[[], object]) -> bool:
    """Whether `work` came to its n-th change; nothing of Python's own clearing up is done then.

    The child has none of the parent's threads, so it must not wait for them: it computes in one.
    """
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        _die_before(n)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


def _die_before(n: int) -> None:
    left = itertools.count(n - 1, -1)

    def deadly(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            if next(left) <= 0:
                os._exit(KILLED)
            return change(*arguments, **options)

        return changed

    for name in CHANGES:
        setattr(os, name, deadly(getattr(os, name)))
