"""Reads the stored parts of a value that are plain data, for those who write it out as JSON or text.

So a large text is written as a small one is. Arrays, images and files stay encoded: JSON only describes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any

import msgpack

from .encoded import UNPACK, Encoded, map_encoded
from .errors import InvalidInput
from .stored import BYTES, MET, TEXT, WHOLE, Buffer, Stored
from .values import Value

PLAIN: dict[str, Callable[[Buffer], Any]] = {
    TEXT: lambda content: str(content, "utf-8"),
    BYTES: bytes,
    WHOLE: UNPACK,
}
"""Functions that make plain data of a content, by the names of the parts."""


def with_contents(value: Value, kinds: Container[str] = PLAIN, most_bytes: float = math.inf) -> Value:
    """Return a value with its stored parts of some kinds as the data that they are. It blocks.

    Args:
        value: its parts know where they can be read (`source`).
        kinds: keys of PLAIN.
        most_bytes: of all contents together. A part that would be too much stays as it is.

    Raises:
        BlobMissing, BlobCorrupt, BlobsAway: A part cannot be read from the blob store.
        InvalidInput: A content is not what its part says, which no honest client sends.
    """

    left_bytes = most_bytes

    def read(part: Encoded) -> Any:
        nonlocal left_bytes
        if not isinstance(part, Stored) or part.codec not in kinds or part.key.size > left_bytes:
            return part
        left_bytes -= part.key.size
        content = part.read_content()
        try:
            return PLAIN[part.codec](content)
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            raise InvalidInput(problem=f"a {part.codec} of {part.key.size} bytes cannot be read: {error}") from error

    return map_encoded(value, read) if MET[0] else value
