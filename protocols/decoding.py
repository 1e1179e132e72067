"""Decodes text files as editors and shells write them: with a byte-order mark or without."""

from __future__ import annotations

import codecs

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
MARK = "\ufeff"


def decoded(content: bytes) -> str:
    """Return the text of a file, without its byte-order mark. It is UTF-8, unless the mark says otherwise.

    Raises:
        UnicodeDecodeError: The content is not such a text.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding)
    return content.decode("utf-8")


def without_mark(text: str) -> str:
    """Return a text that others have decoded, without the byte-order mark that they may have left in."""
    return text.removeprefix(MARK)
