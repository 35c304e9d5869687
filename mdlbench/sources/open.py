"""The activation sources that a suite asks for."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mdlbench.console.stages import OnNotice, OnStage, silent
from mdlbench.extensions.plugins import Plugin
from mdlbench.hub.items import Item
from mdlbench.sources.foreign import ForeignSource, failing
from mdlbench.sources.protocol import ActivationSource, Setting, SourceOpener
from mdlbench.suite.kinds import built_in_kinds, subclass_of
from mdlbench.suite.site import SILENT, UNSAID, Origin, Place, Site
from mdlbench.suite.source import SourceConfig
from mdlbench.suite.suite import Suite

__all__ = ["Opener", "Setting"]


USUAL = Setting()
"""On the CPU, all documents, the suite's own text."""


class Opener:
    """Opens a suite's sources one after the other, whatever their kind.

    What another package's source raises, `SystemExit` too, is a `SourceError` that names the kind.

    Raises:
        MdlbenchError: what opens sources of that kind cannot be imported.
    """

    def __init__(
        self,
        suite: Suite,
        setting: Setting = USUAL,
        on_stage: OnStage = silent,
        on_notice: OnNotice = silent,
    ) -> None:
        self.suite, self.setting, self.on_notice = suite, setting, on_notice
        kind = suite.source.kind
        self._is_foreign = kind not in built_in_kinds()
        self._in = failing(kind) if self._is_foreign else _as_it_fails
        with self._in("opening"):
            self._source = _opener_class(suite.source)(suite.source, suite, setting, on_stage)
            self._source.on_notice = on_notice

    def open(self, site: Site) -> ActivationSource:
        """The activations at a site; raises as the `SourceOpener` does."""
        with self._in("open"):
            source = self._source.open(site)
        return ForeignSource(source, self._in) if self._is_foreign else source

    def settle(self) -> None:
        """Settle what every site shares; raises as the `SourceOpener` does."""
        with self._in("settle"):
            self._source.settle()

    def settled(self) -> Setting:
        """The setting with what every site shares, for whoever opens the same suite elsewhere."""
        with self._in("settled"):
            return self._source.settled()

    def site_of(self, origin: Origin = SILENT, place: Place = UNSAID, name: str = "SAE") -> Site:
        """The site at which an SAE is scored; raises as the `SourceOpener` does."""
        with self._in("site_of"):
            return self._source.site_of(origin, place, name)

    def needs(self) -> Iterable[Item]:
        """What must be fetched before the suite can run without a network."""
        with self._in("needs"):
            return list(self._source.needs())


def _as_it_fails(method: str) -> AbstractContextManager[None]:
    """What is built in fails with its own errors."""
    return nullcontext()


def _opener_class(config: SourceConfig) -> type[SourceOpener[Any]]:
    return subclass_of(SourceOpener, Plugin(config.kind, config.opener))  # type: ignore[type-abstract]
