"""Cuts a text into passages: pieces that an answer can cite by file and line.

Markdown is cut at its headings. Other text is cut between top-level blocks if that gives passages of a useful length,
else at blank lines, else at the limit. Nothing is parsed: blank lines and indentation decide.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .files import IndexLimits

_HEADING = re.compile(r" {0,3}#{1,6}\s+\S")
_CODE_MARK = re.compile(r" {0,3}(```|~~~)")
_DEFINITION = re.compile(
    r"\s*(?:(?:export|default|pub(?:\(\w+\))?|public|private|protected|static|abstract|final|async|unsafe)\s+)*"
    r"(?:def|class|func|fn|fun|function|interface|struct|enum|trait|impl|protocol|CREATE\s+(?:VIRTUAL\s+)?TABLE)\s+\w"
)
_MARKDOWN = (".md", ".markdown", ".mdx")


@dataclass(frozen=True, slots=True)
class Cut:
    """One passage of a text."""

    line: int
    end_line: int
    """Last line of the passage. Both line numbers count from 1."""
    text: str
    titles: str
    """Headings or defining lines of the passage, with the last such line before it. The first line counts, too."""


def cut(name: str, text: str, limits: IndexLimits) -> list[Cut]:
    """Return the passages of a text in order, without blank ones. Together they cover all text that is not blank."""
    lines = text.split("\n")
    is_markdown = name.lower().endswith(_MARKDOWN)
    titles = _headings(lines) if is_markdown else _definitions(lines)
    borders = titles if is_markdown else _top_level(lines)
    cuts: list[Cut] = []
    for start, end in _ranges(lines, sorted(borders), is_markdown, limits):
        piece = "\n".join(lines[start:end])
        for at in range(0, len(piece), limits.passage_chars):  # more than one only where a single line is too long
            part = piece[at : at + limits.passage_chars]
            if part.strip():
                cuts.append(Cut(start + 1, end, part, _titles_of(lines, titles, start, end)))
    return cuts


def _headings(lines: Sequence[str]) -> list[int]:
    found, in_code = [], False
    for number, line in enumerate(lines):
        if _CODE_MARK.match(line):
            in_code = not in_code
        elif not in_code and _HEADING.match(line):
            found.append(number)
    return found


def _definitions(lines: Sequence[str]) -> list[int]:
    return [number for number, line in enumerate(lines) if _DEFINITION.match(line)]


def _top_level(lines: Sequence[str]) -> list[int]:
    """Return the lines without indentation that follow a blank line."""
    return [
        number
        for number in range(1, len(lines))
        if lines[number][:1].strip(")]} \t\r") and not lines[number - 1].strip()
    ]


def _ranges(
    lines: Sequence[str], borders: Sequence[int], at_each: bool, limits: IndexLimits
) -> Iterator[tuple[int, int]]:
    """Yield first line and end (exclusive) of each passage. `at_each` cuts at each border, not the last that fits."""
    start = 0
    while start < len(lines):
        longest = _longest(lines, start, limits)
        inside = borders[bisect_right(borders, start) : bisect_right(borders, longest)]
        end = _end(lines, start, longest, inside, at_each)
        yield start, end
        start = end


def _longest(lines: Sequence[str], start: int, limits: IndexLimits) -> int:
    """Return the line where a passage must end at the latest (exclusive)."""
    chars, end = len(lines[start]), start + 1
    while end < len(lines) and end - start < limits.passage_lines:
        chars += len(lines[end]) + 1
        if chars > limits.passage_chars:
            break
        end += 1
    return end


def _end(lines: Sequence[str], start: int, longest: int, borders: Sequence[int], at_each: bool) -> int:
    if at_each and borders:
        return borders[0]
    if longest == len(lines):
        return longest
    half = start + (longest - start) // 2
    if borders and borders[-1] > start + (longest - start) // 4:
        return borders[-1]
    blank = next((number for number in range(longest - 1, half, -1) if not lines[number].strip()), None)
    return longest if blank is None else blank + 1


def _titles_of(lines: Sequence[str], titles: Sequence[int], start: int, end: int) -> str:
    first, after = bisect_left(titles, start), bisect_left(titles, end)
    inside = titles[first:after]
    before = titles[max(first - 1, 0) : first] if inside[:1] != [start] else []
    opening = [0] if start == 0 else []
    return "\n".join(lines[number][:300] for number in sorted({*before, *inside, *opening}))
