"""Score many SAEs on one suite: finished ones are not recomputed, a failing one stops no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mdlbench.adapters import checked, protocol
from mdlbench.adapters.load import identify_coder, load_coder
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.adapters.python import coder_of
from mdlbench.errors import CheckpointError, MdlbenchError, OutputError, UsageError
from mdlbench.evaluation import (
    Bench,
    Report,
    encode_test_split,
    encoded,
    evaluate_coder,
    search_limit,
)
from mdlbench.files import write_atomically
from mdlbench.record import CoderIdentity, EvalRecord, Identity
from mdlbench.report.features import write_feature_grid
from mdlbench.store import REFERENCES, RecordStore, read_references
from mdlbench.suite import Suite, load_suite

FEATURES = "features"


@dataclass(frozen=True)
class Target:
    """One SAE to score.

    Attributes:
        spec: `ADAPTER:ARGUMENT` or a path.
        folder: what a relative path in it is relative to.
        name: what to call it; None for the adapter's own name.
        adapter: the adapter's name or class, if not in the spec.
    """

    spec: str
    folder: Path
    name: str | None = None
    adapter: str | None = None

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
        return [Target(entry.spec, suite.folder, entry.key) for entry in suite.saes]
    return [_target(suite, sae, adapter) for sae in saes]


def _target(suite: Suite, sae: str, adapter: str | None) -> Target:
    """A key of the suite where it is one, or could be meant as one; else a spec."""
    could_be_key = adapter is None and ":" not in sae and Path(sae).name == sae
    if could_be_key and (sae in suite.keys or not Path(sae).exists()):
        return Target(suite.entry(sae).spec, suite.folder, sae)
    return Target(sae, Path(), adapter=adapter)


def evaluate(
    sae: object,
    suite: Suite | str | Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    limit: int | None = None,
) -> EvalRecord:
    """Score one SAE on a suite.

    Args:
        sae: `ADAPTER:ARGUMENT`, the path of a folder, a key of the suite, or any object with
            `encode` and `decode`.
        suite: a loaded suite, a shipped suite's name, or a path.
        name: what to call the SAE in the record.
        device: where to compute.
        limit: documents per split, for a quick look; such a record is never ranked.

    Raises:
        UsageError: no such suite, key or adapter.
        CheckpointError: the SAE cannot be loaded.
        CoderError: the SAE misbehaves when run.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    bench = Bench.open(loaded, device, limit)
    if isinstance(sae, str | Path):
        target = targets(loaded, [str(sae)], adapter=None)[0]
        coder = _load(bench, target)
        name = name or target.name
    else:
        coder = coder_of(sae, source=bench.source, device=device)
    return evaluate_coder(bench, coder, _identity(bench, coder.spec.identity, name)).record


def run(
    bench: Bench,
    wanted: Sequence[Target],
    folder: Path,
    report: Report = lambda stage: None,
) -> Iterator[Scored | Failed]:
    """Score each target in turn and keep its record under `folder`.

    Raises:
        UsageError: the folder holds results of another measurement.
        OutputError: results cannot be written; what was finished before is kept.
    """
    store = RecordStore(folder)
    store.prepare()
    _claim(folder, bench)
    for target in wanted:
        try:
            yield _score(bench, target, store, folder, _labelled(report, target))
        except OutputError:
            raise
        except MdlbenchError as error:
            yield Failed(target, error)
        except OSError as error:
            yield Failed(target, CheckpointError(f"cannot be read: {error}"))


def _claim(folder: Path, bench: Bench) -> None:
    """Write what the curves are drawn against, unless the folder already has it.

    Raises:
        UsageError: the folder holds another measurement's.
    """
    if not (folder / REFERENCES).is_file():
        write_atomically(folder / REFERENCES, bench.references().to_json().encode())
        return
    found, wanted = read_references(folder).measurement, bench.measurement()
    if found != wanted:
        raise UsageError(
            f"{folder} holds results of {found.describe()}, not of {wanted.describe()}; "
            "choose another folder with -o"
        )


def _labelled(report: Report, target: Target) -> Report:
    return lambda stage: report(f"{target.label}: {stage}")


def _score(
    bench: Bench, target: Target, store: RecordStore, folder: Path, report: Report
) -> Scored:
    report("load")
    found = identify_coder(
        target.spec, source=bench.source, folder=target.folder, adapter=target.adapter
    )
    identity = _identity(bench, found, target.name)
    finished = store.find(identity)
    if finished is not None:
        return Scored(target, finished, reused=True)
    coder = _load(bench, target)
    record, latent_bits = evaluate_coder(bench, coder, identity, report)
    store.save(record)
    if bench.source.image_shape is not None and coder.spec.d_latents:
        path = folder / FEATURES / f"{store.path(identity).stem}.png"
        rows = checked.decoder_rows(coder)
        write_feature_grid(path, record.name, rows, bench.source.image_shape, latent_bits)
    return Scored(target, record, reused=False)


def _load(bench: Bench, target: Target) -> SparseCoder:
    return load_coder(
        target.spec,
        device=str(bench.source.device),
        source=bench.source,
        folder=target.folder,
        adapter=target.adapter,
    )


def _identity(bench: Bench, found: protocol.CoderIdentity, name: str | None) -> Identity:
    facts = asdict(found)
    return bench.identity(CoderIdentity(**facts | {"name": name or found.name}))


def encode_target(bench: Bench, target: Target, step: float | None) -> bytes:
    """A target's test split as a bitstream, at a step or at the suite's headline tolerance.

    Raises:
        UsageError: the step is finer than the suite's finest.
        MdlbenchError: no step meets the headline tolerance.
    """
    finest = bench.suite.steps.finest
    if step is not None and not step >= finest:
        raise UsageError(f"--step {step:g} is finer than the suite's finest step {finest:g}")
    with encoded(bench, _load(bench, target)) as run:
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
