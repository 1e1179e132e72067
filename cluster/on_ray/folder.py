"""The folder in which Ray keeps the session of a cluster that we start: logs, sockets, shared memory.

Ray makes its folder, and the files in it, accessible to every user of the machine. So Ray's folder is inside a folder
of mode 0700, whose path is short enough for sockets. Both are removed with the cluster. The file `ray.folder` in the
data directory has the path, so that the next owner can remove what a crash left.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

PREFIX = "podium-ray-"
_OF_RAY = ("ray::", "raylet", "gcs_server")
MOST_CHARS = 40
"""Longest path of the folder, in characters. A socket's path may have 107, of which Ray's own part takes up to 64."""


def new_folder(data: Path) -> Path:
    """Make a private folder, note it, and return the path inside it for Ray. Raises OSError."""
    base = tempfile.gettempdir()
    if len(f"{base}/{PREFIX}12345678/r") > MOST_CHARS:
        base = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    note = _note(data)
    note.write_text(str(folder))
    note.chmod(0o600)
    return folder / "r"


def noted_folder(data: Path) -> Path | None:
    """Return the private folder of the cluster started last on `data`; None if none is noted."""
    try:
        return Path(_note(data).read_text())
    except FileNotFoundError:
        return None


def remove_folder(data: Path) -> None:
    """Kill Ray's leftover processes and remove the noted folder, if that is ours. The note goes in any case."""
    folder = noted_folder(data)
    if folder is not None and _is_ours(folder):
        end_what_is_left(folder)
        shutil.rmtree(folder, ignore_errors=True)
    _note(data).unlink(missing_ok=True)


def end_what_is_left(folder: Path) -> None:
    """Kill Ray's own processes that still have files open in the folder. Some outlive a raylet that was killed."""
    for process in psutil.process_iter(["name", "pid"]):
        name = process.info["name"] or ""
        if name.startswith(_OF_RAY) and process.pid != os.getpid() and _has_open(process.pid, folder):
            with suppress(psutil.Error):
                process.kill()


def _has_open(pid: int, folder: Path) -> bool:
    for handle in _handles(pid):
        with suppress(OSError):
            if os.readlink(handle).startswith(f"{folder}/"):
                return True
    return False


def _handles(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return []


def _is_ours(folder: Path) -> bool:
    try:
        facts = folder.lstat()
    except OSError:
        return False
    is_private = stat.S_ISDIR(facts.st_mode) and facts.st_mode & 0o077 == 0
    return folder.name.startswith(PREFIX) and is_private and facts.st_uid == os.geteuid()


def _note(data: Path) -> Path:
    return data / "ray.folder"
