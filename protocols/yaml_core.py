"""The core schema of YAML 1.2 (yaml.org/spec/1.2.2, 10.3): which plain texts are numbers, booleans and null.

PyYAML knows that of YAML 1.1, in which `22:22` is 1342, `017` is 15, `1_000` is 1000 and `1e3` is a text. Here values
are made from composed nodes by our own rules, for YAML and for JSON alike; what we write is quoted where either
generation of readers would take a text for something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar

import yaml

from .json_forms import finite

_TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, TEXT = (_TAG + name for name in ("null", "bool", "int", "float", "str"))

_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    (NULL, r"~|null|Null|NULL|", "~nN"),
    (BOOL, r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (FLOAT, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    (FLOAT, r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)
"""Tag, pattern and first characters of plain texts; the first that fits counts. The empty plain text is null."""
LEAST, MOST = -(2**63), 2**64 - 1
"""The least and the largest whole number that a value can hold."""


class Unreadable(ValueError):
    """Raised for a value in a file that cannot be kept. `mark` is its place."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem)
        self.mark = mark


class Loader(yaml.CSafeLoader):
    """Composes nodes with the tags of the core schema; `value_of` makes values of them."""

    yaml_implicit_resolvers: ClassVar[dict[object, object]] = {}  # type: ignore[misc]  # its base names no ClassVar


class Dumper(yaml.SafeDumper):
    """Writes YAML that readers of YAML 1.1 and 1.2 understand alike."""


for _tag, _pattern, _firsts in _RESOLVERS:
    for _kind in (Loader, Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), [*_firsts, *([""] if _tag == NULL else [])])


def dumped(data: Mapping[str, object]) -> str:
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def value_of(node: yaml.Node) -> object:
    """Return the value of a node. Keys are the texts as they are written: `1: x` has the key "1", as in JSON.

    Raises:
        Unreadable: a number that no value can hold, or half of a character.
    """
    if isinstance(node, yaml.MappingNode):
        return {_text(key): value_of(item) for key, item in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [value_of(item) for item in node.value]
    return _SCALARS[node.tag](node)


def _text(node: yaml.Node) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Unreadable("half of a surrogate pair, which is no character", node.start_mark)
    return text


def _whole(node: yaml.Node) -> int:
    text = node.value
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > 40 or not LEAST <= int(text[2:] if base != 10 else text, base) <= MOST:
        raise Unreadable(f"{text[:40]} does not fit in 64 bits; a text needs quotes", node.start_mark)
    return int(text[2:] if base != 10 else text, base)


def _number(node: yaml.Node) -> float:
    text = node.value.lower()
    if text.endswith((".inf", ".nan")):
        return float(text.replace(".", ""))
    try:
        return finite(text)
    except ValueError as error:
        raise Unreadable(f"{error}; a text needs quotes", node.start_mark) from error


_SCALARS: Mapping[str, Callable[[yaml.Node], object]] = {
    NULL: lambda node: None,
    BOOL: lambda node: node.value.lower() == "true",
    INT: _whole,
    FLOAT: _number,
    TEXT: _text,
}
