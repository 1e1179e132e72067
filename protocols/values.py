"""Values that travel between steps: plain data, one binary form, explicit limits.

A value is None, bool, int (64 bit), float, str, bytes, an aware datetime, a list, or a dict. A key of a dict is any of
these but a list or dict; mostly it is a text. Objects of types with a codec, such as arrays, travel encoded
(encoded.py). Objects of other types become such values by a type hint, and objects again by another (type_hints.py).
Between processes and on disk a value is packed by msgpack, and never pickled.
Unpacking limits size and depth before anything is built, because with msgpack's own defaults a few kilobytes may grow
to many megabytes (docs/architecture.md, "Values").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from io import IOBase
from typing import Any, TypeAlias

import msgpack
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from .advice import advice_on, not_plain, wants_hint
from .codecs.registry import Codec, NoCodec, codec_of, is_ours
from .encoded import EXTENSION, UNPACK, Travelling, is_description
from .errors import InvalidInput
from .large import Part, Pieces, Unstorable, current, too_large
from .stored import MET, Stored

Value: TypeAlias = Any
"""Plain data as described above; a type checker cannot say it without drowning every signature."""

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""Default limit of one packed value; the setting `max_value_bytes` replaces it."""
MAX_DEPTH = 100
"""Deepest nesting of lists and dicts in one value."""
_SPARE: list[Any] = []
"""Packers that are not in use, kept because making one takes as long as packing a small value. At a time, each thread
uses one, and each call of `default` one more."""
_SPARE_STRICT: list[Any] = []
"""The same of those that take plain data only."""
_SPARE_BYTES = 64 * 1024
"""Largest value, in bytes, after which a packer is kept: buffers of packers only grow."""


def pack(value: Value) -> bytes:
    """Return the binary form of `value`.

    pydantic models, dataclasses, enums, UUIDs, paths and decimals inside it become their JSON form first. So this is
    for messages, and for values that a type hint describes; other values go through `check_value`.

    Raises:
        InvalidInput: something in it is not plain data; the path names the place.
    """
    return _packed(value, _SPARE, _packer)


def _packed(value: Value, spare: list[Any], new: Callable[[], Any], by_hint: bool = False) -> bytes:
    try:
        packer = spare.pop()
    except IndexError:
        packer = new()
    try:
        packed: bytes = packer.pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _explain(value, error, new, by_hint) from error
    if len(packed) < _SPARE_BYTES:
        spare.append(packer)
    return packed


