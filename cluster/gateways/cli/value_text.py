"""Writes values for people: as JSON, with a few words in place of each array, image, file or large text.

`-o json` has the whole descriptions. What these say may come from anybody, so it is always one line, and short.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from ....protocols.encoded import Encoded, map_encoded
from ....protocols.printable import one_line
from ....protocols.stored import FILE, TEXT
from ....protocols.values import Value
from ...sizes import size_text
from .terminal import to_json

MOST_CHARS = 200
"""Longest text about one part, in characters."""
_SHOWN_CHARS, _SHOWN_CHARS_WITHIN = 80, 30
"""Most characters of a large text that are shown: if it is the whole value, and within another."""
_BARE = ("dtype", "mode", "shape", "size")
"""Facts that need no name, in the order in which they are told."""
_COUNTS = ("rows", "items")


def value_text(value: Value, indent: int | None = None) -> str:
    """Return a value as text: `numpy.ndarray float64 [3], 217 B, first 0.0 1.0 2.0`, or JSON with parts in it."""
    return _whole(value) if isinstance(value, Encoded) else json_with_parts(value, indent)


def json_with_parts(value: Value, indent: int | None = None) -> str:
    """Return a value as JSON, in which each encoded part is told so: `<numpy.ndarray float64 [3], 217 B>`."""
    told: list[str] = []
    mark = secrets.token_hex(8)  # nobody can have written it into a value

    def place(part: Encoded) -> str:
        told.append(f"<{_within(part)}>")
        return f"{mark}{len(told) - 1}"

    text = to_json(map_encoded(value, place), indent)
    return re.sub(f'"{mark}([0-9]+)"', lambda found: told[int(found[1])], text)


def _whole(part: Encoded) -> str:
    if part.codec == TEXT:
        return _text(part, _SHOWN_CHARS)
    named = (*_BARE, *_COUNTS, "$type", "bytes", *(("name",) if part.codec == FILE else ()))
    rest = [f"{name} {_fact(fact)}" for name, fact in part.about.items() if name not in named]
    return _short(", ".join([_head(part), *rest]))


def _within(part: Encoded) -> str:
    return _text(part, _SHOWN_CHARS_WITHIN) if part.codec == TEXT else _short(_head(part))


def _text(part: Encoded, most: int) -> str:
    preview = part.about.get("preview")
    shown = f": {_json(preview[:most] + '…')}" if isinstance(preview, str) else ""
    return _short(f"text of {_size(part)}{shown}")


def _head(part: Encoded) -> str:
    """Return what a part is: its type, what is in it, and its size."""
    about: Mapping[str, Any] = part.about
    facts = [part.codec, *([_json(about.get("name"))] if part.codec == FILE else [])]
    facts += [about[name] if isinstance(about[name], str) else _json(about[name]) for name in _BARE if name in about]
    counts = {name: about[name] for name in _COUNTS if type(about.get(name)) is int}
    facts += [f"{count:,} {name.removesuffix('s') if count == 1 else name}" for name, count in counts.items()]
    return f"{' '.join(facts)}, {_size(part)}"


def _size(part: Encoded) -> str:
    return size_text(part.described()["bytes"])


def _fact(fact: Any) -> str:
    facts = fact if isinstance(fact, list) else [fact]
    return " ".join(each if isinstance(each, str) else _json(each) for each in facts)


def _short(text: str) -> str:
    shown = one_line(text)
    return shown if len(shown) <= MOST_CHARS else f"{shown[: MOST_CHARS - 1]}…"


def _json(fact: Any) -> str:
    return to_json(fact, indent=None)
