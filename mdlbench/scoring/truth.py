"""What a record says of the true features, where a suite knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Int64

from mdlbench.adapters import checked
from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import SourceError
from mdlbench.records.record import TruthFacts, TruthScores
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import Encoded
from mdlbench.scoring.tasks import Range
from mdlbench.scoring.worker import Subject, Worker
from mdlbench.sources.protocol import Firing, KnowsFeatures, TrueFeatures
from mdlbench.statistics.truth import MatchCounts, Matches, Recovery, null_rows
from mdlbench.suite.site import Site


def truth_facts(bench: Bench, run: Encoded) -> TruthFacts | None:
    """F1, MCC and the like, beside those of the same latents with random decoder rows.

    None where the suite does not know its features, or the SAE has no latents.
    """
    coder = run.sweep.latents.coder
    if not bench.suite.source.knows_features or coder.spec.d_latents == 0:
        return None
    truth = bench.rounds.one(ReadFeatures(bench.source.site))
    rows = coder.decoder_rows()
    null = null_rows(len(rows), bench.source.d_out, bench.suite.seed)
    matches = [Matches.of(found, truth.directions) for found in (rows, null)]
    parts = bench.rounds.over(
        "test",
        lambda range_: CountMatches(coder.subject, range_, [one.feature for one in matches]),
    )
    counts = [reduce(add, sums) for sums in zip(*parts, strict=True)]
    own, other = (_scores(one.recovery(of)) for one, of in zip(matches, counts, strict=True))
    return TruthFacts(**own, features=len(truth.rates), null=TruthScores(**other))


def _scores(recovery: Recovery) -> dict[str, float]:
    return recovery._asdict()


@dataclass(frozen=True)
class ReadFeatures:
    """The features that a source's activations are made of."""

    site: Site

    def __call__(self, worker: Worker) -> TrueFeatures:
        return _knowing(worker, self.site).features


@dataclass(frozen=True, eq=False)
class CountMatches:
    """How often latents fire, and features with them, over a range.

    Attributes:
        features: matchings, each with the index of every latent's feature.
    """

    subject: Subject
    range: Range
    features: Sequence[Int64[np.ndarray, " latent"]]

    def __call__(self, worker: Worker) -> list[MatchCounts]:
        """The counts of every matching."""
        source = worker.source(self.subject.site)
        knowing, coder = _knowing(worker, self.subject.site), worker.coder(self.subject)
        n_features = len(knowing.features.rates)
        counts = [MatchCounts.zeros(len(feature), n_features) for feature in self.features]
        for block in self.range.blocks(source):
            latents, _ = checked.encode(coder, block.given)
            firing = knowing.firing(self.range.split, block)
            for i, feature in enumerate(self.features):
                counts[i] = counts[i] + block_matches(latents, firing, feature, n_features)
        return counts


def block_matches(
    latents: SparseLatents,
    firing: Firing,
    feature: Int64[np.ndarray, " latent"],
    n_features: int,
) -> MatchCounts:
    """The counts of one block's tokens."""
    on = np.zeros((latents.n_tokens, n_features), dtype=bool)
    on[firing.token, firing.feature] = True
    hit = on[latents.token, feature[latents.latent]]
    return MatchCounts(
        fired=np.bincount(latents.latent, minlength=latents.n_latents),
        hits=np.bincount(latents.latent[hit], minlength=latents.n_latents),
        present=np.bincount(firing.feature, minlength=n_features),
    )


def _knowing(worker: Worker, site: Site) -> KnowsFeatures:
    source = worker.source(site)
    if not isinstance(source, KnowsFeatures):
        raise SourceError(f"{type(source).__name__}: does not give its features, as its kind says")
    return source