def unpack(packed: bytes, max_bytes: int = MAX_VALUE_BYTES, pairs_hook: Any = None) -> Value:
    """Return the value that `pack` packed.

    Args:
        pairs_hook: makes mappings of pairs of their keys and values; see `unpack_marked`.

    Raises:
        InvalidInput: too large, damaged, or not a value of ours.
    """
    size_bytes = len(packed)
    if size_bytes > max_bytes:
        raise InvalidInput(problem=f"{size_bytes} bytes, the limit is {max_bytes}")
    try:
        return UNPACK(
            packed,
            max_str_len=size_bytes,
            max_bin_len=size_bytes,
            max_array_len=size_bytes,
            max_map_len=size_bytes,
            max_ext_len=size_bytes,
            object_pairs_hook=pairs_hook,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        # TypeError: a list as a key; OverflowError: a moment of the year 1 or 9999 that is in none in UTC
        raise InvalidInput(problem=f"not a packed value: {error}") from error


class Unreadable:
    """Stands for a mapping with a key that no mapping can have, in a message that is read all the same."""


def unpack_marked(packed: bytes, max_bytes: int) -> Value:
    """Unpack with Unreadable in place of parts that pack but do not unpack, to find them in a message of many parts.

    Slower than `unpack`; use it when `unpack` has failed.
    """
    return unpack(packed, max_bytes, _marked)


def _marked(pairs: list[tuple[Value, Value]]) -> Value:
    try:
        return dict(pairs)
    except TypeError:
        return Unreadable()


def is_readable(value: Value) -> bool:
    """Whether no part of a value is Unreadable."""
    if isinstance(value, dict):
        return all(map(is_readable, value.values()))
    if isinstance(value, list):
        return all(map(is_readable, value))
    return not isinstance(value, Unreadable)


class NotPlain(TypeError):
    """Raised for an object that is not plain data, and could become plain data only as another type."""

    def __init__(self, item: object) -> None:
        super().__init__(f"{type(item).__name__} is not plain data")
        self.item = item


def check_value(value: Value, name: str, max_bytes: int = MAX_VALUE_BYTES, by_hint: bool = False) -> Value:
    """Return `value` as plain data, after a full round trip. Errors call it `name`.

    It is equal to `value`, but a tuple becomes a list, and an object of a class that is derived from a plain type
    becomes one of that type. An iterator gives its items only once: go on with the returned value.

    Args:
        by_hint: whether a type hint could make plain data of more; then the error says which.

    Raises:
        InvalidInput: not plain data, nested over MAX_DEPTH, or larger than `max_bytes` when packed. If an object could
            be plain data as another type, the error was raised from NotPlain.
    """
    return _plain_from(value, name, max_bytes, _SPARE_STRICT, _strict_packer, by_hint)


def check_loosely(value: Value, name: str, max_bytes: int = MAX_VALUE_BYTES) -> Value:
    """Do the same as `check_value`, with objects of many types as the plain data that pydantic makes of them."""
    return _plain_from(value, name, max_bytes, _SPARE, _packer)


def _plain_from(
    value: Value, name: str, max_bytes: int, spare: list[Any], new: Callable[[], Any], by_hint: bool = False
) -> Value:
    large = current()
    if large is not None and type(value) is bytes and large.is_large(value):
        try:
            return large.bytes_part(value)  # without a copy
        except Unstorable as error:
            raise InvalidInput(problem=str(error), path=name) from error
    try:
        packed = _packed(value, spare, new, by_hint)
    except InvalidInput as error:
        raise InvalidInput(problem=error.problem, path=f"{name}{error.path}") from error.__cause__
    if large is not None:
        large.packed_bytes = len(packed)  # its `lifted` looks at the limit, without the large parts
    elif len(packed) > max_bytes:
        raise InvalidInput(problem=too_large(len(packed), max_bytes), path=name)
    try:
        plain = unpack(packed, len(packed))
    except InvalidInput as error:
        raise _bad_key(value, name) or error from error
    if _too_deep(plain, MAX_DEPTH):
        raise InvalidInput(problem=f"nested deeper than {MAX_DEPTH} levels", path=name)
    return plain


def _bad_key(value: Value, path: str) -> InvalidInput | None:
    """Return the error for the first key that packs but does not unpack as a key."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, tuple | frozenset):
                problem = f"the key {str(key)[:60]} is a {type(key).__name__}, keys are texts"
                return InvalidInput(problem=problem, path=path)
            if (found := _bad_key(item, f"{path}.{key}")) is not None:
                return found
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if (found := _bad_key(item, f"{path}[{index}]")) is not None:
                return found
    return None


def check_text(value: object, name: str) -> None:
    """Raise InvalidInput unless `value` is a text that can be encoded. The error calls it `name`."""
    if not isinstance(value, str):
        raise InvalidInput(problem=f"a text is wanted, not {type(value).__name__}", path=name)
    check_value(value, name)


def digest(value: Value) -> str:
    """Return the SHA-256 of a value, hexadecimal. The order of keys in dicts makes no difference."""
    return hashlib.sha256(pack(_ordered(value))).hexdigest()


def _ordered(value: Value) -> Value:
    if MET[0] and isinstance(value, Stored):
        return value.of_any_generation()
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def _packer() -> Any:
    return msgpack.Packer(datetime=True, default=_plain, buf_size=512)


def _strict_packer() -> Any:
    return msgpack.Packer(datetime=True, default=_exact, strict_types=True, buf_size=512)


def _exact(item: object) -> Value:
    """Return an equal value of a plain type. Raises NotPlain if there is none."""
    if isinstance(item, IOBase):
        raise TypeError("cannot pack an open file")
    if (encoded := by_codec(item)) is not None:
        return encoded
    if isinstance(item, Enum) or hasattr(item, "_fields"):
        raise NotPlain(item)
    for base, to_base in _BASES.items():
        if isinstance(item, base):
            return to_base(item)
    if isinstance(item, Iterator):
        return list(item)
    if isinstance(error := _error_of(item, _packer), TypeError):  # it can be no plain data at all
        raise error
    raise NotPlain(item)


_BASES: dict[type, Callable[[Any], Value]] = {
    tuple: list,
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    dict: dict,
    list: list,
    bytes: bytes,
}
"""The plain types from which a class may be derived, and tuples, with the function that makes the plain value."""


def _plain(item: object) -> Value:
    if isinstance(item, IOBase):
        raise TypeError("cannot pack an open file")
    if (encoded := by_codec(item)) is not None:
        return encoded
    if isinstance(item, Iterator):
        return list(item)
    try:
        return to_jsonable_python(item)
    except (PydanticSerializationError, UnicodeDecodeError) as error:
        if _is_record(item):  # an array in it, or bytes that are no text
            return _fields_of(item)
        raise TypeError(f"cannot pack {type(item).__name__}") from error


def by_codec(item: object) -> Value:
    """Return an object that has a form of its own, or a codec, as it travels; None for any other."""
    if isinstance(item, Travelling):
        return item.travel()
    codec = codec_of(type(item))
    return None if codec is None else _dumped(item, codec)


def _dumped(item: object, codec: Codec) -> msgpack.ExtType:
    try:
        about, data = codec.dump(item)
        if not is_description(about):
            raise NoCodec(f"codec '{codec.name}' gives a description that is none: {str(about)[:100]}")
        large = current()
        if large is not None and (content := _content_of(data, large.inline_bytes)) is not None:
            part = Part(content, not isinstance(data, _RAW), _object(item, codec, about, data))
            return large.take(codec.name, about, part).travel()
        data = data.joined() if isinstance(data, Pieces) else data
        return msgpack.ExtType(EXTENSION, _packed([codec.name, dict(about), data], _SPARE_STRICT, _strict_packer))
    except (NoCodec, Unstorable):
        raise
    except Exception as error:  # of a library, or of the user's `dump`
        raise NoCodec(f"codec '{codec.name}' cannot dump it: {type(error).__name__}: {error}") from error


_RAW = (Pieces, bytes)
"""Types of the data of codecs that are the content of a blob as they are."""


def _content_of(data: Value, inline_bytes: int) -> Pieces | None:
    """Return the data of a codec as the content of a blob; None if it is not large."""
    if isinstance(data, bytes):
        data = Pieces((data,))
    if not isinstance(data, Pieces):
        data = Pieces((_packed(data, _SPARE_STRICT, _strict_packer),))
    return data if data.size > inline_bytes else None


def _object(item: object, codec: Codec, about: Mapping[str, Any], data: Value) -> Callable[[], Any]:
    """Return the function that gives the object again: the very object, if its codec is one of ours."""
    return (lambda: item) if is_ours(codec) else (lambda: codec.load(about, data))


def _too_deep(value: Value, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    if levels == 0:
        return True
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, list | dict) and _too_deep(item, levels - 1):
            return True
    return False


def _explain(value: Value, error: Exception, new: Callable[[], Any], by_hint: bool) -> InvalidInput:
    """Find the innermost part that cannot be packed, so that the message can name it."""
    path, part = _first_bad(value, "", MAX_DEPTH, new)
    if isinstance(error, NotPlain) and isinstance(part, dict):
        part = error.item  # it is a key
    if isinstance(error, NoCodec | Unstorable):
        return InvalidInput(problem=str(error), path=path)
    problem = (wants_hint(value, part) if by_hint else None) or not_plain(part)
    if isinstance(part, IOBase) and not advice_on(type(part)):
        problem = "an open file is not plain data: give its name, or what is in it"
    elif isinstance(part, int) and not isinstance(part, bool) and not isinstance(error, NotPlain):
        problem = "an integer must fit in 64 bits"
    elif isinstance(error, UnicodeEncodeError):
        problem = f"a text that cannot be encoded ({error.reason})"
    elif isinstance(error, RecursionError) or "recursion" in str(error):
        problem = f"nested deeper than {MAX_DEPTH} levels"
    return InvalidInput(problem=problem, path=path)


def _first_bad(value: Value, path: str, levels: int, new: Callable[[], Any]) -> tuple[str, Value]:
    items: Any = ()
    if new is _strict_packer and _is_record(value) and not isinstance(_error_of(value, _packer), TypeError):
        return path, value
    if isinstance(value, dict):
        items = ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        items = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    elif _is_record(value):
        items = ((f"{path}.{name}", item) for name, item in _fields_of(value).items())
    for inner_path, item in items:
        if _error_of(item, new) is not None:
            return _first_bad(item, inner_path, levels - 1, new) if levels else (path, value)
    return path, value


def _fields_of(record: Any) -> dict[str, object]:
    if isinstance(record, BaseModel):
        return {**vars(record), **(record.__pydantic_extra__ or {})}
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _error_of(value: Value, new: Callable[[], Any]) -> Exception | None:
    try:
        new().pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        return error
    return None


def _is_record(value: object) -> bool:
    return (is_dataclass(value) and not isinstance(value, type)) or isinstance(value, BaseModel)
