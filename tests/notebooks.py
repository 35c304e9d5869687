"""A notebook as a notebook server would execute it, without one: code cells, and what they show.

`python -m tests.notebooks docs/tutorial.ipynb` executes one and keeps its outputs.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

DPI = 90


def execute(content: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The outputs of each code cell, in order; in one namespace, with no figure open before."""
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    plt.close("all")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    return [_outputs("".join(cell["source"]), names, n) for n, cell in enumerate(cells, 1)]


def executed(content: dict[str, Any]) -> dict[str, Any]:
    """The notebook with its outputs."""
    found = iter(enumerate(execute(content), 1))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["execution_count"], cell["outputs"] = next(found)
    return content


def text_of(content: dict[str, Any]) -> str:
    """The notebook as its file has it."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _outputs(code: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    import matplotlib.pyplot as plt

    tree = ast.parse(code)
    shown = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(shown, ast.Expr):
            value = eval(compile(ast.Expression(shown.value), "<cell>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    silenced = code.rstrip().endswith(";")
    if value is not None and not silenced:
        data = {"text/plain": [repr(value)]}
        if html := getattr(value, "_repr_html_", lambda: None)():
            data = {"text/html": [html]} | data
        result = {"data": data, "execution_count": count, "metadata": {}}
        outputs.append(result | {"output_type": "execute_result"})
    for number in plt.get_fignums():
        buffer = io.BytesIO()
        plt.figure(number).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        plt.close(number)
        image = base64.b64encode(buffer.getvalue()).decode()
        data = {"image/png": image, "text/plain": ["<Figure>"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(text_of(executed(json.loads(path.read_text()))))
