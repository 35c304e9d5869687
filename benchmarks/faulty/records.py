"""Broken, edited and hostile records through all that reads records."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faulty import board
from faulty.filesystem import replaced, scrambled
from faulty.hostile_names import NAMES
from faulty.outcome import Outcome, Watch
from faulty.values import HOSTILE, MARK


class Broken(NamedTuple):
    """What was done to a record.

    Attributes:
        how: in words.
        honest_seal: whether its seal still fits.
        invalid: whether `validate` may not call it valid.
    """

    how: str
    honest_seal: bool = True
    invalid: bool = True


class Records:
    """One record among honest ones, or the references beside them."""

    name = "records"

    def __init__(self, count: int) -> None:
        self.count = count

    def prepare(self, work: Path) -> None:
        work.mkdir()

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        path, content = board.make(folder / "board")
        if draw.random() < 0.12:
            file = folder / "board" / "references.json"
            ways = [_scrambled, _replaced, _hostile_value]
            how = draw.choice(ways)(file, json.loads(file.read_text()), draw).how
            broken = Broken(f"references: {how}", invalid=False)
        else:
            broken = draw.choice(WAYS)(path, content, draw)
        watch = Watch(f"{broken.how} #{number}")
        board.read_all(
            folder, watch, honest_seal=broken.honest_seal, must_be_refused=broken.invalid
        )
        return watch.outcome()


def leaves(content: Any, path: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Every value that holds no other, with what holds it and where that is."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        where = f"{path}.{key}" if isinstance(content, dict) else f"{path}[]"
        if isinstance(value, dict | list) and value:
            yield from leaves(value, where)
        else:
            yield content, key, where


def _leaf(
    content: Any, draw: random.Random, kinds: type | tuple[type, ...]
) -> tuple[Any, Any, str]:
    """A leaf of these kinds; places are drawn before leaves, or long lists would be all."""
    by_place: dict[str, list[tuple[Any, Any, str]]] = {}
    for owner, key, where in leaves(content):
        if isinstance(owner[key], kinds) and not isinstance(owner[key], bool):
            by_place.setdefault(where, []).append((owner, key, where))
    return draw.choice(by_place[draw.choice(list(by_place))])


def _edited(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    owner, key, where = _leaf(content, draw, (int, float))
    owner[key] = owner[key] * draw.choice([0.5, 0.9, 2]) or 1.5
    path.write_text(json.dumps(content))
    return Broken(f"{where} edited", honest_seal=False)


def _edited_and_sealed(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    owner, key, where = _leaf(content, draw, (int, float))
    owner[key] = owner[key] * draw.choice([0.5, 2, -1, 1e30]) or 1.5
    path.write_text(board.sealed(content))
    return Broken(f"{where} edited and sealed", invalid=False)


def _best_and_sealed(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    feasible = [result for result in content["tolerances"] if result.get("bits")]
    for result in feasible:
        result["bits"] *= 0.5
    path.write_text(board.sealed(content))
    return Broken("all rates halved and sealed", invalid=bool(feasible))


def _hostile_value(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    owner, key, where = _leaf(content, draw, object)
    value = draw.choice(HOSTILE)
    owner[key] = MARK
    text = json.dumps(content, indent=1, ensure_ascii=False).replace(f'"{MARK}"', value.text)
    path.write_text(text)
    return Broken(f"{where} is {value.name}", honest_seal=False)


def _hostile_text(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    owner, key, where = _leaf(content, draw, str)
    kind = draw.choice(list(NAMES))
    owner[key] = NAMES[kind]
    path.write_text(board.sealed(content))
    return Broken(f"{where} is {kind}, sealed", invalid=False)


def _missing(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    owner, key, where = _leaf(content, draw, object)
    del owner[key]
    path.write_text(board.sealed(content))
    return Broken(f"{where} is missing, sealed", invalid=False)


def _extra(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    content["extra\x1b[31m"] = draw.choice(["x", 1, None, {"a": [1]}])
    path.write_text(board.sealed(content))
    return Broken("a key too many, sealed")


def _twice(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    text = path.read_text()
    path.write_text(text[:1] + '"status": "complete",' + text[1:])
    return Broken("a key twice")


def _large(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    how = draw.choice(["blanks", "text", "numbers"])
    text = path.read_text()
    if how == "blanks":
        path.write_text(text + " " * 100_000_000)
    elif how == "text":
        content["coder"]["details"]["long"] = "x" * 100_000_000
        path.write_text(json.dumps(content))
    else:
        path.write_text(text.rstrip()[:-1] + ',"extra":[' + "1," * 50_000_000 + "1]}")
    return Broken(f"100 MB of {how}")


def _encoded(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    how = draw.choice(["UTF-16", "a byte order mark", "a raw surrogate", "NUL at the end"])
    text = path.read_text()
    data = {
        "UTF-16": text.encode("utf-16"),
        "a byte order mark": text.encode("utf-8-sig"),
        "a raw surrogate": text.encode().replace(b"complete", b"\xed\xa0\x80"),
        "NUL at the end": text.encode() + bytes(10),
    }[how]
    path.write_bytes(data)
    return Broken(how)


def _other_json(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    text = draw.choice(["[]", "null", "1", '"text"', "{}", "", "[" * 100_000, '{"a":' * 100_000])
    path.write_text(text)
    return Broken(f"the whole is {text[:8]!r}")


def _scrambled(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    how, data = scrambled(path.read_bytes(), draw)
    path.write_bytes(data)
    try:
        same = json.loads(data) == content
    except ValueError:
        same = False
    return Broken(how, honest_seal=same, invalid=not same)


def _replaced(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    how = replaced(path, draw)
    return Broken(f"the file is {how}", invalid=how != "a link")


def _newer(path: Path, content: dict[str, Any], draw: random.Random) -> Broken:
    content["schema_version"] = draw.choice([99, 0, -1, 2**70])
    path.write_text(board.sealed(content))
    return Broken("another schema version, sealed")


Way = Callable[[Path, dict[str, Any], random.Random], Broken]
WAYS: list[Way] = [
    *2 * [_edited],
    *2 * [_edited_and_sealed],
    _best_and_sealed,
    *4 * [_hostile_value],
    *4 * [_hostile_text],
    _missing,
    _extra,
    _twice,
    _large,
    *2 * [_encoded],
    _other_json,
    *2 * [_scrambled],
    *2 * [_replaced],
    _newer,
]
