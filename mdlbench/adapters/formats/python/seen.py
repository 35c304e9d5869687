"""What can be seen of somebody's object: all that it holds, and their code that works on it.

Digests are of content, so that the same object made twice is the same. Code of installed packages
counts by its name. What C keeps to itself, and what code reads from elsewhere, cannot be seen; it
is named, and nothing may be concluded from such a digest.
"""

from __future__ import annotations

import dis
import hashlib
import site
import sys
import types
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

MOST_PARTS = 200_000
"""So many objects are looked at."""
DEEPEST = 60
"""So deep are objects that hold objects looked into."""
MOST_NAMED = 3
"""So many of the parts that cannot be seen are named."""
PLAIN = {bool, int, float, complex, str, bytes, bytearray, range, type(None), type(...)}
PLAIN |= {type(Path()), type(NotImplemented)}
LIBRARY_OBJECTS = (
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    np.dtype,
    np.generic,
)
SEQUENCES = (list, tuple)
SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
GLOBAL_READERS = {"eval", "exec", "globals", "input", "__import__"}
READERS = {"open", "read_text", "read_bytes", "environ", "getenv"}
"""Names by which code gets at what nobody holds."""
MAKERS = {"__init__", "__new__", "__post_init__", "__init_subclass__", "__class_getitem__"}
"""Methods whose work is done: what they left behind is in the object."""
NO_CONTENT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__name__", "__slots__",
    "__annotations__", "__firstlineno__", "__static_attributes__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__",
    "__dataclass_params__", "__match_args__", "__annotations_cache__", "__annotate_func__",
    "__classdictcell__", "__hash__", "__slotnames__",
}  # fmt: skip
"""What a class has beside what somebody wrote into it."""


class Seen(NamedTuple):
    """What was seen of an object.

    Attributes:
        digest: of all that can be seen.
        unseen: what cannot, in words; empty if there is nothing.
    """

    digest: str
    unseen: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """What cannot be seen, shortened; empty if there is nothing."""
        more = len(self.unseen) - MOST_NAMED
        rest = f" and {more} more" if more > 0 else ""
        return "; ".join(self.unseen[:MOST_NAMED]) + rest


def seen(target: Any) -> Seen:
    """A digest of an object's content, through whatever it holds; never fails."""
    walk = _Walk()
    return Seen(walk.digest(target, "", 0), tuple(dict.fromkeys(walk.unseen)))


