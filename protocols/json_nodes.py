"""Reads JSON into nodes of YAML, so that both are read by the same rules, and errors have their place.

YAML is said to include JSON, and nearly does. But YAML has no surrogate pairs, tabs between tokens or long keys, and
line separators within texts mean something else there. So JSON has a reader of its own.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from json.decoder import scanstring  # type: ignore[attr-defined]  # it is there, and reads one text

import yaml

from .yaml_core import BOOL, FLOAT, INT, NULL, TEXT

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS = {"true": BOOL, "false": BOOL, "null": NULL}
_WORD = re.compile("|".join(_WORDS))


class NotJson(ValueError):
    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem)
        self.mark = mark


def json_nodes(text: str, max_depth: int) -> yaml.Node:
    """Return the root node of a JSON document (RFC 8259). Raises NotJson, with the place."""
    return _Reading(text, max_depth).document()


class _Reading:
    def __init__(self, text: str, max_depth: int) -> None:
        self._text, self._at, self._left = text, 0, max_depth
        self._lines = [0, *(found.end() for found in re.finditer(r"\r\n|\r|\n", text))]

    def document(self) -> yaml.Node:
        node = self._value()
        if self._at < len(self._text):
            raise NotJson("something follows the end", self._mark())
        return node

    def _mark(self) -> yaml.Mark:
        line = bisect_right(self._lines, self._at) - 1
        return yaml.Mark("", self._at, line, self._at - self._lines[line], None, 0)

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _next(self, wanted: str) -> bool:
        """Whether the character comes next. If so, pass it and the space around it."""
        self._skip()
        if not self._text.startswith(wanted, self._at):
            return False
        self._at += 1
        self._skip()
        return True

    def _need(self, wanted: str) -> None:
        if not self._next(wanted):
            raise NotJson(f"expected {wanted}", self._mark())

    def _value(self) -> yaml.Node:
        self._skip()
        mark = self._mark()
        if self._text.startswith(("{", "["), self._at):
            self._left -= 1
            if self._left < 0:
                raise NotJson("nested too deeply", mark)
            node = self._mapping(mark) if self._next("{") else self._sequence(mark)
            self._left += 1
            return node
        node = self._scalar(mark)
        self._skip()
        return node

    def _mapping(self, mark: yaml.Mark) -> yaml.Node:
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        while not (not pairs and self._next("}")):
            key = self._quoted(self._mark())
            self._need(":")
            pairs.append((key, self._value()))
            if not self._next(","):
                self._need("}")
                break
        return yaml.MappingNode("tag:yaml.org,2002:map", pairs, mark, self._mark())

    def _sequence(self, mark: yaml.Mark) -> yaml.Node:
        self._need("[")
        items: list[yaml.Node] = []
        while not (not items and self._next("]")):
            items.append(self._value())
            if not self._next(","):
                self._need("]")
                break
        return yaml.SequenceNode("tag:yaml.org,2002:seq", items, mark, self._mark())

    def _scalar(self, mark: yaml.Mark) -> yaml.Node:
        if self._text.startswith('"', self._at):
            return self._quoted(mark)
        if word := _WORD.match(self._text, self._at):
            self._at = word.end()
            return yaml.ScalarNode(_WORDS[word[0]], word[0], mark, self._mark())
        if number := _NUMBER.match(self._text, self._at):
            self._at = number.end()
            return yaml.ScalarNode(FLOAT if number[1] or number[2] else INT, number[0], mark, self._mark())
        raise NotJson("expected a value", mark)

    def _quoted(self, mark: yaml.Mark) -> yaml.Node:
        if not self._text.startswith('"', self._at):
            raise NotJson("expected a text in double quotes", mark)
        try:
            value, self._at = scanstring(self._text, self._at + 1, True)
        except ValueError as error:
            raise NotJson(str(error).partition(":")[0].lower(), mark) from error
        return yaml.ScalarNode(TEXT, value, mark, self._mark(), '"')
