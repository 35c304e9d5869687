"""What a user names of a recipe, whatever it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from mdlbench.errors import UsageError, did_you_mean

Config = TypeVar("Config")


def chosen(recipe: Mapping[str, Config], keys: Sequence[str], lacks: str) -> dict[str, Config]:
    """A recipe whole, or of the keys that are named.

    Raises `UsageError`, which begins with `lacks`, for a key that is not in it.
    """
    for key in keys:
        if key not in recipe:
            raise UsageError(f"{lacks} {key!r}. {did_you_mean(key, recipe)}")
    return {key: recipe[key] for key in keys or recipe}
