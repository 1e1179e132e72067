"""Records the owner of a data directory, and how to join its cluster: `cluster.lock` and `cluster.json`.

A data directory has one cluster at a time. The process that starts a cluster holds the lock file as long as it lives,
and writes to `cluster.json` how to join. The kernel frees the lock when the process ends, however it ends. An owner
that ends in order writes that the cluster is closed. Then clients that had joined know that none of them may take over.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..protocols.errors import InvalidSetting
from .store.lock import try_take

CLOSED = {"kind": "closed"}


class ClusterFile:
    """`cluster.json` and its lock."""

    def __init__(self, data: Path) -> None:
        self._path, self._lock_path = data / "cluster.json", data / "cluster.lock"
        self._directory = data
        self._lock: int | None = None

    def take(self) -> bool:
        """Take the ownership of the directory; False if another process has it.

        Raises:
            InvalidSetting: the directory cannot be made or written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = try_take(self._lock_path)
            if lock is None:
                return False
            self._lock = lock
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise _unusable(self._directory, error) from error
        return True

    def write(self, facts: Mapping[str, object]) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({**facts, "pid": os.getpid()}))
        draft.chmod(0o600)
        draft.rename(self._path)

    def read(self) -> dict[str, object] | None:
        """Return what the owner wrote, or None if nothing is written yet. Only valid while `take` returns False."""
        try:
            facts: dict[str, object] = json.loads(self._path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return facts

    def announce_end(self) -> None:
        """Tell clients that joined to leave, because the rest of the cluster ends now. Only the owner can."""
        if self._lock is not None:
            self.write(CLOSED)

    def release(self, in_order: bool = True) -> None:
        if self._lock is not None:
            if in_order:
                self.write(CLOSED)
            else:
                self._path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    @property
    def is_ours(self) -> bool:
        return self._lock is not None


def _unusable(data: Path, error: OSError) -> InvalidSetting:
    problem = f"cannot be used: {error.strerror} ({error.filename})"
    if isinstance(error, FileExistsError):
        problem = "cannot be used: it is there, and no folder"
    return InvalidSetting(name="data", source=str(data), problem=problem)


def make_folder(data: Path) -> None:
    """Create the folder if it is missing. Raises InvalidSetting if that fails."""
    if "\0" in str(data):
        raise InvalidSetting(name="data", source=repr(str(data)), problem="cannot be used: a path has no zero bytes")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(data, error) from error


@contextmanager
def using(data: Path) -> Iterator[None]:
    """Wrap code that opens files in the folder. Raises InvalidSetting, with the path, if a file cannot be used."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or "")
        if not name.startswith((str(data), str(data.resolve()))):
            raise
        raise _unusable(data, error) from error


def running_cluster(data: Path) -> dict[str, object] | None:
    """Return how to join the cluster that owns `data`, or None if there is no cluster. Changes nothing.

    Raises:
        InvalidSetting: the lock file cannot be opened.
    """
    if not data.is_dir():
        return None
    file = ClusterFile(data)
    if not (data / "cluster.lock").exists():
        return None
    try:
        lock = os.open(data / "cluster.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(data, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return file.read() or {"kind": "starting"}
    else:
        return None
    finally:
        os.close(lock)


def closed_in_order(data: Path) -> bool:
    """Return whether the last cluster of `data` has ended, or is ending, in order."""
    return (ClusterFile(data).read() or {}).get("kind") == "closed"


def holder(facts: dict[str, object] | None) -> str:
    if facts is None:
        return "another process"
    kind = "an in-process engine" if facts.get("kind") == "inprocess" else "a Ray cluster"
    return f"{kind} (process {facts.get('pid')})"
