"""What README, CONTRIBUTING and docs/ tell a reader to type: commands, snippets, files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer.main
from markdown_it import MarkdownIt
from typer.core import TyperGroup

from mdlbench.cli.app import app

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/**/*.md")]
)
LANGUAGES = {"sh", "python", "yaml", "toml", "text"}
NOT_TYPED = {"math", "{toctree}", "{eval-rst}", "bash", "yml"}
"""Languages of fences that a reader does not type here: `bash` and `yml` are for a cluster."""
FILE = re.compile(r"# ([\w./-]+\.(?:py|yaml|toml))\n")
"""A fence whose first line is a comment with a path is that file."""


def _options() -> dict[str, set[str]]:
    """The options of every subcommand, and of the command itself under ""."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    named = {"": group, **group.commands}
    return {
        name: {"--help", *(option for parameter in command.params for option in parameter.opts)}
        for name, command in named.items()
    }


OPTIONS = _options()


@dataclass(frozen=True)
class Fence:
    """A fenced block.

    Attributes:
        language: what stands behind the fence.
        line: of the page, from 1.
    """

    language: str
    content: str
    line: int

    @property
    def file(self) -> str | None:
        found = FILE.match(self.content)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without comments."""
        lines = self.content.replace("\\\n", " ").splitlines()
        stripped = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
        return [line for line in stripped if line]


def fences(page: Path) -> list[Fence]:
    """All fenced blocks that a reader is meant to type, or to see printed."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    found = []
    for token in tokens:
        if token.type == "fence" and token.info.strip() not in NOT_TYPED:
            assert token.map is not None
            found.append(Fence(token.info.strip(), token.content, token.map[0] + 1))
    return found


def commands(page: Path) -> list[str]:
    return [c for fence in fences(page) if fence.language == "sh" for c in fence.commands]


def inline_commands(page: Path) -> Iterator[str]:
    """Commands of mdlbench in running text."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.startswith("mdlbench "):
                yield child.content


def links(page: Path) -> Iterator[str]:
    """Where links and pictures lead."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target:
                yield str(target)


def unknown_in(command: str) -> str | None:
    """The subcommand or option of a call of mdlbench that the command line does not have."""
    words = shlex.split(command)
    options, known = OPTIONS[""], set(OPTIONS) - {""}
    for word in words[words.index("mdlbench") + 1 :]:
        if word.startswith("-"):
            if word not in options:
                return word
        elif known:
            if word not in known:
                return None if word.isupper() else word
            options, known = OPTIONS[word], set()
    return None
