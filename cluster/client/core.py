"""The part of a client that lives on an event loop: its session, a link per shard, and the futures of its callers."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Literal, TypeAlias, TypeVar, overload
from zlib import crc32

from ...actors.large_values import LargeValues, Outgoing
from ...protocols.errors import (
    EngineClosed,
    InvalidInput,
    InvalidSetting,
    NotFound,
    PeerLost,
    PodiumError,
    Unknown,
    from_wire,
)
from ...protocols.limits import Amount
from ...protocols.outcomes import TaskRecord, TaskStatus
from ...protocols.protocol import ProtocolLike
from ...protocols.requests.request import Request
from ...protocols.values import Value, check_text
from ...protocols.workflow import Workflow
from ...supervisors.figures.status import BreakerStatus, ClusterStatus, LimitUse, breaker_states, limit_uses
from ...supervisors.messages.client import (
    Ack,
    Acks,
    Answer,
    AskStatus,
    BreakerStates,
    Cancel,
    CancelledAs,
    ClientEvent,
    ClusterFigures,
    Deploy,
    Deployed,
    Drop,
    Letter,
    Located,
    Receipt,
    Redrive,
    SetBreaker,
    SetLimits,
    Submission,
    TaskEnded,
    Undeploy,
    Uses,
    Where,
)
from ...supervisors.ports.messaging import Connection, Message, Reply
from ...supervisors.shards import shards_of, spread, top_shard, workflow_of
from ...supervisors.tasks.plan import carried_key
from ..cluster_file import using
from ..config import Settings
from ..gc_tuning import look_as_usual, look_rarely
from ..packages import Packages
from ..session import COORDINATOR, Session
from ..store.contract import Reader, StoredTask
from .acknowledgements import Accepted, Waiting, acknowledged, fail, settle
from .connecting import new_session
from .definition import definition_of, protocols_of
from .holdups import answered, not_up
from .link import BATCH, PATIENCE, Batch, Link, Watching
from .submissions import Prepared, Submissions, may_be_refused
from .task_ids import new_task_id
from .waits import AnswerReceipt

_RECONNECT_S = 0.2
STOWED_AT_ONCE = 32
"""Number of tasks whose inputs are stored before they are submitted together."""
T = TypeVar("T")
VersionKey: TypeAlias = tuple[str, tuple[ProtocolLike, ...]]


class Core:
    """The core of both clients. Call its methods on its event loop, unless they say otherwise."""

    def __init__(self, settings: Settings, session: Session | None = None) -> None:
        self.settings = settings
        self._session = session or new_session(settings)
        self._loop: asyncio.AbstractEventLoop
        self._pid = os.getpid()
        self.submissions = Submissions(settings, lambda: new_task_id(self._session.world))
        self._coordinator: Connection | None = None
        self._links: dict[str, Link] = {}
        self._deployed: dict[VersionKey, str] = {}
        """Hashes of deployed versions."""
        self._ask_workflow: Workflow | None = None
        self._carried: dict[str, dict[str, Deploy]] = defaultdict(dict)
        """Deployments with code, by workflow and hash: pickles, which only this client has, and packages."""
        self._told: dict[str, int] = {}
        """By workflow: the epoch of the coordinator that has all of its pickled deployments."""
        self._telling: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waiting: dict[str, Waiting] = defaultdict(lambda: defaultdict(list))
        """By shard: futures of the ends of its tasks."""
        self._collects_rarely = False
        self._large: LargeValues
        self._opened = False
        self._closed: PodiumError | None = None
        self._gone: PodiumError | None = None
        """The error for callers when the joined cluster has been shut down; else None."""

    def __str__(self) -> str:
        """Return the place of the tasks, the kind of cluster and the state: `.podium, ray, joined`."""
        state = "not open"
        if self._opened:
            state = "closed" if self.closed is not None else "joined" if self.joined else "started here"
        return f"{self.settings.store.place}, {self.settings.cluster}, {state}"

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._session.on_rebuilt, self._session.on_closed = self._rebuilt, self._shut
        with using(self.settings.data):
            await self._session.open()
        self._large = LargeValues(self._session.world, self.settings.blobs_timeout_s, self.settings.max_blob_bytes)
        self._collects_rarely = look_rarely()
        self._opened = True

    async def aside(self, read: Callable[[], T]) -> T:
        """Run `read`, which reads files, in a thread: the loop may be the caller's. Raises EngineClosed."""
        if self._closed is not None:
            raise self._closed
        if not self._opened:
            raise EngineClosed(reason="it is not open yet: `async with` opens it")
        found: T = await self._session.world.in_thread(read)
        return found

    def _rebuilt(self) -> None:
        """Drop all connections: another cluster replaced one that broke. The links ask again for all that is open."""
        lost = PeerLost(address=COORDINATOR, reason="its cluster is gone")
        if self._coordinator is not None:
            self._coordinator.lose(lost)
        for link in self._links.values():
            link.lose(lost)

    def _shut(self, error: PodiumError) -> None:
        """Note that the joined cluster has been shut down, and fail everything that waits for it."""
        self._gone = error
        self._hang_up(error)

    def _hang_up(self, error: PodiumError) -> None:
        for link in list(self._links.values()):
            link.close(error)

    @property
    def joined(self) -> bool:
        """Whether the cluster ran before this client, and so stays when the client closes."""
        return self._session.joined

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def check(self) -> None:
        """Raise the error of a closed client, or EngineClosed in a forked child. From any thread."""
        if os.getpid() != self._pid:
            reason = f"it belongs to process {self._pid}, of which this is a fork: connect anew after forking"
            raise EngineClosed(reason=reason)
        if self.closed is not None:
            raise self.closed

    @property
    def is_forked(self) -> bool:
        return os.getpid() != self._pid

    def soon(self, callback: Callable[..., None], *args: object) -> None:
        """Call `callback` on the loop, from any thread. Raises the errors of `check`."""
        self.check()
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError as error:  # the loop was closed in this moment
            raise EngineClosed() from error

    async def close(self) -> None:
        if self._closed is not None:
            return
        self._closed = EngineClosed()
        self._hang_up(self._closed)
        if self._coordinator is not None:
            self._coordinator.lose(self._closed)
        if self._collects_rarely:
            look_as_usual()
        await self._session.close()

    @property
    def closed(self) -> PodiumError | None:
        """The error because of which this client cannot go on; None if it can."""
        return self._closed or self._gone

    @overload
    async def ask_coordinator(self, message: Message) -> None: ...
    @overload
    async def ask_coordinator(self, message: Message, form: Callable[..., T]) -> T: ...
    async def ask_coordinator(self, message: Message, form: Callable[..., object] = tuple) -> object:
        """Ask the coordinator; asks again while it is away. Raises EngineClosed after `reconnect_s` without it."""
        patience_s = self.settings.reconnect_s
        away_since = self._loop.time()
        while True:
            if self.closed is not None:
                raise self.closed
            line, asked_at = self._coordinator_line(), self._loop.time()
            try:
                return await line.ask(message, form)
            except Unknown as error:
                if self._coordinator is line:
                    self._coordinator = None
                now, away_since = self._loop.time(), max(away_since, line.heard_at)
                if now - asked_at > 1.5 * PATIENCE * self.settings.lease_s:
                    away_since = now  # it was there, and took its time
                elif now - away_since > patience_s:
                    reason = f"the coordinator has been away for {patience_s:g} s: {error}"
                    raise EngineClosed(reason=reason) from error
                await asyncio.sleep(_RECONNECT_S)

    async def status(self) -> ClusterStatus:
        return ClusterStatus.from_wire((await self.ask_coordinator(AskStatus(), ClusterFigures))._asdict())

    async def set_limits(self, limits: Mapping[str, Amount]) -> dict[str, LimitUse]:
        return limit_uses((await self.ask_coordinator(SetLimits(limits), Uses)).limits)

    async def set_breaker(self, name: str, action: Literal["open", "reset"]) -> dict[str, BreakerStatus]:
        return breaker_states((await self.ask_coordinator(SetBreaker(name, action), BreakerStates)).breakers)

    def _coordinator_line(self) -> Connection:
        if self._coordinator is None:
            self._coordinator = self._session.line(COORDINATOR)
            self._coordinator.watch(lambda _error: None, self.settings.lease_s * PATIENCE)
        return self._coordinator

    async def deploy(self, workflow: Workflow) -> str:
        """Start the workflow's actors, and return the hash of the version.

        A version that this client deployed before is not sent again, unless one of its protocols was redefined since.
        Sources are read in a thread.
        """
        key = _version_key(workflow)
        if key not in self._deployed:
            packages = Packages(self.settings.working_dir, self.settings.data)
            definition, code = await self.aside(
                lambda: (definition_of(workflow, packages), self._session.code_of(workflow))
            )
            carried = {carried_key(ref, definition["code"][ref]): packed for ref, packed in code.items()}
            carried |= packages.packed
            message = Deploy(definition, carried)
            deployed = await answered(self, workflow.name, message)
            self._check_blobs(deployed.blobs)
            self._deployed[key] = definition["hash"]
            if carried:
                self._carried[workflow.name][definition["hash"]] = message
                self._told.setdefault(workflow.name, deployed.epoch)
        return self._deployed[key]

    def _check_blobs(self, theirs: str) -> None:
        """Refuse to go on with another blob store than the cluster has: neither would find what the other puts."""
        ours = self._session.world.blobs_setting
        if ours != theirs:
            source, beside = self.settings.sources.get("blobs", "default"), "beside the journal"
            problem = f"the cluster has its blobs {theirs or beside}, this client {ours or beside}: take the cluster's"
            raise InvalidSetting(name="blobs", source=source, problem=problem)

    async def undeploy(self, workflow: str, leave_open: bool) -> None:
        await self.ask_coordinator(Undeploy(workflow, leave_open))
        self._deployed.clear()  # what is submitted next is deployed again

    def asked(
        self, request: str | Request | Mapping[str, object], fields: Mapping[str, object]
    ) -> tuple[Workflow, Value]:
        """Return the workflow for requests, and its input for this request. On any thread. Raises InvalidInput."""
        from .ask_input import input_of, request_of  # noqa: PLC0415  (60 ms, and not all ask)

        return self.ask_workflow(), input_of(request_of(request, self.settings, fields))

    def ask_workflow(self) -> Workflow:
        """Return the workflow that answers requests. Its settings are read once."""
        from .ask_input import workflow_of  # noqa: PLC0415  (see above)

        if self._ask_workflow is None:
            self._ask_workflow = workflow_of(self.settings)
        return self._ask_workflow

    def deployed(self, workflow: Workflow) -> str | None:
        """Return the hash of the version if this client has deployed it, else None."""
        return self._deployed.get(_version_key(workflow))

    def link(self, shard: str) -> Link:
        link = self._links.get(shard)
        if link is None:
            settings, known = self.settings, _Shard(self, shard)
            link = self._links[shard] = Link(self._session.world, known, settings.lease_s, settings.reconnect_s)
        return link

    async def locate(self, shard: str) -> Connection:
        """Return a connection to the supervisor of a shard. The coordinator starts the supervisor if need be."""
        workflow = workflow_of(shard)
        while True:
            where = await self.ask_coordinator(Where(shard, self._told.get(workflow)), Located)
            if where.address is not None:
                return self._session.line(where.address)
            await self._tell(workflow, where.epoch)

    async def _tell(self, workflow: str, epoch: int) -> None:
        """Give a new coordinator the pickled deployments of its predecessor, once for all shards of the workflow."""
        async with self._telling[workflow]:
            if self._told[workflow] != epoch:
                again = [message._replace(again=True) for message in self._carried[workflow].values()]
                answers = [await self.ask_coordinator(message, Deployed) for message in again]
                self._told[workflow] = min(answer.epoch for answer in answers)

    async def submit_stowed(
        self, workflow: Workflow, hash: str, made: Sequence[Prepared]
    ) -> tuple[list[Future[list[str]]], list[Future[TaskEnded]]]:
        """Put the large parts of inputs into the blob store, and submit the tasks, some at a time; on the loop.

        So the first tasks run while the parts of the last are stored. Inputs that the store may refuse go before
        anything is submitted. Raises the errors of `stowed`; returns what `submit` does, the ids in several futures.
        """
        early = [each for each in made if may_be_refused(each)]
        stowed = dict(zip(map(id, early), await self.stowed(early), strict=True))
        accepted, ends = [], []
        for at in range(0, len(made), STOWED_AT_ONCE):
            batch = made[at : at + STOWED_AT_ONCE]
            late = [each for each in batch if id(each) not in stowed]
            stowed |= dict(zip(map(id, late), await self.stowed(late), strict=True))
            tasks = [stowed[id(each)] for each in batch]
            their_ids, their_ends = self.submit(workflow.name, workflow.shards, hash, tasks)
            accepted.append(their_ids)
            ends += their_ends
        return accepted, ends

    async def stowed(self, made: Sequence[Prepared]) -> list[Submission]:
        """Put the large parts of inputs into the blob store; returns the tasks with their keys.

        Raises InvalidInput for a file that cannot be read, or BlobsAway.
        """
        self.check()
        values = await self._large.stow_all([Outgoing(each.task.input, each.large) for each in made])
        return [each.task._replace(input=value) for each, value in zip(made, values, strict=True)]

    def give_source(self, value: Value) -> bool:
        """Let the parts of a value that are in the blob store be read; returns whether there are any."""
        return self._large.give_source(value)

    def submit(
        self, workflow: str, shards: int, hash: str, tasks: list[Submission]
    ) -> tuple[Future[list[str]], list[Future[TaskEnded]]]:
        """Send tasks that `Submissions` made; from any thread.

        Returns:
            A future of the ids, which is set once all tasks are durable, or failed with the first error; and for each
            task a future of its end. With a key, the id may be that of an older task.
        """
        accepted = Accepted(len(tasks))
        ends: list[Future[TaskEnded]] = [Future() for _ in tasks]
        self.soon(self._submit, shards_of(workflow, shards), hash, tasks, accepted, ends)
        return accepted.ids, ends

    def _submit(
        self,
        shards: list[str],
        hash: str,
        tasks: list[Submission],
        accepted: Accepted,
        ends: list[Future[TaskEnded]],
    ) -> None:
        if self.closed is not None:
            accepted.fail(self.closed)
            return
        for shard, places in zip(shards, _spread(tasks, len(shards)), strict=True):
            waiting = self._waiting[shard]
            for start in range(0, len(places), BATCH):
                part = places[start : start + BATCH]
                theirs = [tasks[place] for place in part]
                for task, place in zip(theirs, part, strict=True):
                    waiting[task.id].append(ends[place])
                on_ack = partial(acknowledged, waiting, theirs, accepted, part, ends)
                self.link(shard).submit(Batch(hash, theirs, True, on_ack))

    def waiting_for(self, shard: str, task_id: str) -> Sequence[Future[TaskEnded]]:
        """Remove and return the futures of the end of a task. The caller settles them."""
        return self._waiting[shard].pop(task_id, ())

    def dead(self, shard: str, error: PodiumError) -> None:
        """Fail the futures of a shard's tasks, because the shard cannot be reached any more."""
        self._links.pop(shard, None)
        self._deployed.clear()
        for futures in self._waiting.pop(shard, {}).values():
            for future in futures:
                fail(future, error)

    def follow(self, task_id: str) -> Future[TaskEnded]:
        """Return a future of the end of a task that any client submitted; from any thread. Raises NotFound."""
        end: Future[TaskEnded] = Future()
        shard = self.shard_of(task_id)

        def start() -> None:
            self._waiting[shard][task_id].append(end)
            self.link(shard).follow(task_id)

        self.soon(start)
        return end

    def watch(
        self,
        shard: str,
        task_id: str,
        on_event: Callable[[ClientEvent], None],
        on_end: Callable[[PodiumError | None], None],
        offset: int = 0,
    ) -> Callable[[], None]:
        """Watch a task's events from an offset on, the past first; from any thread. Returns a function to stop."""
        watching = Watching(task_id, on_event, on_end, offset)
        link = partial(self.link, shard)
        self.soon(lambda: link().watch(watching))
        return lambda: _quietly(self._loop, lambda: link().unwatch(watching))

    def cancel(self, task_id: str) -> Future[TaskStatus]:
        """Cancel a task; returns a future of its status then. From any thread. Raises NotFound."""
        status: Future[TaskStatus] = Future()
        shard = self.shard_of(task_id)

        def answered(reply: Reply) -> None:
            if reply.error is not None:
                fail(status, reply.error)
            else:
                settle(status, reply.read(CancelledAs).status)

        self.soon(self._ask_link, shard, Cancel(task_id), answered)
        return status

    async def answer(
        self,
        task_id: str,
        name: str,
        value: Value,
        by: str | None,
        id: str | None,
        digest: str | None,
        groups: Sequence[str],
    ) -> AnswerReceipt:
        """Answer a task; returns when the answer is durable. On the loop. Raises AnswerRefused and others."""
        for text, what in ((name, "name"), (by, "by"), (id, "id"), (digest, "digest")):
            if text is not None:
                check_text(text, what)
        if by == "":
            raise InvalidInput(problem="an empty text is nobody; leave it out for yourself", path="by")
        plain = await self._large.stow(self.submissions.answer(value))
        shard = await self.aside(lambda: self.shard_of(task_id))
        whose, via = self.settings.user if by is None else by, self.settings.source
        message = Answer(task_id, name, plain, id or new_task_id(self._session.world), whose, via, list(groups), digest)
        done: Future[AnswerReceipt] = Future()

        def answered(reply: Reply) -> None:
            if reply.error is not None:
                fail(done, reply.error)
            else:
                settle(done, AnswerReceipt(task_id, name, *reply.read(Receipt)))

        self._ask_link(shard, message, answered)
        return await asyncio.wrap_future(done)

    def redrive(self, ids: list[str]) -> list[Future[str]]:
        """Redrive dead letters; returns for each a future of the id of the task that runs now. From any thread."""
        return self._send_letters(Redrive, ids)

    def drop(self, ids: list[str]) -> list[Future[str]]:
        """Give up dead letters; returns a future for each. From any thread."""
        return self._send_letters(Drop, ids)

    def _send_letters(self, decision: Callable[[list[Letter]], Message], ids: list[str]) -> list[Future[str]]:
        futures: dict[str, Future[str]] = {id: Future() for id in ids}
        by_shard: dict[str, list[str]] = defaultdict(list)
        for id, future in futures.items():
            try:
                by_shard[self.shard_of(id)].append(id)
            except NotFound as error:
                fail(future, error)
        for shard, theirs in by_shard.items():
            answered = partial(_delivered, [futures[id] for id in theirs])
            letters = [Letter(id, new_task_id(self._session.world)) for id in theirs]
            self.soon(self._ask_link, shard, decision(letters), answered)
        return [futures[id] for id in ids]

    def _ask_link(self, shard: str, message: Message, answered: Callable[[Reply], None]) -> None:
        self.link(shard).ask(message, answered)

    def record(self, task_id: str) -> TaskRecord:
        """Return the stored record of a task; from any thread. Raises NotFound."""
        record = self._stored(task_id).record
        self.give_source([record.input, record.result])
        return record

    def shard_of(self, task_id: str) -> str:
        """Return the shard of the workflow's supervisor that governs a task; from any thread. Raises NotFound."""
        return top_shard(self._stored(task_id).shard)

    def _stored(self, task_id: str) -> StoredTask:
        stored = self._session.reader.find_task(task_id)
        if stored is None:
            raise NotFound(what="task", name=task_id)
        return stored

    @property
    def reader(self) -> Reader:
        return self._session.reader