class _Walk:
    """One look through an object. A part that is met inside itself counts as its depth there."""

    def __init__(self) -> None:
        self.unseen: list[str] = []
        self._known: dict[int, str] = {}
        self._open: dict[int, int] = {}
        self._kept: list[Any] = []

    def digest(self, part: Any, path: str, depth: int) -> str:
        if type(part) in PLAIN:
            return _hash(type(part).__name__, repr(part))
        if isinstance(part, LIBRARY_OBJECTS):
            return _hash(type(part).__name__, repr(part), str(getattr(part, "dtype", "")))
        key = id(part)
        if key in self._open:
            return _hash("within itself", str(depth - self._open[key]))
        if key in self._known:
            return self._known[key]
        if depth > DEEPEST or len(self._kept) > MOST_PARTS:
            return self._hidden(path, "more than is looked at")
        self._kept.append(part)
        self._open[key] = depth
        try:
            found = self._content(part, path, depth + 1)
        except Exception as error:
            found = self._hidden(path, f"{_kind(part)}, {type(error).__name__}")
        del self._open[key]
        self._known[key] = found
        return found

    def _content(self, part: Any, path: str, depth: int) -> str:
        for kinds, look in self._looks():
            if isinstance(part, kinds):
                return look(part, path, depth)
        return self._instance(part, path, depth)

    def _looks(self) -> Iterator[tuple[Any, Callable[[Any, str, int], str]]]:
        yield torch.Tensor, self._tensor
        yield np.ndarray, self._array
        yield (types.FunctionType, types.LambdaType), self._function
        yield types.MethodType, self._method
        yield types.BuiltinFunctionType, self._builtin
        yield types.CodeType, self._code
        yield types.CellType, self._cell
        yield types.ModuleType, self._module
        yield type, self._class
        yield (
            (staticmethod, classmethod),
            lambda p, path, depth: self.digest(p.__func__, path, depth),
        )
        yield cached_property, lambda p, path, depth: self.digest(p.func, path, depth)
        yield (
            property,
            lambda p, path, depth: self._parts("property", [p.fget, p.fset], path, depth),
        )
        yield (
            partial,
            lambda p, path, depth: self._parts(
                "partial", [p.func, p.args, p.keywords], path, depth
            ),
        )

    def _parts(self, kind: str, parts: list[Any], path: str, depth: int) -> str:
        return _hash(kind, *(self.digest(part, path, depth) for part in parts))

    def _hidden(self, path: str, what: str) -> str:
        self.unseen.append(f"{path.lstrip('.') or 'the object'} ({what})")
        return _hash("hidden", what)

    def _tensor(self, part: torch.Tensor, path: str, depth: int) -> str:
        held = self._mapping(getattr(part, "__dict__", {}), path, depth)
        if part.is_meta or part.is_nested:
            return self._hidden(path, "a tensor without its numbers")
        dense = part.detach()
        dense = dense.to_dense() if dense.layout is not torch.strided else dense
        if dense.is_quantized:
            dense = dense.dequantize()
        dense = dense.cpu().resolve_conj().resolve_neg().contiguous()
        raw = dense.reshape(-1).view(torch.uint8).numpy()
        return _hash("tensor", str(part.dtype), str(list(part.shape)), _bytes(raw), held)

    def _array(self, part: np.ndarray, path: str, depth: int) -> str:
        held = self._mapping(getattr(part, "__dict__", {}), path, depth)
        if part.dtype.hasobject:
            return _hash("objects", held, self.digest(part.tolist(), path, depth))
        mask = getattr(part, "mask", None)
        masked = "" if mask is None else _bytes(np.ascontiguousarray(mask))
        plain = np.ascontiguousarray(part.view(np.ndarray))
        return _hash("array", str(part.dtype), str(part.shape), _bytes(plain), masked, held)

    def _mapping(self, part: dict[Any, Any], path: str, depth: int) -> str:
        entries = (
            self.digest(key, path, depth) + self.digest(value, f"{path}{_step(key)}", depth)
            for key, value in list(part.items())
        )
        return _hash("mapping", *entries)

    def _attributes(self, part: dict[str, Any], path: str, depth: int) -> str:
        return self._mapping(dict(sorted(part.items())), path, depth)

    def _function(self, part: types.FunctionType, path: str, depth: int) -> str:
        """Its code, defaults and closure, and what it uses by global name."""
        if _is_installed(part.__module__ or ""):
            return _hash("function", part.__module__, part.__qualname__)
        where = f"{path}: {part.__name__}"
        held = [part.__code__, part.__defaults__, part.__kwdefaults__, part.__closure__]
        return _hash(
            self._parts("function", held, path, depth),
            self._attributes(self._globals(part, where), where, depth),
            self._attributes(vars(part), path, depth),
        )

    def _globals(self, part: types.FunctionType, where: str) -> dict[str, Any]:
        """What its code finds by name outside of it."""
        names, every, imported = _names(part.__code__)
        found = {name: part.__globals__[name] for name in names if name in part.__globals__}
        for name in sorted((names & GLOBAL_READERS | every & READERS) - set(found)):
            self._hidden(where, f"its code uses {name}")
        for name in imported:
            found[f"import {name}"] = sys.modules.get(name)
        return {name: _used_of(value, every) for name, value in found.items()}

    def _code(self, part: types.CodeType, path: str, depth: int) -> str:
        facts = (part.co_names, part.co_varnames, part.co_freevars, part.co_flags)
        constants = tuple(c for c in part.co_consts if not isinstance(c, frozenset))
        sets = [c for c in part.co_consts if isinstance(c, frozenset)]
        return _hash(
            "code",
            _bytes(part.co_code),
            repr(facts),
            self._parts("constants", [*constants, *sets], path, depth),
        )

    def _cell(self, part: types.CellType, path: str, depth: int) -> str:
        try:
            return self.digest(part.cell_contents, path, depth)
        except ValueError:
            return _hash("empty cell")

    def _method(self, part: types.MethodType, path: str, depth: int) -> str:
        return self._parts("method", [part.__func__, part.__self__], path, depth)

    def _builtin(self, part: types.BuiltinFunctionType, path: str, depth: int) -> str:
        owner = part.__self__
        named = _hash("builtin", str(part.__module__), part.__qualname__)
        if owner is None or isinstance(owner, types.ModuleType | type):
            return named
        return _hash(named, self.digest(owner, path, depth))

    def _module(self, part: types.ModuleType, path: str, depth: int) -> str:
        if _is_installed(part.__name__):
            return _hash("module", part.__name__)
        return self._attributes(_written(part), path, depth)

    def _class(self, part: type, path: str, depth: int) -> str:
        name = _hash("class", part.__module__, part.__qualname__)
        if _is_installed(part.__module__):
            return name
        bases = [self.digest(base, path, depth) for base in part.__bases__]
        return _hash(name, *bases, self._attributes(_written(part), path, depth))

    def _instance(self, part: Any, path: str, depth: int) -> str:
        """Its class, what it contains, its attributes, and what it says when it is saved."""
        kind = type(part)
        digests = [self.digest(kind, path, depth)]
        if isinstance(part, dict):
            digests.append(self._mapping(dict(dict.items(part)), path, depth))
        elif isinstance(part, SEQUENCES):
            items = dict(enumerate(kind.__iter__(part)))
            digests.append(self._mapping(items, path, depth))
        elif isinstance(part, set | frozenset):
            digests += sorted(self.digest(item, path, depth) for item in part)
        else:
            digests.append(self._saved(part, path, depth))
        if not (_saves_itself(kind) and _is_installed(kind.__module__)):
            digests.append(self._attributes(_attributes_of(part), path, depth))
        return _hash("instance", *digests)

    def _saved(self, part: Any, path: str, depth: int) -> str:
        """What it says of itself when it is saved; hidden where it has what cannot be saved."""
        try:
            reduced = part.__reduce_ex__(4)
        except Exception:
            return self._hidden(path, f"a {_kind(part)}")
        if isinstance(reduced, str):
            return _hash("named", reduced, self._attributes(_attributes_of(part), path, depth))
        made, arguments, *state = reduced
        if not _saves_itself(type(part)):
            return self._parts("made", [arguments], path, depth)
        listed = [list(each) if isinstance(each, Iterator) else each for each in state]
        return self._parts("saved", [made, arguments, *listed], path, depth)


