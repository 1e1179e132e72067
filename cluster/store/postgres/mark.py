"""The mark of a shard in a database: what this machine saw acknowledged last, in a small file in its own folder.

A database may go back in time: a backup is put back, or a standby takes over that was behind. An owner that lives
meanwhile notices it when it connects again (see journal.py). The next owner would not: the tables are sound, but old.
So each owner notes, beside its epoch, one row of the last acknowledged commit that cannot vanish unless its task is
forgotten, and the next owner on this machine looks for it:

- The shard's epoch is lower than the mark's: the database is from before that owner.
- It is the same, so nobody has owned the shard since: then that row must be there.
- It is higher: another machine owned the shard since, and may have forgotten the task. Nothing can be said.

A row proves more than the position in the log of the server would. That counts for one server only, is no lower in a
database that was loaded from a dump, and soon catches up after a fail-over. Rows also need no rights, and no server of
our own behind a pooler.

The mark is written at each commit, without fsync, after the commit is durable and before it is acknowledged. So it can
only be behind a healthy database. It belongs to one machine and one address: elsewhere there is none, and nothing is
noticed. A torn mark counts as none.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from ....protocols.values import pack, unpack
from ..address import folder_name
from .writing import Probe

_NAME = b"PMP1"
_HEAD_BYTES = len(_NAME) + 8
"""The name, the length of what follows, and its CRC-32."""
_MOST_BYTES = 1 << 20
"""Length of a mark that is surely none of ours. An id is a few hundred bytes at most."""


@dataclass(frozen=True, slots=True)
class Known:
    """The end of what was acknowledged, as far as this machine knows."""

    epoch: int
    row: Probe | None
    """A row that must be there; None if there is none to look for."""

    def loss(self, epoch: int, is_there: bool) -> str | None:
        """Describe what a database lacks that has this epoch, and this row or not; None if nothing is known."""
        if epoch < self.epoch:
            return f"the shard is at epoch {epoch}, but epoch {self.epoch} was acknowledged: {OLDER}"
        if epoch == self.epoch and self.row is not None and not is_there:
            return f"{self.row} was acknowledged and is gone: {OLDER}"
        return None


OLDER = "this is an older copy, or a standby that was behind"


class Mark:
    """The mark of a shard that this process owns."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises OSError."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, known: Known) -> None:
        """Write what is acknowledged next. Raises OSError."""
        row = None if known.row is None else [known.row.task_id, known.row.n]
        body = pack([known.epoch, row])
        head = _NAME + len(body).to_bytes(4, "big") + zlib.crc32(body).to_bytes(4, "big")
        os.pwrite(self._handle, head + body, 0)

    def sync(self) -> None:
        """Make the mark survive a power loss. Called when a shard is opened and closed, not at each commit."""
        os.fdatasync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


def mark_path(folder: Path, url: str, schema: str, shard: str) -> Path:
    """Return the file of a shard's mark. `folder` is that of the shards on this machine."""
    return folder / f"{shard}.{folder_name(url, schema)}.mark"


def marks(folder: Path, url: str, schema: str) -> dict[str, Path]:
    """Return the files of all marks of an installation on this machine, by shard."""
    end = f".{folder_name(url, schema)}.mark"
    return {path.name.removesuffix(end): path for path in sorted(folder.glob(f"*{end}"))}


def read_mark(path: Path) -> Known | None:
    """Return what is in a mark; None if there is none, or it is torn. Raises OSError if it cannot be read."""
    try:
        text = path.read_bytes()[:_MOST_BYTES]
    except FileNotFoundError:
        return None
    head, rest = text[:_HEAD_BYTES], text[_HEAD_BYTES:]
    body = rest[: int.from_bytes(head[4:8], "big")]
    if len(head) != _HEAD_BYTES or head[:4] != _NAME or zlib.crc32(body) != int.from_bytes(head[8:], "big"):
        return None
    epoch, row = unpack(body)
    return Known(epoch, None if row is None else Probe(*row))
