"""A full-text index over the text files below a folder, searched with questions in a person's words.

The files are authoritative. The index is a cache in one SQLite file (index_database.py). `refresh` brings it up to date
(indexing.py); nothing else does. files.py decides which files are indexed, passages.py cuts files into passages,
words.py turns questions into queries, and ranking.py sorts the results.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from .files import STANDARD_LIMITS, IndexLimits, Reason
from .index_database import delete, is_damage, open_reading, open_writing, take_lock
from .indexing import Counts, Pass
from .ranking import Ranked, ranked

__all__ = ["FileIndex", "IndexLimits", "Passage", "Refreshed", "Until"]

Until: TypeAlias = float | Callable[[], bool] | None
"""When to stop: a reading of `time.monotonic()` in seconds, or a function that returns True then. None: never."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file that matches a question."""

    path: str
    """Path relative to the root, with slashes."""
    line: int
    end_line: int
    """Last line of the passage. Both line numbers count from 1."""
    text: str
    score: float
    """Score of the match; higher is better. Comparable within one result only."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The result of a refresh."""

    complete: bool
    """Whether everything was looked at since the call: the index is as the files were then."""
    locked_out: bool
    """Whether another process writes this index, so that nothing was done."""
    seen: int
    """Number of files that were looked at, without those that a rule, their name, kind or size keeps out."""
    read: int
    """Number of seen files that were opened."""
    indexed: int
    unchanged: int
    removed: int
    """Number of files that were taken out because they are gone or are kept out now."""
    skipped: Mapping[Reason, int]
    """Number of files and folders that are not indexed, by reason. A folder that is not entered counts once."""
    named: Mapping[Reason, tuple[str, ...]]
    """The first few skipped paths, by reason."""
    took_s: float


class FileIndex:
    """The index of one root. Several threads may call it; a search does not wait for a refresh."""

    def __init__(self, root: Path, database: Path, limits: IndexLimits = STANDARD_LIMITS) -> None:
        """Open the index, or make an empty one; `refresh` fills it.

        Args:
            root: the folder whose files are indexed, with all below.
            database: the SQLite file of the index; `<database>.lock` is made beside it. It should lie outside of the
                root,
                or in a folder that is ignored there.

        Raises:
            NotADirectoryError: the root is no folder.
            ValueError: `database` is an SQLite file of something else.
            OSError, sqlite3.OperationalError: the file or its lock cannot be made.
        """
        if not root.is_dir():
            raise NotADirectoryError(f"the root of a file index must be a folder: {root}")
        self._root, self._database, self._limits = root.resolve(), database.absolute(), limits
        self._origin = f"{self._root} {limits}"
        self._turn = threading.Lock()
        self._lock: int | None = None
        self._db: sqlite3.Connection | None = None
        self._pass: Pass | None = None
        self._closed = False
        self._open()

    def refresh(self, until: Until = None) -> Refreshed:
        """Bring the index up to date with the files, as far as time allows.

        A refresh that was stopped early goes on where it was at the next call. It then looks once more at all files.

        Raises:
            ValueError: the index is closed.
            sqlite3.OperationalError: the index cannot be written, for example because the disk is full.
        """
        started_at, counts = time.monotonic(), Counts()
        with self._turn:
            db = self._open()
            complete = db is not None and self._refresh(db, counts, _deadline(until))
        skipped: Mapping[Reason, int] = dict(counts.skipped)
        named: Mapping[Reason, tuple[str, ...]] = {reason: tuple(paths) for reason, paths in counts.named.items()}
        took_s = time.monotonic() - started_at
        done = (counts.seen, counts.read, counts.indexed, counts.unchanged, counts.removed)
        return Refreshed(complete, db is None, *done, skipped, named, took_s)

    def search(self, question: str, limit: int = 20) -> list[Passage]:
        """Return the passages that match a question best, the best first. Any text is a valid question.

        Raises:
            ValueError: the index is closed.
        """
        if limit < 1:
            return []
        if not self._turn.acquire(blocking=False):
            return self._search_beside(question, limit)
        try:
            db = self._open()
            return self._search_beside(question, limit) if db is None else self._search(db, question, limit)
        finally:
            self._turn.release()

    def _search_beside(self, question: str, limit: int) -> list[Passage]:
        """Search the committed state, while this or another process writes."""
        if self._closed:
            raise ValueError(f"the file index of {self._root} is closed")
        beside = open_reading(self._database, self._origin)
        if beside is None:
            return []
        with closing(beside):
            return self._search(beside, question, limit)

    def close(self) -> None:
        """Close the file and release the lock, so that other processes can write. May be called again."""
        with self._turn:
            self._closed = True
            self._let_go()

    def _open(self) -> sqlite3.Connection | None:
        """Return the connection for writing; None if another process holds the lock. Raises ValueError if closed."""
        if self._closed:
            raise ValueError(f"the file index of {self._root} is closed")
        if self._lock is None:
            self._lock = take_lock(self._database)
        if self._lock is None:
            return None
        if self._db is None:
            try:
                self._db = open_writing(self._database, self._origin)
            except BaseException:
                self._let_go()
                raise
        return self._db

    def _let_go(self) -> None:
        self._pass = None
        if self._db is not None:
            self._db.close()
        if self._lock is not None:
            os.close(self._lock)
        self._db = self._lock = None

    def _refresh(self, db: sqlite3.Connection, counts: Counts, is_over: Callable[[], bool]) -> bool:
        try:
            return self._run_passes(db, counts, is_over)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        anew = self._make_anew()
        return anew is not None and self._run_passes(anew, counts, is_over)

    def _run_passes(self, db: sqlite3.Connection, counts: Counts, is_over: Callable[[], bool]) -> bool:
        """Finish the pass that was stopped, then make a whole new pass. Returns whether the new pass is complete."""
        left, self._pass = self._pass, None
        if left is not None and not left.run(counts, is_over):
            self._pass = left
            return False
        if left is not None and is_over():
            return False
        whole = Pass(db, self._root, self._limits)
        done = whole.run(counts, is_over)
        self._pass = None if done else whole
        return done

    def _make_anew(self) -> sqlite3.Connection | None:
        """Delete a damaged index and open a new one; the lock stays held."""
        self._pass = None
        if self._db is not None:
            self._db.close()
            self._db = None
        delete(self._database)
        return self._open()

    def _search(self, db: sqlite3.Connection, question: str, limit: int) -> list[Passage]:
        try:
            return [_passage(db, found) for found in ranked(db, question, limit)]
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
        if db is self._db:
            self._make_anew()
        return []


def _deadline(until: Until) -> Callable[[], bool]:
    if until is None:
        return lambda: False
    if callable(until):
        return until
    end_s = until
    return lambda: time.monotonic() >= end_s


def _passage(db: sqlite3.Connection, found: Ranked) -> Passage:
    query = "SELECT line, end_line, text FROM passages WHERE rowid = ?"
    line, end_line, text = db.execute(query, (found.row,)).fetchone()
    return Passage(found.path, line, end_line, text, found.score)
