"""Broken suites through `eval --limit 5` and `ls`."""

from __future__ import annotations

import io
import json
import lzma
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tiny import write_tiny_suite

from faulty import shown
from faulty.child import mdlbench
from faulty.filesystem import replaced, scrambled
from faulty.outcome import Outcome, Watch
from faulty.records import leaves
from faulty.values import HOSTILE, MARK, Hostile

CPU_SECONDS = 30
"""`eval` works: it loads, scores and draws."""
YAML_VALUES = [
    *(value for value in HOSTILE if "NaN" not in value.text and "Infinity" not in value.text),
    Hostile("not a number", ".nan", True),
    Hostile("infinite", ".inf", True),
    Hostile("an impossible date", "2024-02-31", True),
    Hostile("a date", "2024-02-03"),
    Hostile("an impossible time", "2024-02-03T99:99:99", True),
    Hostile("code", "!!python/object/apply:os.system ['touch ran']", True),
    Hostile("a Python name", "!!python/name:os.system", True),
    Hostile("bad binary", "!!binary 'x'", True),
    Hostile("a set", "!!set {a, b}"),
    Hostile("a bad integer", "!!int 'x'", True),
    Hostile("a bad float", "!!float 'x'", True),
    Hostile("an unknown anchor", "*nosuch", True),
    Hostile("an anchor of itself", "&a [*a]", True),
    Hostile("base 60", "190:20:30"),
    Hostile("octal", "0o17"),
]
LAUGHS = "\n".join(
    [
        "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)),
    ]
)
MERGES = "\n".join(
    [
        "m0: &m0 {x: 1}",
        *(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 10)),
    ]
)
SYNTHETIC = {
    "name": "tiny",
    "title": "Features",
    "source": {
        "kind": "synthetic",
        "seed": 1,
        "d": 8,
        "tokens": {"calibration": 200, "test": 50},
        "features": [
            {"kind": "lone", "probability": 0.2},
            {"kind": "pair", "probabilities": [0.1, 0.2], "correlation": 0.1},
            {"kind": "hierarchy", "probability": 0.3, "child": 0.5},
        ],
        "spread": 0.1,
        "noise": 0.01,
        "sharpness": 8.0,
    },
    "steps": {"finest": 0.125, "octaves": 3},
    "tolerances": [{"metric": "fvu", "epsilons": [0.1, 0.3]}],
    "headline": {"metric": "fvu", "epsilon": 0.3},
    "seed": 0,
    "replicates": 100,
    "agreement": {"bits": 0.001, "loss": 0.001, "positions": 1},
    "saes": [{"key": "pca", "spec": "baseline:pca", "place": {"hook": "synthetic"}}],
}


class Suites:
    """An image suite or a synthetic one, its YAML or one of its files broken."""

    name = "suites"

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self, work: Path) -> None:
        changes = {"replicates": 100, "steps": {"finest": 0.125, "octaves": 3}}
        saes = [{"key": "pca", "spec": "baseline:pca"}]
        write_tiny_suite(work / "images", **changes, saes=saes)
        (work / "synthetic").mkdir()
        (work / "synthetic" / "suite.yaml").write_text(yaml.safe_dump(SYNTHETIC, sort_keys=False))
        self.folder = work
        for name in ("images", "synthetic"):
            whole = work / f"whole-{name}"
            shutil.copytree(work / name, whole / name)
            ran = mdlbench(command(name), whole, cpu_seconds=CPU_SECONDS)
            if ran.code:
                raise SystemExit(f"eval fails where nothing is broken:\n{ran.stderr}")

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        kind = draw.choice(["images", "synthetic"])
        shutil.copytree(self.folder / kind, folder / kind)
        ways = WAYS + (ARTEFACTS if kind == "images" else [])
        how, wrong = draw.choice(ways)(folder / kind, draw)
        watch = Watch(f"{kind}: {how} #{number}")
        for arguments in (command(kind), ["ls", "records", "out"], ["ls", "suites"]):
            ran = mdlbench(arguments, folder, cpu_seconds=CPU_SECONDS)
            words = "mdlbench " + " ".join(arguments)
            content = watch.see(ran, words)
            if said := shown.on_terminal(ran.stdout) or shown.on_terminal(ran.stderr):
                watch.blame(f"{arguments[0]}: {said}", words)
            if content and wrong and arguments[0] == "eval":
                watch.blame("accepted without a word", words)
        if any((place / "ran").exists() for place in (folder, folder / kind)):
            watch.blame("code of the file was run", "")
        return watch.outcome()


def command(suite: str) -> list[str]:
    return ["eval", "--suite", suite, "--limit", "5", "-o", "out", "--quiet"]


