"""The work that every peer does. Standard library only: each peer runs in an environment of its own.

`Peer` is for W1, W2 and W3. W4 is for peers that go on when their workers have been killed: three steps that sleep and
write into a witness file what they do, either as a `Scene`, or as `Parts` for peers that live in one process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

STEPS = ("first", "second", "third")
NAP_S = 0.2


@dataclass
class Peer:
    many: Callable[[list[dict]], list[dict]]
    """Runs one task of three steps for each input, all at once; gives the results in order."""
    fan: Callable[[int, float], int] | None = None
    """Runs one task of so many parallel steps, each of which sleeps so many seconds and gives its number; the sum."""


@dataclass
class Killed:
    submit: Callable[[int], None]
    """Has so many tasks in flight, with the inputs {"n": 0}, {"n": 1} …, when it returns or soon after."""
    kill: Callable[[], None]
    """Its workers, with SIGKILL."""
    finish: Callable[[int], list[dict]]
    """Starts them again, and waits for all; the results in order, {} where there is none."""


Scene = Callable[[Path], AbstractContextManager[Killed]]
"""Of a folder for what is to survive."""


@dataclass
class Parts:
    """Both halves of W4, each in a process of its own; the first is killed with all that it has started."""

    submit: Callable[[Path, int], None]
    finish: Callable[[Path, int], list[dict]]


def add(input: dict) -> dict:
    """What each of the three steps does."""
    return {"n": input["n"] + 1}


def slow(task: object, step: str, input: dict) -> dict:
    """What each does in W4."""
    note("start", task, step)
    time.sleep(NAP_S)
    note("end", task, step)
    return add(input)


async def slow_async(task: object, step: str, input: dict) -> dict:
    note("start", task, step)
    await asyncio.sleep(NAP_S)
    note("end", task, step)
    return add(input)


def note(what: str, task: object, step: str) -> None:
    handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{what} {task} {step}\n".encode())
    os.close(handle)


def family(first: int) -> list[int]:
    """That process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found = [first]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def kill_family(first: int) -> None:
    for pid in family(first):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def rest() -> None:
    """Until this process is killed."""
    while True:
        signal.pause()
