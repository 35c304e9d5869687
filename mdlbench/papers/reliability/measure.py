"""Train, score and redraw what a plan asks for, resumable at any point.

Each place (a world, or a suite) has a folder: `runs/` and `records/` as a study leaves them, a
folder of records for each other operating mode, `controls/`, `probes/`, `edges/`, `snapshots/`,
`redraws/` and `halves/`. What is in it is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from mdlbench.adapters.load import NamedCoder
from mdlbench.console.stages import OnStage, labelled
from mdlbench.disk.files import write_atomically
from mdlbench.papers.reliability import halves
from mdlbench.papers.reliability.draws import Window, WindowOpener
from mdlbench.papers.reliability.edges import edges_of
from mdlbench.papers.reliability.plan import FLAT, Place
from mdlbench.papers.reliability.probes import probe
from mdlbench.scoring import suite_run
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.engine import THIS_PROCESS, Engine
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.suite_run import Failed, Scored, all_scored
from mdlbench.scoring.targets import Target, in_modes, key_target, target_site
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import KnowsFeatures, Split
from mdlbench.sources.superposed import BLOCK_TOKENS
from mdlbench.studies.plan import Run
from mdlbench.studies.run import RUNS, diverged, run_study
from mdlbench.training.folder import snapshot_name
from mdlbench.training.makers.controls import controls, write_control
from mdlbench.training.zoo import training_site

CONTROLS, PROBES, EDGES, SNAPSHOTS, REDRAWS, HALVES = (
    "controls",
    "probes",
    "edges",
    "snapshots",
    "redraws",
    "halves",
)
BOTH, CALIBRATION = "both", "calibration"
"""What is drawn anew: calibration and test data, or calibration data alone."""


def measure_place(place: Place, folder: Path, on_stage: OnStage, engine: Engine) -> None:
    """Train and score the SAEs of one place, and probe them where features are known.

    Raises:
        MdlbenchError: an SAE cannot be scored.
    """
    on_stage, opener = labelled(on_stage, place.name), _opener(place)
    _train(place, opener, folder, on_stage, engine)
    if place.world is not None:
        _make_controls(opener, folder)
    wanted = [*_runs(place, folder), *_references(place, folder)]
    for mode in place.modes:
        on_stage(f"mode {mode}")
        moved = place.is_first and mode in place.part.moved_modes
        saes = [*wanted, *_beside(place, folder)] if moved else wanted
        _score(opener, saes, mode_folder(folder, mode), on_stage, (mode,), engine)
    if place.world is not None:
        _probe(place, opener, folder, on_stage)
        _find_edges(place, opener, folder, on_stage)


def examine_place(place: Place, folder: Path, on_stage: OnStage, engine: Engine) -> None:
    """Score SAEs along their training, and on other draws of the data.

    Raises:
        MdlbenchError: an SAE cannot be scored.
    """
    on_stage, opener = labelled(on_stage, place.name), _opener(place)
    _follow(place, opener, folder, on_stage, engine)
    _redraw(place, opener, folder, on_stage)


def _opener(place: Place) -> Opener:
    return Opener(place.suite, Setting(cache=place.part.cache))


def mode_folder(folder: Path, mode: str) -> Path:
    """Where the records of an operating mode are."""
    return folder if mode == FLAT else folder / mode


def draw_folder(folder: Path, kind: str, number: int) -> Path:
    """Where the records of a draw are."""
    return folder / REDRAWS / f"{kind}-{number}"


def snapshot_key(run: Run, step: int) -> str:
    """The name of a run's SAE after a step."""
    return f"{run.key}-{snapshot_name(step)}"


def _train(place: Place, opener: Opener, folder: Path, on_stage: OnStage, engine: Engine) -> None:
    study, training = place.study, place.part.training
    if study is None or training is None:
        return
    trained_on = None if place.world is None else Opener(place.training_suite)
    outcomes = run_study(
        study,
        opener,
        folder,
        on_stage,
        engine=engine,
        training=trained_on,
        snapshots=training.snapshots,
    )
    all_scored(outcome for outcome in outcomes if isinstance(outcome, Scored | Failed))


def _runs(place: Place, folder: Path) -> list[Target]:
    """The trained SAEs that are ranked, without those that diverged."""
    training = place.part.training
    return _trained(folder, [] if training is None else training.ranked)


def _beside(place: Place, folder: Path) -> list[Target]:
    """The trained SAEs that are compared among themselves alone."""
    training = place.part.training
    if training is None:
        return []
    beside = [run for run in training.followed if run.architecture in training.beside]
    return _trained(folder, beside)


def _trained(folder: Path, runs: Sequence[Run]) -> list[Target]:
    """The last SAEs of runs, without those that diverged."""
    return [_of_run(folder, run.key) for run in runs if diverged(folder, run.key) is None]


def _of_run(folder: Path, key: str, *inside: str) -> Target:
    path = folder.absolute().joinpath(RUNS, key, *inside)
    name = "-".join((key, *inside))
    return Target(NamedCoder(f"saelens:{path}"), name)


def _references(place: Place, folder: Path) -> list[Target]:
    """What trained SAEs are held against: the oracle and the controls; SAEs of the suite."""
    if place.world is None:
        return [key_target(place.suite, key) for key in place.part.redrawn.saes]
    made = sorted((folder / CONTROLS).iterdir())
    spec = f"saelens:{folder.absolute() / CONTROLS}"
    return [_oracle(place), *(Target(NamedCoder(f"{spec}/{one.name}"), one.name) for one in made)]


