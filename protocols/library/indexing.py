"""One pass over the files below a root, which brings their index up to date.

A file with unchanged size and modification time is not opened. An opened file is indexed anew only if its content
changed. A pass can stop between any two files and go on later: its work is committed by then, and each file is
complete. Only the end of a pass takes out files that it did not find, because only then are they known to be gone.
"""

from __future__ import annotations

import sqlite3
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from .files import Found, IndexLimits, Reason, Text, read_text, walk, why_kept_out
from .index_database import PASSAGES_PER_FILE
from .passages import cut
from .words import spelled_out, unspaced_of

COMMIT_EVERY = 500
"""Number of files that are read between two commits."""
RACY_NS = 50_000_000
"""A file that changed so shortly before it was read may change again within one tick of the file system's clock, and
keep its modification time. So its time is not stored, and the next pass reads the file again."""
NAMED = 3
"""Number of skipped paths that are listed for each reason. All are counted."""
_UNKNOWN_NS = -1


@dataclass(slots=True)
class Counts:
    """The counts of a refresh so far; see `file_index.Refreshed`."""

    seen: int = 0
    read: int = 0
    indexed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: Counter[Reason] = field(default_factory=Counter)
    named: dict[Reason, list[str]] = field(default_factory=dict)

    def skip(self, path: str, reason: Reason) -> None:
        self.skipped[reason] += 1
        named = self.named.setdefault(reason, [])
        if len(named) < NAMED and path not in named:
            named.append(path)


class Pass:
    """One pass over everything below the root."""

    def __init__(self, db: sqlite3.Connection, root: Path, limits: IndexLimits) -> None:
        self._db, self._root, self._limits = db, root, limits
        self._walk = walk(root, limits)
        self._present: set[int] = set()
        """Ids of the files that the pass has found."""

    def run(self, counts: Counts, is_over: Callable[[], bool]) -> bool:
        """Go on until everything was looked at (returns True) or `is_over` returns True. At least one file is looked
        at.

        If it raises, all work since the last commit is lost, and the pass cannot go on.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            done = self._look_at_all(counts, is_over) and self._remove_absent(counts, is_over)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return done

    def _look_at_all(self, counts: Counts, is_over: Callable[[], bool]) -> bool:
        for found in self._walk:
            before = counts.read
            self._look_at(found, counts)
            if counts.read > before and counts.read % COMMIT_EVERY == 0:
                self._db.execute("COMMIT")
                self._db.execute("BEGIN IMMEDIATE")
            if is_over():
                return False
        return True

    def _look_at(self, found: Found, counts: Counts) -> None:
        if found.skipped is not None:
            counts.skip(found.path, found.skipped)
            return
        counts.seen += 1
        query = "SELECT id, size_bytes, mtime_ns, hash, skipped FROM files WHERE path = ?"
        row = self._db.execute(query, (found.path,)).fetchone()
        if row is not None and (row[1], row[2]) == (found.size_bytes, found.mtime_ns):
            self._keep(found.path, row[0], row[4], counts)
        else:
            self._read(found.path, row, counts)

    def _keep(self, path: str, file: int, skipped: Reason | None, counts: Counts) -> None:
        self._present.add(file)
        if skipped is None:
            counts.unchanged += 1
        else:
            counts.skip(path, skipped)

    def _read(self, path: str, row: tuple[int, int, int, bytes, Reason | None] | None, counts: Counts) -> None:
        text = read_text(self._root, path)
        if text is None or text.size_bytes > self._limits.max_file_bytes:  # gone, or grown since it was listed
            counts.skip(path, "unreadable" if text is None else "too large")
            return
        counts.read += 1
        digest = blake2b(text.content, digest_size=16).digest()
        stamp = (text.size_bytes, _time_to_note(text.mtime_ns), digest)
        if row is not None and row[3] == digest:
            self._db.execute("UPDATE files SET size_bytes = ?, mtime_ns = ?, hash = ? WHERE id = ?", (*stamp, row[0]))
            self._keep(path, row[0], row[4], counts)
            return
        self._forget([] if row is None else [row[0]])
        self._index(path, text, stamp, counts)

    def _index(self, path: str, text: Text, stamp: tuple[int, int, bytes], counts: Counts) -> None:
        plain = text.decoded()
        skipped = why_kept_out(text, plain, self._limits)
        insert = "INSERT INTO files (path, size_bytes, mtime_ns, hash, skipped) VALUES (?, ?, ?, ?, ?)"
        file = self._db.execute(insert, (path, *stamp, skipped)).lastrowid or 0
        self._present.add(file)
        if skipped is not None or plain is None:
            counts.skip(path, skipped or "binary")
            return
        counts.indexed += 1
        self._db.executemany(
            "INSERT INTO passages (rowid, path, titles, text, parts, line, end_line) VALUES (?, ?, ?, ?, ?, ?, ?)",
            _rows(file, path, plain, self._limits),
        )

    def _remove_absent(self, counts: Counts, is_over: Callable[[], bool]) -> bool:
        for (file,) in self._db.execute("SELECT id FROM files").fetchall():
            if file not in self._present:
                self._forget([file])
                counts.removed += 1
                if is_over():
                    return False
        return True

    def _forget(self, files: Iterable[int]) -> None:
        for file in files:
            span = (file * PASSAGES_PER_FILE, (file + 1) * PASSAGES_PER_FILE - 1)
            self._db.execute("DELETE FROM passages WHERE rowid BETWEEN ? AND ?", span)
            self._db.execute("DELETE FROM files WHERE id = ?", (file,))


def _rows(file: int, path: str, text: str, limits: IndexLimits) -> Iterable[tuple[int, str, str, str, str, int, int]]:
    composed = path if path.isascii() else unicodedata.normalize("NFC", path)
    names = f"{composed} {spelled_out(composed)}"
    for number, piece in enumerate(cut(path, text, limits)[:PASSAGES_PER_FILE]):
        row = file * PASSAGES_PER_FILE + number
        titles = piece.titles if piece.titles.isascii() else " ".join((piece.titles, *unspaced_of(piece.titles)))
        yield row, names, titles, piece.text, spelled_out(piece.text), piece.line, piece.end_line


def _time_to_note(mtime_ns: int) -> int:
    return _UNKNOWN_NS if abs(time.time_ns() - mtime_ns) < RACY_NS else mtime_ns
