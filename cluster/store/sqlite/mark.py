"""The mark: the number of a shard's acknowledged commits, in a small file beside the shard.

SQLite silently ends its log at the first frame whose checksum does not match. So after a torn, damaged or missing WAL,
or with an older copy of the file, a shard would look as if the later commits had never been made. Therefore each commit
is counted in the shard. When the commit is durable, and before it is acknowledged, the count is also written to the
mark. A database that is behind its mark has lost acknowledged commits.

The mark is written without fsync. The log was synced before, so a mark can only be behind a healthy database. The mark
does not detect everything. After a power loss the newest marks may be gone; as many lost commits are not noticed. A
database and a mark that are restored together look healthy. If the mark is missing or torn, it is made again from the
database, and then only the seals protect the data.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_FORM = struct.Struct(">4sQQ")
_NAME = b"PMK1"
_SIZE_BYTES = _FORM.size + 4


@dataclass(frozen=True, slots=True)
class Count:
    """The epoch of a shard, and the number of its commits over all epochs."""

    epoch: int
    commits: int


class Mark:
    """The mark of a shard that this process holds."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises OSError."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, epoch: int, commits: int) -> None:
        """Write the number of durable commits, and the epoch. Raises OSError."""
        fields = _FORM.pack(_NAME, epoch, commits)
        os.pwrite(self._handle, fields + zlib.crc32(fields).to_bytes(4, "big"), 0)

    def sync(self) -> None:
        """Make the mark survive a power loss. Called when a shard is opened and closed, not at each commit."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def read_mark(path: Path) -> Count | None:
    """Return the count in the mark; None if the mark is missing or torn. Raises OSError if it cannot be read."""
    try:
        with path.open("rb") as file:
            text = file.read(_SIZE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(text) != _SIZE_BYTES or zlib.crc32(text[: _FORM.size]) != int.from_bytes(text[_FORM.size :], "big"):
        return None
    name, epoch, commits = _FORM.unpack(text[: _FORM.size])
    return Count(epoch, commits) if name == _NAME else None


def loss(stored: Count, mark: Count | None) -> str | None:
    """Describe which acknowledged commits a database lacks by its mark; None if it lacks none, or there is no mark."""
    if mark is None or (stored.commits >= mark.commits and stored.epoch >= mark.epoch):
        return None
    missing = mark.commits - stored.commits
    if missing <= 0:
        return f"is at epoch {stored.epoch}, but epoch {mark.epoch} was acknowledged"
    return f"is {missing} commit{'s' if missing > 1 else ''} behind what was acknowledged"
