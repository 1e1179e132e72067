"""Turns errors of SQLite and the file system into ours: JournalCorrupt for damage, JournalFailed for a refusing disk.

Damage stops the shard until somebody looks at it. A refusal (full, read-only, failing) stops only this incarnation, and
the next one may go on.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ....protocols.errors import JournalCorrupt, JournalFailed, PodiumError

UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""Errors of the sqlite3 module over a file. The second comes if SQLite's message quotes bytes that are not UTF-8."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNDECODABLE = "Could not decode to UTF-8"
"""Beginning of the sqlite3 module's message for a text that is not UTF-8. That error has no code."""


def as_ours(shard: str, path: Path, error: Exception) -> PodiumError:
    """Return `error` as JournalCorrupt or JournalFailed of the shard at `path`. A PodiumError is returned as it is."""
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
