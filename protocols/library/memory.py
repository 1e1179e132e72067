"""Stores conversations: the questions of each user's sessions with their answers, for later lookup.

One SQLite file is authoritative. It is bounded by the number of turns of a session and by their age. Every call names
its user and session, and none sees the data of another user. Several processes may use one file: each call is one
transaction in SQLite's rollback journal, because SQLite before 3.51.3 may damage a WAL that several processes write. A
file of another format or a damaged one is refused and not rebuilt, because its content exists nowhere else. Only a file
of format 1 is converted.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from .words import TOKENIZER, match_of, spelled_out

FORMAT = 2
DAY_S = 86_400.0
BUSY_WAIT_S = 10.0
"""Seconds that a call waits for another process that writes."""

_WORDS = f"CREATE VIRTUAL TABLE words USING fts5(owner, question, answer, tokenize = '{TOKENIZER}')"
_TABLES = (
    """CREATE TABLE turns (
        id INTEGER PRIMARY KEY, user TEXT NOT NULL, session TEXT NOT NULL, turn_id TEXT NOT NULL,
        question TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL, UNIQUE (user, session, turn_id))""",
    "CREATE INDEX turns_by_session ON turns (user, session, at)",
    "CREATE INDEX turns_by_age ON turns (at)",
    _WORDS,
    "CREATE TRIGGER turn_is_forgotten AFTER DELETE ON turns BEGIN DELETE FROM words WHERE rowid = old.id; END",
)
_TURN = "turns.turn_id, turns.question, turns.answer, turns.at"


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a conversation with its answer."""

    turn_id: str
    question: str
    answer: str
    at: float
    """Time in seconds since 1970, UTC."""


class Memory:
    """The conversations in one file. Calls from several threads wait for each other.

    Every method may raise sqlite3.OperationalError, for example because the disk is full, and, after `close`,
    sqlite3.ProgrammingError.
    """

    def __init__(self, database: Path, keep_turns: int = 200, keep_s: float = 30 * DAY_S) -> None:
        """Open the file, or create it; only its owner may read it.

        Args:
            keep_turns: number of turns kept of each session. The oldest beyond that are deleted.
            keep_s: age in seconds at which a turn of any user is deleted.

        Raises:
            ValueError: a limit is not positive, or the file has another format or belongs to another program.
            sqlite3.DatabaseError: the file is damaged.
            OSError, sqlite3.OperationalError: the file cannot be opened.
        """
        if keep_turns < 1 or keep_s <= 0:
            raise ValueError(f"keep_turns and keep_s must be positive: {keep_turns} and {keep_s} given")
        self._keep_turns, self._keep_s = keep_turns, keep_s
        self._turn = threading.Lock()
        self._db = _open(database)

    def add(self, user: str, session: str, turn_id: str, question: str, answer: str, at: float) -> None:
        """Store a turn, durable on return. A turn whose id is known already stays unchanged.

        Also deletes all turns that are too old at `at`, and the oldest turns of a session that has too many.

        Args:
            turn_id: unique in the session.
            at: now, in seconds since 1970, UTC.
        """
        with self._turn, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            added = self._db.execute(
                "INSERT OR IGNORE INTO turns (user, session, turn_id, question, answer, at) VALUES (?, ?, ?, ?, ?, ?)",
                (user, session, turn_id, _sound(question), _sound(answer), at),
            )
            if added.rowcount:
                _index(self._db, added.lastrowid or 0, user, session, _sound(question), _sound(answer))
            self._prune(user, session, at)

    def recent(self, user: str, session: str, limit: int) -> list[Turn]:
        """Return the last turns of a session, the newest last; none for an unknown session."""
        query = f"SELECT {_TURN} FROM turns WHERE user = ? AND session = ? ORDER BY at DESC, id DESC LIMIT ?"
        with self._turn:
            rows = self._db.execute(query, (user, session, max(limit, 0))).fetchall()
        return [Turn(*row) for row in reversed(rows)]

    def search(self, user: str, session: str | None, question: str, limit: int) -> list[Turn]:
        """Return the turns that match a question best, the best first. Any text is a valid question.

        Args:
            session: the session to search; None searches all sessions of the user.
        """
        match = match_of(question)
        if match is None:
            return []
        # The owner in the index makes it quick; user and session in the table decide.
        query = f"""
            SELECT {_TURN} FROM words JOIN turns ON turns.id = words.rowid
            WHERE words MATCH ? AND turns.user = ? AND turns.session = coalesce(?, turns.session)
            ORDER BY bm25(words, 0.0, 2.0, 1.0), turns.at DESC LIMIT ?"""
        scoped = f'owner : "{_owner(user, session)}" AND {{question answer}} : ({match})'
        with self._turn:
            rows = self._db.execute(query, (scoped, user, session, max(limit, 0))).fetchall()
        return [Turn(*row) for row in rows]

    def forget(self, user: str, session: str) -> int:
        """Delete a session; returns its number of turns. Their texts are not in the file any more on return."""
        with self._turn, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            gone = self._db.execute("DELETE FROM turns WHERE user = ? AND session = ?", (user, session)).rowcount
            self._db.execute("INSERT INTO words (words) VALUES ('optimize')")  # drops the words of deleted rows
        return gone

    def close(self) -> None:
        """Close the file. May be called again."""
        with self._turn:
            self._db.close()

    def _prune(self, user: str, session: str, now: float) -> None:
        self._db.execute("DELETE FROM turns WHERE at < ?", (now - self._keep_s,))
        self._db.execute(
            """DELETE FROM turns WHERE id IN (
                SELECT id FROM turns WHERE user = ? AND session = ? ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?)""",
            (user, session, self._keep_turns),
        )


