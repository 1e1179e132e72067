"""Finds the text files below a folder, and says why other files are left out.

The walk decides by name, kind and size, and opens nothing except files of ignore rules. `read_text` then opens one file
and decides by its content. Symlinks are not followed: a target inside the folder is found anyway, a target outside does
not belong to the folder. This holds at the moment of opening, too: every part of a path is opened by itself, so a
folder that becomes a symlink meanwhile is not entered. What cannot be read is reported with its reason; nothing is
raised.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from .decoding import decoded, is_binary
from .ignoring import Rules, is_ignored, lines_of, rules_above
from .secret_files import holds_secret, looks_secret

Reason: TypeAlias = Literal[
    "ignored",
    "tool folder",
    "symlink",
    "special",
    "secret",
    "too large",
    "too many",
    "binary",
    "encoding",
    "unreadable",
    "name",
]
"""Reason why a file or folder is not indexed.

`ignored` counts an ignored folder once. `tool folder` is .git, a virtual environment and the like. `special` is a
socket, a pipe or a device. `encoding` is a text in no known encoding (decoding.py). `name` is a name that is not UTF-8.
"""

TOOL_FOLDERS = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".podium"})
TOOL_MARKS = frozenset({"pyvenv.cfg", "cluster.lock", "ray.token"})
"""File names that mark a folder as a virtual environment or a data directory of Podium, whatever its own name is."""
SECRET_FOLDERS = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker"})


_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_THROUGH = getattr(os, "O_PATH", os.O_RDONLY)
"""Flag for opening a folder that is only passed through. O_PATH needs no read permission, where the system has it."""


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """Limits for the files that are indexed and for their passages. An index made with other limits is rebuilt."""

    max_file_bytes: int = 1_048_576
    """Files larger than this are skipped."""
    max_files: int = 200_000
    """Files beyond this number are skipped, in the order of the walk."""
    passage_lines: int = 40
    """Longest passage, in lines."""
    passage_chars: int = 4_000
    """Longest passage, in characters; a longer line is cut."""
    with_secrets: bool = False
    """Whether files that look like secrets, by name or by content, are indexed, too."""

    def __post_init__(self) -> None:
        least = {"max_file_bytes": 1, "max_files": 1, "passage_lines": 4, "passage_chars": 200}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {minimum}")


STANDARD_LIMITS = IndexLimits()


@dataclass(frozen=True, slots=True)
class Found:
    """Something that the walk found: a file to index, or a skipped entry with the reason."""

    path: str
    """Path relative to the root, with slashes."""
    size_bytes: int = 0
    mtime_ns: int = 0
    skipped: Reason | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """The content of one file as it was when it was opened."""

    content: bytes
    size_bytes: int
    mtime_ns: int

    @property
    def is_binary(self) -> bool:
        return is_binary(self.content)

    def decoded(self) -> str | None:
        """Return the content as text, composed (NFC); None if it is no text, or in no known encoding."""
        return decoded(self.content)


def walk(root: Path, limits: IndexLimits) -> Iterator[Found]:
    """Yield the files to index and the skipped entries below the root, folder by folder, each in order of names.

    The generator holds no handle between two steps, so that a caller can stop and go on later.
    """
    room = limits.max_files
    waiting: list[tuple[str, tuple[Rules, ...]]] = [("", rules_above(root))]
    while waiting:
        folder, chain = waiting.pop()
        chain, judged = _look_into(root, folder, chain, limits)
        below = []
        for path, found in judged:
            if found is None:
                below.append((f"{path}/", chain))
                continue
            if found.skipped is None:
                room -= 1
                found = found if room >= 0 else Found(found.path, skipped="too many")
            yield found
        waiting += reversed(below)


def read_text(root: Path, path: str) -> Text | None:
    """Read a file below a root. Returns None if it cannot be read, or is no regular file, or has become a symlink.

    Size and time are taken before reading, so that a change meanwhile makes them differ at the next look.
    """
    try:
        with opened_folder((root / path).parent) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(path.rpartition("/")[2], flags, dir_fd=folder)
    except (OSError, ValueError):
        return None
    try:
        with os.fdopen(handle, "rb") as file:
            now = os.fstat(handle)
            if not stat.S_ISREG(now.st_mode):
                return None
            return Text(file.read(now.st_size + 1), now.st_size, now.st_mtime_ns)
    except OSError:
        return None


def why_kept_out(text: Text, plain: str | None, limits: IndexLimits) -> Reason | None:
    """Return why a file is left out because of its content; None if it is not left out.

    Args:
        plain: the text as `text.decoded()` returns it.
    """
    if plain is None:
        return "binary" if text.is_binary else "encoding"
    return "secret" if not limits.with_secrets and holds_secret(text.content) else None


@contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Open a folder without following any symlink; yields its handle. `path` must be a real path. Raises OSError."""
    handle = os.open(path.anchor, _FOLDER | _THROUGH)
    try:
        for part in path.parts[1:]:
            above, handle = handle, os.open(part, _FOLDER | _THROUGH, dir_fd=handle)
            os.close(above)
        yield handle
    finally:
        os.close(handle)


