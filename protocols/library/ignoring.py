"""Applies git's ignore rules: `.gitignore` files, nested ones included, and `.git/info/exclude`.

`pathspec` translates each pattern. This module decides which pattern wins, one path at a time, as git does: the last
matching line of the deepest file decides. The walk does not enter an ignored folder, so the paths below are never
checked. Asking pathspec about whole paths instead gets `a/**` with `!a/keep.txt` wrong. A line that cannot be parsed is
skipped, as in git. A person's global excludes are not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

MAX_RULES_BYTES = 1_048_576
"""Number of bytes that are read of one file of rules; the rest of a longer one is ignored."""
_ANYWHERE = re.compile(r"/?(?:\*\*/)+([^/]+)")
"""Pattern of the form `**/name`, which means the same as `name`."""
_BRACKETS = re.compile(r"\[[!^]?\]?(?:\[:\w*:\]|\\.|[^\]\\])*\]")
_CLASS = re.compile(r"\[:(\w*):\]")
_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9a-fA-F",
    "space": " \t\r\n\f\v",
    "blank": " \t",
    "punct": "!-.:-@\\[-`{-~",
    "cntrl": "\x01-\x1f\x7f",
    "print": " -~",
    "graph": "!-~",
}
_RANGE = re.compile(r"(\\?[^\\\[\]])-(\\?[^\\\[\]])")
_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of a file of rules."""

    regex: re.Pattern[str]
    ignores: bool
    """Whether the line ignores; False for a line with `!`."""
    folders_only: bool
    of_name: bool
    """Whether the pattern applies to the last part of a path alone. True for a pattern without a slash within."""
    below: bool
    """Whether the pattern applies to everything below a folder, but not to the folder: `a/**`."""

    def matches(self, path: str, is_folder: bool) -> bool:
        if self.folders_only and not is_folder:
            return False
        if self.of_name:
            return self.regex.search(path.rpartition("/")[2]) is not None
        return (self.regex.search(path) if self.below else self.regex.fullmatch(path)) is not None


class Rules:
    """The rules that one folder brings in, for paths that are relative to the root of the walk."""

    def __init__(self, lines: Iterable[str], below: int = 0, above: str = "") -> None:
        """Parse the lines of a folder's files, the file of lower precedence first.

        Args:
            below: length of the prefix that leads from the root of the walk to the folder, with the last slash.
            above: path from the folder to the root of the walk, with the last slash, if the folder lies above the root.
        """
        self._rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._below, self._above = below, above
        union = "|".join(f"(?:{_NAMED_GROUP.sub('(?:', rule.regex.pattern)})" for rule in self._rules)
        self._any = re.compile(union)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def verdict(self, path: str, is_folder: bool) -> bool | None:
        """Return True if a path is ignored, False if it is wanted, None if no rule here matches."""
        own = self._above + path[self._below :]
        if self._any.search(own) is None:  # most paths; one search instead of one for each rule
            return None
        for rule in reversed(self._rules):
            if rule.matches(own, is_folder):
                return rule.ignores
        return None


def is_ignored(chain: Sequence[Rules], path: str, is_folder: bool) -> bool:
    """Return whether a path is ignored. `chain` has the rules of the folders above, the outermost first."""
    for rules in reversed(chain):
        verdict = rules.verdict(path, is_folder)
        if verdict is not None:
            return verdict
    return False


def rules_above(root: Path) -> tuple[Rules, ...]:
    """Return the rules of the folders above the root, up to the top of its repository; empty outside a repository."""
    if (root / ".git").exists():
        return ()
    for top in root.parents:
        if (top / ".git").exists():
            inner = [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]
            return tuple(Rules(lines_of(folder), above=f"{root.relative_to(folder).as_posix()}/") for folder in inner)
    return ()


def lines_of(folder: Path) -> list[str]:
    """Return the rule lines of a folder: those of `.git/info/exclude`, then those of `.gitignore`."""
    exclude = _git_folder(folder / ".git") / "info" / "exclude"
    return [*_read(exclude), *_read(folder / ".gitignore")]


def _git_folder(marker: Path) -> Path:
    """Return the folder that all work trees of a repository share. In a work tree `.git` is a file."""
    if not marker.is_file():
        return marker
    own = marker.parent / "".join(_read(marker)[:1]).removeprefix("gitdir:").strip()
    return own / "".join(_read(own / "commondir")[:1]).strip()


def _read(path: Path) -> list[str]:
    """Return the lines of a small file; none if it is missing, unreadable, or a symlink, which git does not follow."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        with os.fdopen(handle, "rb") as file:
            text = file.read(MAX_RULES_BYTES).decode("utf-8-sig", errors="surrogateescape")
    except OSError:
        return []
    return [line.removesuffix("\r") for line in text.split("\n")]


def _rule(line: str) -> _Rule | None:
    """Parse a line; None for blank lines, comments, and lines that cannot be parsed."""
    text = _without_trailing_spaces(line)
    ignores = not text.startswith("!")
    if text.startswith("#"):
        return None
    text = text if ignores else text[1:]
    folders_only = text.endswith("/")
    text = text[:-1] if folders_only else text
    anywhere = _ANYWHERE.fullmatch(text)
    text = anywhere[1] if anywhere else text
    regex = _regex(text)
    if regex is None:
        return None
    return _Rule(regex, ignores, folders_only, "/" not in text, text.endswith("/**"))


def _regex(pattern: str) -> re.Pattern[str] | None:
    if not pattern:
        return None
    if pattern[0] in "#!":  # the sign of the line is off already
        pattern = f"\\{pattern}"
    try:
        pattern = _BRACKETS.sub(lambda found: _CLASS.sub(lambda name: _CLASSES[name[1]], found[0]), pattern)
    except KeyError:  # a class that there is not: git takes such a line for one that matches nothing
        return None
    for readable in (pattern, _BRACKETS.sub(_forward, pattern)):
        try:
            return GitIgnoreSpecPattern(readable).regex
        except (ValueError, re.error, OverflowError, RecursionError):
            continue
    return None


def _forward(brackets: re.Match[str]) -> str:
    """Replace each reversed range by its first letter, as git does: `[a-Z]` becomes `[a]`."""
    return _RANGE.sub(lambda found: found[0] if found[1][-1] <= found[2][-1] else found[1], brackets[0])


def _without_trailing_spaces(line: str) -> str:
    bare = line.rstrip(" ")
    escaped = bare.endswith("\\") and len(bare) < len(line)
    return f"{bare} " if escaped else bare
