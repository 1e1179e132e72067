"""Answers without a model: what the sources say that has most to do with the question, quoted with its places."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .context import Assembled, Passage
from .words import words_of

QUOTED = 4
"""Passages in an answer."""
LINES = 8
"""Of each."""
LOOKED_AT_CHARS = 200_000
"""Of one passage; what comes after is not quoted."""
TOOL_CHARS = 4_000
NO_MODEL = "No model is configured, so this quotes what was found instead of answering in its own words."
INSTEAD = "so this quotes what was found instead of answering in its own words."
REFUSALS = ("ModelMalformed", "ModelCutOff", "ModelRefused", "ModelKeyRefused", "ModelTooLong", "ModelParameterRefused")
ANSWERLESS = (*REFUSALS, "ModelNotFound", "ModelUnpaid", "ModelFiltered", "ModelOutOfTokens")
"""Kinds of failures of a model that was reached; see model_errors.py."""
NOTHING = "Nothing was found that has to do with the question, and without a model there is no more to say."


def quotation(
    question: str, context: Assembled, tools: Sequence[tuple[str, str]], why: str
) -> tuple[str, list[Passage]]:
    """A Markdown text that says plainly what it is, and the pieces that it quotes.

    Args:
        tools: name and output of those that ran.
    """
    parts = [f"**{name}** says:\n\n```\n{_cut(text)}\n```" for name, text in tools]
    pieces = [] if tools else _best_pieces(context.passages, question)
    parts += [f"`{piece.path}:{piece.line}`\n\n```\n{piece.text}\n```" for piece in pieces]
    if not parts:
        parts = [f"Earlier you asked: {turn.question}\n\n{_quoted(turn.answer)}" for turn in context.earlier[:1]]
    return "\n\n".join(each for each in (why, *(parts or [NOTHING])) if each), pieces


def why_no_model(error: Mapping[str, Any] | None) -> tuple[str, str]:
    """Why there is no answer of the model, as the sentence before the quotations, and in short.

    Args:
        error: the failure, {"message", "kind", "code"}; None if it is not known.
    """
    reached = error is not None and (error.get("kind") in ANSWERLESS or error.get("code") == "timeout")
    what = "gave no answer" if reached else "could not be reached"
    reason = "" if error is None else f": {' '.join(str(error.get('message', '')).split())}"
    return f"The model {what}, {INSTEAD}", f"it {what}{reason}"


def _best_pieces(passages: Sequence[Passage], question: str) -> list[Passage]:
    """The best lines of each passage, those that say something before those that only name it."""
    stems = {_stem(word) for word in words_of(question)}
    pieces = [_best_lines(passage, stems) for passage in passages]
    good = [piece for piece, weight in pieces if weight > 0]
    return (good or [piece for piece, _ in pieces])[:QUOTED]


def _best_lines(passage: Passage, stems: set[str]) -> tuple[Passage, float]:
    """The run of lines that says most of the words of the question, and how much that is."""
    lines = passage.text[:LOOKED_AT_CHARS].split("\n")
    hits = [_hits(line, stems) for line in lines]
    starts = range(max(1, len(lines) - LINES + 1))
    start = max(starts, key=lambda at: (_weight(hits[at : at + LINES]), -at))
    weight, kept = _weight(hits[start : start + LINES]), lines[start : start + LINES]
    while kept and not kept[0].strip():
        kept, start = kept[1:], start + 1
    while kept and not kept[-1].strip():
        kept = kept[:-1]
    line = passage.line + start
    text = re.sub(r"`{3,}", "'''", textwrap.dedent("\n".join(kept)))
    return passage.model_copy(update={"text": text, "line": line, "end_line": line + max(len(kept) - 1, 0)}), weight


def _hits(line: str, stems: set[str]) -> set[str]:
    """Words of the question in a line that says something: imports and lists of names do not."""
    bare = line.strip()
    if bare.startswith(("from ", "import ", "#include", "use ")) or re.fullmatch(r"['\"\w.]+,?", bare):
        return set()
    return {stem for stem in stems if stem in bare.lower()}


def _weight(hits: Sequence[set[str]]) -> float:
    """Different words count most, then words that stand together; earlier lines a little more, so that a run begins
    where the matter does."""
    together = sum(len(found) ** 2 * (1 + (len(hits) - at) / 10) for at, found in enumerate(hits))
    return 10 * len(set().union(*hits)) ** 2 + together


def _stem(word: str) -> str:
    return re.sub(r"(ing|ed|es|s)$", "", word.lower()) if len(word) > 4 else word.lower()


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


def _cut(text: str) -> str:
    return clipped(re.sub(r"`{3,}", "'''", text.rstrip()), TOOL_CHARS)


def clipped(text: str, limit_chars: int) -> str:
    """The beginning of a text, and how much is left out."""
    more = len(text) - limit_chars
    return text if more <= 0 else f"{text[:limit_chars]}\n({more:,} characters more)"
