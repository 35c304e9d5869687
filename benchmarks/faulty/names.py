"""Hostile names of SAEs, suites, hooks and texts through all commands that show names."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import yaml
from tiny import write_sae, write_tiny_suite

from faulty import board, shown
from faulty.bitstreams import draw_symbols
from faulty.child import mdlbench
from faulty.hostile_names import drawn
from faulty.outcome import Outcome, Watch
from faulty.suites import SYNTHETIC
from mdlbench.adapters.formats.saelens.releases import releases
from mdlbench.codes import bitstream
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.tally import SymbolCounts

CPU_SECONDS = 30
OTHER_PLACES = ("suite", "hook", "model", "text", "architecture", "details", "provenance")


class Names:
    """Each name in records, a bitstream, a suite's YAML, as a folder's, and as an argument."""

    name = "names"

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self, work: Path) -> None:
        self.suite = work / "suite"
        changes = {"replicates": 100, "steps": {"finest": 0.125, "octaves": 3}}
        write_tiny_suite(self.suite, **changes, saes=[{"key": "mean", "spec": "baseline:mean"}])
        self.sae = write_sae(work / "sae")
        releases()  # read once: it takes seconds, and each unknown name is compared with them

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        kind, name = drawn(number, draw)
        watch = Watch(f"{kind} #{number}")
        _in_records(name, folder, watch)
        _in_bitstream(name, folder, watch)
        self._as_folder(name, folder, watch)
        _in_suite(name, folder, watch)
        self._as_argument(name, folder, watch)
        if (folder / "ran").exists():
            watch.blame("code of the name was run", "")
        return watch.outcome()

    def _as_folder(self, name: str, folder: Path, watch: Watch) -> None:
        """An SAE in a folder of that name, as far as a file system has such names."""
        own = _as_argument(name).replace("/", "_")
        own = os.fsdecode(os.fsencode(own)[:200]) or "empty"
        shutil.copytree(self.sae, folder / "saes" / own)
        spec = f"saes/{own}"
        _shown(watch, folder, "check-adapter", spec)
        few = ("--limit", "5", "-o", "out")
        _shown(watch, folder, "eval", "--suite", str(self.suite), "--sae", spec, *few)

    def _as_argument(self, name: str, folder: Path, watch: Watch) -> None:
        word = _as_argument(name)
        for arguments in (
            ["leaderboard", word],
            ["ls", "records", word],
            ["eval", "--suite", word],
            ["eval", "--suite", str(self.suite), "--sae", word, "-o", "argued"],
            ["compare", word, word, "--in", "board"],
            ["check-adapter", word],
            ["validate", word],
            ["cite", word],
            ["decode", word],
            ["train", word, "--suite", str(self.suite)],
            ["fetch", word],
        ):
            _shown(watch, folder, *arguments)


def _as_argument(name: str) -> str:
    """The name as far as a process can be given it: without NUL, a byte for a lone surrogate."""
    return name.replace("\0", "").replace("\ud800", "\udcff")


def _shown(watch: Watch, folder: Path, *arguments: str) -> None:
    ran = mdlbench(arguments, folder, cpu_seconds=CPU_SECONDS)
    command = "mdlbench " + ascii(" ".join(arguments))[1:-1]
    watch.see(ran, command, says_on_stdout=arguments[0] in ("validate", "check-adapter", "train"))
    if said := shown.on_terminal(ran.stdout) or shown.on_terminal(ran.stderr):
        watch.blame(f"{arguments[0]}: {said}", command)


def _in_records(name: str, folder: Path, watch: Watch) -> None:
    """As the SAE's name, then in every other place that has one."""
    for places in (("coder",), OTHER_PLACES):
        shutil.rmtree(folder / "board", ignore_errors=True)
        shutil.rmtree(folder / "compared", ignore_errors=True)
        path, content = board.make(folder / "board")
        for place in places:
            _put(content, place, name)
        path.write_text(board.sealed(content))
        board.read_all(folder, watch)


def _put(content: dict[str, Any], place: str, name: str) -> None:
    if place == "coder":
        content["identity"]["coder"]["name"] = name
    elif place == "suite":
        content["identity"]["suite"] = name
    elif place in ("hook", "model", "text"):
        content["site"][place] = name
    elif place == "architecture":
        content["coder"]["architecture"] = name
    elif place == "details":
        content["coder"]["details"][name] = name
    else:
        content["provenance"] = {"commit": name, "date": name, "dirty": False}
        content["environment"]["device"] = name


def _in_bitstream(name: str, folder: Path, watch: Watch) -> None:
    codebook = Codebook.fit(SymbolCounts.of(draw_symbols(0)))
    metadata = {"sae": name, name[:200]: "value"}
    try:
        data = bitstream.encode(draw_symbols(1), codebook, step=0.5, metadata=metadata)
    except Exception:
        return
    (folder / "named.bits").write_bytes(data)
    _shown(watch, folder, "decode", "named.bits")


def _in_suite(name: str, folder: Path, watch: Watch) -> None:
    for key in ("title", "name"):
        (folder / key).mkdir()
        text = yaml.safe_dump(SYNTHETIC | {key: name})
        (folder / key / "suite.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        _shown(watch, folder, "eval", "--suite", key, "--limit", "5", "-o", f"{key}-out")
