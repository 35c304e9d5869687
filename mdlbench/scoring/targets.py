"""Which SAEs are to be scored, where, and loaded from what."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mdlbench.adapters.joint import JointPart, NamedJoint
from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.protocol import Origin, SparseCoder
from mdlbench.errors import UsageError
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import with_quantiser
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource
from mdlbench.suite.site import AND, UNSAID, Place, Site
from mdlbench.suite.suite import Suite, is_spec, several


@dataclass(frozen=True)
class Target:
    """One SAE to score, or several that are spliced in at once.

    Attributes:
        sae: the SAE by its spec, or several.
        name: what to call it; None for the adapter's own name.
        place: where it is scored, as far as the suite says.
        quantiser: the operating mode; None for the suite's own.
    """

    sae: NamedCoder | NamedJoint
    name: str | None = None
    place: Place = UNSAID
    quantiser: str | None = None

    @property
    def is_listed(self) -> bool:
        """Whether its suite lists it, so that a record need not say where it was."""
        return self.sae.folder != Path()

    @property
    def label(self) -> str:
        return with_quantiser(self.name or self.sae.spec, self.quantiser)


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


def in_modes(suite: Suite, wanted: Sequence[Target], quantisers: Sequence[str]) -> list[Target]:
    """Each SAE in each mode, one mode after the other; without any, in the suite's own.

    Raises:
        UsageError: there is no such mode.
    """
    modes = [mode_of(name).name for name in quantisers] or [suite.quantiser]
    chosen = [None if name == suite.quantiser else name for name in dict.fromkeys(modes)]
    return [replace(target, quantiser=mode) for target in wanted for mode in chosen]


def counted_as(wanted: Sequence[Target]) -> str:
    """What a run over targets counts: SAEs, or records where SAEs are there in several modes."""
    return "SAE" if len({target.quantiser for target in wanted}) <= 1 else "record"


def key_target(suite: Suite, key: str) -> Target:
    """The SAE of a key of the suite; raises `UsageError` where there is none."""
    entry = suite.entry(key)
    if entry.splice:
        sae = _joint(entry.words, partial(_listed, suite), suite.folder)
        return Target(sae, entry.key, entry.place)
    return Target(NamedCoder(entry.spec, suite.folder), entry.key, entry.place)


def _joint(
    words: Sequence[str], find: Callable[[str], list[Target]], folder: Path = Path()
) -> NamedJoint:
    """The SAEs of some words, to be spliced in at once.

    Raises:
        UsageError: one of them is unknown, or is several itself.
    """
    return NamedJoint(tuple(_part(word, find) for word in words), folder)


def _part(word: str, find: Callable[[str], list[Target]]) -> JointPart:
    if not word:
        raise UsageError("nothing stands beside a ' + ': write several SAEs as in 'A + B'")
    found = find(word)
    sae = found[0].sae
    if len(found) != 1 or isinstance(sae, NamedJoint):
        raise UsageError(f"{word!r}: is several SAEs; write each by itself, as in A + B")
    return JointPart(sae, found[0].label, found[0].place)


def _listed(suite: Suite, word: str) -> list[Target]:
    """What a suite means by a word that stands in one of its entries: a key or a spec.

    A spec is not read yet, so that one that cannot be read stops no other entry.
    """
    if is_spec(word):
        return [Target(NamedCoder(word, suite.folder))]
    return [key_target(suite, word)]


def _targets(suite: Suite, sae: str, adapter: str | None) -> list[Target]:
    """A key of the suite, if the word is one or could be meant as one; otherwise a spec.

    As NAME=SPEC it is called so, unless there is a path of the whole.
    """
    name, equals, spec = sae.partition("=")
    if equals and name and _is_name(name) and not os.path.exists(sae):  # noqa: PTH110
        found = _targets(suite, spec, adapter)
        if len(found) > 1:
            raise UsageError(f"{sae!r}: one name for {len(found)} SAEs")
        return [replace(found[0], name=name)]
    if adapter is None and AND in sae and not os.path.exists(sae):  # noqa: PTH110
        return [Target(_joint(several(sae), lambda word: _targets(suite, word, None)))]
    if adapter is None and (key := _key(suite, sae)) is not None:
        return [key_target(suite, key)]
    places = {entry.spec: entry.place for entry in suite.saes}
    named = NamedCoder(sae, adapter=adapter)
    return [Target(found, place=places.get(found.spec, UNSAID)) for found in named.expand()]


def _is_name(text: str) -> bool:
    """Whether what stands before `=` is a name, and no part of a spec or of several."""
    return not set(text) & set("/:?") and AND not in text


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
    return opener.site_of(target_origin(opener, target, target.place), target.place, target.label)


def target_origin(opener: Opener, target: Target, place: Place) -> Origin:
    """Which activations a target was trained on; for several SAEs, those at all their hooks.

    Args:
        opener: settles where each of several is scored.
        target: the SAE, or several.
        place: what is said of where it is scored.
    """
    if isinstance(target.sae, NamedJoint):
        return target.sae.origin(opener.site_of, place)
    return target.sae.origin()
