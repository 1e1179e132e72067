"""Counts the attempts of steps from the events alone, for readers of a journal that do not fold it. Pure."""

from __future__ import annotations

from .events import OF_THE_TASK, Emitted, Event, Redriven, StepAsked, StepFailed, TimedOut


class Attempts:
    """Counts the attempts of steps as the fold does."""

    def __init__(self) -> None:
        self._now: dict[str, int] = {}
        self._ended: set[str] = set()

    def of(self, event: Event) -> int | None:
        """Return the attempt that the next event belongs to; None for an event of the whole task.

        Call this for all events of a task, in their order.
        """
        if isinstance(event, Redriven):
            again = self._now if event.of is not None else self._ended
            self._now = {path: count for path, count in self._now.items() if path not in again}
            self._ended = set()
        if isinstance(event, OF_THE_TASK):
            return None
        attempt = event.attempt if isinstance(event, Emitted) else self._now.get(event.path, 1)
        if isinstance(event, StepFailed):
            if event.retry_at is None:
                self._ended.add(event.path)
            else:
                self._now[event.path] = attempt + 1
        elif isinstance(event, StepAsked):
            self._now[event.path] = attempt + 1
        elif isinstance(event, TimedOut):
            self._ended.add(event.path)
        return attempt
