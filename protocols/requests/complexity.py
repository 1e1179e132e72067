"""Scores how much work a text asks for, in [0, 1]: counted signs, a weight each, no model and no training.

Seven signs are counted outside fenced code: words, clauses, distinct verbs of work, questions after the first, listed
items, words of scope ("whole", "every") and words of order ("then", "based on"). Each counts up to a bound, so that
one sign alone, such as the length of a pasted log, cannot make a text complex. The weighted sum x becomes 1 - exp(-x):
more of any sign never lowers the score, and it takes three or four signs together to come over 0.8.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


def word_set(listed: str) -> frozenset[str]:
    """Return the words of a text that lists them between spaces."""
    return frozenset(listed.split())


WORK_VERBS = word_set("""
    adapt add adjust align analyse analyze archive assess assign audit automate benchmark book build calculate cancel
    capture check clean clear clone cluster collect comment commit compare compile compose compress compute
    consolidate convert count create cross-check decide define delete deploy derive describe design detect determine
    develop diagnose document download draft draw dump edit estimate evaluate examine execute explain export extract
    fetch find fit fix format gather generate get grep group harmonise identify implement import improve index inspect
    install instrument integrate introduce inventory investigate invite kill link list make map mark measure merge
    migrate model monitor move open optimise optimize order organise organize outline pack plan plot port prepare print
    produce profile propose prototype prove publish pull push query rank read rebuild recommend reconcile reconstruct
    record reduce refactor register reindex remove rename render replace report reproduce research resize resolve
    restart restore restructure review rewrite rework roll rotate run scale scan schedule score screen search send set
    simulate sort speed split start stop suggest summarise summarize synthesise synthesize tag test trace track
    translate tune unify unzip update upgrade upload validate verify work write
    analysiere behebe beschreibe dokumentiere entwirf erkläre erstelle finde führe korrigiere lade lösche plane prüfe
    schreibe teste untersuche vergleiche zeige
    analyse compare corrige crée écris lance prépare rédige supprime vérifie établis
    abre actualiza analiza añade borra corrige crea detecta ejecuta escribe prepara refactoriza
    """)
"""Verbs in the form in which one orders something, in English, German, French and Spanish."""

SCOPE_WORDS = word_set("""
    whole entire entirely every everything everywhere all each across complete completely full thoroughly end-to-end
    comprehensive overall several multiple both various
    gesamte gesamten gesamter alle allen ganze ganzen jede jeden sämtliche
    tout toute tous toutes chaque complet complète chacun
    todo toda todos todas cada completo completa
    """)

ORDER_WORDS = word_set("""
    then after afterwards before once finally first next subsequently later depending dependencies depends
    dann danach anschließend zuerst daraus schließlich
    ensuite puis enfin après
    luego después finalmente primero
    """)

_ORDER_PHRASES = re.compile(r"\b(?:based on|from there|step by step|one by one|so that|(?:one|\w+) after the other)\b")
_CLAUSES = re.compile(r"[,;:]\s|[^\S\n][-–—]\s|\.\s+(?=\w)|\b(?:and|or|but|while|plus|und|oder|et|puis|y)\b")
_ITEMS = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)]|[a-z]\))[ \t]+\S", re.MULTILINE | re.IGNORECASE)
_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_WORDS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Signs:
    """The counts of a text that its complexity is made of, not yet bounded."""

    words: int
    clauses: int
    verbs: int
    """The number of distinct verbs of work."""
    questions: int
    """The number of question marks after the first."""
    items: int
    """The number of lines that are bullets or numbered."""
    scope: int
    order: int


_WEIGHTS: dict[str, tuple[str, float, int]] = {
    "words": ("words", 0.006, 100),
    "clauses": ("clauses", 0.11, 7),
    "verbs": ("verbs of work", 0.2, 6),
    "questions": ("further questions", 0.15, 4),
    "items": ("listed items", 0.12, 8),
    "scope": ("words of scope", 0.28, 3),
    "order": ("words of order", 0.28, 3),
}
"""The name of each sign for people, its weight, and the most that count, by sign. Set by hand on the train split."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, in their order, without numbers."""
    return _WORDS.findall(text.lower())


def without_code(text: str) -> str:
    """Return the text without its fenced code blocks. A block that is never closed reaches to the end."""
    return _FENCED.sub(" ", text)


def signs_of(text: str) -> Signs:
    """Count the signs of a text. Takes time in proportion to its length."""
    prose = without_code(text)
    lowered = prose.lower()
    words = words_of(prose)
    return Signs(
        words=len(words),
        clauses=len(_CLAUSES.findall(lowered)),
        verbs=len(WORK_VERBS.intersection(words)),
        questions=max(prose.count("?") - 1, 0),
        items=len(_ITEMS.findall(prose)),
        scope=sum(word in SCOPE_WORDS for word in words),
        order=sum(word in ORDER_WORDS for word in words) + len(_ORDER_PHRASES.findall(lowered)),
    )


def complexity_of(signs: Signs) -> float:
    """Return the score of counted signs: 0.0 <= score <= 1.0, rising with every sign up to its bound."""
    return 1.0 - math.exp(-sum(_parts(signs).values()))


def main_signs(signs: Signs, most: int = 2) -> str:
    """Return the signs that add most to the score, for people: "5 verbs of work and 3 words of scope"."""
    parts = sorted(_parts(signs).items(), key=lambda part: (-part[1], part[0]))
    named = [f"{getattr(signs, sign)} {_WEIGHTS[sign][0]}" for sign, weight in parts[:most] if weight > 0]
    return " and ".join(named) or "no signs of it"


def _parts(signs: Signs) -> dict[str, float]:
    return {sign: weight * min(getattr(signs, sign), bound) for sign, (_, weight, bound) in _WEIGHTS.items()}
