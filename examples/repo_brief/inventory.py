"""Which files there are: those that git tracks, or all that are not hidden or built."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

from pydantic import BaseModel, Field

import podium

SKIPPED = {"node_modules", "__pycache__", "build", "dist", "target", "venv", "vendor", "site-packages"}
MAX_FILE_BYTES = 2 * 1024 * 1024
"""Larger files are counted and not read."""


class BriefRequest(BaseModel):
    """What the briefing is about."""

    path: str = Field(description="Folder of source code; absolute, or relative to where the cluster was started.")
    months: int = Field(default=12, ge=1, le=240, description="How far back the git history is read.")


class Inventory(BaseModel):
    root: str
    months: int
    files: int
    bytes: int
    folders: dict[str, int]
    """Files per top-level folder; "." holds the files beside them."""
    is_git: bool


@podium.protocol
def inventory(request: BriefRequest) -> Inventory:
    """Count the files of the tree."""
    root = Path(request.path).expanduser().resolve()
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    folders: Counter[str] = Counter()
    size_bytes = count = 0
    for file in source_files(root):
        count += 1
        size_bytes += file.stat().st_size
        parts = file.relative_to(root).parts
        folders[parts[0] if len(parts) > 1 else "."] += 1
    return Inventory(
        root=str(root),
        months=request.months,
        files=count,
        bytes=size_bytes,
        folders=dict(folders.most_common(200)),
        is_git=is_git(root),
    )


NOTHING_RUNS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "log.showSignature=false")
"""What the configuration of a stranger's repository could have git execute is off."""


def source_files(root: Path) -> list[Path]:
    """Every file of the tree that belongs to it, in a stable order."""
    tracked = _tracked(root) if is_git(root) else None
    files = _walk(root) if tracked is None else tracked
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def is_git(root: Path) -> bool:
    return git(root, "rev-parse", "--is-inside-work-tree") is not None


def git(root: Path, *words: str) -> str | None:
    """What git prints, or None: no git, no repository, no history yet."""
    command = ["git", "-c", "core.quotepath=off", "-c", "safe.directory=*", *NOTHING_RUNS, *words]
    env = os.environ | {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _tracked(root: Path) -> list[Path] | None:
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [root / name for name in listed.split("\0") if name] if listed else None


def _walk(root: Path) -> list[Path]:
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".") and name not in SKIPPED]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return found


def read_text(file: Path) -> str | None:
    """The file's text, or None if it is large, binary or unreadable."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        raw = file.read_bytes()
    except OSError:
        return None
    return None if b"\0" in raw[:8192] else raw.decode("utf-8", errors="replace")
