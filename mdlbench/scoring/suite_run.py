"""Many SAEs on one suite: finished ones are kept, and a failing one does not stop the others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.console.stages import DONE, OnStage, labelled, silent
from mdlbench.disk.files import write_atomically
from mdlbench.errors import (
    CheckpointError,
    HubError,
    MdlbenchError,
    MdlbenchWarning,
    MemoryShortageError,
    OutputError,
    SourceError,
    SpoolError,
    SuiteError,
    UsageError,
    WorkerError,
    heeding_shortage,
)
from mdlbench.hub.hub import WHAT_TO_DO, HubUnreachableError
from mdlbench.records.record import EvalRecord, Identity
from mdlbench.records.store import ARCHIVE, Moved, RecordStore
from mdlbench.scoring.apart import (
    Draw,
    Job,
    Measured,
    apart,
    draw_features,
    identified,
    in_order,
    measured_apart,
    n_apart,
)
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.evaluation import Evaluation, evaluate_coder, latent_bits
from mdlbench.scoring.executor import Executor, Raised, kept
from mdlbench.scoring.naming import least_depths, names_of, origin_of
from mdlbench.scoring.targets import Target, target_site
from mdlbench.sources.open import Opener
from mdlbench.suite.site import Site

FEATURES = "features"
"""Subfolder of the drawings of decoder rows."""
NAMED = 3
"""How many of the SAEs that failed for one reason are named."""


@dataclass(frozen=True)
class Scored:
    """A target with its record; `reused` if an earlier run had finished it.

    Attributes:
        again: why it was scored although an earlier run had finished it; empty where none had.
    """

    target: Target
    record: EvalRecord
    reused: bool
    again: str = ""


@dataclass(frozen=True)
class Failed:
    """A target that could not be scored, and why."""

    target: Target
    error: MdlbenchError

    @property
    def message(self) -> str:
        """The error, with the SAE's name before it unless it begins with the name."""
        text = str(self.error)
        return text if text.startswith(self.target.label) else f"{self.target.label}: {text}"

    @property
    def reason(self) -> str:
        """What it has in common with others that failed alike."""
        if isinstance(self.error, HubUnreachableError):
            return f"the hub cannot be reached ({self.error.reason}). {WHAT_TO_DO}"
        return str(self.error)


def failure_lines(failures: Sequence[Failed]) -> list[str]:
    """A line for every reason, with the SAEs that failed for it, in the order of the first."""
    alike: dict[str, list[Failed]] = {}
    for failure in failures:
        alike.setdefault(failure.reason, []).append(failure)
    return [
        group[0].message if len(group) == 1 else f"{_counted(group)}: {reason}"
        for reason, group in alike.items()
    ]


def all_scored(outcomes: Iterable[Scored | Failed]) -> list[EvalRecord]:
    """The records of a run that is worth nothing with an SAE missing; the whole run is waited for.

    Raises:
        MdlbenchError: an SAE could not be scored; the message names all of those.
    """
    records, failures = [], []
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            failures.append(outcome.message)
        else:
            records.append(outcome.record)
    if failures:
        saes = "1 SAE" if len(failures) == 1 else f"{len(failures)} SAEs"
        raise MdlbenchError(f"{saes} could not be scored: {'; '.join(failures)}")
    return records


def _counted(group: Sequence[Failed]) -> str:
    named = ", ".join(failure.target.label for failure in group[:NAMED])
    return f"{len(group)} SAEs ({named}{', …' if len(group) > NAMED else ''})"


