"""Read-only tools over a folder: what `SHIPPED_TOOLS` names. Each takes a dict and returns a text or plain data."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

MAX_HITS = 200
MAX_FILE_BYTES = 1_000_000
_SKIPPED = {".git", "node_modules", "__pycache__", ".venv", "venv", "build", "dist"}


def grep(arguments: dict[str, Any]) -> str:
    """Lines that a regular expression finds, as path:line: text."""
    pattern = re.compile(arguments["pattern"])
    hits = []
    for path, text in _texts(arguments["root"]):
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                hits.append(f"{path}:{number}: {line.strip()[:300]}")
                if len(hits) == MAX_HITS:
                    return "\n".join([*hits, f"(only the first {MAX_HITS})"])
    return "\n".join(hits) or "nothing found"


def list_files(arguments: dict[str, Any]) -> str:
    """Paths below the folder, by a pattern such as *.py if there is one."""
    wanted = arguments.get("path") or "*"
    found = [path for path, _ in _files(arguments["root"]) if fnmatch.fnmatch(path, wanted) or wanted in path]
    more = f"\n({len(found) - MAX_HITS} more)" if len(found) > MAX_HITS else ""
    return "\n".join(sorted(found)[:MAX_HITS]) + more or "no such files"


def read_file(arguments: dict[str, Any]) -> str:
    """One file below the folder, by its path or its name."""
    root, wanted = arguments["root"], arguments["path"]
    for path, full in _files(root):
        if path == wanted or path.endswith("/" + wanted):
            with open(full, encoding="utf-8", errors="replace") as file:
                return file.read(MAX_FILE_BYTES)
    raise FileNotFoundError(f"no file '{wanted}' below {root}")


def count_lines(arguments: dict[str, Any]) -> str:
    """Lines and files by kind of file, the most lines first."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path, text in _texts(arguments["root"]):
        kind = os.path.splitext(path)[1] or "(none)"
        lines[kind] += text.count("\n")
        files[kind] += 1
    rows = [f"{kind}: {count} lines in {files[kind]} files" for kind, count in lines.most_common()]
    return "\n".join([f"total: {sum(lines.values())} lines in {sum(files.values())} files", *rows])


def git_log(arguments: dict[str, Any]) -> str:
    """The last commits of the repository."""
    command = ["git", "-C", arguments["root"], "-c", "safe.directory=*", "log", "-n", "30", "--date=short"]
    done = subprocess.run(
        [*command, "--format=%h %ad %an: %s"], capture_output=True, text=True, timeout=10, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or "git failed")
    return done.stdout


def _files(root: str) -> Iterator[tuple[str, str]]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if each not in _SKIPPED)
        for name in sorted(names):
            full = os.path.join(folder, name)
            if not os.path.islink(full):
                yield os.path.relpath(full, root), full


def _texts(root: str) -> Iterator[tuple[str, str]]:
    for path, full in _files(root):
        try:
            if os.path.getsize(full) > MAX_FILE_BYTES:
                continue
            with open(full, encoding="utf-8") as file:
                yield path, file.read()
        except (OSError, UnicodeDecodeError):
            continue
