"""Ranks the passages that match a question.

SQLite's bm25 counts how often and how rarely the words occur, and where. Two rules are added that hold for any
repository. Tests and lists of changes mention everything and explain little, so their score is lowered. A second
passage of one file tells less than the first of another file, so its score is lowered, too. The numbers were chosen
with 26 questions over this repository; the result changes little around them: repeat 0.7 to 0.9, path and titles 2 to
4. The factors of tests and changelogs are low: code that has the words once comes before a test that has them three
times.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass

from .index_database import PASSAGES_PER_FILE
from .words import match_of, words_of

PASSAGES_OF_ONE_FILE = 3
"""Largest number of passages of one file among the results, unless there is nothing else to show."""
WEIGHTS = {"path": 3.0, "titles": 3.0, "text": 1.0, "parts": 0.5}
"""Weights of a word by the place where it is found: path, headings and definitions, text, parts of identifiers."""
TEST_FACTOR = 0.4
"""Factor on the score of tests, unless the question is about tests, fixtures or mocks."""
HISTORY_FACTOR = 0.35
"""Factor on the score of changelogs and the like, unless the question is about changes or versions."""
REPEAT_FACTOR = 0.85
"""Factor on the score of a passage, once for each better passage of the same file."""
CANDIDATES = 2_000
"""Least number of passages, by best bm25, that are ranked. Of ten thousands no others can get among the first."""
_TEST_FOLDERS = frozenset(
    "test tests testing __tests__ __test__ t spec specs e2e integration integration_tests integration-tests "
    "integrationtest unittest unittests unit_tests functional_tests smoke testdata test_data test-data testsuite "
    "testcases fixtures __fixtures__ __mocks__ mocks __snapshots__ cypress androidtest".split()
)
_TEST_NAME = re.compile(r"conftest$|tests?$|tests?[_-]|.*[_-](?:tests?|specs?)$|.*\.(?:tests?|specs?|e2e|cy)(?:\.|$)")
_TEST_CLASS = re.compile(r".*[a-z0-9](?:Tests?|TestCase|Specs?|IT)$|Test[A-Z]")
_HISTORY_NAME = re.compile(
    r"(?:changes|change_?log|history|news|releases?|release[_-]?(?:notes?|history)|whats?[_-]?new|upgrad(?:e|ing)|migrating)"
    r"(?:$|[-_. ]?v?\d.*|[-_.].*)"
)
_HISTORY_FOLDERS = frozenset(
    "changelog changelogs .changes .changelog .changeset history whatsnew releasenotes release_notes release-notes "
    "newsfragments news.d changelog.d".split()
)
_PROSE = frozenset({"", "md", "markdown", "mdx", "rst", "txt", "adoc", "org", "html", "rdoc", "textile", "yml", "yaml"})
_ABOUT_HISTORY = ("chang", "release", "version", "histor", "news", "upgrad", "migrat", "deprecat", "breaking")

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
    """Return the best passages, the best first; none if the question has no words. Raises sqlite3.Error."""
    match = match_of(question)
    if match is None:
        return []
    rows = db.execute(_QUERY, (match, max(CANDIDATES, 2 * limit))).fetchall()
    words = words_of(question)
    about_tests = any(word.startswith(("test", "fixture", "mock")) for word in words)
    about_history = any(word.startswith(_ABOUT_HISTORY) for word in words)
    of_file: Counter[str] = Counter()
    first: list[Ranked] = []
    beyond: list[Ranked] = []
    for row, path, score in sorted(rows, key=lambda scored: (-scored[2], scored[1], scored[0])):
        factor = TEST_FACTOR if not about_tests and is_test(path) else 1.0
        factor *= HISTORY_FACTOR if not about_history and is_history(path) else 1.0
        passage = Ranked(row, path, score * factor * REPEAT_FACTOR ** of_file[path])
        (first if of_file[path] < PASSAGES_OF_ONE_FILE else beyond).append(passage)
        of_file[path] += 1
    chosen = _best(first, limit)
    return _best([*chosen, *_best(beyond, limit - len(chosen))], limit)


def is_test(path: str) -> bool:
    """Return whether a file is a test or lies among tests, by its path."""
    *folders, name = path.split("/")
    stem = name.rpartition(".")[0] or name
    in_name = _TEST_NAME.match(stem.lower()) is not None or _TEST_CLASS.match(stem) is not None
    return in_name or not _TEST_FOLDERS.isdisjoint(folder.lower() for folder in folders)


def is_history(path: str) -> bool:
    """Return whether a file lists changes between versions, by its path. Only prose counts."""
    *folders, name = path.lower().split("/")
    stem, _, kind = name.rpartition(".") if "." in name[1:] else (name, "", "")
    if kind not in _PROSE and not kind.isdigit():
        return False
    return _HISTORY_NAME.match(stem) is not None or not _HISTORY_FOLDERS.isdisjoint(folders)


def _best(passages: list[Ranked], count: int) -> list[Ranked]:
    return sorted(passages, key=lambda passage: (-passage.score, passage.path, passage.row))[:count]