@dataclass(frozen=True)
class _Results:
    """Where the records are kept, and how the SAEs in them are drawn."""

    store: RecordStore
    draw: Draw | None
    depths: Mapping[str, int]
    """How many folders each SAE without a name has in its name at least, by its spec."""
    given: frozenset[str]
    """Names that the run gives."""
    named: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)
    """Ids and origins of the SAEs of this run that have a name at a site so far."""

    def identity(self, bench: Bench, target: Target, coder: CoderIdentity) -> Identity:
        """Under the target's name; else under one that no other SAE has in this run or folder."""
        identity = self._free(bench, target, coder)
        place = identity.coder.name, bench.source.site.label
        self.named.setdefault(place, set()).add((identity.id, origin_of(target.sae)))
        return identity

    def _free(self, bench: Bench, target: Target, coder: CoderIdentity) -> Identity:
        if target.name is not None:
            return bench.identity(coder, target.name)
        names = names_of(target.sae, coder.name)
        found = [bench.identity(coder, name) for name in names]
        for identity in found:
            if self.store.path(identity).exists():
                return identity
        found = found[min(self.depths.get(target.sae.spec, 0), len(found) - 1) :]
        origin = origin_of(target.sae)
        free = (
            one
            for one in found
            if one.coder.name not in self.given and self._others_from(one, bench) <= {origin}
        )
        return next(free, found[0])

    def _others_from(self, identity: Identity, bench: Bench) -> set[str | None]:
        """Where other SAEs of this name, at this site and in this mode, came from."""
        here = self.named.get((identity.coder.name, bench.source.site.label), set())
        return {origin for found, origin in here if found != identity.id} | {
            other.provenance.sae for other in self.others(identity, bench)
        }

    def others(self, identity: Identity, bench: Bench) -> list[EvalRecord]:
        """Records of other SAEs under the same name, at the same site and in the same mode."""
        return [
            record
            for record in self.store.named(identity.coder.name)
            if record.id != identity.id
            and record.site.label == bench.source.site.label
            and record.identity.quantiser == identity.quantiser
        ]

    def tell_current(self, bench: Bench, record: EvalRecord) -> None:
        """Warn, and note, where the folder also has what an SAE was with other weights in place."""
        origin, others = record.provenance.sae, self.others(record.identity, bench)
        earlier = [other.id[:8] for other in others if origin and other.provenance.sae == origin]
        if earlier:
            self.store.note_found(record)
            warnings.warn(
                f"{record.name}: {origin} was scored before with other weights; the current "
                f"record is {record.id[:8]}, not {', '.join(earlier)}",
                MdlbenchWarning,
                stacklevel=2,
            )

    def picture(self, record: EvalRecord) -> Path:
        return self.store.root / FEATURES / f"{self.store.path(record.identity).stem}.png"

    def keep(self, bench: Bench, target: Target, measured: Measured) -> EvalRecord:
        """Keep all that a finished run consists of, its record last: then it is finished."""
        origin = None if target.is_listed else origin_of(target.sae)
        found = measured.evaluation.record
        provenance = found.provenance.model_copy(update={"sae": origin})
        record = found.model_copy(update={"provenance": provenance})
        if measured.picture is not None:
            write_atomically(self.picture(record), measured.picture)
        elif self.draw is not None:
            evaluation = measured.evaluation._replace(record=record)
            draw_features(self.draw, bench, target.sae, evaluation, self.picture(record))
        self.store.save(record)
        self.tell_current(bench, record)
        return record

    def complete(self, bench: Bench, target: Target, record: EvalRecord) -> None:
        """Make again what is missing beside a finished record; nothing is scored for it."""
        if self.draw is None or bench.source.image_shape is None or record.latents is None:
            return
        path = self.picture(record)
        if not path.is_file():
            evaluation = Evaluation(record, latent_bits(bench, target.sae, record.latents.step))
            draw_features(self.draw, bench, target.sae, evaluation, path)


@dataclass(frozen=True)
class Sited:
    """A target, and where it is scored."""

    target: Target
    site: Site

    @property
    def model(self) -> str:
        """The options with which it loads a model."""
        return str(sorted(self.site.model_options.items()))


