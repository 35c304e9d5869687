"""Measure records again, as their identities say, and compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from mdlbench.adapters.load import spec_of
from mdlbench.console.stages import OnStage, labelled, silent
from mdlbench.errors import MdlbenchError, OutputError, RecordError, UsageError
from mdlbench.records.checks import problems_of_file, suite_of
from mdlbench.records.record import EvalRecord, Identity
from mdlbench.records.repetition import Deviation, write_repetition
from mdlbench.records.store import RECORDS, read_record
from mdlbench.scoring.apart import Job, Measured, in_order, measured_apart, n_apart
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import Executor, Raised, kept
from mdlbench.scoring.targets import Target, key_target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.suite import Suite

Found = TypeVar("Found")


@dataclass(frozen=True)
class Claim:
    """A record file, and where its SAE is.

    Attributes:
        path: the record's file.
        record: what it claims.
        suite: the suite that it was measured on.
        sae: the SAE's spec, if neither the suite nor the record has it.
    """

    path: Path
    record: EvalRecord
    suite: Suite
    sae: str | None = None

    @property
    def folder(self) -> Path:
        """The results folder that the record lies in."""
        parent = self.path.absolute().parent
        return parent.parent if parent.name == RECORDS else parent


@dataclass(frozen=True)
class Verified:
    """A record that was measured again within the suite's agreement, as the file `kept` says."""

    path: Path
    label: str
    deviation: Deviation
    kept: Path


@dataclass(frozen=True)
class Unverified:
    """A record file that did not agree or could not be measured, and why."""

    path: Path
    label: str
    error: MdlbenchError


def read_claim(
    path: Path, suite: Suite | None = None, sae: str | None = None
) -> Claim | Unverified:
    """A record that is worth measuring again, if it is valid."""
    problems = problems_of_file(path, suite)
    if problems:
        return Unverified(path, path.name, RecordError(f"not valid: {problems[0]}"))
    record = read_record(path)
    return Claim(path, record, suite or suite_of(record), sae)


def verify(
    claims: Sequence[Claim],
    device: str = "cpu",
    text: str | None = None,
    on_stage: OnStage = silent,
    engine: Engine = THIS_PROCESS,
    cache: bool = False,
) -> Iterator[Verified | Unverified]:
    """Measure records again; what agrees is kept as a repetition in its results folder.

    Records at one site and in one mode share what is computed for all SAEs there.

    Args:
        claims: the records.
        device: where to compute.
        text: where a language suite's text is, if it is not one of the suite's by name.
        on_stage: called with the name of each stage.
        engine: has the workers.
        cache: whether a language model's activations are kept for later runs.

    Raises:
        UsageError: the device is not available.
        WorkerError: the engine's workers cannot be had.
        OutputError: a repetition cannot be written.
    """
    for _, group in groupby(sorted(claims, key=_bench_key), key=_bench_key):
        yield from _verify_group(list(group), device, text, on_stage, engine, cache)


def _bench_key(claim: Claim) -> tuple[str, ...]:
    identity, site = claim.record.identity, claim.record.site
    return (
        identity.suite_digest,
        str(identity.limit),
        site.model_dump_json(),
        identity.data_sha256,
        str(identity.quantiser),
    )


def _verify_group(
    group: list[Claim],
    device: str,
    text: str | None,
    on_stage: OnStage,
    engine: Engine,
    cache: bool,
) -> Iterator[Verified | Unverified]:
    """Records that one bench serves."""
    record, suite = group[0].record, group[0].suite
    named = f"{suite.name}:{record.site.text}" if record.site.text else None
    limit, dtype = record.identity.limit, record.site.dtype
    setting = Setting(device, limit, text or named, dtype, cache=cache)
    opener = Opener(suite, setting, on_stage)
    with engine.workers(opener) as executor:
        measured = _Again(opener, executor, on_stage)
        for claim, outcome in measured.all_of(group):
            try:
                record = kept(outcome)
                path, found = write_repetition(claim.folder, claim.record, record, suite.agreement)
                yield Verified(claim.path, claim.record.label, found, path)
            except OutputError:
                raise
            except MdlbenchError as error:
                yield Unverified(claim.path, claim.record.label, error)


