"""Advises what to give instead of a value that is not plain data, such as one of numpy, pandas or Ray."""

from __future__ import annotations

from collections.abc import Iterable

_TENSOR = "its `.tolist()`, or `.tobytes()` with its shape and type"
_WAYS: dict[str, dict[str, str]] = {
    "numpy": {"ndarray": _TENSOR, "matrix": _TENSOR, "MaskedArray": _TENSOR, "": "its `.item()`"},
    "pandas": {
        "DataFrame": 'its `.to_dict("records")`',
        "Series": "its `.tolist()`",
        "Timestamp": "its `.to_pydatetime()`, with a time zone",
        "Timedelta": "its `.total_seconds()`",
        "NaTType": "None",
        "NAType": "None",
        "": "its `.tolist()`",
    },
    "polars": {"DataFrame": "its `.to_dicts()`", "LazyFrame": "its `.collect().to_dicts()`", "": "its `.to_list()`"},
    "pyarrow": {"Table": "its `.to_pylist()`", "": "its `.to_pylist()`, or `.as_py()` of a single value"},
    "torch": {"": "its `.tolist()`"},
    "jax": {"": "its `.tolist()`"},
    "jaxlib": {"": "its `.tolist()`"},
    "tensorflow": {"": "its `.numpy().tolist()`"},
    "ray": {"ObjectRef": "what it stands for: `ray.get(ref)`, or `await ref`", "ActorHandle": "what its calls return"},
}
"""By the package that a type is from, and its name; "" is any other."""
_PLAIN = "a dict, list, text, number, bytes, or a dataclass or pydantic model of these"


def advice_on(kind: type[object]) -> str | None:
    """Return what to give instead of a value of this type; None if there is no advice on it."""
    for base in kind.__mro__:
        ways = _WAYS.get(base.__module__.partition(".")[0])
        if ways is not None:
            return ways.get(base.__name__, ways.get(""))
    return None


def not_plain(value: object) -> str:
    """Return the message on a value, such as `numpy.ndarray is not plain data: give its `.tolist()`…`"""
    kind = type(value)
    way = advice_on(kind) or ("its items: `list(…)`" if isinstance(value, Iterable) else _PLAIN)
    return f"{name_of(kind)} is not plain data: give {way}"


def name_of(kind: type[object]) -> str:
    """Return the name of a type, after that of its package if there is advice on the type: numpy has a `bool`."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}" if advice_on(kind) else kind.__name__
