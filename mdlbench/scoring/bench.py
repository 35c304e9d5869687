"""A suite opened for measuring at one site, in one mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.errors import UsageError
from mdlbench.quantisers.modes import Mode, mode_of
from mdlbench.records.record import (
    PROTOCOL,
    Identity,
    Measurement,
    SiteReferences,
)
from mdlbench.scoring.executor import Executor
from mdlbench.scoring.rounds import Rounds
from mdlbench.scoring.tasks import Identify, ReadDecoder
from mdlbench.scoring.worker import Sae, Subject
from mdlbench.sources.protocol import SourceFacts
from mdlbench.statistics.bootstrap import Bootstrap
from mdlbench.statistics.distortion import DistortionSums, ErrorSums, Reference
from mdlbench.statistics.metrics import metric_of, shown_metrics
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite


@dataclass(frozen=True)
class Bench:
    """A suite opened for measuring at one site, in one mode."""

    suite: Suite
    rounds: Rounds
    limit: int | None
    mode: Mode
    known: Reference | None = None
    """The reference, where others have measured it."""

    @classmethod
    def open(
        cls,
        executor: Executor,
        site: Site,
        quantiser: str | None = None,
        known: Reference | None = None,
    ) -> Bench:
        """Load the suite's data; passes over them wait until their results are needed.

        Without a quantiser, the mode is the suite's own; raises `UsageError` for an unknown one.
        """
        suite = executor.suite
        mode = mode_of(quantiser or suite.quantiser)
        return cls(suite, Rounds.at(executor, site), executor.setting.limit, mode, known)

    def in_mode(self, quantiser: str | None) -> Bench:
        """The same data in another mode, or in the suite's own; of each mode there is one bench."""
        mode = mode_of(quantiser or self.suite.quantiser)
        if mode.name not in self._modes:
            self._modes[mode.name] = replace(self, mode=mode)
        return self._modes[mode.name]

    @cached_property
    def _modes(self) -> dict[str, Bench]:
        return {self.mode.name: self}

    @property
    def source(self) -> SourceFacts:
        """What the activations are."""
        return self.rounds.source

    @cached_property
    def reference(self) -> Reference:
        """What every SAE is compared with; raises `UsageError` where the tokens do not vary."""
        reference = self.known or self.rounds.reference
        if not reference.variation > 0:
            raise UsageError(
                f"suite {self.suite.name!r}: the {self.source.n_tokens['test']} test tokens do "
                "not vary; take more with --limit"
            )
        return reference

    @property
    def has_reference(self) -> bool:
        """Whether there is something to compare SAEs with."""
        try:
            return self.reference.variation > 0
        except UsageError:
            return False

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.reference.tokens, self.suite.replicates, self.suite.seed)

    def identify(self, sae: Sae) -> CoderIdentity:
        """Which SAE it is; raises as its adapter does."""
        return self.rounds.one(Identify(Subject(self.source.site, sae)))

    def decoder_rows(self, sae: Sae) -> Float32[np.ndarray, "latent d_out"]:
        """An SAE's decoder rows."""
        return self.rounds.one(ReadDecoder(Subject(self.source.site, sae)))

    def identity(self, coder: CoderIdentity, name: str | None = None) -> Identity:
        """The identity of a measurement of that SAE here, under this name or its own."""
        return Identity(
            suite=self.suite.name,
            suite_digest=self.suite.digest,
            protocol=PROTOCOL,
            coder=coder.named(name),
            data_sha256=self.source.data_sha256,
            seed=self.suite.seed,
            limit=self.limit,
            quantiser=None if self.mode.name == self.suite.quantiser else self.mode.name,
        )

    def measurement(self) -> Measurement:
        return measurement_on(self.suite, self.limit)

    def references(self) -> SiteReferences:
        return SiteReferences(
            site=self.source.site,
            data_sha256=self.source.data_sha256,
            d=self.source.d_out,
            eigenvalues=self.reference.eigenvalues.tolist(),
            dense=self.rounds.fixed_length_mse(),
        )

    def per_document(self, sums: ErrorSums, metric: str) -> Float64[np.ndarray, " document"]:
        """A metric as a sum per document whose mean over tokens is the metric (maths §5).

        Args:
            sums: of a splice where the metric needs one.
            metric: its name; raises `UsageError` for an unknown one.
        """
        return np.asarray(metric_of(metric).sums(sums, self.reference))

    def losses(self, sums: DistortionSums) -> dict[str, Any]:
        """All losses that a record has of a reconstruction, by key."""
        facts = sums.metrics(self.reference)
        others = {
            metric.name: float(
                self.per_document(sums, metric.name).sum() / self.reference.tokens.sum()
            )
            for metric in shown_metrics(self.suite.metrics)
            if metric.name not in facts
        }
        return facts | others


def measurement_on(suite: Suite, limit: int | None) -> Measurement:
    """What results on a suite have in common, of so many documents or of all."""
    return Measurement(suite=suite.name, suite_digest=suite.digest, protocol=PROTOCOL, limit=limit)
