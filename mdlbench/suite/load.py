"""Suites by name or path; a file that is not data, or does not fit the schema, is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mdlbench.errors import SuiteError, UsageError, did_you_mean, reason
from mdlbench.suite.base import AT
from mdlbench.suite.folders import SUITE_FILE, shipped_folder, suite_names, suites_folder
from mdlbench.suite.kinds import config_class
from mdlbench.suite.suite import Suite
from mdlbench.suite.yaml_file import Document, read_yaml

LONGEST = 500
"""The most characters of what is said about one key."""


@cache
def shipped_suite(name: str) -> Suite | None:
    """The shipped suite of that name, or None; a record's name is never read as a path."""
    return load_suite(suites_folder() / name) if name in suite_names() else None


def load_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or one of yours by the path of its folder or file.

    Raises:
        UsageError: no such suite; the message names the nearest one.
        SuiteError: the file cannot be read as data (`read_yaml`) or does not fit the schema.
    """
    path = _suite_file(name)
    document = read_yaml(path)
    content = document.content
    if not isinstance(content, dict):
        raise SuiteError(f"{path}: a suite is a mapping of keys, not a {type(content).__name__}")
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise SuiteError(f"{path}{_first_problems(error, document)}") from error
    suite._folder = path.parent
    return suite


def _suite_file(name: str | Path) -> Path:
    path = Path(name)
    shipped = suites_folder() / str(name) / SUITE_FILE if str(name) in suite_names() else None
    try:
        file = path / SUITE_FILE if path.is_dir() else path
        if shipped is not None and file.is_file() and not file.samefile(shipped):
            raise UsageError(
                f"{str(name)!r} is a shipped suite and a path here: write {shipped.parent} for the "
                f"one, ./{name} for the other"
            )
        if file.is_file():
            return file
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {reason(error)}") from error
    return shipped_folder(str(name)) / SUITE_FILE


def _first_problems(error: ValidationError, document: Document, limit: int = 3) -> str:
    """What does not fit the schema, with the line of the first and the places of all."""
    problems, lines = [], []
    for item in error.errors()[:limit]:
        place = (*item["loc"], *item.get("ctx", {}).get(AT, ()))
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            known = _known_keys(place[:-1], document.content)
            message = "unknown key. " + (did_you_mean(str(place[-1]), known) if known else "")
        where = ".".join(map(str, place)) or "suite"
        problems.append(f"{where[:LONGEST]}: {message.strip()[:LONGEST]}")
        lines.append(document.line_of(place))
    return f", line {lines[0]}: {'; '.join(problems)}"


def _known_keys(where: tuple[int | str, ...], content: dict[str, Any]) -> Iterable[str]:
    """The keys that may stand at a place of a suite; empty where that is not known."""
    model: type[BaseModel] | None = Suite
    for step in where:
        if isinstance(step, str) and model is not None:
            is_source = model is Suite and step == "source"
            model = config_class(content[step]["kind"]) if is_source else _model_at(model, step)
    return () if model is None else model.model_fields


def _model_at(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """What stands under a key of a part of a suite; None where that is no part, or one of many."""
    field = model.model_fields.get(key)
    found = [] if field is None else list(_models_in(field.annotation))
    return found[0] if len(found) == 1 else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is None and isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)
