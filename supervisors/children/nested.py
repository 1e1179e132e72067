"""A nested supervisor, as the supervisor above knows it.

A run of the nested Hierarchy is a task in the shard of the nested supervisor, with the id "<task>/<path>". After a
death of either supervisor the run is submitted again. It is then the same task, so no recorded step runs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ...protocols.errors import Overloaded, PeerLost, PeerUnreachable, PodiumError, SpawnFailed, Unknown, from_wire
from ...protocols.probes import hit
from ...protocols.values import Value
from ..messages.client import Acks, Cancel, ClientEvent, Drop, Letter, Redrive, Submission, Watch
from ..messages.supervisor import (
    AwaitLastWords,
    Busy,
    ForgetTasks,
    Govern,
    HoldBack,
    LastWords,
    RunEnded,
    SettleWait,
    SubmitRun,
)
from ..ports.messaging import Connection, Reply
from ..ports.world import Needs, World
from ..tasks.client_events import WAITS
from .children import Children

ASK_AGAIN_S = 1.0
"""Seconds before asking again, while the run that is to be continued still runs its undo steps."""


@dataclass(slots=True, eq=False)
class NestedRun:
    """One run of the nested Hierarchy, for one task of the supervisor above."""

    run: Submission
    """The run as a task of the nested supervisor."""
    hash: str
    on_event: Callable[[ClientEvent], None]
    """Called with the events of the run that the task above has to record, from offset `heard` on."""
    on_result: Callable[[RunEnded], None]
    on_waits: Callable[[list[Value]], None] = lambda _rows: None
    """Called with all open waits of the run (rows of path and question), again when they change."""
    heard: int = 0
    """Offset of the run's next event that the task above has to record."""
    continues: str | None = None
    """Id of the failed or cancelled run to continue, if the task above continues another task."""
    watcher: Callable[[ClientEvent], None] | None = None
    """Called with the live events of the run, for watchers of the task above."""


