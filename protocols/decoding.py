"""Texts that people bring as files, as their editors and shells write them: with a byte-order mark or without."""

from __future__ import annotations

import codecs

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
MARK = "\ufeff"


def decoded(content: bytes) -> str:
    """The text of a file: UTF-8, or what its byte-order mark says; the mark is not part of it.

    Raises:
        UnicodeDecodeError: it is none.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    return content.decode("utf-8")


def without_mark(text: str) -> str:
    """A text that others have decoded, and may have left the byte-order mark in."""
    return text.removeprefix(MARK)
