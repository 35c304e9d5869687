"""Every annotation of the package is checked while the tests run, array shapes included."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

Checked = TypeVar("Checked", bound=Callable[..., object])


def check_types(function: Checked) -> Checked:
    """beartype, except where a signature names a protocol that isinstance cannot test.

    An int may stand for a float, as for type checkers.
    """
    try:
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
    except BeartypeDecorHintPep3119Exception:
        return function


install_import_hook("mdlbench", f"{__name__}.{check_types.__name__}")

settings.register_profile(
    "mdlbench", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mdlbench")
