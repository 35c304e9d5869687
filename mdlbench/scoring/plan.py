"""What a run would do, found without loading a model or scoring anything."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdlbench.adapters.load import NamedCoder
from mdlbench.errors import MdlbenchError, RecordError
from mdlbench.hub.items import Item, snapshots
from mdlbench.records.record import EvalRecord
from mdlbench.records.store import HOMES, RecordStore, read_record, record_paths
from mdlbench.scoring.bench import measurement_on
from mdlbench.scoring.naming import origin_of
from mdlbench.scoring.suite_run import Failed, Shard, Sited, placed_at
from mdlbench.scoring.targets import Target, counted_as
from mdlbench.sources.open import Opener


@dataclass(frozen=True)
class PlannedSae:
    """An SAE of a run.

    Attributes:
        label: what it is called.
        site: where it would be scored; empty where that fails.
        has_record: whether the folder has a record of it there, which is kept unless its weights
            or the data have changed.
        problem: why it cannot be scored; empty where nothing is known.
    """

    label: str
    site: str
    has_record: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        saes: in the order in which they are scored.
        tokens: of each split, as far as the suite says; there may be fewer.
        downloads: what is not on this machine.
        seconds: what an SAE took, the median where records of the suite were found; None without.
        seen_in: the folder of those records.
        counted: what is counted, in the singular.
    """

    saes: list[PlannedSae]
    tokens: dict[str, int]
    downloads: list[str]
    seconds: float | None
    seen_in: Path
    counted: str

    @property
    def n_to_score(self) -> int:
        """SAEs that are not known to be finished, nor to fail."""
        return sum(not (sae.has_record or sae.problem) for sae in self.saes)


def planned(opener: Opener, wanted: Sequence[Target], folder: Path, shard: Shard) -> Plan:
    """What `run` would do in a folder; nothing is written.

    SAEs on the hub may be asked for their configs. A language suite's text is the first one, unless
    the setting names another: whether it is available only a run finds out.

    Raises:
        UsageError: the folder holds another suite's results.
    """
    suite, limit = opener.suite, opener.setting.limit
    RecordStore(folder).refuse_other_suites(measurement_on(suite, limit))
    placed = shard.of([placed_at(opener, target) for target in wanted])
    here = [
        record
        for record in _records(folder, opener)
        if record.identity.suite_digest == suite.digest
    ]
    seen_in = next(
        (
            place
            for place in (folder, *(home / suite.name for home in HOMES))
            if record_paths(place)
        ),
        folder,
    )
    took = [record.environment.seconds for record in _records(seen_in, opener)]
    return Plan(
        saes=[_planned(one, here) for one in placed],
        tokens={} if limit else {**suite.source.most_tokens, **suite.source.exact_tokens},
        downloads=[*_needed(opener), *_on_the_hub([one.target for one in placed])],
        seconds=statistics.median(took) if took else None,
        seen_in=seen_in,
        counted=counted_as(wanted),
    )


def _records(folder: Path, opener: Opener) -> list[EvalRecord]:
    """Those of a folder that were measured on the suite, on as many documents, and not edited."""
    found = []
    for path in record_paths(folder):
        try:
            record = read_record(path)
        except RecordError:
            continue
        identity = record.identity
        if record.is_edited:
            continue
        if (identity.suite, identity.limit) == (opener.suite.name, opener.setting.limit):
            found.append(record)
    return found


def _planned(one: Sited | Failed, records: Sequence[EvalRecord]) -> PlannedSae:
    target = one.target
    if isinstance(one, Failed):
        return PlannedSae(target.label, "", problem=str(one.error))
    origin = origin_of(target.sae)
    has_record = any(
        record.site.model_copy(update={"text": one.site.text}) == one.site
        and record.identity.quantiser == target.quantiser
        and (record.name == target.name if target.name else record.provenance.sae == origin)
        for record in records
    )
    return PlannedSae(target.label, one.site.label, has_record)


def _needed(opener: Opener) -> Iterator[str]:
    """What the suite itself needs and the caches lack."""
    for item in opener.needs():
        if not item.is_here:
            yield item.label + (f" (without it, {item.instead})" if item.instead else "")


def _on_the_hub(targets: Sequence[Target]) -> Iterator[str]:
    """SAEs of which the hub's cache has nothing."""
    saes = {target.name or target.sae.spec: target.sae for target in targets}
    for name, sae in saes.items():
        if not all(map(_is_here, sae.singles)):
            yield name


def _is_here(sae: NamedCoder) -> bool:
    """Whether it is not on the hub, or the hub's cache has something of it."""
    try:
        place = sae.hub_place()
    except MdlbenchError:
        return True
    if place is None:
        return True
    kept = tuple((snapshots(place.repo), beginning) for beginning in place.beginnings)
    return Item(sae.spec, sae.fetch, kept).is_here
