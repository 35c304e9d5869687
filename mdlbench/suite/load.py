"""Suites by name or path; a file that is not data, or does not fit the schema, is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mdlbench.errors import MdlbenchError, SuiteError, UsageError, did_you_mean, reason
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
        place, known = _walked((*item["loc"], *item.get("ctx", {}).get(AT, ())), document.content)
        message = item["msg"]
        if item["type"] == "extra_forbidden":
            message = "unknown key. " + (did_you_mean(str(place[-1]), known) if known else "")
        where = ".".join(map(str, place)) or "suite"
        problems.append(f"{where[:LONGEST]}: {message.strip()[:LONGEST]}")
        lines.append(document.line_of(place))
    return f", line {lines[0]}: {'; '.join(problems)}"


def _walked(
    where: tuple[int | str, ...], content: dict[str, Any]
) -> tuple[list[int | str], list[str]]:
    """A place of a suite as the file has it, and the keys that may stand there.

    Where parts of several kinds may stand, the schema's place has the kind as a step of its own.
    The keys are empty where they are not known.
    """
    place: list[int | str] = []
    models: list[type[BaseModel]] = [Suite]
    known: list[str] = []
    for step in where:
        if len(models) > 1 and (of_kind := [one for one in models if _kind_of(one) == step]):
            models = of_kind
            continue
        place.append(step)
        if isinstance(step, str):
            known = list(models[0].model_fields) if len(models) == 1 else []
            is_source = models == [Suite] and step == "source"
            models = _source_models(content) if is_source else _models_at(models, step)
    return place, known


def _source_models(content: dict[str, Any]) -> list[type[BaseModel]]:
    """The config of a suite's kind of source, where it says one that there is."""
    source = content.get("source")
    kind = source.get("kind") if isinstance(source, dict) else None
    try:
        return [config_class(kind)] if isinstance(kind, str) else []
    except MdlbenchError:
        return []


def _models_at(models: list[type[BaseModel]], key: str) -> list[type[BaseModel]]:
    """What may stand under a key of a part of a suite, where it is a part itself."""
    fields = [model.model_fields[key] for model in models if key in model.model_fields]
    return [found for field in fields for found in _models_in(field.annotation)]


def _kind_of(model: type[BaseModel]) -> str | None:
    """The `kind` that tells a part of a suite from others in its place; None where it has none."""
    field = model.model_fields.get("kind")
    return None if field is None else next(iter(get_args(field.annotation)), None)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is None and isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)
