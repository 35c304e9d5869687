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
from mdlbench.suite.suite import Suite


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

    A key may be written SUITE:KEY, a folder ./FOLDER; a word that could be either is refused.

    Raises:
        UsageError: a name is not a key of the suite, or is a path here as well, or there is
            nothing to score.
    """
    if not saes and not suite.saes:
        raise UsageError(f"suite {suite.name!r} lists no SAEs; name one with --sae")
    if not saes:
        return [key_target(suite, entry.key) for entry in suite.saes]
    return [target for sae in saes for target in _targets(suite, sae, adapter)]


def key_target(suite: Suite, key: str) -> Target:
    """The SAE of a key of the suite; raises `UsageError` where there is none."""
    entry = suite.entry(key)
    return Target(NamedCoder(entry.spec, suite.folder), entry.key, entry.place)


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
    if adapter is None and (key := _key(suite, sae)) is not None:
        return [key_target(suite, key)]
    places = {entry.spec: entry.place for entry in suite.saes}
    named = NamedCoder(sae, adapter=adapter)
    return [Target(found, place=places.get(found.spec, UNSAID)) for found in named.expand()]


def _key(suite: Suite, word: str) -> str | None:
    """The key that a word is, or could be meant as; None for a spec."""
    prefix, _, key = word.partition(":")
    if key in suite.keys and prefix == suite.name:
        return key
    if ":" in word or Path(word).name != word:
        return None
    if not Path(word).exists():
        return word
    if word in suite.keys:
        raise UsageError(
            f"{word!r} is an SAE of suite {suite.name!r} and a path here: "
            f"write {suite.name}:{word} for the one, {path_spec(Path(word))} for the other"
        )
    return None


def path_spec(path: Path) -> str:
    """How to write the path of an SAE so that it means nothing else: no key, no adapter."""
    return str(path) if path.is_absolute() else f"./{path}"


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