def _oracle(place: Place) -> Target:
    spec = f"baseline:oracle?features={place.part.width}"
    return Target(NamedCoder(spec), place.part.oracle)


def _make_controls(opener: Opener, folder: Path) -> None:
    if not (folder / CONTROLS).is_dir():
        source = opener.open(training_site(opener))
        partial = folder / f".{CONTROLS}"
        for name, weights in controls(source).items():
            write_control(weights, name, source.hook, partial / name)
        partial.rename(folder / CONTROLS)


def _score(
    opener: Opener,
    wanted: Sequence[Target],
    folder: Path,
    on_stage: OnStage,
    modes: Sequence[str],
    engine: Engine = THIS_PROCESS,
) -> None:
    wanted = in_modes(opener.suite, wanted, modes)
    all_scored(suite_run.run(opener, wanted, folder, on_stage, engine=engine))


def _probe(place: Place, opener: Opener, folder: Path, on_stage: OnStage) -> None:
    """Probes of every trained SAE, each in a file."""
    paths = {one.label: folder / PROBES / f"{one.label}.json" for one in _runs(place, folder)}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if not missing:
        return
    on_stage("probes")
    source = opener.open(training_site(opener))
    for name, path in missing.items():
        coder = _of_run(folder, name).sae.load(source, str(source.device))
        found = probe(coder, source, place.part.probed, place.part.width)
        write_atomically(path, (json.dumps(found) + "\n").encode())


def _find_edges(place: Place, opener: Opener, folder: Path, on_stage: OnStage) -> None:
    """Learned forests against a world's hierarchy: a file for the oracle and each trained SAE."""
    saes = [one.sae for one in (*_runs(place, folder), _oracle(place))]
    names = [*(one.label for one in _runs(place, folder)), place.part.oracle]
    paths = [folder / EDGES / f"{name}.json" for name in names]
    if all(path.exists() for path in paths):
        return
    source = opener.open(training_site(opener))
    if not isinstance(source, KnowsFeatures) or not (source.features.parents >= 0).any():
        return
    on_stage("edges")
    for sae, path in zip(saes, paths, strict=True):
        if not path.exists():
            coder = sae.load(source, str(source.device))
            found = edges_of(coder, source, source.features)
            write_atomically(path, (json.dumps(found._asdict()) + "\n").encode())


def _follow(place: Place, opener: Opener, folder: Path, on_stage: OnStage, engine: Engine) -> None:
    """Score the snapshots of the runs that are followed, and the last SAE with them."""
    training = place.part.training
    if training is None:
        return
    runs = [run for run in training.followed if diverged(folder, run.key) is None]
    wanted = [
        _of_run(folder, run.key, snapshot_name(step)) for run in runs for step in training.snapshots
    ]
    on_stage("snapshots")
    _score(opener, wanted, folder / SNAPSHOTS, on_stage, place.part.moved_modes, engine)


def _redraw(place: Place, opener: Opener, folder: Path, on_stage: OnStage) -> None:
    if place.world is None:
        _halve(place, opener, folder, on_stage)
        return
    wanted = [
        _oracle(place) if name == place.part.oracle else _of_run(folder, name)
        for name in redrawn(place, folder)
    ]
    suite = place.long_suite(place.part.redrawn.draws)
    for kind, number in draws_of(place):
        on_stage(f"draw {kind} {number}")
        window = _window(place, number, 0 if kind == CALIBRATION else number)
        draw, modes = draw_folder(folder, kind, number), place.part.moved_modes
        _score(WindowOpener(suite, window), wanted, draw, on_stage, modes)


def redrawn(place: Place, folder: Path) -> tuple[str, ...]:
    """What is scored on other draws, without runs that diverged."""
    return tuple(name for name in place.part.redrawn.saes if diverged(folder, name) is None)


def draws_of(place: Place) -> list[tuple[str, int]]:
    """What is drawn anew, and by which number."""
    asked = place.part.redrawn
    both = [(BOTH, number) for number in range(asked.draws)]
    return both + [(CALIBRATION, number) for number in range(1, asked.of_calibration + 1)]


def _window(place: Place, calibration: int, test: int) -> Window:
    """The blocks of a draw: beyond those that SAEs were trained on, and beyond the suite's own."""
    blocks = {kind: n // BLOCK_TOKENS for kind, n in place.part.tokens.items()}
    start: dict[Split, int] = {
        "calibration": blocks["training"] + calibration * blocks["calibration"],
        "test": (1 + test) * blocks["test"],
    }
    stop: dict[Split, int] = {
        "calibration": start["calibration"] + blocks["calibration"],
        "test": start["test"] + blocks["test"],
    }
    return Window(start, stop)


def _halve(place: Place, opener: Opener, folder: Path, on_stage: OnStage) -> None:
    """Scores on halves of the test documents, a file for each SAE in each mode."""
    executor = InProcess(opener)
    for key, mode in product(place.part.redrawn.saes, place.part.moved_modes):
        path = mode_folder(folder / HALVES, mode) / f"{key}.json"
        if not path.exists():
            on_stage(f"halves {key}, {mode}")
            target = key_target(place.suite, key)
            bench = Bench.open(executor, target_site(opener, target), mode)
            found = [
                {**score._asdict(), "halves": score.halves.tolist()}
                for score in halves.measure(bench, target, seeds=0)
            ]
            write_atomically(path, (json.dumps(found) + "\n").encode())
