"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[bool] | None = None
) -> str:
    """A table of cells that are fit for Markdown already; without a newline at the end.

    Args:
        header: of each column.
        rows: a cell for each column.
        right: which columns are flush right; none where it is left out.
    """
    flush = [False] * len(header) if right is None else right
    rules = ["---:" if is_right else "---" for is_right in flush]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rules, *rows])