def _open(database: Path) -> sqlite3.Connection:
    database.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(database, timeout=BUSY_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        with db:
            db.execute("BEGIN IMMEDIATE")
            _check_format(db, database)
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA secure_delete=ON")
    except BaseException:
        db.close()
        raise
    return db


def _check_format(db: sqlite3.Connection, database: Path) -> None:
    """Make the tables of a new file, and convert a file of format 1. Raises ValueError for a file that is not ours."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if version == 0 and not tables:
        for table in _TABLES:
            db.execute(table)
        db.execute(f"PRAGMA user_version={FORMAT}")
    elif version == 1 and {"turns", "words"} <= tables:
        _index_anew(db)
    elif version != FORMAT or not {"turns", "words"} <= tables:
        raise ValueError(f"{database} is no memory of format {FORMAT}: its format is {version}")


def _index_anew(db: sqlite3.Connection) -> None:
    """Convert from format 1, which did not find text without spaces: the turns stay, their words are indexed anew."""
    db.execute("DROP TABLE words")
    db.execute(_WORDS)
    for turn in db.execute("SELECT id, user, session, question, answer FROM turns").fetchall():
        _index(db, *turn)
    db.execute(f"PRAGMA user_version={FORMAT}")


def _index(db: sqlite3.Connection, row: int, user: str, session: str, question: str, answer: str) -> None:
    owners = f"{_owner(user, session)} {_owner(user, None)}"
    texts = (f"{text} {spelled_out(text)}" for text in (_composed(question), _composed(answer)))
    db.execute("INSERT INTO words (rowid, owner, question, answer) VALUES (?, ?, ?, ?)", (row, owners, *texts))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _owner(user: str, session: str | None) -> str:
    """Return one word that stands for a user's session in the index; without `session`, for the user."""
    key = f"{len(user)}:{user}{'' if session is None else ':' + session}".encode(errors="surrogatepass")
    return hashlib.blake2b(key, digest_size=16).hexdigest()


def _sound(text: str) -> str:
    """Return a text that UTF-8 can encode: lone surrogates become question marks."""
    return text.encode(errors="replace").decode()
