"""Every annotation of the package is checked while the tests run, array shapes included."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception
from filelock import FileLock
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

Checked = TypeVar("Checked", bound=Callable[..., object])


def check_types(function: Checked) -> Checked:
    """beartype, except where a signature names a protocol that isinstance cannot test, or `Self`.

    An int may stand for a float, as for type checkers.
    """
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    except (BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception):
        return function


install_import_hook("mdlbench", f"{__name__}.{check_types.__name__}")

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