def _look_into(
    root: Path, folder: str, chain: tuple[Rules, ...], limits: IndexLimits
) -> tuple[tuple[Rules, ...], list[tuple[str, Found | None]]]:
    """Return the rules in force in a folder, and (path, Found) of its entries by name. None marks a folder to enter."""
    here = folder.rstrip("/")
    try:
        with opened_folder(root / folder) as through:
            handle = os.open(".", _FOLDER | os.O_RDONLY, dir_fd=through)
            try:
                entries = sorted(os.scandir(handle), key=lambda entry: entry.name)
                if folder and any(entry.name in TOOL_MARKS for entry in entries):
                    return chain, [(here, Found(here, skipped="tool folder"))]
                chain = _with_own_rules(chain, root, folder, entries)
                return chain, [(path := folder + each.name, _judge(each, path, chain, limits)) for each in entries]
            finally:
                os.close(handle)
    except OSError:
        return chain, [(here, Found(here or ".", skipped="unreadable"))]


def _with_own_rules(
    chain: tuple[Rules, ...], root: Path, folder: str, entries: list[os.DirEntry[str]]
) -> tuple[Rules, ...]:
    if not any(entry.name in (".gitignore", ".git") for entry in entries):
        return chain
    own = Rules(lines_of(root / folder), below=len(folder))
    return (*chain, own) if own else chain


def _judge(entry: os.DirEntry[str], path: str, chain: tuple[Rules, ...], limits: IndexLimits) -> Found | None:
    """Classify a directory entry; None for a folder to enter."""
    try:
        is_folder = entry.is_dir(follow_symlinks=False)
        if not _is_utf8(entry.name):
            return Found(path.encode(errors="replace").decode(), skipped="name")
        if is_folder and entry.name in TOOL_FOLDERS:
            return Found(path, skipped="tool folder")
        if is_ignored(chain, path, is_folder):
            return Found(path, skipped="ignored")
        return _judge_folder(entry, path, limits) if is_folder else _judge_file(entry, path, limits)
    except OSError:
        return Found(path, skipped="unreadable")


def _judge_folder(entry: os.DirEntry[str], path: str, limits: IndexLimits) -> Found | None:
    is_secret = entry.name in SECRET_FOLDERS and not limits.with_secrets
    return Found(path, skipped="secret") if is_secret else None


def _judge_file(entry: os.DirEntry[str], path: str, limits: IndexLimits) -> Found:
    now = entry.stat(follow_symlinks=False)
    skipped: Reason | None = None
    if stat.S_ISLNK(now.st_mode):
        skipped = "symlink"
    elif not stat.S_ISREG(now.st_mode):
        skipped = "special"
    elif not limits.with_secrets and looks_secret(entry.name):
        skipped = "secret"
    elif now.st_size > limits.max_file_bytes:
        skipped = "too large"
    return Found(path, now.st_size, now.st_mtime_ns, skipped)


def _is_utf8(name: str) -> bool:
    return name.isascii() or name.encode(errors="surrogateescape").decode(errors="replace") == name
