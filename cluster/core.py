"""The part of a client that lives on an event loop: its session, a link per workflow, and who waits for what."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, get_args

from ..protocols.errors import (
    EngineClosed,
    FixTheCall,
    InvalidInput,
    NotFound,
    PeerLost,
    PodiumError,
    Unknown,
    from_wire,
)
from ..protocols.outcomes import Criticality, TaskRecord, TaskStatus
from ..protocols.requests.request import Request
from ..protocols.values import Value, check_value
from ..protocols.workflow import Workflow
from ..supervisors.ports import Line, Reply
from .accepted import Accepted
from .collector import look_as_usual, look_rarely
from .config import Settings
from .definition import definition_of
from .ended import Ended
from .link import BATCH, PATIENCE, Batch, Link, Watching
from .session import COORDINATOR, Session, new_session
from .store.reading import Reader
from .task_ids import new_task_id

_RECONNECT_S = 0.2
_Waiting = dict[str, list[Future[Ended]]]
"""Futures of the ends of tasks, by task."""


class Core:
    """All methods belong to the loop, except those that say otherwise."""

    def __init__(self, settings: Settings, session: Session | None = None) -> None:
        self.settings = settings
        self._session = session or new_session(settings)
        self._loop: asyncio.AbstractEventLoop
        self._coordinator: Line | None = None
        self._links: dict[str, Link] = {}
        self._deployed: set[str] = set()
        self._ask_workflow: Workflow | None = None
        self._carried: dict[str, dict[str, Value]] = defaultdict(dict)
        """Deployments with code that only this client has, by workflow and hash: no other process could load it."""
        self._located: set[str] = set()
        """Workflows whose supervisor was found before: if it is looked for again, it was lost."""
        self._waiting: dict[str, _Waiting] = defaultdict(lambda: defaultdict(list))
        """By workflow."""
        self._collects_rarely = False
        self._closed: PodiumError | None = None
        self._gone: PodiumError | None = None
        """The cluster that it joined is not there any more."""

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._session.on_rebuilt, self._session.on_closed = self._rebuilt, self._shut
        await self._session.open()
        self._collects_rarely = look_rarely()

    def _rebuilt(self) -> None:
        """Another cluster took the place of the one that broke: everything open is asked for again."""
        lost = PeerLost(address=COORDINATOR, reason="its cluster is gone")
        if self._coordinator is not None:
            self._coordinator.lose(lost)
        for link in self._links.values():
            link.lose(lost)

    def _shut(self, error: PodiumError) -> None:
        """The cluster that was joined has been shut down: what waits for it is told so."""
        self._gone = error
        self._hang_up(error)

    def _hang_up(self, error: PodiumError) -> None:
        for link in list(self._links.values()):
            link.close(error)

    @property
    def joined(self) -> bool:
        """Whether the cluster was there before and stays when this client goes."""
        return self._session.joined

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

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
        """Why this client cannot go on, if it cannot."""
        return self._closed or self._gone

    async def ask_coordinator(self, kind: str, payload: Value = None) -> Value:
        """Ask, and ask again while the coordinator is away, for `reconnect_s`."""
        give_up_at = self._loop.time() + self.settings.reconnect_s
        while True:
            if self.closed is not None:
                raise self.closed
            line = self._coordinator_line()
            try:
                return await line.ask(kind, payload)
            except Unknown as error:
                if self._coordinator is line:
                    self._coordinator = None
                if self._loop.time() > give_up_at:
                    reason = f"the coordinator has been away for {self.settings.reconnect_s:g} s: {error}"
                    raise EngineClosed(reason=reason) from error
                await asyncio.sleep(_RECONNECT_S)

    def _coordinator_line(self) -> Line:
        if self._coordinator is None:
            self._coordinator = self._session.line(COORDINATOR)
            self._coordinator.watch(lambda _error: None, self.settings.lease_s * PATIENCE)
        return self._coordinator

    async def deploy(self, workflow: Workflow) -> None:
        """Have the workflow's actors running; a version that this client deployed before is not sent again."""
        if workflow.hash not in self._deployed:
            message = {"definition": definition_of(workflow), "code": self._session.code_of(workflow)}
            await self.ask_coordinator("deploy", message)
            self._deployed.add(workflow.hash)
            if message["code"]:
                self._carried[workflow.name][workflow.hash] = message

    def asked(self, request: str | Request | Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[Workflow, Value]:
        """The workflow that answers requests, and its input for this one. On any thread. Raises InvalidInput."""
        from .asking import input_of, request_of  # noqa: PLC0415  (60 ms, and not all ask)

        return self.ask_workflow(), input_of(request_of(request, self.settings, fields))

    def ask_workflow(self) -> Workflow:
        """The workflow that answers requests; read once."""
        from .asking import workflow_of  # noqa: PLC0415  (see above)

        if self._ask_workflow is None:
            self._ask_workflow = workflow_of(self.settings)
        return self._ask_workflow

    def is_deployed(self, workflow: Workflow) -> bool:
        return workflow.hash in self._deployed

    def link(self, workflow: str) -> Link:
        link = self._links.get(workflow)
        if link is None:
            link = self._links[workflow] = Link(
                self._session.world,
                partial(self._locate, workflow),
                partial(self._done, workflow),
                partial(self._dead, workflow),
                self.settings.lease_s,
            )
        return link

    async def _locate(self, workflow: str) -> Line:
        if workflow in self._located:
            for message in list(self._carried[workflow].values()):
                await self.ask_coordinator("deploy", message)
        self._located.add(workflow)
        where = await self.ask_coordinator("where", workflow)
        return self._session.line(where["address"])

    def submit(
        self, workflow: str, hash: str, tasks: list[list[Value]]
    ) -> tuple[Future[list[str]], list[Future[Ended]]]:
        """Send tasks as `wires` gives them; from any thread.

        Returns:
            A future of their ids once all are durable (with a key, perhaps an older task's) or the first of their
            errors, and for each task one of its end.
        """
        accepted = Accepted(len(tasks))
        ends: list[Future[Ended]] = [Future() for _ in tasks]
        self._loop.call_soon_threadsafe(self._submit, workflow, hash, tasks, accepted, ends)
        return accepted.ids, ends

    def _submit(
        self,
        workflow: str,
        hash: str,
        tasks: list[list[Value]],
        accepted: Accepted,
        ends: list[Future[Ended]],
    ) -> None:
        if self.closed is not None:
            accepted.fail(self.closed)
            return
        waiting = self._waiting[workflow]
        for task, end in zip(tasks, ends, strict=True):
            waiting[task[0]].append(end)
        link = self.link(workflow)
        for start in range(0, len(tasks), BATCH):
            part = slice(start, start + BATCH)
            on_ack = partial(_acknowledged, waiting, tasks[part], accepted, start, ends[part])
            link.submit(Batch(hash, tasks[part], True, on_ack))

    def _done(self, workflow: str, chunk: list[Value]) -> None:
        futures = self._waiting[workflow].pop(chunk[1], ())
        if chunk[0] == "lost":
            for future in futures:
                _fail(future, chunk[2])
            return
        ended = Ended(chunk[2], chunk[3], chunk[4])
        for future in futures:
            if not future.done():
                future.set_result(ended)

    def _dead(self, workflow: str, error: PodiumError) -> None:
        """A workflow cannot be reached any more: what waits for its tasks is told so."""
        self._links.pop(workflow, None)
        self._deployed.clear()
        for futures in self._waiting.pop(workflow, {}).values():
            for future in futures:
                _fail(future, error)

    def follow(self, record: TaskRecord) -> Future[Ended]:
        """A future of the end of a task that some client submitted; from any thread."""
        end: Future[Ended] = Future()

        def start() -> None:
            self._waiting[record.workflow][record.task_id].append(end)
            self.link(record.workflow).follow(record.task_id)

        self._loop.call_soon_threadsafe(start)
        return end

    def watch(
        self,
        record: TaskRecord,
        on_event: Callable[[list[Value]], None],
        on_end: Callable[[PodiumError | None], None],
        offset: int = 0,
    ) -> Callable[[], None]:
        """Get the events of a task from an offset on, the past first; from any thread. Returns how to stop it."""
        watching = Watching(record.task_id, on_event, on_end, offset)
        link = partial(self.link, record.workflow)
        self._loop.call_soon_threadsafe(lambda: link().watch(watching))
        return lambda: _quietly(self._loop, lambda: link().unwatch(watching))

    def cancel(self, record: TaskRecord) -> Future[TaskStatus]:
        """Cancel a task; a future of its status then. From any thread."""
        status: Future[TaskStatus] = Future()

        def answered(reply: Reply) -> None:
            if reply.error is not None:
                _fail(status, reply.error)
            else:
                status.set_result(reply.value)

        self._loop.call_soon_threadsafe(lambda: self.link(record.workflow).ask("cancel", record.task_id, answered))
        return status

    def redrive(self, ids: list[str]) -> list[Future[str]]:
        """Have dead letters driven again; for each a future of the id of the task that runs now. From any thread."""
        return self._send_letters("redrive", ids, lambda id: [id, new_task_id(self._session.world)])

    def drop(self, ids: list[str]) -> list[Future[str]]:
        """Have dead letters given up. From any thread."""
        return self._send_letters("drop", ids, lambda id: [id, new_task_id(self._session.world)])

    def _send_letters(self, kind: str, ids: list[str], letter: Callable[[str], Value]) -> list[Future[str]]:
        futures: dict[str, Future[str]] = {id: Future() for id in ids}
        by_workflow: dict[str, list[str]] = defaultdict(list)
        for id, future in futures.items():
            try:
                by_workflow[self.record(id).workflow].append(id)
            except NotFound as error:
                _fail(future, error)
        for workflow, theirs in by_workflow.items():
            answered = partial(_delivered, [futures[id] for id in theirs])
            send = partial(self._ask_link, workflow, kind, [letter(id) for id in theirs], answered)
            self._loop.call_soon_threadsafe(send)
        return [futures[id] for id in ids]

    def _ask_link(self, workflow: str, kind: str, payload: Value, answered: Callable[[Reply], None]) -> None:
        self.link(workflow).ask(kind, payload, answered)

    def record(self, task_id: str) -> TaskRecord:
        """What is stored of a task; from any thread. Raises NotFound."""
        stored = self._session.reader.find_task(task_id)
        if stored is None:
            raise NotFound(what="task", name=task_id)
        return stored.record

    @property
    def reader(self) -> Reader:
        return self._session.reader

    def wires(
        self,
        workflow: Workflow,
        inputs: list[Value],
        keys: list[str] | None,
        priority: int,
        user: str | None,
        criticality: Criticality,
        timeout_s: float | None,
    ) -> list[list[Value]]:
        """New tasks as the supervisor takes them. Raises InvalidInput, naming the input if there are several."""
        if not isinstance(workflow, Workflow):
            example = "engine.submit(podium.Workflow('name', protocol), input)"
            raise FixTheCall(f"submit takes a Workflow, not {type(workflow).__name__}: {example}")
        if criticality not in get_args(Criticality):
            known = ", ".join(get_args(Criticality))
            raise InvalidInput(problem=f"'{criticality}' is none of {known}", path="criticality")
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidInput(problem=f"seconds are more than 0, not {timeout_s!r}", path="timeout_s")
        wires = []
        for index, input in enumerate(inputs):
            name = "input" if len(inputs) == 1 else f"inputs[{index}]"
            plain = check_value(input, name, self.settings.max_value_bytes)
            workflow.check_input(plain)
            key = keys[index] if keys is not None else None
            wires.append(self.wire(plain, key, priority, user, criticality, timeout_s))
        return wires

    def wire(
        self,
        input: Value,
        key: str | None,
        priority: int,
        user: str | None,
        criticality: Criticality = "critical",
        timeout_s: float | None = None,
    ) -> list[Value]:
        """A new task, with checked input, as a supervisor takes it."""
        id, whose = new_task_id(self._session.world), user or self.settings.user
        return [id, input, whose, priority, key, False, self.settings.source, criticality, timeout_s]


def _acknowledged(
    waiting: _Waiting,
    tasks: list[list[Value]],
    accepted: Accepted,
    start: int,
    ends: list[Future[Ended]],
    answer: list[list[Value]] | PodiumError,
) -> None:
    rows = [[None, answer.to_wire()]] * len(tasks) if isinstance(answer, PodiumError) else answer
    for task, end, (id, refusal) in zip(tasks, ends, rows, strict=True):
        if id != task[0]:
            futures = waiting.pop(task[0], [])
            if id is not None:
                waiting[id] += futures
        if refusal is not None:
            _fail(end, from_wire(refusal))
    accepted.take(start, rows)


def _delivered(futures: list[Future[str]], reply: Reply) -> None:
    for future, (id, error) in zip(futures, reply.value or [[None, None]] * len(futures), strict=True):
        if reply.error is not None:
            _fail(future, reply.error)
        elif error is not None:
            _fail(future, from_wire(error))
        else:
            future.set_result(id)


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _quietly(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        return  # the loop is closed, and the watching with it
