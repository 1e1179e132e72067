"""Builds answers without a model: quotations of the passages that match the question best, with their places."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

from .context import Assembled, Passage
from .words import words_of

QUOTED = 4
"""Number of passages in an answer."""
LINES = 8
"""Number of lines quoted of each passage."""
LOOKED_AT_CHARS = 200_000
"""Number of characters of a passage that are searched for lines to quote."""
TOOL_CHARS = 4_000
NO_MODEL = "No model is configured, so this quotes what was found instead of answering in its own words."
INSTEAD = "so this quotes what was found instead of answering in its own words."
REFUSALS = ("ModelMalformed", "ModelCutOff", "ModelRefused", "ModelKeyRefused", "ModelTooLong", "ModelParameterRefused")
ANSWERLESS = (*REFUSALS, "ModelNotFound", "ModelUnpaid", "ModelFiltered", "ModelOutOfTokens")
"""Kinds of failures in which the model was reached; see model_errors.py."""
NOTHING = "Nothing was found that has to do with the question, and without a model there is no more to say."


def quotation(
    question: str, context: Assembled, tools: Sequence[tuple[str, str]], why: str
) -> tuple[str, list[Passage]]:
    """Return a Markdown text that says why it quotes, and the pieces that it quotes.

    Args:
        tools: name and output of the tools that ran.
        why: the sentence before the quotations; "" is none.
    """
    parts = [f"**{name}** says:\n\n```\n{_cut(text)}\n```" for name, text in tools]
    pieces = [] if tools else _best_pieces(context.passages, question)
    parts += [f"`{piece.path}:{piece.line}`\n\n```\n{piece.text}\n```" for piece in pieces]
    if not parts:
        parts = [f"Earlier you asked: {turn.question}\n\n{_quoted(turn.answer)}" for turn in context.earlier[:1]]
    return "\n\n".join(each for each in (why, *(parts or [NOTHING])) if each), pieces


def why_no_model(error: Mapping[str, object] | None) -> tuple[str, str]:
    """Return the reason for the missing answer of the model: as the sentence before the quotations, and in short.

    Args:
        error: the failure, {"message", "kind", "code"}; None if it is not known.
    """
    reached = error is not None and (error.get("kind") in ANSWERLESS or error.get("code") == "timeout")
    what = "gave no answer" if reached else "could not be reached"
    reason = "" if error is None else f": {' '.join(str(error.get('message', '')).split())}"
    return f"The model {what}, {INSTEAD}", f"it {what}{reason}"


def _best_pieces(passages: Sequence[Passage], question: str) -> list[Passage]:
    """Return the best lines of each passage. Pieces with no word of the question count only if there are no others."""
    stems = {_stem(word) for word in words_of(question)}
    pieces = [_best_lines(passage, stems) for passage in passages]
    good = [piece for piece, weight in pieces if weight > 0]
    return (good or [piece for piece, _ in pieces])[:QUOTED]


def _best_lines(passage: Passage, stems: set[str]) -> tuple[Passage, float]:
    """Return the run of lines that matches the question best, and its weight."""
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
    """Return the words of the question in a line. Imports and lines that consist of one name have none."""
    bare = line.strip()
    if bare.startswith(("from ", "import ", "#include", "use ")) or re.fullmatch(r"['\"\w.]+,?", bare):
        return set()
    return {stem for stem in stems if stem in bare.lower()}


def _weight(hits: Sequence[set[str]]) -> float:
    """Return the weight of a run of lines. Different words count most, then words in one line. Earlier lines count a
    little more, so that a run begins where the topic begins."""
    together = sum(len(found) ** 2 * (1 + (len(hits) - at) / 10) for at, found in enumerate(hits))
    return 10 * len(set().union(*hits)) ** 2 + together


def _stem(word: str) -> str:
    return re.sub(r"(ing|ed|es|s)$", "", word.lower()) if len(word) > 4 else word.lower()


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))


def _cut(text: str) -> str:
    return clipped(re.sub(r"`{3,}", "'''", text.rstrip()), TOOL_CHARS)


def clipped(text: str, limit_chars: int) -> str:
    """Return the beginning of a text, with the number of characters that are left out."""
    more = len(text) - limit_chars
    return text if more <= 0 else f"{text[:limit_chars]}\n({more:,} characters more)"