class NestedSupervisor:
    """A nested supervisor and its open runs. It is a `Child` of the supervisor above."""

    def __init__(
        self,
        world: World,
        address: str,
        setup: Callable[[], Mapping[str, object]],
        lease_s: float,
        family: Children,
    ) -> None:
        """`setup` returns the setup for starting the actor, with every definition that is known at that time."""
        self.address = address
        self.is_wanted = False
        self._world, self._setup, self._lease_s, self._family = world, setup, lease_s, family
        self.leaves = False
        """Whether its machine will be taken away, so that it ends by itself and starts elsewhere."""
        self._holds_back = self._rests = False
        self._line: Connection | None = None
        self._turn = 0
        self._last_words: str | None = None
        self._nested_runs: dict[str, NestedRun] = {}
        self._expected: set[str] = set()
        """Ids of runs that the nested supervisor keeps waiting until they are submitted again."""
        self._deployed_meanwhile: list[Govern] = []
        """Versions that came after the setup of the start that is under way was made."""

    @property
    def is_up(self) -> bool:
        return self._line is not None

    @property
    def may_run_steps(self) -> bool:
        """Whether it has not said yet that none runs, after `begin_no_more`."""
        return self._line is not None and not self._rests

    def begin_no_more(self) -> None:
        """Have it start no step any more."""
        self._holds_back, self._rests = True, False
        if self._line is not None:
            self._line.send(HoldBack(), self._rested)

    def _rested(self, reply: Reply) -> None:
        self._rests = reply.error is None

    async def deploy(self, definition: Mapping[str, object], code: Mapping[str, bytes], in_force: bool) -> None:
        """Tell a nested supervisor of a new version, now or when it has started."""
        message = Govern(dict(definition), dict(code), in_force)
        if self._line is None:
            self._deployed_meanwhile.append(message)
            return
        with suppress(Unknown):
            await self._line.ask(message)

    def expect(self, id: str) -> None:
        """Have the nested supervisor keep this run, if it has it, until the run is submitted again."""
        self._expected.add(id)

    def submit(self, nested: NestedRun) -> None:
        self._expected.discard(nested.run.id)
        self._nested_runs[nested.run.id] = nested
        if self._line is not None:
            self._send(nested)
        else:
            self._family.start_soon([self])

    def watch(self, id: str, watcher: Callable[[ClientEvent], None]) -> None:
        """Pass the live events of one run to `watcher`."""
        nested = self._nested_runs.get(id)
        if nested is not None and nested.watcher is None:
            nested.watcher = watcher
            self._send_watch(nested)

    def cancel(self, id: str) -> None:
        is_wanted = self._nested_runs.pop(id, None) is not None or id in self._expected
        if is_wanted:
            hit("nested run cancelled")
        self._expected.discard(id)
        if is_wanted and self._line is not None:
            self._line.send(Cancel(id), lambda _reply: None)

    def settle(self, decision: SettleWait) -> None:
        """Tell a run what was decided about one of its waits. If it is not up, it asks when it is."""
        if self._line is not None:
            self._line.send(decision, lambda _reply: None)

    async def forget(self, ids: list[str]) -> set[str]:
        """Have the runs of these tasks deleted; returns the ids of tasks whose runs cannot be deleted now."""
        if self._line is None:
            self._family.start_soon([self])
            return set(ids)
        try:
            return set((await self._line.ask(ForgetTasks(ids), Busy)).ids)
        except Unknown:
            return set(ids)

    async def deliver(self, decision: Redrive | Drop) -> str:
        """Pass on the decision about one dead letter; returns the id of the task. Raises the error of the answer."""
        if self._line is None:
            raise PeerUnreachable(address=self.address, reason="it starts again")
        (ack,) = (await self._line.ask(decision, Acks)).read()
        if ack.error is not None:
            raise from_wire(ack.error)
        return str(ack.id)

    def _send(self, nested: NestedRun) -> None:
        assert self._line is not None
        if nested.continues is not None:
            letter = Letter(nested.continues, nested.run.id)
            self._line.send(Redrive([letter]), partial(self._continued, nested, self._line))
        else:
            self._send_task(nested)

    def _continued(self, nested: NestedRun, line: Connection, reply: Reply) -> None:
        """Handle the answer to the redrive of the run to continue.

        If the old run is still open, ask again later. Else submit the run: it was continued, or it begins anew.
        """
        if reply.error is not None or self._line is not line or self._nested_runs.get(nested.run.id) is not nested:
            return
        (ack,) = reply.read(Acks).read()
        if ack.error is not None and ack.error["fields"].get("still_open"):
            self._world.call_later(ASK_AGAIN_S, partial(self._send_again, nested, line))
            return
        nested.continues = None
        nested.run = nested.run._replace(again=True)
        self._send_task(nested)

    def _send_again(self, nested: NestedRun, line: Connection) -> None:
        if self._line is line and self._nested_runs.get(nested.run.id) is nested:
            self._send(nested)

    def _send_task(self, nested: NestedRun) -> None:
        assert self._line is not None
        message = SubmitRun(nested.hash, nested.heard, nested.run)
        self._line.send(message, partial(self._ended, nested), partial(self._told, nested))
        if nested.watcher is not None:
            self._send_watch(nested)

    def _send_watch(self, nested: NestedRun) -> None:
        watcher = nested.watcher
        if self._line is not None and watcher is not None:
            message = Watch(nested.run.id, 0)
            self._line.send(message, lambda _reply: None, lambda chunk: watcher(ClientEvent(*chunk)))

    def _told(self, nested: NestedRun, chunk: list[Value]) -> None:
        event = ClientEvent(*chunk)
        if event.kind == WAITS:
            if self._nested_runs.get(nested.run.id) is nested:
                nested.on_waits(event.value)
            return
        assert event.offset is not None, "what the task above is to record is on record"
        if event.offset >= nested.heard and self._nested_runs.get(nested.run.id) is nested:
            nested.heard = event.offset + 1
            nested.on_event(event)

    def _ended(self, nested: NestedRun, reply: Reply) -> None:
        if isinstance(reply.error, Unknown) or self._nested_runs.get(nested.run.id) is not nested:
            return
        if isinstance(reply.error, Overloaded):  # this supervisor was too far behind with the events
            nested.run = nested.run._replace(again=True)
            self._send_task(nested)
        elif reply.error is not None:
            self._world.crash(reply.error)
        else:
            del self._nested_runs[nested.run.id]
            nested.on_result(reply.read(RunEnded))

    async def start(self) -> None:
        self._turn += 1
        turn = self._turn
        try:
            expected = sorted(self._expected)
            self._deployed_meanwhile.clear()
            setup = {**self._setup(), "keep": [*self._nested_runs, *expected], "later": expected}
            await self._world.spawn("supervisor", self.address, setup, Needs())
        except SpawnFailed:
            if self._turn == turn:
                raise
            return
        if self._turn == turn:
            self._connect()

    def _connect(self) -> None:
        self.leaves = False
        line = self._line = self._world.line(self.address)
        line.watch(partial(self._lost, line), self._lease_s)
        line.send(AwaitLastWords(), self._heard)
        for message in self._deployed_meanwhile:
            line.send(message, lambda _reply: None)
        if self._holds_back:
            self.begin_no_more()
        for nested in list(self._nested_runs.values()):
            nested.run = nested.run._replace(again=True)
            self._send(nested)

    def _heard(self, reply: Reply) -> None:
        if reply.error is None:
            self._last_words = reply.read(LastWords).reason

    def _lost(self, line: Connection, error: PodiumError) -> None:
        if self._line is not line:
            return  # the actor was ended on purpose
        hit("tier lost")
        self._line = None
        why, self._last_words = self._last_words, None
        error = PeerLost(address=self.address, reason=why) if why else error
        self._family.failed(self, error, counted=not self.leaves)

    async def end(self, error: PodiumError) -> None:
        """End the actor. Its open runs stay known here; the journal of the nested supervisor has their progress."""
        self._turn += 1
        line, self._line = self._line, None
        if line is not None:
            hit("tier stopped with others")
            line.lose(PeerLost(address=self.address, reason=str(error)))
            await self._world.stop(self.address)
        else:
            await self._world.kill(self.address)
