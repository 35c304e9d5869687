"""Every annotation of the package is checked while the tests run, array shapes included.

Each test process computes in one thread: two of them share two cores.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests.typechecks import install

os.environ.setdefault("OMP_NUM_THREADS", "1")
install("mdlbench")

LONGEST = ("test_gpt2_suites", "test_workers", "test_docs", "test_terminal", "test_folders")
LONGEST += ("test_objects", "test_validation", "test_interrupt", "test_rooms", "test_training")
"""Files that take longest: with these first, two test processes end together."""

settings.register_profile(
    "mdlbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mdlbench")


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`HF_HOME` with a small GPT-2, SAEs for it and a text; written once for all test processes.

    A test that changes it must copy it first.
    """
    from tests.surrogate_hub import write_surrogate_hub

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "surrogate-hub"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            write_surrogate_hub(folder.with_suffix(".part")).rename(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, the others as they were."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