def _value(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = folder / "suite.yaml"
    content = yaml.safe_load(file.read_text())
    owner, key, where = draw.choice(list(leaves(content)))
    if draw.random() < 0.3:
        owner, key = content, draw.choice(list(content))
        where = f".{key}"
    if draw.random() < 0.1:
        del owner[key]
        file.write_text(yaml.safe_dump(content))
        return f"{where} is missing", False
    value = draw.choice(YAML_VALUES)
    owner[key] = MARK
    text = yaml.safe_dump(content, allow_unicode=True).replace(MARK, value.text)
    file.write_text(text.replace('"' + value.text + '"', value.text))
    return f"{where} is {value.name}", value.nonsense


def _twice(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = folder / "suite.yaml"
    content = yaml.safe_load(file.read_text())
    how = draw.choice([*content, "epsilons", "metric"])
    if how == "epsilons":
        epsilons = content["tolerances"][0]["epsilons"]
        epsilons.append(epsilons[0])
    elif how == "metric":
        content["tolerances"].append(content["tolerances"][0])
    text = yaml.safe_dump(content)
    if how in content:
        text += yaml.safe_dump({how: content[how]})
    file.write_text(text)
    return f"{how} twice", True


def _text(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = folder / "suite.yaml"
    text = file.read_text()
    texts: dict[str, bytes] = {
        "a billion laughs": f"{text}{LAUGHS}\n".encode(),
        "a billion laughs as saes": f"{LAUGHS}\n{text}saes: *a9\n".encode(),
        "merges of merges": f"{text}{MERGES}\n".encode(),
        "deep lists": f"{text}deep: {'[' * 20_000}{']' * 20_000}\n".encode(),
        "deep objects": f"{text}deep: {'{a: ' * 5_000}1{'}' * 5_000}\n".encode(),
        "deep blocks": (
            text + "deep:\n" + "".join(" " * i + "-\n" for i in range(1, 2000))
        ).encode(),
        "a list": b"[1, 2]\n",
        "a number": b"12\n",
        "nothing": b"",
        "two documents": f"{text}---\n{text}".encode(),
        "a tab": text.replace("\n  ", "\n\t", 1).encode() + b"\tx: 1\n",
        "NUL": text.encode() + b"\0",
        "UTF-16": text.encode("utf-16"),
        "not UTF-8": text.encode() + b"# \xff\xfe\xc3\n",
        "ESC in a key": text.encode() + b'"\\e[31mred": 1\n',
        "a surrogate in a key": text.encode() + b'"\\ud800": 1\n',
        "an unhashable key": text.encode() + b"? [a, b]\n: 1\n",
        "a key that is itself": text.encode() + b"? &a [*a]\n: 1\n",
        "a directive": b"%YAML 9.9\n---\n" + text.encode(),
        "50 MB of comments": text.encode() + b"# x\n" * 12_000_000,
        "50 MB of text": text.encode() + b"title: " + b"x" * 50_000_000,
        "100 MB of blanks": text.encode() + b" " * 100_000_000,
    }
    how = draw.choice(list(texts))
    file.write_bytes(texts[how])
    return how, how not in ("100 MB of blanks", "50 MB of comments")


def _scrambled(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = draw.choice(sorted(folder.iterdir()))
    how, data = scrambled(file.read_bytes(), draw)
    file.write_bytes(data)
    return f"{file.name}: {how}", False


def _replaced(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = draw.choice(sorted(folder.iterdir()))
    how = replaced(file, draw)
    return f"{file.name} is {how}", how != "a link"


def _artefact_value(folder: Path, draw: random.Random) -> tuple[str, bool]:
    file = folder / "suite.yaml"
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    key = draw.choice(["images", "labels", "classifier"])
    values = ["../suite.yaml", "/etc/passwd", "nosuch", ".", "", "a\0b", "x" * 5000, "\x1b[31m.xz"]
    value = draw.choice(values)
    content["source"][key] = value
    file.write_text(yaml.safe_dump(content))
    return f"{key} is {json.dumps(value[:20])}", True


def _array(folder: Path, draw: random.Random) -> tuple[str, bool]:
    """One of the xz files, honest xz of what no suite may hold."""
    name = draw.choice(["images", "labels"])
    honest = np.load(io.BytesIO(lzma.decompress((folder / f"{name}.npy.xz").read_bytes())))
    arrays: dict[str, Callable[[], bytes]] = {
        "float": lambda: _npy(honest.astype("f8")),
        "one dimension more": lambda: _npy(honest[None]),
        "empty": lambda: _npy(honest[:0]),
        "too few": lambda: _npy(honest[:50]),
        "objects": lambda: _npy(np.array([_Runs()], dtype=object)),
        "10^12 claimed": lambda: _header((10**6, 10**6)),
        "10^30 claimed": lambda: _header((10**15, 10**15)),
        "negative shape": lambda: _header((-5, 8, 8)),
        "version 9": lambda: b"\x93NUMPY\x09\x00" + _npy(honest)[8:],
        "labels of 255": lambda: _npy(np.full(honest.shape, 255, "u1")),
        "not an array": lambda: b"hello",
    }
    how = draw.choice([*arrays, "a bomb of 3 GB behind", "a bomb of 3 GB, claimed"])
    file = folder / f"{name}.npy.xz"
    if how in arrays:
        file.write_bytes(lzma.compress(arrays[how](), preset=0))
    else:
        first = _npy(honest) if how.endswith("behind") else _header((48 << 20, 8, 8))
        zeros = lzma.compress(bytes(1 << 26), preset=0)
        file.write_bytes(lzma.compress(first) + 48 * zeros)
    return f"{name}: {how}", how not in ("labels of 255",)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch ran",)


Way = Callable[[Path, random.Random], tuple[str, bool]]
"""Breaks a suite; says how, and whether nobody may accept it without a word."""
WAYS: list[Way] = [*4 * [_value], _twice, *2 * [_text], _scrambled, _replaced]
ARTEFACTS: list[Way] = [_artefact_value, *2 * [_array]]
