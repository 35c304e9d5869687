"""How much of Python's documentation lies in runs of words that a training text has, too.

    python benchmarks/overlap.py manuals.jsonl

The text is a JSON object a line, with its text under `text`. Words are letters, digits and
underscores, in lower case. A word counts as shared if a run of 13 words that it is in occurs in
the training text.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

RUN = 13


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def runs(text: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(text[i : i + RUN]) for i in range(len(text) - RUN + 1))


def shared(text: list[str], known: set[int]) -> int:
    """How many words of a text are in a known run."""
    inside: set[int] = set()
    for start, run in enumerate(runs(text)):
        if hash(run) in known:
            inside.update(range(start, start + RUN))
    return len(inside)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    said = parser.parse_args()
    trained = [words(json.loads(line)["text"]) for line in said.text.open(encoding="utf-8")]
    known = {hash(run) for text in trained for run in runs(text)}
    scored = [words(topics[name]) for name in sorted(topics)]
    n_scored, n_shared = sum(map(len, scored)), sum(shared(text, known) for text in scored)
    print(f"training text: {sum(map(len, trained)):,} words")
    print(
        f"Python's documentation: {n_scored:,} words, {n_shared} ({n_shared / n_scored:.2%}) shared"
    )


if __name__ == "__main__":
    main()
