"""The folder below which Ray keeps the session of a cluster that we start: logs, sockets, shared memory.

Ray opens what it makes there, and the folder itself, to every user of the machine. So that lies in one of mode 0700,
short enough for the paths of sockets, and goes with the cluster; `ray.folder` in the data directory says where it is,
so that what a crash left is removed by the next owner.
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
"""Of the path of a socket 107 may be used; Ray's own part has up to 64."""


def new_folder(data: Path) -> Path:
    """Make one for Ray, in one that is only ours, and note that. Raises OSError."""
    base = tempfile.gettempdir()
    if len(f"{base}/{PREFIX}12345678/r") > MOST_CHARS:
        base = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    note = _note(data)
    note.write_text(str(folder))
    note.chmod(0o600)
    return folder / "r"


def noted_folder(data: Path) -> Path | None:
    """That of the cluster that we started and that runs, or ran last."""
    try:
        return Path(_note(data).read_text())
    except FileNotFoundError:
        return None


def remove_folder(data: Path) -> None:
    """Remove what is noted, if it is ours: nothing of the session stays."""
    folder = noted_folder(data)
    if folder is not None and _is_ours(folder):
        end_what_is_left(folder)
        shutil.rmtree(folder, ignore_errors=True)
    _note(data).unlink(missing_ok=True)


def end_what_is_left(folder: Path) -> None:
    """Kill Ray's own processes that still have files open there: some outlive a raylet that was killed."""
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
