"""Many SAEs on one suite: finished ones are not recomputed, a failing one stops no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdlbench.adapters import checked
from mdlbench.errors import (
    CheckpointError,
    HubError,
    MdlbenchError,
    OutputError,
    SourceError,
    SpoolError,
    SuiteError,
    UsageError,
)
from mdlbench.files import write_atomically
from mdlbench.records.record import EvalRecord, References
from mdlbench.records.store import REFERENCES, RecordStore, read_references
from mdlbench.report.features import write_feature_grid
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.targets import Target, target_site
from mdlbench.sources.open import Opener
from mdlbench.stages import OnStage, labelled, silent
from mdlbench.suite.base import ModeName
from mdlbench.suite.site import Site

FEATURES = "features"


@dataclass(frozen=True)
class Scored:
    """A target with its record; `reused` if an earlier run had finished it."""

    target: Target
    record: EvalRecord
    reused: bool


@dataclass(frozen=True)
class Failed:
    """A target that could not be scored, and why."""

    target: Target
    error: MdlbenchError

    @property
    def message(self) -> str:
        """The error, led by the SAE's name where it does not begin with it."""
        text = str(self.error)
        return text if text.startswith(self.target.label) else f"{self.target.label}: {text}"


def run(
    opener: Opener,
    wanted: Sequence[Target],
    folder: Path,
    on_stage: OnStage = silent,
    quantiser: ModeName | None = None,
) -> Iterator[Scored | Failed]:
    """Score the targets, site by site, and keep their records under `folder`.

    Without a quantiser, in the suite's own mode.

    Sites whose model is loaded alike follow each other, so that it is loaded once.

    Raises:
        UsageError: the folder holds results of another measurement, or there is no such text.
        OutputError: results cannot be written; what was finished before is kept.
    """
    store = RecordStore(folder)
    store.prepare()
    opener.choose_text()
    by_site: dict[str, tuple[Site, list[Target]]] = {}
    for target in wanted:
        try:
            site = target_site(opener, target)
        except MdlbenchError as error:
            yield Failed(target, error)
            continue
        except OSError as error:
            yield Failed(target, CheckpointError(f"cannot be read: {error}"))
            continue
        by_site.setdefault(site.label, (site, []))[1].append(target)
    for site, group in sorted(by_site.values(), key=_model_options):
        yield from _run_site(opener, site, group, store, on_stage, quantiser)


def _model_options(group: tuple[Site, list[Target]]) -> str:
    return str(sorted(group[0].model_options.items()))


def _run_site(
    opener: Opener,
    site: Site,
    group: Sequence[Target],
    store: RecordStore,
    on_stage: OnStage,
    quantiser: ModeName | None,
) -> Iterator[Scored | Failed]:
    try:
        bench = _opened(opener, site, store, quantiser)
    except (HubError, SourceError, SpoolError) as error:
        yield from (Failed(target, error) for target in group)
        return
    for target in group:
        try:
            yield _score(bench, target, store, labelled(on_stage, target.label))
        except OutputError:
            raise
        except MdlbenchError as error:
            yield Failed(target, error)
        except OSError as error:
            yield Failed(target, CheckpointError(f"cannot be read: {error}"))


def _opened(opener: Opener, site: Site, store: RecordStore, quantiser: ModeName | None) -> Bench:
    """A bench at a site, and its part of the folder.

    Raises:
        SourceError, HubError, SpoolError: nothing can be scored at this site, but maybe at others.
        UsageError: the suite's data cannot be read, or the folder holds another measurement's.
    """
    try:
        bench = Bench.open(opener, site, quantiser)
    except SuiteError:
        raise
    except UsageError as error:
        raise SourceError(str(error)) from error
    if not _is_claimed(store.root, bench):
        _claim(store, bench)
    return bench


def _is_claimed(folder: Path, bench: Bench) -> bool:
    """Whether the folder has what the curves at the bench's site are drawn against.

    Raises:
        UsageError: the folder holds another suite's results, limited ones, or another text's.
    """
    if not (folder / REFERENCES).is_file():
        return False
    known, wanted, source = read_references(folder), bench.measurement(), bench.source
    if (known.suite, known.limit) != (wanted.suite, wanted.limit):
        raise UsageError(
            f"{folder} holds results of {known.measurement.describe()}, not of "
            f"{wanted.describe()}; choose another folder with -o"
        )
    if known.measurement != wanted:
        return False
    if known.of_data(source.data_sha256):
        return True
    if source.site.label in [site.site.label for site in known.sites]:
        raise UsageError(
            f"{folder} holds results at {source.site.label} on other data; choose another "
            "folder with -o"
        )
    return False


def _claim(store: RecordStore, bench: Bench) -> None:
    """Add the bench's site to those that the folder holds; archive what an older suite measured."""
    path, measurement = store.root / REFERENCES, bench.measurement()
    known = read_references(store.root) if path.is_file() else None
    is_current = known is not None and known.measurement == measurement
    if not is_current:
        store.keep_only(measurement)
    claimed = References(
        **measurement.model_dump(),
        headline=bench.suite.headline,
        sites=[*(known.sites if known and is_current else []), bench.references()],
    )
    write_atomically(path, claimed.to_json().encode())


def _score(bench: Bench, target: Target, store: RecordStore, on_stage: OnStage) -> Scored:
    on_stage("load")
    found = target.sae.at(bench.source, str(bench.source.device))
    identity = bench.identity(found.identity, target.name)
    finished = store.find(identity)
    if finished is not None:
        return Scored(target, finished, reused=True)
    coder = found.coder
    record, latent_bits = evaluate_coder(bench, coder, identity, on_stage)
    store.save(record)
    if bench.source.image_shape is not None and coder.spec.d_latents:
        path = store.root / FEATURES / f"{store.path(identity).stem}.png"
        rows = checked.decoder_rows(coder)
        write_feature_grid(path, record.label, rows, bench.source.image_shape, latent_bits)
    return Scored(target, record, reused=False)
