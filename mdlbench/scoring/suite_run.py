"""Score many SAEs on one suite: finished ones are not recomputed, a failing one stops no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mdlbench.adapters import checked, protocol
from mdlbench.adapters.formats.python import coder_of
from mdlbench.adapters.load import expand_spec, identify_coder, load_coder, origin_of
from mdlbench.adapters.protocol import Origin, SparseCoder
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
from mdlbench.records.record import CoderIdentity, EvalRecord, Identity, References
from mdlbench.records.store import REFERENCES, RecordStore, read_references
from mdlbench.report.features import write_feature_grid
from mdlbench.scoring.evaluation import (
    Bench,
    encode_test_split,
    encoded,
    evaluate_coder,
    search_limit,
)
from mdlbench.scoring.sites import UNSAID, site_of
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import ActivationSource
from mdlbench.stages import OnStage, labelled, silent
from mdlbench.suite.base import ModeName
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Place, Site
from mdlbench.suite.suite import Suite, SuiteEntry

FEATURES = "features"


@dataclass(frozen=True)
class Target:
    """One SAE to score.

    Attributes:
        spec: `ADAPTER:ARGUMENT` or a path.
        folder: what a relative path in it is relative to.
        name: what to call it; None for the adapter's own name.
        adapter: the adapter's name or class, if not in the spec.
        place: what the suite says of where it is scored.
    """

    spec: str
    folder: Path
    name: str | None = None
    adapter: str | None = None
    place: Place = UNSAID

    @property
    def label(self) -> str:
        return self.name or self.spec


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


def targets(suite: Suite, saes: Sequence[str], adapter: str | None) -> list[Target]:
    """The SAEs asked for, by key of the suite or by spec; all of the suite's if none is named.

    Raises:
        UsageError: a name is no key of the suite, or there is nothing to score.
    """
    if not saes and not suite.saes:
        raise UsageError(f"suite {suite.name!r} lists no SAEs; name one with --sae")
    if not saes:
        return [_entry_target(suite, entry) for entry in suite.saes]
    return [target for sae in saes for target in _targets(suite, sae, adapter)]


def _targets(suite: Suite, sae: str, adapter: str | None) -> list[Target]:
    """A key of the suite where it is one, or could be meant as one; else what a spec names."""
    could_be_key = adapter is None and ":" not in sae and Path(sae).name == sae
    if could_be_key and (sae in suite.keys or not Path(sae).exists()):
        return [_entry_target(suite, suite.entry(sae))]
    places = {entry.spec: entry.place for entry in suite.saes}
    return [
        Target(spec, Path(), adapter=adapter, place=places.get(spec, UNSAID))
        for spec in expand_spec(sae, adapter=adapter)
    ]


def _entry_target(suite: Suite, entry: SuiteEntry) -> Target:
    return Target(entry.spec, suite.folder, entry.key, place=entry.place)


def evaluate(
    sae: object,
    suite: Suite | str | Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    limit: int | None = None,
    text: str | None = None,
    quantiser: ModeName | None = None,
) -> EvalRecord:
    """Score one SAE on a suite.

    Args:
        sae: `ADAPTER:ARGUMENT`, the path of a folder, a key of the suite, or any object with
            `encode` and `decode`.
        suite: a loaded suite, a shipped suite's name, or a path.
        name: what to call the SAE in the record.
        device: where to compute.
        limit: documents per split, for a quick look; such a record is never ranked.
        text: of a language suite, one of its texts by name or a path.
        quantiser: the operating mode; the suite's own where None.

    Raises:
        UsageError: no such suite, key, adapter or quantiser.
        CheckpointError: the SAE cannot be loaded.
        CoderError: the SAE misbehaves when run.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    opener = Opener(loaded, Setting(device, limit, text))
    if not isinstance(sae, str | Path):
        bench = Bench.open(opener, site_of(opener, Origin(), name=name or "SAE"), quantiser)
        coder = coder_of(sae, source=bench.source, device=device)
        return evaluate_coder(bench, coder, identity_of(bench, coder.spec.identity, name)).record
    target = targets(loaded, [str(sae)], adapter=None)[0]
    bench = Bench.open(opener, target_site(opener, target), quantiser)
    coder = load_target(bench.source, target)
    identity = identity_of(bench, coder.spec.identity, name or target.name)
    return evaluate_coder(bench, coder, identity).record


def open_target(
    opener: Opener, sae: str, adapter: str | None
) -> tuple[SparseCoder, ActivationSource]:
    """One SAE, by key or by spec, and the activations of a suite that it is for; to look at."""
    target = targets(opener.suite, [sae], adapter)[0]
    source = opener.open(target_site(opener, target))
    return load_target(source, target), source


def target_site(opener: Opener, target: Target) -> Site:
    """Where a target is scored; raises as `site_of` does."""
    origin = origin_of(target.spec, folder=target.folder, adapter=target.adapter)
    return site_of(opener, origin, target.place, target.label)


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
    found = identify_coder(
        target.spec, source=bench.source, folder=target.folder, adapter=target.adapter
    )
    identity = identity_of(bench, found, target.name)
    finished = store.find(identity)
    if finished is not None:
        return Scored(target, finished, reused=True)
    coder = load_target(bench.source, target)
    record, latent_bits = evaluate_coder(bench, coder, identity, on_stage)
    store.save(record)
    if bench.source.image_shape is not None and coder.spec.d_latents:
        path = store.root / FEATURES / f"{store.path(identity).stem}.png"
        rows = checked.decoder_rows(coder)
        write_feature_grid(path, record.label, rows, bench.source.image_shape, latent_bits)
    return Scored(target, record, reused=False)


def load_target(source: ActivationSource, target: Target) -> SparseCoder:
    """The target's SAE, for these activations; raises as `load_coder` does."""
    return load_coder(
        target.spec,
        device=str(source.device),
        source=source,
        folder=target.folder,
        adapter=target.adapter,
    )


def identity_of(bench: Bench, found: protocol.CoderIdentity, name: str | None) -> Identity:
    """Of a measurement of that SAE on a bench, under this name or its own."""
    facts = asdict(found)
    return bench.identity(CoderIdentity(**facts | {"name": name or found.name}))


def encode_target(
    opener: Opener, target: Target, step: float | None, quantiser: ModeName | None = None
) -> bytes:
    """A target's test split as a bitstream, at a step or at the suite's headline tolerance.

    Raises:
        UsageError: the step is finer than the suite's finest.
        MdlbenchError: no step meets the headline tolerance.
    """
    bench = Bench.open(opener, target_site(opener, target), quantiser)
    with encoded(bench, load_target(bench.source, target)) as run:
        finest = run.sweep.finest
        if step is not None and not step >= finest:
            raise UsageError(f"--step {step:g} is finer than the suite's finest step {finest:g}")
        if step is None:
            headline = bench.suite.headline
            search = search_limit(bench, run.sweep, headline.metric, headline.epsilon).search
            if search.position is None:
                raise MdlbenchError(
                    f"{target.label}: no step keeps {headline.metric} within "
                    f"{headline.epsilon:g}; give one with --step"
                )
            step = run.sweep.step(search.position)
        return encode_test_split(bench, run.sweep, step)
