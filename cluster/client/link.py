"""A client's link to the supervisor of one shard, which outlives the supervisor's deaths.

After a death the link finds the next supervisor. It submits tasks without an acknowledgement again under the same ids,
follows acknowledged tasks again, and goes on with each watched task where it was. The caller notices only the delay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from ...protocols.errors import EngineClosed, Overloaded, PodiumError, Unknown
from ...protocols.probes import hit
from ...protocols.values import Value
from ...supervisors.messages.client import (
    SUBMIT_SAID,
    Accepted,
    Ack,
    Acks,
    ClientEvent,
    Follow,
    Submission,
    Submit,
    TaskEnded,
    Watch,
)
from ...supervisors.ports.messaging import Connection, Message, Reply
from ..world import LoopWorld
from .holdups import refusal

RECONNECT_S = 0.05
"""Wait after a loss, in seconds, because the coordinator may hear of a death a little later than its clients."""
PATIENCE = 1.2
"""Silence, in leases, after which a client looks for another supervisor. The coordinator is to notice before that."""
BATCH = 1_000
"""Largest number of tasks in one submit message. More tasks go in several messages, all under way at once."""


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks that are sent in one message."""

    hash: str
    tasks: list[Submission]
    follow: bool
    on_ack: Callable[[list[Ack] | PodiumError], None]


@dataclass(slots=True, eq=False)
class Watching:
    task_id: str
    on_event: Callable[[ClientEvent], None]
    on_end: Callable[[PodiumError | None], None]
    offset: int = 0
    """Offset of the next recorded event that is wanted."""
    seen: set[tuple[Value, ...]] = field(default_factory=set)
    """Delivered outputs in nested Hierarchies, as (time, step, attempt). A new supervisor sends them again."""
    number: int | None = None


@dataclass(slots=True, eq=False)
class Asked:
    message: Message
    on_reply: Callable[[Reply], None]


class Shard(Protocol):
    """A shard as its client sees it: finds its supervisor, and passes on the ends of its tasks."""

    async def locate(self) -> Connection:
        """Return a connection to the supervisor that runs now. Raises the error that keeps it from running."""

    async def why_not_up(self) -> str:
        """Return why no supervisor runs; "" if one runs, or the reason is unknown."""

    async def is_stored(self, task_id: str) -> bool:
        """Return whether the task is in the journal, although no acknowledgement has come."""

    def done(self, ended: TaskEnded) -> None: ...

    def lost(self, task_id: str, error: PodiumError) -> None:
        """Fail the waits for a task that cannot be followed."""

    def dead(self, error: PodiumError) -> None:
        """Fail all waits for this shard's tasks, because no answer will come any more."""


