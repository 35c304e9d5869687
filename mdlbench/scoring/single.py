"""One SAE by itself: its record, or its latents as a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mdlbench.adapters.formats.python import coder_of, instance_of, origin_of_object
from mdlbench.console.stages import shown_on_terminal
from mdlbench.errors import MdlbenchError, UsageError
from mdlbench.records.record import EvalRecord
from mdlbench.scoring.audit import encode_test_split
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limit
from mdlbench.scoring.targets import Target, target_origin, target_site, targets
from mdlbench.scoring.worker import HeldSae, Sae
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import known_dtype
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import UNSAID, Origin, Place, Site, merged, place_said
from mdlbench.suite.suite import Suite


def evaluate(
    sae: object,
    suite: Suite | str | Path,
    *,
    name: str | None = None,
    device: str = "cpu",
    limit: int | None = None,
    text: str | None = None,
    quantiser: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    context: int | None = None,
    prepend_bos: bool | None = None,
    dtype: str = "float32",
    cache: bool = False,
) -> EvalRecord:
    """Score one SAE on a suite; on a terminal and in a notebook it shows the stage.

    The config of an object or a folder says where the SAE belongs. What neither the config nor the
    suite says (hook point, context, BOS) can be said here. Where two of them say it, they must
    agree on hook points and model.

    Args:
        sae: `ADAPTER:ARGUMENT`, the path of a folder, a key of the suite, or any object with
            `encode` and `decode`.
        suite: a loaded suite, a shipped suite's name, or a path.
        name: what to call the SAE in the record.
        device: where to compute.
        limit: documents per split, for a quick look; such a record is never ranked.
        text: for a language suite, one of its texts by name or a path.
        quantiser: the operating mode; the suite's own where None.
        hook: the hook point that it reads, on a language suite.
        hook_out: the hook point that it reconstructs, where that is another one.
        context: tokens of a context, BOS included.
        prepend_bos: whether a context begins with the BOS token.
        dtype: of the language model.
        cache: whether a language model's activations are kept for later runs.

    Raises:
        UsageError: there is no such suite, key, adapter, quantiser, device or dtype; or what is
            said of the site contradicts the suite, or does not settle it.
        CheckpointError: the SAE cannot be loaded, or is for another model or hook point.
        CoderError: the SAE misbehaves when run.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    said = place_said(hook, hook_out, context, prepend_bos)
    with shown_on_terminal() as on_stage:
        setting = Setting(device, limit, text, known_dtype(dtype), cache=cache)
        opener = Opener(loaded, setting, on_stage)
        sought = _named(opener, str(sae)) if isinstance(sae, str | Path) else _held(sae, name)
        place = merged(sought.place, said)
        site = opener.site_of(sought.origin(place), place, sought.label)
        _refuse_unheard(said, site, sought.label)
        bench = Bench.open(InProcess(opener), site, quantiser)
        on_stage("load")
        identity = bench.identity(bench.identify(sought.sae), name or sought.name)
        return evaluate_coder(bench, sought.sae, identity, on_stage).record


def _refuse_unheard(said: Place, site: Site, label: str) -> None:
    """Raise `UsageError` where the suite has fixed otherwise what the caller says."""
    for key in ("context", "prepend_bos"):
        value, fixed = getattr(said, key), getattr(site, key)
        if value is not None and value != fixed:
            raise UsageError(f"{label}: {key} is {value!r} here, but the suite fixes {fixed!r}")


@dataclass(frozen=True)
class _Sought:
    """An SAE that is asked where it belongs, and loaded when that is settled."""

    label: str
    name: str | None
    place: Place
    origin: Callable[[Place], Origin]
    sae: Sae


def _named(opener: Opener, spec: str) -> _Sought:
    target = targets(opener.suite, [spec], adapter=None)[0]
    origin = partial(target_origin, opener, target)
    return _Sought(target.label, target.name, target.place, origin, target.sae)


def _held(sae: object, name: str | None) -> _Sought:
    found = instance_of(sae)
    label = name or type(found).__name__
    return _Sought(
        label,
        name,
        UNSAID,
        lambda place: origin_of_object(found, label),
        HeldSae(lambda source: coder_of(found, source=source, device=str(source.device))),
    )


def encode_target(
    opener: Opener, target: Target, step: float | None, quantiser: str | None = None
) -> bytes:
    """A target's test split as a bitstream, at a step or at the suite's headline tolerance.

    Raises:
        UsageError: the step is finer than the suite's finest.
        MdlbenchError: the finest step misses the headline tolerance.
    """
    bench = Bench.open(InProcess(opener), target_site(opener, target), quantiser)
    with encoded(bench, target.sae) as run:
        finest = run.sweep.finest
        if step is not None and not step >= finest:
            raise UsageError(f"--step {step:g} is finer than the suite's finest step {finest:g}")
        if step is None:
            headline = bench.suite.headline
            search = search_limit(
                Resampled(bench, run.sweep), headline.metric, headline.epsilon
            ).search
            if search.position is None:
                raise MdlbenchError(
                    f"{target.label}: no step keeps {headline.metric} within "
                    f"{headline.epsilon:g}; give one with --step"
                )
            step = run.sweep.step(search.position)
        return encode_test_split(bench, run, step)
