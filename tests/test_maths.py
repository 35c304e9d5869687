"""Every function and test that docs/maths.md names is there."""

import ast
import importlib
import re
from functools import cache, reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MATHS = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
FUNCTIONS = sorted(set(re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", MATHS)))
TESTS = sorted(set(re.findall(r"`(test_\w+(?:::\w+)+)`", MATHS)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    words = name.split(".")
    module = next(
        found
        for n in range(len(words), 0, -1)
        if (found := _module("mdlbench." + ".".join(words[:n]))) is not None
    )
    depth = len(module.__name__.split(".")) - 1
    assert reduce(getattr, words[depth:], module) is not None


@pytest.mark.parametrize("name", TESTS)
def test_tests(name):
    file, *inside = name.split("::")
    assert "::".join(inside) in _tests(file)


def _module(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None


@cache
def _tests(file):
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{item.name}" for item in node.body if hasattr(item, "name")}
    return names
