"""A Sphinx extension that puts what the code says where a page has `<!-- generated: NAME -->`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main
from sphinx.application import Sphinx
from typer.cli import get_docs_for_click

from mdlbench.cli.app import app as command_line
from mdlbench.records import schema
from mdlbench.report.page.folders import write_pages

HERE = Path(__file__).parent
NOTEBOOK = HERE / "tutorial.ipynb"
BOARDS = HERE.parent / "leaderboards"


def command_reference() -> str:
    """The help of every command, in Markdown."""
    command = typer.main.get_command(command_line)
    context = typer.Context(command, info_name="mdlbench")
    text = get_docs_for_click(obj=command, ctx=context, name="mdlbench")
    return text[text.index("## ") :].replace("```console\n$ ", "```text\n")


def tutorial() -> str:
    """The notebook of the tutorial in Markdown, with what its cells show."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return "\n\n".join(part for cell in content["cells"] for part in _cell(cell))


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", [])})
        if "text/html" in data:
            html = "".join(data["text/html"]).replace("\n", " ")
            yield f'<div class="output">{html}</div>'
        elif "image/png" in data:
            image = f"data:image/png;base64,{data['image/png']}"
            yield f'<div class="output"><img alt="the figure of this cell" src="{image}"></div>'
        else:
            yield f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "record": lambda: schema.tables(schema.record_schema()),
    "suite": lambda: schema.tables(schema.suite_schema()),
    "command-line": command_reference,
    "tutorial": tutorial,
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


def publish_boards(app: Sphinx, failure: Exception | None) -> None:
    """The boards' pages, under `boards/` of the site."""
    write_pages(BOARDS, Path(app.outdir, "boards"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill_in)
    app.connect("build-finished", publish_schemas)
    app.connect("build-finished", publish_boards)
    return {"parallel_read_safe": True}
