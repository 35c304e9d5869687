"""The activation sources that a suite asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mdlbench.console.stages import OnNotice, OnStage, silent
from mdlbench.extensions.plugins import Plugin
from mdlbench.hub.items import Item
from mdlbench.sources.protocol import ActivationSource, Setting, SourceOpener
from mdlbench.suite.kinds import subclass_of
from mdlbench.suite.site import SILENT, UNSAID, Origin, Place, Site
from mdlbench.suite.source import SourceConfig
from mdlbench.suite.suite import Suite

__all__ = ["Opener", "Setting"]


USUAL = Setting()
"""On the CPU, all documents, the suite's own text."""


class Opener:
    """Opens a suite's sources one after the other, whatever their kind.

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
        self._source = _opener_class(suite.source)(suite.source, suite, setting, on_stage)
        self._source.on_notice = on_notice

    def open(self, site: Site) -> ActivationSource:
        """The activations at a site; raises as the `SourceOpener` does."""
        return self._source.open(site)

    def settle(self) -> None:
        """Settle what every site shares; raises as the `SourceOpener` does."""
        self._source.settle()

    def settled(self) -> Setting:
        """The setting with what every site shares, for whoever opens the same suite elsewhere."""
        return self._source.settled()

    def site_of(self, origin: Origin = SILENT, place: Place = UNSAID, name: str = "SAE") -> Site:
        """The site at which an SAE is scored; raises as the `SourceOpener` does."""
        return self._source.site_of(origin, place, name)

    def needs(self) -> Iterable[Item]:
        """What must be fetched before the suite can run without a network."""
        return self._source.needs()


def _opener_class(config: SourceConfig) -> type[SourceOpener[Any]]:
    return subclass_of(SourceOpener, Plugin(config.kind, config.opener))  # type: ignore[type-abstract]
