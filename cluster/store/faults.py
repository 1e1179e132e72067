"""What a foreign error means: damage (JournalCorrupt), or a disk that refuses (JournalFailed).

Damage stops the shard until somebody looks at it; a refusal (full, read-only, failing) stops this incarnation, and
the next one may go on.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ...protocols.errors import JournalCorrupt, JournalFailed, PodiumError

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What the sqlite3 module raises over a file; the second when what SQLite quotes in its message is no text."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNDECODABLE = "Could not decode to UTF-8"
"""How the sqlite3 module begins when a text in the file is none; it gives no code."""


def as_ours(shard: str, path: Path, error: Exception) -> PodiumError:
    """The error of ours that `error` means for the shard at `path`; one of ours stays itself."""
    if isinstance(error, PodiumError):
        return error
    if isinstance(error, UnicodeDecodeError):
        problem = error.object.decode(errors="backslashreplace")
        return JournalCorrupt(shard=shard, place=str(path), problem=problem)
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in _DAMAGE or code == sqlite3.SQLITE_IOERR_CORRUPTFS or str(error).startswith(_UNDECODABLE):
            return JournalCorrupt(shard=shard, place=str(path), problem=str(error))
        return JournalFailed(shard=shard, reason=f"{path}: {error}")
    if isinstance(error, OSError):
        return JournalFailed(shard=shard, reason=f"{error.filename or path}: {error.strerror or error}")
    return JournalFailed(shard=shard, reason=f"{path}: {error!r}")
