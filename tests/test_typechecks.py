"""What is checked while the tests run: what jaxtyping and beartype would refuse is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import jaxtyping
import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32, Float64, Int64, Shaped

from mdlbench.codes.latents import SparseLatents
from mdlbench.statistics import pairwise
from tests.typechecks import MARK, beartyped, checked, is_known_array, jaxtyped

LINES = ["n", "m", "n m", "n n", "n 2", "_ n", "*n", "2 n m", "n *m", "#n m", "", "..."]
SHAPES = [(), (1,), (2,), (3,), (2, 2), (2, 3), (3, 2), (2, 3, 2)]
VALUES = [np.zeros(shape, kind) for shape in SHAPES for kind in (np.float64, np.int64)]
KINDS = st.sampled_from([Float64, Shaped, Float32, Int64])


@checked
def scaled(
    x: Float64[np.ndarray, "n d"], by: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    return (x * by[:, None]).sum(axis=1) if by[0] else x[0]


@checked
def either(x: Float64[np.ndarray, " n"] | Int64[np.ndarray, "n n"], y: Shaped[np.ndarray, " n"]):
    return len(y)


@checked
@dataclass
class Pair:
    """Two arrays of a length."""

    a: Float64[np.ndarray, " n"]
    b: Float64[np.ndarray, " n"]


class Chain:
    """A method that returns what only its class knows."""

    @checked
    def on(self, n: int) -> Self:
        return self


@checked
def counted(up_to: int) -> Iterator[int]:
    yield from range(up_to)


def adder(k: int):
    @checked
    def add(x: int) -> int:
        return x + k if k else "none"  # type: ignore[return-value]

    return add


REFUSED = {
    "dtype": lambda: scaled(np.ones((2, 3), np.float32), np.ones(2)),
    "lengths": lambda: scaled(np.ones((2, 3)), np.ones(3)),
    "axes": lambda: scaled(np.ones(2), np.ones(2)),
    "result": lambda: scaled(np.ones((2, 3)), np.zeros(2)),
    "no array": lambda: scaled([[1.0]], np.ones(1)),
    "union": lambda: either(np.ones((2, 2), np.int64), np.ones(3)),
    "no part of a union": lambda: either(np.ones((2, 3), np.int64), np.ones(3)),
    "dataclass": lambda: Pair(np.ones(2), np.ones(3)),
    "beside Self": lambda: Chain().on("1"),
    "generator": lambda: counted("3"),
    "within a function": lambda: adder(1)("1"),
    "result within a function": lambda: adder(0)(1),
    "the package's": lambda: SparseLatents.from_dense(np.ones((2, 3))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    scaled(np.ones((2, 3)), np.ones(2)), Pair(np.ones(2), np.ones(2)), adder(1)(1)
    for _ in range(2):
        with pytest.raises(BeartypeCallHintViolation):
            REFUSED[name]()


def test_what_is_right_is_computed():
    for n in (2, 3):
        assert scaled(np.ones((n, 3)), np.full(n, 2.0)).tolist() == [6.0] * n
        assert either(np.ones((n, n), np.int64), np.ones(n)) == n
        assert either(np.ones(n), np.ones(n)) == n
        assert len(Pair(np.ones(n), np.ones(n)).b) == n
    assert list(counted(3)) == [0, 1, 2]
    assert [adder(k)(1) for k in (1, 2, 3)] == [2, 3, 4]
    chain = Chain()
    assert chain.on(1) is chain


def test_the_packages_functions_are_checked():
    for function in (pairwise.pairwise_sum, SparseLatents.from_dense, SparseLatents.__init__):
        assert hasattr(function, MARK)


def jaxtypings(lines, values):
    """Whether jaxtyping's own check takes these arguments."""
    hints = [kind[np.ndarray, line] for kind, line in lines]
    names = ", ".join(f"a{i}" for i in range(len(lines)))
    scope = {}
    exec(f"def function({names}): pass", scope)
    scope["function"].__annotations__ = {f"a{i}": hint for i, hint in enumerate(hints)}
    try:
        jaxtyped(scope["function"], typechecker=beartyped)(*values)
    except jaxtyping.TypeCheckError:
        return False
    return True


@given(
    st.lists(
        st.tuples(KINDS, st.sampled_from(LINES), st.sampled_from(VALUES)), min_size=1, max_size=3
    )
)
def test_arrays_are_taken_as_jaxtyping_takes_them(drawn):
    lines, values = [(kind, line) for kind, line, _ in drawn], [value for *_, value in drawn]
    with jaxtyped("context"):
        found = all(
            is_known_array(kind[np.ndarray, line], value)
            for (kind, line), value in zip(lines, values, strict=True)
        )
    assert found == jaxtypings(lines, values)
