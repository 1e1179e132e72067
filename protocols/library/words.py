"""From a question in a person's words to a query of SQLite's full-text index (FTS5).

Only words made of letters and digits come through, each within quotes, so nothing in a question can be read as
syntax. Words are combined with OR: a passage that has more of them, or rarer ones, comes first.

Source: https://www.sqlite.org/fts5.html, "Full-text Query Syntax".
"""

from __future__ import annotations

import re

TOKENIZER = "porter unicode61 remove_diacritics 2"
"""What the tables that are asked with these queries are made with."""
MAX_WORDS = 48
"""Of a question that are looked for; of a longer one, the first so many different ones."""
PREFIX_FROM_CHARS = 4
"""Shorter words are found whole only: `id` is not to find `idle`."""

_STEMMED = ("s", "ed", "ing", "er", "ly", "ion", "able", "ment", "ness", "ity", "al", "ive", "ful")
"""Endings that the stemmer takes off. What is left is looked for whole: as a beginning, `set`, which `settings` is cut
down to, would find `settle`."""
_IDENTIFIER = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_CAMEL = re.compile(r"\b\w*[a-z0-9][A-Z]\w*|\b\w*[A-Z]{2}[a-z]\w*", re.ASCII)
_STOP_WORDS = """
    a about above after again all also am an and any are as at be because been before being below between both but by
    can cannot could did do does doing done down during each either else ever every few find for from further get gets
    give given go goes had happen happened happens has have having he her here hers him his how i if in into is it its
    itself just know let like look made make makes many may me mean means might more most much must my need needs no
    nor not now of off on once one only or other our ours out over own please same say says see she should show so
    some still such tell than that the their theirs them then there these they thing things this those through to too
    under until up us use used uses using very want was way we were what whatever when where whether which while who
    whom whose why will with within without work works would yet you your yours
    """
_STOP = frozenset(_STOP_WORDS.split())


def words_of(question: str) -> list[str]:
    """The different words of a question in lower case, in order; of identifiers the whole and then the parts.

    `takeEpoch` gives takeepoch, take, epoch; `take_epoch` gives take_epoch, take, epoch. Words that carry no meaning
    are left out, unless there are no others.
    """
    found = _IDENTIFIER.findall(question)[: MAX_WORDS * 8]
    telling = [identifier for identifier in found if identifier.lower() not in _STOP]
    words: dict[str, None] = {}
    for identifier in telling or found:
        words[identifier.lower()] = None
        words.update(dict.fromkeys(part for part in parts_of(identifier) if part not in _STOP))
    return list(words)[:MAX_WORDS]


def parts_of(identifier: str) -> list[str]:
    """The parts of an identifier in lower case, split at `_` and where a capital begins a part."""
    parts: list[str] = []
    for piece in identifier.split("_"):
        parts += _PART.findall(piece) if piece.isascii() else [piece]
    return [part.lower() for part in parts if part]


def match_of(question: str) -> str | None:
    """The FTS5 query for a question; None if there is no word in it."""
    return " OR ".join(_term(word) for word in words_of(question)) or None


def spelled_out(text: str) -> str:
    """The parts of the identifiers in a text that FTS5 would take for one word: `take epoch` for `takeEpoch`."""
    identifiers = dict.fromkeys(_CAMEL.findall(text))
    return " ".join(part for identifier in identifiers for part in parts_of(identifier))


def _term(word: str) -> str:
    if "_" in word:  # to FTS5 a phrase: the parts side by side
        return '"' + " ".join(word.split("_")) + '"'
    is_beginning = len(word) >= PREFIX_FROM_CHARS and not word.endswith(_STEMMED)
    return f'"{word}"*' if is_beginning else f'"{word}"'
