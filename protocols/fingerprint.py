"""Identifies code by its content: functions of one name with different code, or different bound values, are different.

Nothing is imported, and no code of the user runs. A value that cannot be compared by content, such as an open
connection in a closure, counts by its class.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from types import CodeType, FunctionType, MethodType, ModuleType

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_MOST_DEPTH = 20
_MOST_ITEMS = 1_000
"""Most items of a list or mapping that is looked at item by item."""
_HIDDEN = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__", "_exact", "_mark"}
)

_KNOWN_BY_NAME = sys.stdlib_module_names | {
    "podium",
    "pydantic",
    "pydantic_core",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
}
"""Packages whose classes count by their names."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_WRAPPED = ("fget", "fset", "fdel", "__func__", "func", "args", "keywords")
"""Attributes that hold the parts of properties, class methods, static methods and partials."""


_WORD = re.compile(r"[A-Za-z_]\w*")
_WRITTEN = "_podium_hints"
"""Attribute of a function that has its type hints as they were written."""


def hints_as_written(function: FunctionType) -> dict[str, str]:
    """Return the texts of a function's type hints. They stay the same when `keep_hints` was called before a change."""
    kept: dict[str, str] | None = getattr(function, _WRITTEN, None)
    if kept is not None:
        return kept
    return {name: hint if isinstance(hint, str) else repr(hint) for name, hint in function.__annotations__.items()}


def keep_hints(function: FunctionType) -> None:
    """Keep the texts of the type hints, which are about to be replaced by the types that they name."""
    setattr(function, _WRITTEN, hints_as_written(function))


def code_fingerprint(target: object, exactly: bool = False) -> str:
    """Return the SHA-256, hexadecimal, of a function or class: of bytecode, constants, bound values, and all that it
    refers to in its own module. With `exactly`, values without comparable content count by their identity in this
    process."""
    digest = hashlib.sha256()
    for part in _Parts(exactly, str(getattr(target, "__module__", ""))).of(target, 0):
        digest.update(part.encode("utf-8", "backslashreplace"))
        digest.update(b"\0")
    return digest.hexdigest()


class _Parts:
    def __init__(self, exactly: bool, module: str) -> None:
        """`module` is the name of the target's module. Objects of its classes count with the code of the class."""
        self._exactly, self._module = exactly, module
        self._seen: set[int] = set()

    def of(self, value: object, depth: int) -> Iterator[str]:
        """Yield the texts that identify a value."""
        if isinstance(value, _PLAIN):
            yield repr(value)
        elif depth > _MOST_DEPTH or id(value) in self._seen:
            yield f"again {type(value).__qualname__}"
        else:
            self._seen.add(id(value))
            yield from self._of_new(value, depth + 1)

    def _of_new(self, value: object, depth: int) -> Iterator[str]:
        function = getattr(value, "function", None)
        if isinstance(value, CodeType):
            yield from self._of_code(value, depth)
        elif isinstance(value, FunctionType):
            yield from self._of_function(value, depth)
        elif isinstance(value, MethodType):
            yield from self.of(value.__func__, depth)
            yield from self.of(value.__self__, depth)
        elif type(value).__name__ == "FunctionProtocol" and callable(function):
            yield from self.of(function, depth)
        elif isinstance(value, ModuleType):
            yield value.__name__
        elif isinstance(value, type):
            yield from self._of_class(value, depth)
        elif isinstance(value, property | classmethod | staticmethod | cached_property | partial):
            for name in _WRAPPED:
                yield from self.of(getattr(value, name, None), depth)
        elif isinstance(value, Mapping | list | tuple) and len(value) > _MOST_ITEMS:
            yield self._of_object(value)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=repr):
                yield repr(key)
                yield from self.of(value[key], depth)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self.of(item, depth)
        elif isinstance(value, set | frozenset):
            yield from sorted(" ".join(self.of(item, depth)) for item in value)
        else:
            yield self._of_object(value)
            if type(value).__module__ == self._module:
                yield from self.of(type(value), depth)

    def _of_code(self, code: CodeType, depth: int) -> Iterator[str]:
        yield code.co_code.hex()
        yield repr((code.co_names, code.co_varnames, code.co_flags))
        for constant in code.co_consts:
            if isinstance(constant, frozenset):
                yield repr(sorted(map(repr, constant)))
            else:
                yield from self.of(constant, depth)

    def _of_function(self, function: FunctionType, depth: int) -> Iterator[str]:
        yield from self.of(function.__code__, depth)
        yield from self.of(function.__defaults__, depth)
        yield from self.of(function.__kwdefaults__, depth)
        for cell in function.__closure__ or ():
            try:
                yield from self.of(cell.cell_contents, depth)
            except ValueError:
                yield "empty"
        hints = hints_as_written(function)
        if hints:
            yield repr(sorted(hints.items()))
        for name in sorted({*_names(function.__code__), *_WORD.findall(" ".join(hints.values()))}):
            if name in function.__globals__:
                yield name
                yield from self._of_global(function.__globals__[name], function.__module__, depth)

    def _of_global(self, value: object, module: str, depth: int) -> Iterator[str]:
        """Yield the texts for a global value. Functions and classes of other modules count by their names only."""
        if isinstance(value, FunctionType | type) and value.__module__ != module:
            yield f"{value.__module__}:{value.__qualname__}"
        else:
            yield from self.of(value, depth)

    def _of_class(self, cls: type, depth: int) -> Iterator[str]:
        if cls.__module__.partition(".")[0] in _KNOWN_BY_NAME:
            yield f"{cls.__module__}:{cls.__qualname__}"
            return
        if "__pydantic_fields__" in vars(cls):
            yield _ADDRESS.sub("", repr(vars(cls)["__pydantic_fields__"]))
        for name, member in sorted(vars(cls).items()):
            if name not in _HIDDEN and not name.startswith("__pydantic_"):
                yield name
                yield from self.of(inspect.unwrap(member) if callable(member) else member, depth)
        for base in cls.__bases__:
            yield from self.of(base, depth)

    def _of_object(self, value: object) -> str:
        if self._exactly:
            return f"{type(value).__qualname__} {id(value)}"
        try:
            return hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()
        except Exception:  # whatever its own code raises: it has no content that can be compared
            return f"{type(value).__module__}:{type(value).__qualname__}"


def _names(code: CodeType) -> list[str]:
    """Return the sorted names that a function, and the functions in it, look up outside."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= set(_names(constant))
    return sorted(names)
