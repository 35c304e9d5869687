"""Somebody's SAE → a `SparseCoder`.

What an adapter deals in (`protocol`, `identity`) can be imported from here. Most of it imports
torch, for which listing the adapters (`registry`) must not wait, so it is imported when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdlbench.adapters.identity import CoderIdentity
    from mdlbench.adapters.protocol import Adapter, CoderSpec, Origin, Request, SparseCoder

__all__ = ["Adapter", "CoderIdentity", "CoderSpec", "Origin", "Request", "SparseCoder"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mdlbench.adapters import identity, protocol

    return getattr(identity if name == "CoderIdentity" else protocol, name)