class Link:
    def __init__(self, world: LoopWorld, shard: Shard, lease_s: float, refuse_after_s: float) -> None:
        """`refuse_after_s`: seconds without a supervisor after which waiting tasks are refused."""
        self._world, self._shard, self._refuse_after_s = world, shard, refuse_after_s
        self._lease_s = lease_s * PATIENCE
        self._line: Connection | None = None
        self._connecting = False
        self._outages = 0
        self._batches: dict[Batch, None] = {}
        self._followed: dict[str, None] = {}
        self._watched: dict[Watching, None] = {}
        self._asked: dict[Asked, None] = {}

    def submit(self, batch: Batch) -> None:
        self._batches[batch] = None
        self._when_up(lambda: self._send_batch(batch))

    def follow(self, id: str) -> None:
        if id not in self._followed:
            self._followed[id] = None
            self._when_up(lambda: self._send_follow([id]))

    def watch(self, watching: Watching) -> None:
        self._watched[watching] = None
        self._when_up(lambda: self._send_watch(watching))

    def unwatch(self, watching: Watching) -> None:
        if self._watched.pop(watching, 0) is None and self._line is not None and watching.number is not None:
            self._line.cancel(watching.number)

    def ask(self, message: Message, on_reply: Callable[[Reply], None]) -> None:
        """Send a message that may safely be sent twice. It is sent again when the supervisor is lost."""
        asked = Asked(message, on_reply)
        self._asked[asked] = None
        self._when_up(lambda: self._send_asked(asked))

    def lose(self, error: PodiumError) -> None:
        """Treat the supervisor as lost, although its connection may never report that."""
        if self._line is not None:
            self._line.lose(error)

    def close(self, error: PodiumError) -> None:
        """Close the connection and fail everything that waits, with this error."""
        if self._line is not None:
            self._line.close()
        self._give_up(error)

    def _when_up(self, send: Callable[[], None]) -> None:
        if self._line is not None:
            send()
        elif not self._connecting:
            self._begin(self._connect(), "connect")

    def _begin(self, connecting: Awaitable[None], name: str) -> None:
        self._connecting = True
        self._outages += 1
        self._world.background(connecting, name)
        self._look_later(self._outages)

    def _look_later(self, outage: int) -> None:
        self._world.call_later(self._refuse_after_s, lambda: self._overdue(outage))

    def _is_out(self, outage: int) -> bool:
        """Return whether this outage lasts."""
        return self._connecting and self._outages == outage

    def _overdue(self, outage: int) -> None:
        if self._is_out(outage):
            if self._batches:
                self._world.background(self._refuse(), "refuse")
            self._look_later(outage)

    async def _refuse(self) -> None:
        """Refuse waiting tasks if a reason is known. Stored tasks, whose acknowledgement was lost, are accepted."""
        outage = self._outages
        why = await self._shard.why_not_up()
        if not why or not self._is_out(outage):
            return
        error = refusal(why).to_wire()
        for batch in list(self._batches):
            try:
                acks = [await self._known(task) or Ack(None, error) for task in batch.tasks]
            except EngineClosed:
                return  # closing the client has failed all that waited
            if not self._is_out(outage):
                return  # a supervisor has come meanwhile, and was sent all that still waits
            self._acknowledged(batch, acks)

    async def _known(self, task: Submission) -> Ack | None:
        """Return the acknowledgement of a task that was sent before and is durable, else None."""
        return Ack(task.id, None) if task.again and await self._shard.is_stored(task.id) else None

    async def _connect(self) -> None:
        try:
            line = await self._shard.locate()
        except PodiumError as error:
            self._connecting = False
            self._give_up(error)
            return
        self._line, self._connecting = line, False
        line.watch(self._lost, self._lease_s)
        for batch in list(self._batches):
            self._send_batch(batch)
        if self._followed:
            self._send_follow(list(self._followed))
        for watching in list(self._watched):
            self._send_watch(watching)
        for asked in list(self._asked):
            self._send_asked(asked)

    def _lost(self, _error: PodiumError) -> None:
        self._line = None
        self._probe()
        for batch in self._batches:
            batch.tasks = [task._replace(again=True) for task in batch.tasks]
        if self._batches or self._followed or self._watched or self._asked:
            self._begin(self._reconnect(), "reconnect")

    def _probe(self) -> None:
        if self._batches:
            hit("client lost it before the acknowledgement")
        if self._followed:
            hit("client lost it while following")
        if self._watched:
            hit("client lost it while watching")

    async def _reconnect(self) -> None:
        await self._world.sleep(RECONNECT_S)
        await self._connect()

    def _give_up(self, error: PodiumError) -> None:
        batches, self._batches = self._batches, {}
        for batch in batches:
            batch.on_ack(error)
        watched, self._watched = self._watched, {}
        for watching in watched:
            watching.on_end(error)
        asked, self._asked = self._asked, {}
        for each in asked:
            each.on_reply(Reply(error=error))
        self._followed.clear()
        self._shard.dead(error)

    def _send_batch(self, batch: Batch) -> None:
        assert self._line is not None
        self._line.send(
            Submit(batch.hash, batch.follow, batch.tasks),
            lambda reply: self._submitted(batch, reply),
            lambda chunk: self._chunk(batch, chunk),
        )

    def _submitted(self, batch: Batch, reply: Reply) -> None:
        if isinstance(reply.error, Unknown):
            return
        if reply.error is not None:
            self._batches.pop(batch, None)
            batch.on_ack(reply.error)
        elif not batch.follow:
            self._acknowledged(batch, reply.read(Acks).read())

    def _chunk(self, batch: Batch | None, chunk: list[Value]) -> None:
        said = SUBMIT_SAID.read_chunk(chunk)
        match said:
            case Accepted():
                if batch is not None:
                    self._acknowledged(batch, said.read())
            case TaskEnded():
                self._followed.pop(said.id, None)
                self._shard.done(said)
            case _:
                assert_never(said)

    def _acknowledged(self, batch: Batch, acks: list[Ack]) -> None:
        if self._batches.pop(batch, 0) is None:
            if batch.follow:
                self._followed.update((ack.id, None) for ack in acks if ack.id is not None)
            batch.on_ack(acks)

    def _send_follow(self, ids: list[str]) -> None:
        assert self._line is not None
        self._line.send(
            Follow(ids), lambda reply: self._not_followed(ids, reply), lambda chunk: self._chunk(None, chunk)
        )

    def _not_followed(self, ids: list[str], reply: Reply) -> None:
        if reply.error is not None and not isinstance(reply.error, Unknown):
            for id in ids:
                if self._followed.pop(id, 0) is None:
                    self._shard.lost(id, reply.error)

    def _send_watch(self, watching: Watching) -> None:
        assert self._line is not None
        watching.number = self._line.send(
            Watch(watching.task_id, watching.offset),
            lambda reply: self._watch_ended(watching, reply),
            lambda chunk: _on_event(watching, ClientEvent(*chunk)),
        )

    def _watch_ended(self, watching: Watching, reply: Reply) -> None:
        if isinstance(reply.error, Overloaded) and watching in self._watched:
            self._when_up(lambda: self._send_watch(watching))  # it was too far behind, and is not any more
        elif not isinstance(reply.error, Unknown) and self._watched.pop(watching, 0) is None:
            watching.on_end(reply.error)

    def _send_asked(self, asked: Asked) -> None:
        assert self._line is not None
        self._line.send(asked.message, lambda reply: self._answered(asked, reply))

    def _answered(self, asked: Asked, reply: Reply) -> None:
        if not isinstance(reply.error, Unknown) and self._asked.pop(asked, 0) is None:
            asked.on_reply(reply)


def _on_event(watching: Watching, event: ClientEvent) -> None:
    if event.offset is not None:
        if event.offset < watching.offset:
            return
        watching.offset = event.offset + 1
    elif event.kind == "finished":
        run = (event.at, event.step, event.attempt)
        if run in watching.seen:
            return
        watching.seen.add(run)
    watching.on_event(event)