class _Shard:
    """The `Shard` of a link, which passes everything on to the core."""

    def __init__(self, core: Core, name: str) -> None:
        self._core, self._name = core, name

    async def locate(self) -> Connection:
        return await self._core.locate(self._name)

    async def why_not_up(self) -> str:
        return await not_up(self._core, self._name.__eq__)

    async def is_stored(self, task_id: str) -> bool:
        return await self._core.aside(lambda: self._core.reader.find_task(task_id)) is not None

    def done(self, ended: TaskEnded) -> None:
        for future in self._core.waiting_for(self._name, ended.id):
            settle(future, ended)

    def lost(self, task_id: str, error: PodiumError) -> None:
        for future in self._core.waiting_for(self._name, task_id):
            fail(future, error)

    def dead(self, error: PodiumError) -> None:
        self._core.dead(self._name, error)


def _version_key(workflow: Workflow) -> VersionKey:
    """Return the key of a version in this process: the hash of the tree, and the protocols that its names mean now."""
    return workflow.hash, tuple(protocols_of(workflow).values())


def _spread(tasks: list[Submission], shards: int) -> list[Sequence[int]]:
    if shards == 1 or not tasks:
        return [range(len(tasks))] * shards
    return spread([(task.user, task.key) for task in tasks], shards, first=crc32(tasks[0].id.encode()))


def _delivered(futures: list[Future[str]], reply: Reply) -> None:
    acks = [Ack(None, reply.error.to_wire())] * len(futures) if reply.error else reply.read(Acks).read()
    for future, ack in zip(futures, acks, strict=True):
        if ack.error is not None:
            fail(future, from_wire(ack.error))
        else:
            settle(future, ack.id)


def _quietly(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # the loop is closed, and the watching with it
