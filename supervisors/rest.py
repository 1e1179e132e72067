"""When a supervisor has nothing to do: the level above may end it then, and starts it again for what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .ports import Ask, World
from .state import TaskState

FIRST_S = 60.0
"""Idle time at which one may end that nothing was asked of since it started: somebody wanted it, or its old tasks were
to be forgotten."""


class Rest:
    def __init__(self, world: World, tasks: Mapping[str, TaskState], after_s: float) -> None:
        """`after_s`: idle seconds; 0 for never. `tasks` are the open ones."""
        self._world, self._tasks, self._after_s = world, tasks, after_s
        self._busy = 0
        self._until = world.monotonic() + min(after_s, FIRST_S)

    def disturb(self) -> None:
        """Something is asked for."""
        self._until = self._world.monotonic() + self._after_s

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.disturb()

    def promise(self, ask: Ask) -> None:
        """rest: answered when this supervisor has been idle for long enough."""
        if self._after_s > 0:
            self._world.background(self._tell(ask), "rest")

    async def _tell(self, ask: Ask) -> None:
        while (left_s := self._left_s()) > 0:
            await self._world.sleep(left_s)
        ask.reply()

    def _left_s(self) -> float:
        if self._tasks or self._busy:
            self.disturb()
        return self._until - self._world.monotonic()
