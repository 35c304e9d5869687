"""The boundary to a suite's own files: whatever bytes of them raise is that file's error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdlbench.errors import MdlbenchError, SuiteError, heed_shortage

LONGEST = 500
"""The most characters of a reason."""


@contextmanager
def artefact(path: Path, what: str) -> Iterator[None]:
    """Turn whatever reading a file raises into an error that names it.

    Args:
        path: the file.
        what: what it should be, in words.

    Raises:
        SuiteError: it is no regular file, or reading it raised something.
    """
    try:
        yield
    except MdlbenchError:
        raise
    except Exception as error:
        heed_shortage(error)
        reason = " ".join(str(error).split())[:LONGEST] or type(error).__name__
        raise SuiteError(f"{path}: not {what}: {reason}") from error
