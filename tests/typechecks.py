"""Annotations checked at each call, array shapes included, in a third of the time of jaxtyping.

jaxtyping's import hook writes `@jaxtyping.jaxtyped(typechecker=...)` above each function and class.
That binds signatures, checks parameters twice, and compiles what checks a function within a
function whenever there is a new one. `checked` stands in its place: it does each of them once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception
from jaxtyping._storage import _shape_storage

UNTESTABLE = (BeartypeDecorHintPep673Exception, BeartypeDecorHintPep3119Exception)
"""Raised for a signature that names `Self`, or a protocol that isinstance cannot test."""
MARK = "__is_checked__"
ARRAYS = type(jaxtyping.AbstractArray)
jaxtyped, is_such_an_array = jaxtyping.jaxtyped, ARRAYS.__instancecheck__
beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""beartype, for which an int may stand for a float, as for type checkers."""


def install(package: str) -> None:
    """Have what is imported of that package checked from now on."""
    jaxtyping.jaxtyped = lambda *, typechecker: checked  # type: ignore[assignment]
    ARRAYS.__instancecheck__ = is_known_array  # type: ignore[method-assign]
    jaxtyping.install_import_hook(package, f"{__name__}.checked")


def checked(of: Any) -> Any:
    """A function whose annotations are checked at each call; a class, whose `__init__` is so."""
    if inspect.isclass(of):
        if dataclasses.is_dataclass(of) and not hasattr(of.__init__, MARK):
            of.__init__ = checked(of.__init__)  # type: ignore[misc]
        return of
    call = _calling(of)

    @functools.wraps(of)
    def within_shapes(*args: Any, **kwargs: Any) -> Any:
        """In here, an axis has the same length wherever its name stands."""
        __tracebackhide__ = True
        try:
            stack = _shape_storage.memo_stack
        except AttributeError:
            stack = _shape_storage.memo_stack = []
        stack.append(({}, {}, {}, {}))
        try:
            return call(*args, **kwargs)
        finally:
            stack.pop()

    setattr(within_shapes, MARK, True)
    return within_shapes


CALLS: dict[int, tuple[CodeType, FunctionType]] = {}
"""By the identity of a function's code, what checks and calls it."""


def _calling(function: FunctionType) -> FunctionType:
    """A function that checks what goes into this one and comes out of it."""
    code = function.__code__
    if id(code) not in CALLS:
        CALLS[id(code)] = (code, _beartyped(function))
    made = CALLS[id(code)][1]
    if not made.__kwdefaults__:
        return function
    call = FunctionType(made.__code__, made.__globals__, made.__name__)
    call.__kwdefaults__ = made.__kwdefaults__ | {"__beartype_func": function}
    return call


def _beartyped(function: FunctionType) -> FunctionType:
    """beartype on a function with this one's signature, to be called in no other way.

    It keeps nothing of this one alive. A generator's has no `yield`: its caller gets an iterator.
    Nothing is checked where a parameter cannot be, and the parameters alone where what is returned
    cannot.
    """
    code = function.__code__
    plain = code.replace(co_flags=code.co_flags & ~inspect.CO_GENERATOR)
    cells = tuple(CellType() for _ in code.co_freevars)
    twin = FunctionType(plain, function.__globals__, function.__name__, None, cells or None)
    twin.__qualname__, twin.__module__ = function.__qualname__, function.__module__
    found = {n: _resolved(h, twin.__globals__) for n, h in function.__annotations__.items()}
    for hints in (found, found | {"return": Any}):
        twin.__annotations__ = hints
        try:
            return beartyped(twin)
        except UNTESTABLE:
            continue
    twin.__annotations__ = {}
    return twin


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """An annotation as an object; `Any` for what is imported for type checkers alone."""

    def holder() -> None: ...

    holder.__annotations__ = {"hint": hint}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["hint"]
    except Exception:  # what an annotation raises is nobody's promise
        return Any


@dataclass(frozen=True)
class Axes:
    """The axes of an annotation.

    Attributes:
        names: places and names.
        fixed: places and lengths.
        run: the name of all axes together; then there are no others.
        known: by type, the dtypes that were found right.
    """

    n: int
    names: tuple[tuple[int, str], ...]
    fixed: tuple[tuple[int, int], ...]
    run: str
    known: dict[type, set[object]]


def is_known_array(cls: Any, value: Any) -> bool:
    """Whether this is such an array, as jaxtyping says.

    It is asked unless the value is of a type and dtype that it found right before, and has the
    lengths that are fixed and those of this call so far.
    """
    axes = _axes(cls)
    dtypes = axes.known.get(type(value))
    if dtypes is not None and value.dtype in dtypes and _agrees(axes, value.shape):
        return True
    found = is_such_an_array(cls, value)
    if found and (axes.n or axes.run):
        axes.known.setdefault(type(value), set()).add(value.dtype)
    return found


@functools.cache
def _axes(cls: Any) -> Axes:
    """Its axes where each is `_`, a number, or a name that stands once; none otherwise."""
    words = cls.dim_str.split()
    names = [(i, word) for i, word in enumerate(words) if word.isidentifier() and word[0] != "_"]
    fixed = [(i, int(word)) for i, word in enumerate(words) if word.isdecimal()]
    if len(words) == 1 and words[0][0] == "*" and words[0][1:].isidentifier():
        return Axes(0, (), (), words[0][1:], {})
    if len(names) + len(fixed) + words.count("_") < len(words):
        return Axes(0, (), (), "", {})
    if len({name for _, name in names}) < len(names):
        return Axes(0, (), (), "", {})
    return Axes(len(words), tuple(names), tuple(fixed), "", {})


def _agrees(axes: Axes, shape: tuple[int, ...]) -> bool:
    """Whether the lengths are those so far, which are noted where all are."""
    stack = getattr(_shape_storage, "memo_stack", None)
    if not stack:
        return False
    lengths, runs, _, _ = stack[-1]
    if axes.run:
        return bool(runs.setdefault(axes.run, (False, shape)) == (False, shape))
    return len(shape) == axes.n and _agree(axes, shape, lengths)


def _agree(axes: Axes, shape: tuple[int, ...], lengths: dict[str, int]) -> bool:
    for i, length in axes.fixed:
        if shape[i] != length:
            return False
    for i, name in axes.names:
        if lengths.get(name, shape[i]) != shape[i]:
            return False
    for i, name in axes.names:
        lengths[name] = shape[i]
    return True
