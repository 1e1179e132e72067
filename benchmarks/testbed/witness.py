"""An independent account of what ran: one line per start and end of a protocol, in a file that only grows.

Each line is one `write` to a file opened with O_APPEND, so lines of different processes never mix, and what a killed
process wrote stays. It is written before the first and after the last thing that a protocol does: a start that was
never witnessed did not happen, an end that was witnessed did.

Permits are witnessed without clocks: whoever uses one holds the kernel's lock on a file of its own, which goes with
the process, and then counts the locks that are held. More than the limit were then in use at one moment; and of any
that are in use together, the last to come counts them all.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from podium import Context

FOLDER = "PODIUMS_WITNESS"
"""Environment variable that tells every process of the bed where the account is kept."""
_LINES, _PERMITS = "witness.txt", "permits"
_SURE_S = 0.02
"""A process that dies lets go of its locks one after the other: too many count if they are there still after this."""


@dataclass(frozen=True, slots=True)
class Line:
    """What happened: start, end, or take (of permits, with the number then in use)."""

    what: str
    task_id: str
    step: str
    attempt: int
    pid: int
    at: float
    """UTC seconds since 1970."""
    in_use: int

    @property
    def run(self) -> tuple[str, str, int]:
        """Task, step and attempt: what is to run once, unless its outcome was lost."""
        return self.task_id, self.step, self.attempt


def note(ctx: Context, what: str, in_use: int = 0) -> None:
    fields = (what, ctx.task_id, ctx.step, ctx.attempt, os.getpid(), time.time(), in_use)
    append(_folder() / _LINES, " ".join(map(str, fields)))


def append(path: Path, line: str) -> None:
    """Add one line, whole or not at all."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


@contextmanager
def permit(ctx: Context, quota: str) -> Iterator[None]:
    """The use of one permit, from here to the end of the block or of the process."""
    folder = _folder() / _PERMITS / quota
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{token_hex(4)}"
    lock = _locked(path)
    try:
        note(ctx, "take", _surely_in_use(folder, limit_of(quota)))
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def limit_of(quota: str) -> int:
    return int((_folder() / f"limit.{quota}").read_text())


def begin(folder: Path, limits: dict[str, int]) -> dict[str, str]:
    """Make `folder` ready for an account; returns the environment that leads to it."""
    (folder / _LINES).touch()
    for quota, limit in limits.items():
        (folder / f"limit.{quota}").write_text(str(limit))
    return {FOLDER: str(folder)}


def read(folder: Path, offset: int = 0) -> list[Line]:
    """The account from byte `offset` on."""
    with (folder / _LINES).open("rb") as file:
        file.seek(offset)
        return [_line(text) for text in file.read().decode().splitlines()]


def size(folder: Path) -> int:
    """Bytes of the account so far."""
    return (folder / _LINES).stat().st_size


def _line(text: str) -> Line:
    what, task_id, step, attempt, pid, at, in_use = text.split(" ")
    return Line(what, task_id, step, int(attempt), int(pid), float(at), int(in_use))


def _folder() -> Path:
    return Path(os.environ[FOLDER])


def _locked(path: Path) -> int:
    """A new file, locked before anybody can find it."""
    draft = path.with_name(f".{path.name}")
    lock = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    draft.rename(path)
    return lock


def _surely_in_use(folder: Path, limit: int) -> int:
    count = _in_use(folder)
    if count <= limit:
        return count
    time.sleep(_SURE_S)
    return _in_use(folder)


def _in_use(folder: Path) -> int:
    return sum(_is_held(path) for path in folder.iterdir() if not path.name.startswith("."))


def _is_held(path: Path) -> bool:
    try:
        probe = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(probe)
