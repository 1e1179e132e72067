"""Makes texts safe to show: without characters that a terminal, a log or a reader would take for orders.

A name, an error or an answer can hold any character. Unescaped, an escape sequence sets a terminal's title, moves the
cursor over other text or types into the terminal. A newline makes a second line of a log. An override of the direction
of writing shows a false name. So every text from outside goes through `printable` or `one_line` on its way to a person
or a log. JSON keeps every character, because it has escapes of its own (`json_safe`).
"""

from __future__ import annotations

import re

_CONTROLS = "\0-\x08\x0b-\x1f\x7f-\x9f"
_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
_SURROGATES = "\ud800-\udfff"
_HIDDEN = re.compile(f"[{_CONTROLS}{_DIRECTIONS}{_SURROGATES}\ufff9-\ufffb\U000e0000-\U000e007f]")
"""Controls (C0 but tab and newline, DEL, C1), marks and overrides of the direction of writing, halves of characters,
which no encoding can hold, annotations, and tags, which nothing shows."""
_BREAKS = re.compile("[\t\n\u2028\u2029]")
_NOT_IN_JSON = re.compile(f"[\x7f-\x9f{_DIRECTIONS}{_SURROGATES}\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]")


def printable(text: str) -> str:
    """Return the text with escapes (`\\x1b`, `\\u202e`) for what must not be written as it is. Lines stay lines."""
    return text if text.isascii() and text.isprintable() else _HIDDEN.sub(_escape, text)


def one_line(text: str) -> str:
    """Return the text as `printable` does, but always in one line."""
    return text if text.isascii() and text.isprintable() else _BREAKS.sub(_escape, printable(text))


def json_safe(text: str) -> str:
    """Return a JSON text with JSON's own escapes for what must not be written as it is. Its value stays the same."""
    return text if text.isascii() and "\x7f" not in text else _NOT_IN_JSON.sub(_json_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escape(found: re.Match[str]) -> str:
    pairs = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pairs[at : at + 4]}" for at in range(0, len(pairs), 4))
