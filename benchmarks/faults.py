"""What breaks mdlbench: kills, crashes, broken files and hostile names, tried and counted.

    python benchmarks/faults.py [--only PART …] [--counts PART=N …] [--seconds S] [-o FILE]

Every command runs in a forked child with limits of time and memory. A case is *refused* if its
command ends with code 1 or 2 and a message; *harmless* if it is accepted and the result is that of
the unbroken run or file; *failed* otherwise: a traceback, a hang (10 s of work), more than 2 GB, a
wrong result, finished work that is lost, a run that cannot go on. Failures are listed below the
table, each kind once, with its first case's number; `--only PART --case N --keep FOLDER` runs that
case alone and keeps its files.

Crash points need a C compiler (`cc`): a small library that ends the process at its n-th change of
the folder is preloaded.
"""

from __future__ import annotations

import os

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
    "MPLBACKEND": "agg",
}

import argparse
import contextlib
import importlib
import pkgutil
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from faulty.outcome import Outcome, Part, Tally, table  # noqa: E402

COUNTS = {
    "eval-kills": 100,
    "train-kills": 30,
    "crashes": 100_000,
    "checkpoints": 3000,
    "bitstreams": 1000,
    "records": 200,
    "suites": 100,
    "names": 100,
}
"""Cases of each part; crash points are as many as there are, if fewer."""


def made(name: str, count: int) -> Part:
    """The part of that name; imports torch, for all children at once."""
    from faulty import bitstreams, checkpoints, names, records, runs, suites

    return {
        "eval-kills": lambda: runs.Kills("eval", count),
        "train-kills": lambda: runs.Kills("train", count),
        "crashes": lambda: runs.Crashes(count),
        "checkpoints": lambda: checkpoints.Checkpoints(count),
        "bitstreams": lambda: bitstreams.Bitstreams(count),
        "records": lambda: records.Records(count),
        "suites": lambda: suites.Suites(count),
        "names": lambda: names.Names(count),
    }[name]()


def preload() -> None:
    """Import all of mdlbench, so that a child need not."""
    import mdlbench

    for module in pkgutil.walk_packages(mdlbench.__path__, "mdlbench."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    import sklearn.cluster  # noqa: F401
    import torch

    from mdlbench.adapters.registry import ADAPTERS
    from mdlbench.suite.kinds import SOURCES

    torch.set_num_threads(1)
    ADAPTERS.built_in(), SOURCES.built_in()
    draw_once()


def draw_once() -> None:
    """Set up what draws. Of pictures the texts alone are laid out: the rest is most of the time."""
    from faulty.board import HONEST
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    from mdlbench.records.store import read_records, read_references
    from mdlbench.report import features, style, write_report

    def laid_out(figure: Figure) -> bytes:
        renderer = FigureCanvasAgg(figure).get_renderer()
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        with style.house_style():
            return "".join(str(text.get_window_extent(renderer)) for text in texts).encode()

    style.png = style.pdf = features.png = laid_out
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        write_report(read_records(HONEST)[:2], read_references(HONEST), Path(folder))


def run(name: str, part: Part, arguments: argparse.Namespace, work: Path) -> Tally:
    """The cases of a part, until its seconds are over."""
    part.prepare(work / "prepared")
    every = range(arguments.first, part.count)
    numbers = every if arguments.case is None else [arguments.case]
    tally = Tally(part.name, len(numbers))
    end = time.monotonic() + arguments.seconds
    for number in numbers:
        if time.monotonic() > end:
            break
        folder = work / "case"
        folder.mkdir()
        draw = random.Random(f"{arguments.seed} {name} {number}")
        tally.outcomes.append((number, _seen(part, number, draw, folder)))
        if arguments.keep is not None:
            shutil.copytree(work, arguments.keep, symlinks=True, ignore=_not_regular)
        shutil.rmtree(folder)
    return tally


def _seen(part: Part, number: int, draw: random.Random, folder: Path) -> Outcome:
    try:
        return part.case(number, draw, folder)
    except Exception as error:
        raise RuntimeError(f"{part.name}, case {number}: the campaign itself fails") from error


def _not_regular(folder: str, names: list[str]) -> list[str]:
    paths = {name: Path(folder, name) for name in names}
    return [name for name, path in paths.items() if not (path.is_dir() or path.is_file())]


def preloaded(place: Path) -> None:
    """Start this program again with the library that `crashes` needs, if it is not there yet."""
    from faulty.runs import SHIM

    if SHIM in os.environ:
        return
    library = place / "crash.so"
    source = ROOT / "benchmarks" / "faulty" / "crash.c"
    compile = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    try:
        subprocess.run(compile, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"crash points need a C compiler: {error}; --only the others") from error
    environment = os.environ | {SHIM: str(library), "LD_PRELOAD": str(library)}
    again = subprocess.run([sys.executable, *sys.argv], env=environment, check=False)
    raise SystemExit(again.returncode)


def _count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in COUNTS or not number.isdigit():
        raise argparse.ArgumentTypeError(f"PART=N, where PART is one of {', '.join(COUNTS)}")
    return name, int(number)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=COUNTS, default=list(COUNTS), metavar="PART")
    parser.add_argument("--counts", nargs="+", type=_count, default=[], metavar="PART=N")
    parser.add_argument("--seconds", type=float, default=3600, help="for each part [3600]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="go on with this case [0]")
    parser.add_argument("--case", type=int, help="this case of one part alone")
    parser.add_argument("--keep", type=Path, help="with --case: copy its files to this new folder")
    parser.add_argument("-o", "--output", type=Path, help="write the table and failures here, too")
    arguments = parser.parse_args()
    if arguments.case is not None and len(arguments.only) != 1:
        parser.error("--case is of one part: name it with --only")
    return arguments


def command(arguments: argparse.Namespace) -> str:
    """What was run, and how to read its table."""
    counts = " ".join(f"{name}={count}" for name, count in arguments.counts)
    counted = f" --counts {counts}" if counts else ""
    begun = f" --first {arguments.first}" if arguments.first else ""
    options = f"{' '.join(arguments.only)}{counted}{begun} --seed {arguments.seed}"
    return f"$ python benchmarks/faults.py --only {options}\n{HOW}\n"


HOW = """\
Worst of all commands: CPU seconds (10 are too many; 30 where eval works), and resident MB, of which
some 460 are shared with the parent (2,048 are too many). Commands run in forked children of one
process that has imported everything; of pictures the texts alone are laid out."""


def main() -> None:
    arguments = parsed()
    counts = COUNTS | dict(arguments.counts)
    warnings.simplefilter("ignore")
    tallies = []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        if "crashes" in arguments.only:
            preloaded(Path(place))
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        preload()
        for name in arguments.only:
            work = Path(place) / name
            work.mkdir()
            tallies.append(run(name, made(name, counts[name]), arguments, work))
            print(table(tallies[-1:]), *tallies[-1].failures(), sep="\n", flush=True)
            shutil.rmtree(work)
    failures = [line for tally in tallies for line in tally.failures()]
    text = "\n".join([command(arguments), table(tallies), *failures]).rstrip() + "\n"
    if len(tallies) > 1:
        print("\n" + text, end="")
    if arguments.output is not None:
        arguments.output.write_text(text)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