class _Again:
    """Measures records again that one bench serves."""

    def __init__(self, opener: Opener, executor: Executor, on_stage: OnStage) -> None:
        self._opener, self._executor, self._on_stage = opener, executor, on_stage
        self._bench: Bench | None = None

    def all_of(self, group: Sequence[Claim]) -> Iterator[tuple[Claim, EvalRecord | Raised]]:
        """What is found for each, in order; the first of them are measured apart."""
        apart = group[: n_apart(self._executor, len(group))]
        checked = [_attempted(partial(self._job, claim)) for claim in apart]
        jobs = [found[1] for found in checked if not isinstance(found, Raised)]
        found = in_order(measured_apart(self._bench, jobs, self._on_stage) if self._bench else ())
        for claim, job in zip(apart, checked, strict=True):
            yield claim, job if isinstance(job, Raised) else _record(next(found))
        for claim in group[len(apart) :]:
            yield claim, _attempted(partial(self._together, claim))

    def _open(self, claim: Claim, target: Target) -> Bench:
        """Raises `RecordError` where the site or the data differ from the record's."""
        if self._bench is None:
            self._bench = _open(self._opener, self._executor, claim, target)
        return self._bench

    def _job(self, claim: Claim) -> tuple[Bench, Job]:
        """Raises `RecordError` where the SAE is not the record's."""
        target = target_of(claim)
        bench = self._open(claim, target)
        name, expected = claim.record.name, claim.record.identity
        identity = bench.identity(bench.identify(target.sae), name)
        if identity != expected:
            raise RecordError(f"{name}: {_difference(identity, expected)}")
        if not bench.has_reference:
            raise RecordError(f"{name}: the test tokens here do not vary")
        steps = [point.step for point in claim.record.points]
        return bench, Job(target.sae, identity, claim.record.label, steps)

    def _together(self, claim: Claim) -> EvalRecord:
        """By all workers; raises as a measurement does."""
        bench, job = self._job(claim)
        on_stage = labelled(self._on_stage, job.label)
        return evaluate_coder(bench, job.sae, job.identity, on_stage, job.steps).record


def _attempted(attempt: Callable[[], Found]) -> Found | Raised:
    try:
        return attempt()
    except MdlbenchError as error:
        return Raised(error)


def _record(outcome: Measured | Raised) -> EvalRecord | Raised:
    return outcome if isinstance(outcome, Raised) else outcome.evaluation.record


def target_of(claim: Claim) -> Target:
    """The SAE of a record: as the user gives it, as its suite has it, or as its identity says.

    Raises:
        UsageError: nobody says where it is.
    """
    coder = claim.record.identity.coder
    if claim.sae is not None:
        return targets(claim.suite, [claim.sae], None)[0]
    if coder.name in claim.suite.keys:
        return key_target(claim.suite, coder.name)
    spec = spec_of(coder)
    if spec is None:
        raise UsageError(f"{coder.name}: say with --sae where it is; the suite does not have it")
    return targets(claim.suite, [spec], None)[0]


def _open(opener: Opener, executor: Executor, claim: Claim, target: Target) -> Bench:
    """Raises `RecordError` where the site or the data differ from the record's."""
    site, identity = target_site(opener, target), claim.record.identity
    if site != claim.record.site:
        raise RecordError(
            f"{target.label}: is scored at {site.label} here, not at {claim.record.site.label}"
        )
    bench = Bench.open(executor, site, identity.quantiser)
    if bench.source.data_sha256 != identity.data_sha256:
        raise RecordError(f"{target.label}: was measured on other data; give its text with --text")
    return bench


def _difference(found: Identity, expected: Identity) -> str:
    for key in type(expected.coder).model_fields:
        a, b = getattr(found.coder, key), getattr(expected.coder, key)
        if a != b:
            return f"its {key} is {str(a)[:12]}, but {str(b)[:12]} in the record"
    return "the SAE or the data here differ from the record's"
