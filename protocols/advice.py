"""Advises what to give instead of a value that is not plain data, such as one of numpy, pandas or Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass

_WAYS: dict[str, dict[str, str]] = {
    "numpy": {
        "MaskedArray": "its `.filled()`, and its mask",
        "ndarray": "a plain array: `numpy.asarray(…)`",
        "": "its `.item()`",
    },
    "pandas": {
        "DataFrame": "a plain frame: `pandas.DataFrame(…)`",
        "Series": "a plain series: `pandas.Series(…)`",
        "Timestamp": "its `.to_pydatetime()`, with a time zone",
        "Timedelta": "its `.total_seconds()`",
        "NaTType": "None",
        "NAType": "None",
        "": "its `.tolist()`",
    },
    "podium": {
        "NewFile": "its `.file`, after it is closed",
        "Lazy": "its `.get()`, or say `podium.Lazy[…]` in the hint",
    },
    "polars": {"LazyFrame": "its `.collect()`"},
    "pyarrow": {"": "a table of it, its `.to_pylist()`, or `.as_py()` of a single value"},
    "torch": {"Tensor": "a plain tensor", "Module": "its `.state_dict()`"},
    "jax": {"": "its `.tolist()`"},
    "jaxlib": {"": "its `.tolist()`"},
    "tensorflow": {"": "its `.numpy().tolist()`"},
    "ray": {
        "ObjectRef": "what it stands for: `ray.get(ref)`, or `await ref`",
        "ActorHandle": "what its calls return",
        "Dataset": "its path, for a step to read; or its rows (`.take_all()`), for a Parallel with `each`",
    },
}
"""By the package that a type is from, and its name; "" is any other."""
_PLAIN_WAYS: dict[str, str] = {
    "set": "`sorted(…)`",
    "frozenset": "`sorted(…)`",
    "deque": "`list(…)`",
    "Decimal": "`str(…)`",
    "Fraction": "`str(…)`",
    "UUID": "`str(…)`",
    "Path": "`str(…)`",
    "PurePath": "`str(…)`",
    "Enum": "its `.value`",
    "date": "its `.isoformat()`",
    "time": "its `.isoformat()`",
    "datetime": "one with a time zone",
    "timedelta": "its `.total_seconds()`",
    "complex": "its two parts",
    "BaseModel": "its `.model_dump()`",
}
"""The plain data to give instead of an object of a type, by the name of the type or of one of its bases."""
_MANY = 6
"""Items of a tuple from which no hint for it is shown."""
_PLAIN = "a dict, list, text, number, bytes, or a dataclass or pydantic model of these"


def advice_on(kind: type[object]) -> str | None:
    """Return what to give instead of a value of this type; None if there is no advice on it."""
    for base in kind.__mro__:
        ways = _WAYS.get(base.__module__.partition(".")[0], {})
        way = ways.get(base.__name__, ways.get("") if base is kind else None)
        if way is not None:
            return way
    return None


def plain_way(value: object) -> str:
    """Return what to give instead of an object that a type hint could describe, such as "give its `.value`"; or ""."""
    if is_dataclass(value):
        return "give `dataclasses.asdict(…)`"
    if isinstance(value, tuple):
        return "give `list(…)`"
    ways = (_PLAIN_WAYS.get(base.__name__) for base in type(value).__mro__)
    way = next(filter(None, ways), None)
    return f"give {way}" if way else ""


def wants_hint(whole: object, part: object) -> str | None:
    """Return the message on a part of a value that a type hint of the value would let pass; None if there is none."""
    way = plain_way(part)
    if not way or advice_on(type(part)):
        return None
    hint = hint_for(whole)
    such = "a model, a dataclass or a TypedDict" if hint is None else f"`{hint}`"
    return f"{_a(type(part))} passes only by a type hint, such as {such}; or {way}"


def hint_for(value: object) -> str | None:
    """Return a type hint that describes a value, as source text; None if it takes a class of its own to describe it."""
    if isinstance(value, Mapping):
        of_keys = _of_all("dict[{}, {{}}]", value)
        return of_keys and _of_all(of_keys, value.values())
    for kind in (list, set, frozenset, deque):
        if type(value) is kind:
            return _of_all(kind.__name__ + "[{}]", value)
    if type(value) is tuple:
        hints = [hint_for(item) for item in value]
        return f"tuple[{', '.join(map(str, hints))}]" if all(hints) and len(hints) < _MANY else None
    name = type(value).__name__
    return "None" if value is None else "Path" if name in ("PosixPath", "WindowsPath") else name


def _of_all(form: str, items: Iterable[object]) -> str | None:
    hints = {hint_for(item) for item in items}
    return form.format(hints.pop() or "object") if len(hints) == 1 else None


def not_plain(value: object) -> str:
    """Return the message on a value, such as `numpy.ndarray is not plain data: give its `.tolist()`…`"""
    kind = type(value)
    if advice_on(kind) is None and (plain := plain_way(value)):
        return f"{_a(kind)} is not plain data: {plain}"
    way = advice_on(kind) or ("its items: `list(…)`" if isinstance(value, Iterable) else _PLAIN)
    return f"{name_of(kind)} is not plain data: give {way}"


def _a(kind: type[object]) -> str:
    return f"{'an' if kind.__name__[0] in 'aeioAEIO' else 'a'} {kind.__name__}"


def name_of(kind: type[object]) -> str:
    """Return the name of a type, after that of its package if there is advice on the type: numpy has a `bool`."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}" if advice_on(kind) else kind.__name__
