"""Faults of Podium's own: told to the event loop's exception handler, which logs them, and kept from all else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..protocols.blame import fault_of
from ..protocols.outcomes import Failure

if TYPE_CHECKING:
    from .tasks.state import TaskState


def report(what: str, error: BaseException) -> None:
    """Say that the engine itself did not do as it should. In a simulation that is a violation."""
    context = {"message": f"a fault of Podium's: {what}", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


def shielded(what: str, call: Callable[..., Any], *args: Any) -> None:
    """Make a call on behalf of one task or message: whatever it raises is reported, and stops no other."""
    try:
        call(*args)
    except Exception as error:
        report(what, error)


class Faults:
    """Of one supervisor, since it started."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, what: str, error: BaseException) -> Failure:
        """Report it; returns it as the failure of whatever it hit."""
        self.count += 1
        report(what, error)
        return fault_of(error)

    def of(self, task: TaskState) -> None:
        """Report those that the fold of a task met."""
        for error in task.faults:
            self.note(f"task {task.record.task_id}", error)
        task.faults.clear()
