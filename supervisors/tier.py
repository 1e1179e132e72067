"""The supervisor of a nested Hierarchy, seen from the supervisor above it.

A run of the Hierarchy is a task of the tier's own shard, under the id "<task>/<path>": submitting it again
after either side died finds the same task, so nothing that the tier recorded runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..protocols.errors import Overloaded, PeerLost, PeerUnreachable, PodiumError, SpawnFailed, Unknown, from_wire
from ..protocols.values import Value
from .family import Family
from .ports import Line, Needs, Reply, World

ASK_AGAIN_S = 1.0
"""While a run that is to be continued still takes back what it did."""


@dataclass(slots=True, eq=False)
class Errand:
    """One run of the nested Hierarchy for one task above."""

    task: list[Value]
    """As `Intake` reads it."""
    hash: str
    on_event: Callable[[list[Value]], None]
    """Gets what the task above is to record of the run, as watchers of the run see it, from `heard` on."""
    on_result: Callable[[list[Value]], None]
    """Gets ["ok", output, 0.0, what it lacks] or ["fail", failure, 0.0, False]."""
    heard: int = 0
    """Offset in the record of the run of what is to be told next."""
    continues: str | None = None
    """The run that failed, or was cancelled, of the task that the task above continues."""
    watcher: Callable[[Value], None] | None = None


class Tier:
    """The supervisor of a nested Hierarchy, as its family sees it (`family.Child`), and its errands."""

    def __init__(
        self,
        world: World,
        address: str,
        setup: Callable[[], Mapping[str, Any]],
        lease_s: float,
        family: Family,
    ) -> None:
        """`setup` makes what the tier's supervisor is started with, with every definition known by then."""
        self.address = address
        self.is_wanted = False
        self._world, self._setup, self._lease_s, self._family = world, setup, lease_s, family
        self._line: Line | None = None
        self._turn = 0
        self._last_words: str | None = None
        self._errands: dict[str, Errand] = {}
        self._expected: set[str] = set()
        """Runs that it is to keep, and to go on with when they are submitted again."""

    @property
    def is_up(self) -> bool:
        return self._line is not None

    async def deploy(self, definition: Mapping[str, Any], code: Mapping[str, bytes], in_force: bool) -> None:
        """Tell a tier that runs of a version that came after it started; one that starts again learns it then."""
        if self._line is not None:
            with suppress(Unknown):
                await self._line.ask("deploy", {"definition": definition, "code": dict(code), "in_force": in_force})

    def expect(self, id: str) -> None:
        """The run, if the tier has it, is to wait until it is submitted again."""
        self._expected.add(id)

    def submit(self, errand: Errand) -> None:
        self._expected.discard(str(errand.task[0]))
        self._errands[str(errand.task[0])] = errand
        if self._line is not None:
            self._send(errand)
        else:
            self._family.start_soon([self])

    def watch(self, id: str, watcher: Callable[[Value], None]) -> None:
        """Pass the live events of one errand on."""
        errand = self._errands.get(id)
        if errand is not None and errand.watcher is None:
            errand.watcher = watcher
            self._send_watch(errand)

    def cancel(self, id: str) -> None:
        is_wanted = self._errands.pop(id, None) is not None or id in self._expected
        self._expected.discard(id)
        if is_wanted and self._line is not None:
            self._line.send("cancel", id, lambda _reply: None)

    async def forget(self, ids: list[str]) -> set[str]:
        """Have what the tier recorded of these tasks deleted; returns those that it cannot forget now."""
        if self._line is None:
            self._family.start_soon([self])
            return set(ids)
        try:
            return set(await self._line.ask("forget", ids))
        except Unknown:
            return set(ids)

    async def deliver(self, kind: str, letter: Value) -> str:
        """Have a dead letter of the tier driven again, or dropped. Raises what it says."""
        if self._line is None:
            raise PeerUnreachable(address=self.address, reason="it starts again")
        ((id, error),) = await self._line.ask(kind, [letter])
        if error is not None:
            raise from_wire(error)
        return str(id)

    def _send(self, errand: Errand) -> None:
        assert self._line is not None
        if errand.continues is not None:
            letters = [[errand.continues, errand.task[0]]]
            self._line.send("redrive", letters, partial(self._continued, errand, self._line))
        else:
            self._send_task(errand)

    def _continued(self, errand: Errand, line: Line, reply: Reply) -> None:
        """The run is there by now, or there was nothing to continue, and it begins anew; or the old one is not over."""
        if reply.error is not None or self._line is not line or self._errands.get(str(errand.task[0])) is not errand:
            return
        ((_, error),) = reply.value
        if error is not None and error["fields"].get("still_open"):
            self._world.call_later(ASK_AGAIN_S, partial(self._send_again, errand, line))
            return
        errand.continues, errand.task[5] = None, True
        self._send_task(errand)

    def _send_again(self, errand: Errand, line: Line) -> None:
        if self._line is line and self._errands.get(str(errand.task[0])) is errand:
            self._send(errand)

    def _send_task(self, errand: Errand) -> None:
        assert self._line is not None
        message = {"hash": errand.hash, "attend": errand.heard, "tasks": [errand.task]}
        self._line.send("submit", message, partial(self._ended, errand), partial(self._told, errand))
        if errand.watcher is not None:
            self._send_watch(errand)

    def _send_watch(self, errand: Errand) -> None:
        if self._line is not None and errand.watcher is not None:
            self._line.send("watch", [errand.task[0], 0], lambda _reply: None, errand.watcher)

    def _told(self, errand: Errand, event: list[Value]) -> None:
        if event[5] >= errand.heard and self._errands.get(str(errand.task[0])) is errand:
            errand.heard = event[5] + 1
            errand.on_event(event)

    def _ended(self, errand: Errand, reply: Reply) -> None:
        if isinstance(reply.error, Unknown) or self._errands.get(str(errand.task[0])) is not errand:
            return
        if isinstance(reply.error, Overloaded):  # we were too far behind, and are not any more
            errand.task[5] = True
            self._send_task(errand)
        elif reply.error is not None:
            self._world.crash(reply.error)
        else:
            del self._errands[str(errand.task[0])]
            _, _, status, result, failure, _at, degraded = reply.value
            errand.on_result(["ok", result, 0.0, degraded] if status == "completed" else ["fail", failure, 0.0, False])

    async def start(self) -> None:
        self._turn += 1
        turn = self._turn
        try:
            expected = sorted(self._expected)
            setup = {**self._setup(), "keep": [*self._errands, *expected], "later": expected}
            await self._world.spawn("supervisor", self.address, setup, Needs())
        except SpawnFailed:
            if self._turn == turn:
                raise
            return
        if self._turn == turn:
            self._connect()

    def _connect(self) -> None:
        line = self._line = self._world.line(self.address)
        line.watch(partial(self._lost, line), self._lease_s)
        line.send("last_words", None, self._heard)
        for errand in list(self._errands.values()):
            errand.task[5] = True
            self._send(errand)

    def _heard(self, reply: Reply) -> None:
        if reply.error is None:
            self._last_words = str(reply.value)

    def _lost(self, line: Line, error: PodiumError) -> None:
        if self._line is not line:
            return  # ended on purpose
        self._line = None
        why, self._last_words = self._last_words, None
        self._family.failed(self, PeerLost(address=self.address, reason=why) if why else error)

    async def end(self, error: PodiumError) -> None:
        """The errands stay: the tier's journal knows how far they came."""
        self._turn += 1
        line, self._line = self._line, None
        if line is not None:
            line.lose(PeerLost(address=self.address, reason=str(error)))
            await self._world.stop(self.address)
        else:
            await self._world.kill(self.address)