@dataclass(frozen=True)
class Shard:
    """One of several jobs' shares of a run: as many SAEs as any other's, of few sites.

    Attributes:
        number: from 1.
        jobs: how many there are.
    """

    number: int = 1
    jobs: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """That of `i/N`; raises `UsageError` where there is none."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, jobs = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= jobs:
            raise UsageError(f"--shard {text}: write i/N with i from 1 to N, such as 2/8")
        return cls(number, jobs)

    def of(self, placed: Sequence[Sited | Failed]) -> list[Sited | Failed]:
        """This job's share, in an order that all jobs agree on: failed ones, then site by site.

        Sites that load a model with the same options follow each other.
        """
        failed: list[Sited | Failed] = [one for one in placed if isinstance(one, Failed)]
        sited = [one for one in placed if isinstance(one, Sited)]
        sites = list(dict.fromkeys(one.site.label for one in sited))
        ordered = sorted(sited, key=lambda one: (one.model, sites.index(one.site.label)))
        return [*failed, *ordered][self.part(len(placed))]

    def part(self, n: int) -> slice:
        """Which of n SAEs in that order it has."""
        return slice(n * (self.number - 1) // self.jobs, n * self.number // self.jobs)


WHOLE = Shard()
"""A run that is not shared."""


def run(
    opener: Opener,
    wanted: Sequence[Target],
    folder: Path,
    on_stage: OnStage = silent,
    draw: Draw | None = None,
    engine: Engine = THIS_PROCESS,
    shard: Shard = WHOLE,
) -> Iterator[Scored | Failed]:
    """Score the targets, site by site, and keep their records under `folder`.

    Where activations are images, `draw` is called for each SAE that is scored. The engine's workers
    do what can be shared out. Of a run that several jobs share, this one scores its shard. Modes
    of one SAE that follow each other, and round alike, share the model's passes.

    Sites that load a model with the same options follow each other, so that it is loaded once.

    Raises:
        UsageError: the folder holds results of another measurement, or there is no such text.
        WorkerError: the engine's workers cannot be had.
        OutputError: results cannot be written; those finished before are kept.
    """
    unnamed = [target.sae for target in wanted if target.name is None]
    given = frozenset(target.name for target in wanted if target.name is not None)
    results = _Results(RecordStore(folder), draw, least_depths(unnamed), given)
    results.store.prepare()
    opener.settle()
    placed = shard.of([placed_at(opener, target) for target in wanted])
    yield from (one for one in placed if isinstance(one, Failed))
    sited = [one for one in placed if isinstance(one, Sited)]
    with engine.workers(opener) as executor:
        for site, group in groupby(sited, key=attrgetter("site")):
            found = [one.target for one in group]
            yield from _run_site(opener, executor, site, found, results, on_stage)


def placed_at(opener: Opener, target: Target) -> Sited | Failed:
    """A target with its site, if it has one."""
    try:
        return Sited(target, target_site(opener, target))
    except MdlbenchError as error:
        return Failed(target, error)
    except OSError as error:
        return Failed(target, CheckpointError(f"cannot be read: {error}"))


def _run_site(
    opener: Opener,
    executor: Executor,
    site: Site,
    group: Sequence[Target],
    results: _Results,
    on_stage: OnStage,
) -> Iterator[Scored | Failed]:
    try:
        with heeding_shortage():
            bench = _opened(opener, executor, site, results)
    except (HubError, MemoryShortageError, SourceError, SpoolError) as error:
        yield from (Failed(target, error) for target in group)
        return
    jobs = _apart(bench, group, results)
    done = in_order(_scored_apart(bench, group, jobs, results, on_stage))
    for i, target in enumerate(group):
        if i in jobs:
            yield next(done)
        else:
            score = partial(_score, bench.in_mode(target.quantiser), target, results, on_stage)
            yield _attempted(target, score)


def _attempted(target: Target, attempt: Callable[[], Scored]) -> Scored | Failed:
    """How an SAE fared; raises where results cannot be written, or workers cannot be had."""
    try:
        return attempt()
    except (OutputError, WorkerError):
        raise
    except MdlbenchError as error:
        return Failed(target, error)
    except OSError as error:
        return Failed(target, CheckpointError(f"cannot be read: {error}"))


def _apart(bench: Bench, group: Sequence[Target], results: _Results) -> dict[int, Job]:
    """What is measured apart, by the targets' numbers.

    Nothing that has a record is among it, nor any SAE of which nobody can tell which it is.
    """
    executor = bench.rounds.executor
    if not (n_apart(executor, len(group)) and bench.has_reference):
        return {}
    by_sae = [list(own) for _, own in groupby(enumerate(group), key=lambda one: one[1].sae)]
    coders = identified(bench, [own[0][1].sae for own in by_sae])
    wanted: dict[str, tuple[int, Job]] = {}
    for own, coder in zip(by_sae, coders, strict=True):
        if isinstance(coder, Raised):
            continue
        for i, target in own:
            identity = results.identity(bench.in_mode(target.quantiser), target, coder)
            if not results.store.path(identity).exists():
                job = Job(target.sae, identity, target.label, draw=results.draw)
                wanted.setdefault(identity.id, (i, job))
    numbers, jobs = zip(*wanted.values(), strict=True) if wanted else ((), ())
    chosen = apart(executor, jobs)
    return dict(zip(numbers[: len(chosen)], chosen, strict=True))


def _scored_apart(
    bench: Bench,
    group: Sequence[Target],
    jobs: Mapping[int, Job],
    results: _Results,
    on_stage: OnStage,
) -> Iterator[tuple[int, Scored | Failed]]:
    """How those fared that are measured apart, each as soon as it is kept."""
    if not jobs:
        return
    numbers = list(jobs)
    for n, outcome in measured_apart(bench, list(jobs.values()), on_stage):
        i = numbers[n]
        own, identity = bench.in_mode(group[i].quantiser), jobs[i].identity
        fate = _attempted(group[i], partial(_finish, own, group[i], results, identity, outcome))
        if isinstance(fate, Scored):
            labelled(on_stage, group[i].label)(DONE)
        yield n, fate


def _finish(
    bench: Bench,
    target: Target,
    results: _Results,
    identity: Identity,
    outcome: Measured | Raised,
) -> Scored:
    """Keep what was measured; raises what was raised instead."""
    measured, was_finished = kept(outcome), results.store.path(identity).exists()
    record = results.keep(bench, target, measured)
    unseen = identity.coder.unseen
    again = f"not all of it can be seen: {unseen}" if was_finished else ""
    return Scored(target, record, reused=False, again=again)


def _opened(opener: Opener, executor: Executor, site: Site, results: _Results) -> Bench:
    """A bench at a site, and its part of the folder.

    Raises:
        SourceError, HubError, SpoolError: nothing can be scored at this site; others may work.
        UsageError: the suite's data cannot be read, or the folder holds another measurement's.
    """
    try:
        bench = Bench.open(executor, site)
    except SuiteError:
        raise
    except UsageError as error:
        raise SourceError(str(error)) from error
    measurement, source = bench.measurement(), bench.source
    if not results.store.has_site(measurement, source.site.label, source.data_sha256):
        moved = results.store.add_site(measurement, bench.suite.headline, bench.references())
        _say_moved(opener, results.store.root, moved)
    return bench


def _say_moved(opener: Opener, folder: Path, moved: Moved) -> None:
    """Tell of results that are no longer on the board, or are there again."""
    if moved.away:
        opener.on_notice(
            f"{moved.away} results of another version of suite {opener.suite.name!r} (or of "
            f"mdlbench's protocol) are no longer ranked: moved to {folder / ARCHIVE}/"
        )
    if moved.back:
        opener.on_notice(
            f"{moved.back} results of this version of suite {opener.suite.name!r} are ranked "
            f"again: moved back from {folder / ARCHIVE}/"
        )


def _score(bench: Bench, target: Target, results: _Results, on_stage: OnStage) -> Scored:
    stage = labelled(on_stage, target.label)
    stage("load")
    identity = results.identity(bench, target, bench.identify(target.sae))
    finished = results.store.find(identity)
    if finished is not None and not identity.coder.unseen:
        results.complete(bench, target, finished)
        results.tell_current(bench, finished)
        return Scored(target, finished, reused=True)
    evaluation = evaluate_coder(bench, target.sae, identity, stage)
    return _finish(bench, target, results, identity, Measured(evaluation, picture=None))
