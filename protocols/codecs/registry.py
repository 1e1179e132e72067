"""The codecs of this process, by type and by name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from mmap import mmap
from typing import Any, NamedTuple, TypeVar

from ..encoded import MET, Encoded, map_encoded
from ..errors import InvalidDefinition, InvalidInput
from ..large import object_of
from ..stored import FILE, PLAIN, Stored

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")
_OURS: dict[str, dict[str, str]] = {
    "numpy": {"ndarray": "numpy_values", "generic": "numpy_values"},
    "pyarrow": {"Table": "arrow_values", "RecordBatch": "arrow_values"},
    "pandas": {"DataFrame": "pandas_values", "Series": "pandas_values"},
    "polars": {"DataFrame": "polars_values", "Series": "polars_values"},
    "PIL": {"Image": "pil_values"},
    "torch": {"Tensor": "torch_values", "Parameter": "torch_values"},
}
"""The modules with codecs of ours, by the package that a type is from, and the name of the type or of a base."""


class NoCodec(TypeError):
    """Raised by a codec for a value that it cannot encode without loss; says why, and what to give instead."""


class Codec(NamedTuple):
    """How values of one type become plain data or bytes, and values again."""

    name: str
    kind: type
    dump: Callable[[Any], tuple[Mapping[str, Any], Any]]
    """Returns a short description of a value, and its data."""
    load: Callable[[Mapping[str, Any], Any], Any]
    is_for_derived: bool = False
    """Whether it is for objects of derived classes, too."""


_BY_TYPE: dict[type, Codec] = {}
_BY_NAME: dict[str, Codec] = {}
_WITHOUT: set[type] = set()
"""Types that are known to have no codec."""


def codec(kind: type[T], *, name: str, dump: Callable[[T], Any], load: Callable[[Any], T]) -> None:
    """Let values of a type pass between steps, wherever they stand in an input or output.

        podium.codec(Molecule, name="chem.molecule", dump=Molecule.to_bytes, load=Molecule.from_bytes)

    Call it at the top of the module that defines the protocols, so that each host does it, too. Objects of derived
    classes are not covered.

    Args:
        kind: The type.
        name: A name that stays, because the journal refers to it: `project.type`.
        dump: Makes bytes or other plain data of a value.
        load: Makes an equal value of that again, also in later versions of the program.

    Raises:
        InvalidDefinition: The name is no name, or that of another type.
    """
    if not isinstance(kind, type):
        raise InvalidDefinition(problem=f"{kind!r} is no type", path="podium.codec")
    if not _NAME.fullmatch(name) or name.partition(".")[0] in _OURS:
        problem = f"{name!r} is no name for a codec of yours: take one such as `project.type`"
        raise InvalidDefinition(problem=problem, path="podium.codec")
    known = _BY_NAME.get(name)
    if known is not None and (known.kind.__module__, known.kind.__qualname__) != (kind.__module__, kind.__qualname__):
        problem = f"the name '{name}' is taken by {known.kind.__module__}.{known.kind.__qualname__}"
        raise InvalidDefinition(problem=problem, path="podium.codec")
    register(Codec(name, kind, lambda value: ({}, dump(value)), lambda _about, data: load(data)))


def register(made: Codec) -> None:
    _BY_TYPE[made.kind], _BY_NAME[made.name] = made, made
    _WITHOUT.discard(made.kind)


def codec_of(kind: type) -> Codec | None:
    """Return the codec of a type; None if it has none."""
    found = _BY_TYPE.get(kind)
    if found is None and kind not in _WITHOUT:
        found = _ours(kind)
        if found is None:
            _WITHOUT.add(kind)
        else:
            _BY_TYPE[kind] = found
    return found


def _ours(kind: type) -> Codec | None:
    if issubclass(kind, str | bytes):
        return None  # texts and bytes of numpy pass as what they are
    for base in kind.__mro__:
        ways = _OURS.get(base.__module__.partition(".")[0], {})
        if base.__name__ in ways:
            try:
                made = _codecs_in(ways[base.__name__])
            except ImportError:  # a class of that name which is not the library's
                return None
            return next(
                (each for each in made if each.kind is kind or (each.is_for_derived and each.kind is base)), None
            )
    return None


def _codecs_in(module: str) -> tuple[Codec, ...]:
    """Import a module with codecs of ours, and return them."""
    made: tuple[Codec, ...] = importlib.import_module(f".{module}", __package__).CODECS
    return made


def codec_named(name: str) -> Codec:
    """Return the codec of a name that came with a value. Raises InvalidInput if there is none here, and why."""
    if name not in _BY_NAME:
        package, _, kind = name.partition(".")
        module = _OURS.get(package, {}).get(kind)
        if module is None:
            problem = f"no codec is named '{name}' here: import the module that calls podium.codec(…, name='{name}')"
            raise InvalidInput(problem=problem)
        try:
            _BY_NAME.update({each.name: each for each in _codecs_in(module)})
        except ImportError as error:
            raise InvalidInput(
                problem=f"a value is a {name}, and {package} cannot be imported here: {error}"
            ) from error
    return _BY_NAME[name]


def is_ours(codec: Codec) -> bool:
    """Whether a codec is one that Podium brings, so that what it loads is known to equal what it dumped."""
    return codec.name.partition(".")[0] in _OURS


def decoded(value: Any) -> Any:
    """Return a value with all its encoded parts decoded, such as the arrays in the chunk of an event.

    Parts that are in the blob store are read from there.

    Raises:
        InvalidInput: The codec or library of a part is not there, or cannot read it.
        BlobMissing, BlobCorrupt, BlobsAway: A part cannot be read from the blob store.
    """
    return map_encoded(value, _decoded) if MET[0] else value


def decoded_at_hand(value: Any) -> Any:
    """Do the same, but leave the parts as they are whose content would have to be read first."""
    return map_encoded(value, lambda part: _decoded(part) if _is_at_hand(part) else part) if MET[0] else value


def _is_at_hand(part: Encoded) -> bool:
    return not isinstance(part, Stored) or part.content is not None or part.number is not None or part.codec == FILE


_FILE: list[Callable[[Stored], Any]] = []
"""The function that makes a file of a part."""


def register_file(load: Callable[[Stored], Any]) -> None:
    """Set the function that makes a file of a part. It reads no content."""
    _FILE[:] = [load]


def _decoded(part: Encoded) -> Any:
    if not isinstance(part, Stored):
        return _loaded(part.codec, part.about, part.data)
    if part.number is not None:
        return object_of(part)
    if part.codec == FILE:
        return _FILE[0](part)
    content = part.unpacked()
    return decoded(content) if part.codec in PLAIN else _loaded(part.codec, part.about, content)


def _loaded(name: str, about: Mapping[str, Any], data: Any) -> Any:
    codec = codec_named(name)
    if not is_ours(codec) and isinstance(data, bytearray | memoryview | mmap):
        data = bytes(data)  # what the user's `dump` gave
    try:
        return codec.load(about, data)
    except Exception as error:  # of a library, or of the user's `load`
        raise InvalidInput(
            problem=f"codec '{codec.name}' cannot load a value: {type(error).__name__}: {error}"
        ) from error
