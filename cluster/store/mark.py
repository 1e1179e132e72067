"""The mark: how far a shard's acknowledged commits go, in a small file beside it.

SQLite ends its log silently at the first frame whose checksum does not match: a torn or bit-flipped WAL, a missing
one, or an older copy of the file put back would look like a shard that never got the commits behind it. So
each commit is counted in the shard, and after it is durable and before it is acknowledged the count is written here.
A database that is behind its mark has lost what was acknowledged.

The mark is written without fsync: the log was synced before, so a mark can only be behind a healthy database. What
it cannot see: after a power loss the newest marks may be gone, which weakens the check by as many commits; a
database and a mark that are put back together look healthy; and where the mark is missing or torn (it is then
made again from the database), only the seals speak.
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
    """How far a shard is: its epoch, and its commits over all epochs."""

    epoch: int
    commits: int


class Mark:
    """The mark of a shard that this process holds."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file. Raises OSError."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, epoch: int, commits: int) -> None:
        """Say that so many commits are durable. Raises OSError."""
        fields = _FORM.pack(_NAME, epoch, commits)
        os.pwrite(self._handle, fields + zlib.crc32(fields).to_bytes(4, "big"), 0)

    def sync(self) -> None:
        """Make it survive a power loss too; done when a shard is opened and closed, not at each commit."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def read_mark(path: Path) -> Count | None:
    """What the mark says; None if it is missing or torn. Raises OSError if it cannot be read."""
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
    """What a database lacks of what was acknowledged, in words; None if it lacks nothing that the mark knows of."""
    if mark is None or (stored.commits >= mark.commits and stored.epoch >= mark.epoch):
        return None
    missing = mark.commits - stored.commits
    if missing <= 0:
        return f"is at epoch {stored.epoch}, but epoch {mark.epoch} was acknowledged"
    return f"is {missing} commit{'s' if missing > 1 else ''} behind what was acknowledged"