def _hash(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def _bytes(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _kind(part: Any) -> str:
    kind = type(part)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def _step(key: Any) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{str(key)[:40]!r}]"


def _names(code: types.CodeType) -> tuple[set[str], set[str], set[str]]:
    """Globals that code reads, all names in it, and modules that it imports."""
    found: tuple[set[str], set[str], set[str]] = (set(), set(code.co_names), set())
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found[0].add(str(instruction.argval))
        if instruction.opname == "IMPORT_NAME":
            found[2].add(str(instruction.argval))
    for nested in code.co_consts:
        if isinstance(nested, types.CodeType):
            for names, others in zip(found, _names(nested), strict=True):
                names |= others
    return found


def _used_of(value: Any, names: set[str]) -> Any:
    """A global as code uses it: of somebody's module, the attributes that are named."""
    if not isinstance(value, types.ModuleType) or _is_installed(value.__name__):
        return value
    return {name: vars(value)[name] for name in sorted(names) if name in vars(value)}


def _written(part: type | types.ModuleType) -> dict[str, Any]:
    """What somebody wrote into a class or a module."""
    left_out = NO_CONTENT | MAKERS
    return {
        name: value
        for name, value in vars(part).items()
        if name not in left_out and not isinstance(value, SLOTS)
        and not (isinstance(part, types.ModuleType) and name.startswith("__"))
    }  # fmt: skip


def _attributes_of(part: Any) -> dict[str, Any]:
    """What is in its `__dict__` and in slots that Python code declares."""
    found = dict(getattr(part, "__dict__", {}))
    for kind in type(part).__mro__:
        for name in _declared_slots(kind):
            try:
                found[f"{kind.__qualname__}.{name}"] = vars(kind)[name].__get__(part)
            except (AttributeError, KeyError):
                continue
    return found


def _declared_slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [
        name
        for name, value in vars(kind).items()
        if isinstance(value, types.MemberDescriptorType) and slots
    ]


def _saves_itself(kind: type) -> bool:
    """Whether it has a way of its own to be saved."""
    ways = ("__reduce_ex__", "__reduce__")
    return any(getattr(kind, way) is not getattr(object, way) for way in ways)


@cache
def _is_installed(name: str) -> bool:
    """Whether a module is Python's, ours, or of an installed package."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top in ("builtins", "mdlbench"):
        return True
    module = sys.modules.get(top)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
    installed = [
        Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())
    ]
    return any(
        folder in Path(place).resolve().parents for place in places if place for folder in installed
    )
