"""A Sphinx extension that puts what the code says where a page has `<!-- generated: NAME -->`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import typer
import typer.main
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from mdlbench.cli.app import app as command_line
from mdlbench.records import schema


def command_reference() -> str:
    """The help of every command, in Markdown."""
    command = typer.main.get_command(command_line)
    context = typer.Context(command, info_name="mdlbench")
    text = get_docs_for_click(obj=command, ctx=context, name="mdlbench")
    return text[text.index("## ") :].replace("```console\n$ ", "```text\n")


PARTS: dict[str, Callable[[], str]] = {
    "record": lambda: schema.tables(schema.record_schema()),
    "suite": lambda: schema.tables(schema.suite_schema()),
    "command-line": command_reference,
}
SCHEMAS = {"record": schema.record_schema, "suite": schema.suite_schema}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    for name, part in PARTS.items():
        marker = f"<!-- generated: {name} -->"
        if marker in source[0]:
            source[0] = source[0].replace(marker, part())


def publish_schemas(app: Sphinx, failure: Exception | None) -> None:
    for name, of in SCHEMAS.items():
        text = json.dumps(of(), indent=1) + "\n"
        Path(app.outdir, f"{name}.schema.json").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill_in)
    app.connect("build-finished", publish_schemas)
    return {"parallel_read_safe": True}
