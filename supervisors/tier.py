"""The supervisor of a nested Hierarchy, seen from the supervisor above it.

A run of the Hierarchy is a task of the tier's own shard, under the id "<task>/<path>": submitting it again
after either side died finds the same task, so nothing that the tier recorded runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..protocols.errors import PodiumError, SpawnFailed, Unknown
from ..protocols.values import Value
from .ports import Line, Needs, Reply, World
from .restarts import RestartPolicy, RestartWindow


@dataclass(slots=True, eq=False)
class Errand:
    """One run of the nested Hierarchy for one task above."""

    task: list[Value]
    """As in a `submit` message: [id, input, user, priority, key, again]."""
    hash: str
    on_result: Callable[[list[Value]], None]
    """Gets ["ok", output, 0.0] or ["fail", failure, 0.0, False]."""
    watcher: Callable[[Value], None] | None = None


class Tier:
    def __init__(
        self,
        world: World,
        address: str,
        setup: Callable[[], Mapping[str, Any]],
        restarts: RestartPolicy,
        on_give_up: Callable[[PodiumError], None],
    ) -> None:
        """`setup` makes what the tier's supervisor is started with, with every definition known by then."""
        self.address = address
        self._world, self._setup, self._on_give_up = world, setup, on_give_up
        self._window = RestartWindow(restarts)
        self._line: Line | None = None
        self._starting = False
        self._errands: dict[str, Errand] = {}

    @property
    def is_up(self) -> bool:
        return self._line is not None

    async def ensure_started(self) -> None:
        """Start the tier's supervisor if it does not run. Raises SpawnFailed."""
        if self._line is None and not self._starting:
            self._starting = True
            await self._spawn()

    async def deploy(self, definition: Mapping[str, Any], code: Mapping[str, bytes]) -> None:
        await self.ensure_started()
        if self._line is not None:
            await self._line.ask("deploy", {"definition": definition, "code": dict(code)})

    def submit(self, errand: Errand) -> None:
        self._errands[str(errand.task[0])] = errand
        if self._line is not None:
            self._send(errand)
        elif not self._starting:
            self._starting = True
            self._world.background(self._start(), f"start {self.address}")

    def watch(self, id: str, watcher: Callable[[Value], None]) -> None:
        """Pass the live events of one errand on."""
        errand = self._errands.get(id)
        if errand is not None:
            errand.watcher = watcher
            self._send_watch(errand)

    def cancel(self, id: str) -> None:
        errand = self._errands.pop(id, None)
        if errand is not None and self._line is not None:
            self._line.send("cancel", id, lambda _reply: None)

    def _send(self, errand: Errand) -> None:
        assert self._line is not None
        message = {"hash": errand.hash, "follow": True, "tasks": [errand.task]}
        self._line.send("submit", message, self._refused, self._on_chunk)
        if errand.watcher is not None:
            self._send_watch(errand)

    def _send_watch(self, errand: Errand) -> None:
        if self._line is not None and errand.watcher is not None:
            self._line.send("watch", errand.task[0], lambda _reply: None, errand.watcher)

    def _on_chunk(self, chunk: list[Value]) -> None:
        if chunk[0] != "done":
            return
        _, id, status, result, failure, _at = chunk
        errand = self._errands.pop(id, None)
        if errand is not None:
            ended = ["ok", result, 0.0] if status == "completed" else ["fail", failure, 0.0, False]
            errand.on_result(ended)

    def _refused(self, reply: Reply) -> None:
        if reply.error is not None and not isinstance(reply.error, Unknown):
            self._on_give_up(reply.error)

    async def _start(self) -> None:
        try:
            await self._spawn()
        except SpawnFailed as error:
            self._fail(error)

    async def _spawn(self) -> None:
        await self._world.spawn("supervisor", self.address, self._setup(), Needs())
        self._starting = False
        self._line = self._world.line(self.address)
        self._line.watch(self._lost)
        for errand in list(self._errands.values()):
            errand.task[5] = True
            self._send(errand)

    def _lost(self, error: PodiumError) -> None:
        self._line = None
        self._starting = True
        self._fail(error)

    def _fail(self, error: PodiumError) -> None:
        delay_s = self._window.delay_after_failure(self._world.monotonic(), self._world.random)
        if delay_s is None:
            self._on_give_up(error)
        else:
            self._world.background(self._restart(delay_s), f"restart {self.address}")

    async def _restart(self, delay_s: float) -> None:
        await self._world.kill(self.address)
        await self._world.sleep(delay_s)
        await self._start()

    async def close(self) -> None:
        if self._line is not None:
            self._line.close()
            await self._world.stop(self.address)
