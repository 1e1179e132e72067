"""Keeps the logs of steps and of the engine: `logs/<name>.log` in the data directory, private, rotated by size.

All hosts of one protocol write whole lines to the same file, from any process. So do all actors to the engine's log. A
writer that finds the file full rotates it under a lock on the file; the others notice the new inode. An error here
never fails a step: a log that cannot be written is reported once to the Python logger `podium`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from .log_lines import logged

LOG = logging.getLogger("podium")
_BROKEN: set[Path] = set()
"""Logs of this process whose last write failed. Each is reported once."""


class LogFile:
    """The log of one protocol, or of the engine. Any thread may write. The file is opened with the first line."""

    def __init__(self, folder: Path, protocol: str, most_bytes: int, kept: int) -> None:
        """`most_bytes` is the size at which the log is rotated; `kept` is the number of rotated files that stay."""
        self._path = folder / f"{quote(protocol, safe='')}.log"
        self._most_bytes, self._kept = most_bytes, kept
        self._file: int | None = None
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Append one record, which may have several lines, with the UTC time before it. Never raises OSError."""
        at = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        line = f"{at} {logged(text)}\n".encode(errors="backslashreplace")
        try:
            with self._lock:
                os.write(self._opened(), line)
        except OSError as error:
            if self._path not in _BROKEN:
                LOG.warning("the log %s cannot be written: %s", self._path, error.strerror)
            _BROKEN.add(self._path)
        else:
            _BROKEN.discard(self._path)

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        """Return the descriptor of the current log, which has room for a line. Opens and rotates it if need be."""
        while True:
            if self._file is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._file = os.open(self._path, flags, 0o600)
            facts = os.fstat(self._file)
            if not self._is_current(facts):
                self._let_go()
            elif facts.st_size < self._most_bytes:
                return self._file
            else:
                self._turn_over(self._file)

    def _is_current(self, facts: os.stat_result) -> bool:
        try:
            return os.path.samestat(facts, self._path.lstat())
        except FileNotFoundError:
            return False

    def _turn_over(self, file: int) -> None:
        """Rotate the log, unless another process has done so meanwhile."""
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if self._is_current(os.fstat(file)):
                for number in range(self._kept, 1, -1):
                    newer = self._before(number - 1)
                    if newer.exists():
                        newer.replace(self._before(number))
                if self._kept:
                    self._path.replace(self._before(1))
                else:
                    self._path.unlink()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _before(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
