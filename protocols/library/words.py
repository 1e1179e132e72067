"""Converts a question in a person's words to a query of SQLite's full-text index (FTS5).

Only words of letters and digits get into the query, each in quotes, so nothing in a question can act as syntax. Words
are combined with OR: a passage that has more of them, or rarer ones, comes first.

Chinese, Japanese, Korean, Thai and the like are written without spaces, or attach endings to words. In them each pair
of neighbouring letters counts as a word (`spelled_out` for texts, `words_of` for questions): 数据库 is 数据 and 据库.

Source: https://www.sqlite.org/fts5.html, "Full-text Query Syntax".
"""

from __future__ import annotations

import itertools
import re
import unicodedata

TOKENIZER = "porter unicode61 remove_diacritics 2 categories ''L* N* Co Mn Mc''"
"""FTS5 tokenizer of the searched tables, for use within SQL quotes. Marks (Mn, Mc) belong to words: without them each
vowel of Hindi or Thai would end a word."""
MAX_WORDS = 48
"""Largest number of different words of a question that are searched for. Further words are ignored."""
PREFIX_FROM_CHARS = 4
"""Least length of a word that is searched as a prefix. Shorter words match whole only: `id` must not match `idle`."""

_STEMMED = ("s", "ed", "ing", "er", "ly", "ion", "able", "ment", "ness", "ity", "al", "ive", "ful")
"""Endings that the stemmer takes off. Words with them match whole: `settings` is cut to `set`, and the prefix `set`
would match `settle`."""
_MARKS = (
    "\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0971-\u0df3"
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u0f71-\u0f84\u102b-\u103e\u1056-\u1059\u17b4-\u17d3"
)
"""Vowels and accents above and below letters, which `\\w` does not match."""
_UNSPACED = (
    "\u0e00-\u0eff\u0f40-\u0fbc\u1000-\u109f\u1100-\u11ff\u1780-\u17d3\u3005-\u3007\u3031-\u3035\u3041-\u30fa\u30fc-\u318e"
    "\u31a0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U000323af"
)
"""Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, ideographs; and Korean."""
_BEYOND = re.compile("[^\0-\u0dff\u2000-\u2fff]")
"""Quick check for unspaced scripts: nearly all characters that match are letters of them."""
_RUN = re.compile(f"[{_UNSPACED}]+")
_MIXED = re.compile(f"(?:(?![{_UNSPACED}])[^\\W_])+(?=[{_UNSPACED}])|(?<=[{_UNSPACED}])(?:(?![{_UNSPACED}])[^\\W_])+")
"""Word of another script that stands beside a letter of an unspaced script without a space between."""
_LETTER = re.compile(f"[^\\W_][{_MARKS}]*")
_IDENTIFIER = re.compile(f"[^\\W_](?:[^\\W_]|[{_MARKS}])*(?:_+[^\\W_](?:[^\\W_]|[{_MARKS}])*)*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_WITH_CAPITAL = re.compile(r"\b[a-z0-9_]*+[A-Z]\w*+", re.ASCII)
_HUMP = re.compile(r"[a-z0-9][A-Z]|[A-Z]{2}[a-z]")
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
    """Return the different words of a question in lower case, in order. An identifier gives itself, then its parts.

    `takeEpoch` gives takeepoch, take, epoch; `take_epoch` gives take_epoch, take, epoch; 数据库 gives 数据, 据库. Words
    without meaning are left out, unless there are no others.
    """
    found = _IDENTIFIER.findall(unicodedata.normalize("NFC", question))[: MAX_WORDS * 8]
    telling = [identifier for identifier in found if identifier.lower() not in _STOP]
    words: dict[str, None] = {}
    for identifier in telling or found:
        if not identifier.isascii() and _RUN.search(identifier):
            words.update(dict.fromkeys(word.lower() for word in _apart(identifier) if word not in _STOP))
            continue
        words[identifier.lower()] = None
        words.update(dict.fromkeys(part for part in parts_of(identifier) if part not in _STOP))
    return list(words)[:MAX_WORDS]


def parts_of(identifier: str) -> list[str]:
    """Return the parts of an identifier in lower case, split at `_` and before each capital that begins a part."""
    parts: list[str] = []
    for piece in identifier.split("_"):
        parts += _PART.findall(piece) if piece.isascii() else [piece]
    return [part.lower() for part in parts if part]


def match_of(question: str) -> str | None:
    """Return the FTS5 query for a question; None if there is no word in it."""
    return " OR ".join(_term(word) for word in words_of(question)) or None


def spelled_out(text: str) -> str:
    """Return the words of a text that FTS5 would not find in it: parts of identifiers (`take epoch` for `takeEpoch`),
    and words of scripts without spaces. The text must be composed (NFC)."""
    identifiers = dict.fromkeys(_WITH_CAPITAL.findall(text))
    parts = [part for identifier in identifiers if _HUMP.search(identifier) for part in parts_of(identifier)]
    return " ".join(parts if text.isascii() else [*parts, *unspaced_of(text)])


def unspaced_of(text: str) -> list[str]:
    """Return the words of the unspaced runs in a text: each pair of neighbours and each last letter. Words of other
    scripts that touch such a run are added."""
    if _BEYOND.search(text) is None:
        return []
    found = [word for run in _RUN.findall(text) for word in _pairs(run, last=True)]
    return [*found, *_MIXED.findall(text)] if found else []


def _apart(identifier: str) -> list[str]:
    """Return the words of an identifier that contains an unspaced run, as a question searches for them."""
    others = [word for word in _RUN.sub(" ", identifier).split() if word.strip("_")]
    return [*others, *(word for run in _RUN.findall(identifier) for word in _pairs(run, last=False))]


def _pairs(run: str, last: bool) -> list[str]:
    """Return the pairs of neighbours in a run. `last` adds the last letter, for questions of one letter."""
    letters = _LETTER.findall(unicodedata.normalize("NFKC", run))
    pairs = [one + other for one, other in itertools.pairwise(letters)]
    return [*pairs, *letters[-1:]] if last or not pairs else pairs


def _term(word: str) -> str:
    if "_" in word:  # to FTS5 a phrase: the parts side by side
        return '"' + " ".join(word.split("_")) + '"'
    if _RUN.match(word):
        return f'"{word}"' if len(_LETTER.findall(word)) > 1 else f'"{word}"*'
    is_beginning = len(word) >= PREFIX_FROM_CHARS and not word.endswith(_STEMMED)
    return f'"{word}"*' if is_beginning else f'"{word}"'
