"""The order in which passages answer a question.

SQLite's bm25 counts how often and how rarely the words occur, and where; on top of it come two things that hold for
any repository: tests mention everything and explain little, and a second passage of one file tells less than the
first of another. The numbers were chosen on 26 questions over this repository;
the result changes little around them: test 0.6 to 0.7, repeat 0.7 to 0.9, path and titles 2 to 4.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass

from .index_database import PASSAGES_PER_FILE
from .words import match_of, words_of

PASSAGES_OF_ONE_FILE = 3
"""Most passages of one file among the results, unless there is nothing else to show."""
WEIGHTS = {"path": 3.0, "titles": 3.0, "text": 1.0, "parts": 0.5}
"""What a word counts where it is found: in the path, in headings and definitions, in the text, within identifiers."""
TEST_FACTOR = 0.65
"""On the score of tests, unless the question has the word test."""
REPEAT_FACTOR = 0.85
"""On the score of a passage for each better one of the same file."""
CANDIDATES = 2_000
"""Passages with the best bm25 that are put in order; of ten thousands no others can get among the first."""
_TEST_FOLDERS = frozenset({"test", "tests", "__tests__", "spec", "specs"})

_QUERY = f"""
    SELECT passages.rowid, files.path, -bm25(passages, {", ".join(map(str, WEIGHTS.values()))})
    FROM passages JOIN files ON files.id = passages.rowid / {PASSAGES_PER_FILE}
    WHERE passages MATCH ? ORDER BY 3 DESC LIMIT ?"""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A passage by its row, with the path of its file."""

    row: int
    path: str
    score: float


def ranked(db: sqlite3.Connection, question: str, limit: int) -> list[Ranked]:
    """The best passages, the best first; none if there is no word in the question. Raises sqlite3.Error."""
    match = match_of(question)
    if match is None:
        return []
    rows = db.execute(_QUERY, (match, max(CANDIDATES, 2 * limit))).fetchall()
    about_tests = any(word.startswith("test") for word in words_of(question))
    of_file: Counter[str] = Counter()
    first: list[Ranked] = []
    beyond: list[Ranked] = []
    for row, path, score in sorted(rows, key=lambda scored: (-scored[2], scored[1], scored[0])):
        factor = TEST_FACTOR if not about_tests and is_test(path) else 1.0
        passage = Ranked(row, path, score * factor * REPEAT_FACTOR ** of_file[path])
        (first if of_file[path] < PASSAGES_OF_ONE_FILE else beyond).append(passage)
        of_file[path] += 1
    chosen = _best(first, limit)
    return _best([*chosen, *_best(beyond, limit - len(chosen))], limit)


def is_test(path: str) -> bool:
    """Whether a file is a test or lies among tests, by its path."""
    *folders, name = path.lower().split("/")
    stem = name.partition(".")[0]
    in_name = stem.startswith("test_") or stem.endswith("_test") or ".test." in name or ".spec." in name
    return in_name or not _TEST_FOLDERS.isdisjoint(folders)


def _best(passages: list[Ranked], count: int) -> list[Ranked]:
    return sorted(passages, key=lambda passage: (-passage.score, passage.path, passage.row))[:count]
