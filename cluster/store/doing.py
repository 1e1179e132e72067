"""Notes the task that the owner of a shard works on, in memory that outlives its process.

A process that dies by a signal, or in the code of a library, cannot report the cause. So the supervisor notes the task
before it works on it, and deletes the note afterwards. The note is in a page that is mapped from a small file beside
the shard, so it takes two writes to memory and no system call. The next owner of the shard reads which task was under
way. After a power loss the page may be old or empty; then no task is suspected.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

SIZE_BYTES = 4096
_FORM = struct.Struct("<HI4000s")
"""Length of the task's id in bytes (0 if nothing is under way), number of its entry, the id."""
_MOST_BYTES = 4000
_NOTHING = bytes(2)


class Doing:
    """Implements `supervisors.ports.Doing` in a mapped file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, read the note of the previous owner, and delete it. Raises OSError."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(handle).st_size != SIZE_BYTES:
                os.ftruncate(handle, 0)
                os.pwrite(handle, bytes(SIZE_BYTES), 0)
            self._page = mmap.mmap(handle, SIZE_BYTES)
        finally:
            os.close(handle)
        length, entry, id = _FORM.unpack_from(self._page)
        self.before = f"{id[:length].decode('utf-8', 'replace')} {entry}" if 0 < length <= _MOST_BYTES else ""
        self.end()

    def begin(self, task_id: str, entry: int) -> None:
        id = task_id.encode()
        _FORM.pack_into(self._page, 0, min(len(id), _MOST_BYTES), entry, id)

    def end(self) -> None:
        self._page[0:2] = _NOTHING

    def close(self) -> None:
        self._page.close()
