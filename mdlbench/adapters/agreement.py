"""Is an SAE given the activations that it was trained on? As far as its config tells."""

from __future__ import annotations

from typing import Any

from mdlbench.adapters.protocol import Origin
from mdlbench.sources.language.hooks import is_same_tensor
from mdlbench.suite.site import Site


def is_of_language_model(origin: Origin, site: Site | None) -> bool:
    """By what its config says, or because it is given a language model's activations."""
    models = (origin.model, site.model if site else None)
    return any(models) or (origin.hook or "").startswith("blocks.")


def doubts(origin: Origin, site: Site | None) -> list[str]:
    """What may be wrong with giving it a site's activations, or what nobody can tell, in words."""
    return [*_silence(origin), *_options(origin, site), *_differences(origin, site)]


def described(origin: Origin) -> str:
    """The activations that it was trained on; empty if nothing is said of them."""
    bos = {True: "BOS", False: "no BOS", None: None}[origin.prepend_bos]
    hook = f"{origin.hook} → {origin.hook_out}" if origin.hook_out else origin.hook
    context = f"{origin.context} tokens" if origin.context else None
    parts = [origin.model, hook, context, bos, *_written(origin)]
    return ", ".join(part for part in parts if part)


def _silence(origin: Origin) -> list[str]:
    names = ("hook", "context", "prepend_bos")
    unsaid = [name for name in names if getattr(origin, name) is None]
    if not unsaid:
        return []
    return [f"its config does not say {' or '.join(unsaid)}, so the suite must"]


def _options(origin: Origin, site: Site | None) -> list[str]:
    if not origin.model_options:
        return []
    needed = f"its release needs the model loaded with {', '.join(_written(origin))}"
    if site is None:
        return [needed]
    if all(
        site.model_options.get(key, False) == value for key, value in origin.model_options.items()
    ):
        return []
    return [f"{needed}; the suite loads it with {dict(site.model_options) or 'none of it'}"]


def _differences(origin: Origin, site: Site | None) -> list[str]:
    if site is None:
        return []
    names = ("hook", "context", "prepend_bos")
    pairs = [(name, getattr(origin, name), getattr(site, name)) for name in names]
    return [
        f"{name} is {here} here, but it was trained with {there}"
        for name, there, here in pairs
        if None not in (there, here) and not _agree(name, there, here)
    ]


def _agree(name: str, there: Any, here: Any) -> bool:
    return is_same_tensor(there, here) if name == "hook" else bool(there == here)


def _written(origin: Origin) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(origin.model_options.items())]
