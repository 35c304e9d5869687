"""YAML as plain data: bounded, without repeated keys, every fault named with its line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from mdlbench.disk.files import read_regular
from mdlbench.errors import SuiteError, first_line, reason

LARGEST_FILE = 1 << 20
"""The most bytes of a file that is written by hand."""
DEEPEST = 40
"""The most levels of lists within lists, aliases followed."""
MOST_VALUES = 50_000
"""The most values, aliases followed."""
LARGEST_INTEGER = 1 << 63
SHOWN = 40
"""Characters of a value at fault that a message shows."""

_TAG = "tag:yaml.org,2002:"
_KEY_TAGS = (f"{_TAG}str", f"{_TAG}merge")
_NOT_DATA = ("binary", "omap", "pairs", "set")
"""Tags of YAML that nothing here has a use for."""


@dataclass(frozen=True)
class Document:
    """What a file or a text holds, and where each part of it stands."""

    content: Any
    root: Node | None

    def line_of(self, place: Iterable[str | int]) -> int:
        """The line of what stands under these keys and positions, or of the nearest around it."""
        node, line = self.root, 1
        for step in place:
            found = _child(node, step)
            if found is None:
                break
            key, node = found
            line = key.start_mark.line + 1
        return line


def read_yaml(path: Path) -> Document:
    """What a file holds: mappings with keys of text, lists, and values.

    Raises:
        SuiteError: it cannot be read, is larger than anybody writes, is not YAML, repeats a key,
            or asks for something other than data. The message names the line where there is one.
    """
    try:
        content = read_regular(path, LARGEST_FILE)
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {reason(error)}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SuiteError(f"{path}, line {line}: cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Document:
    """What a text holds; raises `SuiteError` as `read_yaml` does, with `where` before the line."""
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return Document(None if root is None else loader.construct_document(root), root)
    except ConstructorError as error:
        raise SuiteError(f"{where}{_line(error, text)}: {error.problem}") from error
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or first_line(error)
        raise SuiteError(f"{where}{_line(error, text)}: not valid YAML: {problem}") from error
    except Exception as error:
        line = "" if loader is None else f", line {loader.line + 1}"
        raise SuiteError(f"{where}{line}: not valid YAML: {first_line(error)}") from error


def _child(node: Node | None, step: str | int) -> tuple[Node, Node] | None:
    """What stands under a key or at a position, and the key or, in a list, it again."""
    if isinstance(node, MappingNode):
        found = [(key, value) for key, value in node.value if key.value == step]
        return found[-1] if found else None
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _line(error: yaml.YAMLError, text: str) -> str:
    """The line of an error as it stands in a message; empty where it does not say where it is."""
    if isinstance(error, ReaderError):
        return f", line {text[: error.position].count(chr(10)) + 1}"
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}"


class _Loader(yaml.SafeLoader):
    """Data only, and no more of it than the file shows."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._extents: dict[Node, tuple[int, int]] = {}
        """Levels, and values with those within, of every node that is complete."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        is_alias = isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST} levels", event)
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and node not in self._extents:
            raise _refusal("an alias of something that it is part of", event)
        levels, values = self._extents.setdefault(node, self._extent(node))
        if self._depth + levels > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST} levels", event)
        if values > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES:,} values, aliases followed", event)
        return node

    def _extent(self, node: Node) -> tuple[int, int]:
        parts = [] if isinstance(node, ScalarNode) else node.value
        if isinstance(node, MappingNode):
            parts = [part for pair in node.value for part in pair]
        extents = [self._extents[part] for part in parts]
        levels = 1 + max((levels for levels, _ in extents), default=0)
        return levels, 1 + sum(values for _, values in extents)

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode) or key.tag not in _KEY_TAGS:
                raise _refusal("a key that is not text; write it in quotes", key)
            if key.value in lines:
                first = lines[key.value]
                raise _refusal(f"{_shown(key)} is here a second time, after line {first}", key)
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:
            kind = node.tag.removeprefix(_TAG)
            raise _refusal(f"{_shown(node)} is no {kind}: {first_line(error)}", node) from error
        if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
            raise _refusal("an integer of more than 64 bits", node)
        if isinstance(value, str) and (found := _unprintable(value)):
            raise _refusal(f"holds the control character U+{ord(found):04X}", node)
        return value

    def construct_undefined(self, node: Node) -> Never:
        raise _refusal(f"data only may stand here, and {node.tag} asks for more", node)


for _tag in (None, *(f"{_TAG}{name}" for name in _NOT_DATA)):
    _Loader.add_constructor(_tag, _Loader.construct_undefined)


def _refusal(problem: str, at: Node | yaml.Event) -> ConstructorError:
    mark: Any = at.start_mark
    return ConstructorError(None, None, problem, mark)


def _shown(node: Node) -> str:
    return repr(node.value[:SHOWN]) if isinstance(node, ScalarNode) else "this"


def _unprintable(text: str) -> str | None:
    """The first control character, or half of one that is beyond 16 bits."""
    found = (c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs"))
    return next(found, None)
