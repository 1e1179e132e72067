"""What the owner of a shard is doing at this moment, in memory that outlives its process.

A process that dies by a signal, or in the code of a library, says nothing. So the supervisor notes which task it works
on, before and after, in a page that is mapped from a small file beside the shard: two writes to memory, no call to the
system. Whoever opens the shard next reads what was under way. After a power loss the page may be old or empty; then
nobody is suspected.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

SIZE_BYTES = 4096
_LENGTH = struct.Struct("<H")
_MOST_BYTES = SIZE_BYTES - _LENGTH.size


class Doing:
    """Implements `supervisors.ports.Doing`."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises OSError."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(handle).st_size != SIZE_BYTES:
                os.ftruncate(handle, 0)
                os.pwrite(handle, bytes(SIZE_BYTES), 0)
            self._page = mmap.mmap(handle, SIZE_BYTES)
        finally:
            os.close(handle)
        (length,) = _LENGTH.unpack_from(self._page)
        self.before = self._page[_LENGTH.size :][: min(length, _MOST_BYTES)].decode("utf-8", "replace")
        self.end()

    def begin(self, task_id: str, entry: int) -> None:
        text = f"{task_id} {entry}".encode()
        if len(text) <= _MOST_BYTES:
            self._page[_LENGTH.size : _LENGTH.size + len(text)] = text
            _LENGTH.pack_into(self._page, 0, len(text))

    def end(self) -> None:
        _LENGTH.pack_into(self._page, 0, 0)

    def close(self) -> None:
        self._page.close()
