"""Which SAEs are to be scored, where, and loaded from what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.errors import UsageError
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.site import UNSAID, Place, Site
from mdlbench.suite.suite import Suite, SuiteEntry


@dataclass(frozen=True)
class Target:
    """One SAE to score.

    Attributes:
        sae: the SAE by its spec.
        name: what to call it; None for the adapter's own name.
        place: where it is scored, as far as the suite says.
    """

    sae: NamedCoder
    name: str | None = None
    place: Place = UNSAID

    @property
    def is_listed(self) -> bool:
        """Whether its suite lists it, so that a record need not say where it was."""
        return self.sae.folder != Path()

    @property
    def label(self) -> str:
        return self.name or self.sae.spec


def targets(suite: Suite, saes: Sequence[str], adapter: str | None) -> list[Target]:
    """The SAEs to score, by key of the suite or by spec; all of the suite's if none is named.

    Raises:
        UsageError: a name is not a key of the suite, or there is nothing to score.
    """
    if not saes and not suite.saes:
        raise UsageError(f"suite {suite.name!r} lists no SAEs; name one with --sae")
    if not saes:
        return [_entry_target(suite, entry) for entry in suite.saes]
    return [target for sae in saes for target in _targets(suite, sae, adapter)]


def _targets(suite: Suite, sae: str, adapter: str | None) -> list[Target]:
    """A key of the suite, if the word is one or could be meant as one; otherwise a spec.

    As NAME=SPEC it is called so, unless there is a path of the whole.
    """
    name, equals, spec = sae.partition("=")
    if equals and name and not set(name) & set("/:?") and not Path(sae).exists():
        found = _targets(suite, spec, adapter)
        if len(found) > 1:
            raise UsageError(f"{sae!r}: one name for {len(found)} SAEs")
        return [replace(found[0], name=name)]
    could_be_key = adapter is None and ":" not in sae and Path(sae).name == sae
    if could_be_key and (sae in suite.keys or not Path(sae).exists()):
        return [_entry_target(suite, suite.entry(sae))]
    places = {entry.spec: entry.place for entry in suite.saes}
    named = NamedCoder(sae, adapter=adapter)
    return [Target(found, place=places.get(found.spec, UNSAID)) for found in named.expand()]


def _entry_target(suite: Suite, entry: SuiteEntry) -> Target:
    return Target(NamedCoder(entry.spec, suite.folder), entry.key, entry.place)


def open_target(
    opener: Opener, sae: str, adapter: str | None
) -> tuple[SparseCoder, ActivationSource]:
    """One SAE, by key or by spec, and the suite's activations for it, to look at."""
    target = targets(opener.suite, [sae], adapter)[0]
    source = opener.open(target_site(opener, target))
    return target.sae.load(source, str(source.device)), source


def target_site(opener: Opener, target: Target) -> Site:
    """Where a target is scored; raises as `Opener.site_of` does."""
    return opener.site_of(target.sae.origin(), target.place, target.label)
