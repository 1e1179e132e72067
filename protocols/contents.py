"""Reads the stored parts of a value that are plain data, for those who write it out as JSON or text.

So a large text is written as a small one is. Arrays, images and files stay encoded: JSON only describes them.
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from .encoded import Encoded, map_encoded
from .stored import MET, PLAIN, Stored
from .values import Value


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
        return part.unpacked()

    return map_encoded(value, read) if MET[0] else value
