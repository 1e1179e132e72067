"""Internal faults are bugs of Podium itself. They go to the exception handler of the event loop, which logs them.

A fault fails the task or message that it hit, and must not stop any other work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..protocols.blame import fault_of
from ..protocols.outcomes import Failure

if TYPE_CHECKING:
    from .tasks.state import TaskState


def report(what: str, error: BaseException) -> None:
    """Report an internal fault to the exception handler of the running event loop. A simulation counts a violation."""
    context = {"message": f"a fault of Podium's: {what}", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)


def shielded(what: str, call: Callable[..., object], *args: object) -> None:
    """Call `call` on behalf of one task or message. An exception is reported as an internal fault and not raised."""
    try:
        call(*args)
    except Exception as error:
        report(what, error)


class Faults:
    """Counts and reports the internal faults of one supervisor since it started."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, what: str, error: BaseException) -> Failure:
        """Count and report an internal fault; returns the failure for the step or task that it hit."""
        self.count += 1
        report(what, error)
        return fault_of(error)

    def of(self, task: TaskState) -> None:
        """Report the internal faults that occurred in the fold of a task, and clear them."""
        for error in task.faults:
            self.note(f"task {task.record.task_id}", error)
        task.faults.clear()
