"""The client for async code: `async with podium.connect_async(...) as engine`. It runs on the caller's event loop.

Methods that read files do so in a thread, and properties read none. Only to open and to close an engine reads and
writes the file of its cluster on the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Generator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ...protocols.errors import InvalidInput, PodiumError, WaitTimedOut
from ...protocols.limits import Amount
from ...protocols.outcomes import TERMINAL, Criticality, TaskEvent, TaskRecord, TaskStatus
from ...protocols.recovery import Category
from ...protocols.requests.request import AskFields, Request
from ...protocols.typed_nodes import A, B, Out
from ...protocols.values import Value
from ...protocols.workflow import Workflow
from ...supervisors.figures.status import BreakerStatus, ClusterStatus, LimitUse
from ...supervisors.messages.client import ClientEvent, TaskEnded
from ...supervisors.tasks.client_events import task_event
from ..config import Settings, load_settings
from ..connect_options import ConnectOptions
from ..session import Session
from .core import Core
from .dead_letters import DeadLetter, dead_letters
from .deployed import DeployedWorkflow, deployed_workflows
from .engine import MOST_WAITS, BaseTask
from .event_reader import Reading
from .holdups import why_held
from .outcome import result_of
from .ray_references import names_a_reference, taken_in
from .submissions import checked_keys, has_parts, start_of
from .waits import AnswerReceipt, OpenWait, open_waits

if TYPE_CHECKING:
    from .request_state import RequestState


class AsyncTask(BaseTask[Out]):
    """A submitted task, for async code: `await task` gives its result. Methods are those of `Task`, to be awaited."""

    _listening: asyncio.Task[Future[TaskEnded]] | None = None
    """The beginning to listen for the end of a task that was looked up, if `done` was asked."""

    def __await__(self) -> Generator[Any, None, Out]:
        return self.result().__await__()

    async def read_record(self) -> TaskRecord:
        """As `Task.read_record`."""
        return await self._core.aside(self._record_now)

    async def read_status(self) -> TaskStatus:
        """As `Task.read_status`."""
        return self._ended_as() or (await self.read_record()).status

    async def read_request_state(self) -> RequestState | None:
        """As `Task.read_request_state`."""
        return await self._core.aside(self._request_state_now)

    def done(self) -> bool:
        """True if this client has heard that the task has ended, in whatever way. Reads nothing, and does not wait.

        For a task that was looked up, the first call begins to listen for the end. To know now: `await read_status()`.
        """
        if (self._ended_as() or self._seen) in TERMINAL:
            return True
        if self._end is None and self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._core.aside(self._ended))
        elif self._end is None and self._listening is not None and self._listening.done():
            self._listening.result()  # raises why the end cannot be heard of
        return False

    async def result(self, timeout_s: float | None = None) -> Out:
        """As `Task.result`."""
        ended = await self._end_within(timeout_s)
        if self._core.give_source(ended.result):  # to read it may take long
            return await self._core.aside(lambda: result_of(ended, self.id, self.workflow, self._read))
        result: Out = result_of(ended, self.id, self.workflow, self._read)
        return result

    async def plain_result(self, timeout_s: float | None = None) -> Value:
        """As `Task.plain_result`."""
        ended = await self._end_within(timeout_s)
        self._core.give_source(ended.result)
        return result_of(ended, self.id, self.workflow, lambda plain: plain)

    async def _end_within(self, timeout_s: float | None) -> TaskEnded:
        end = await self._its_end()
        done, _ = await asyncio.wait([end], timeout=timeout_s)
        if not done:
            why, status = await why_held(self._core, self.workflow), await self.read_status()
            raise WaitTimedOut(task_id=self.id, waited_s=timeout_s or 0.0, status=status, reason=why)
        return end.result()

    async def events(self, from_offset: int = 0) -> AsyncIterator[TaskEvent]:
        """As `Task.events`."""
        queue: asyncio.Queue[ClientEvent | PodiumError | None] = asyncio.Queue()
        shard = await self._core.aside(lambda: self._core.shard_of(self.id))
        reading = Reading(self._core, shard, self.id, queue.put_nowait, queue.qsize, from_offset)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, PodiumError):
                    raise item
                event = task_event(self.id, item)
                self._core.give_source(event.value)
                yield event
                reading.caught_up(queue.qsize())
        finally:
            reading.stop()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """As `Task.wait`."""
        end = await self._its_end()
        done, _ = await asyncio.wait([end], timeout=timeout_s)
        if done:
            end.result()
        return bool(done)

    async def waits(self) -> list[OpenWait]:
        """As `Task.waits`."""
        return await self._core.aside(lambda: open_waits(self._core.reader, task_id=self.id, limit=MOST_WAITS))

    async def cancel(self) -> TaskStatus:
        """As `Task.cancel`."""
        status = await asyncio.wrap_future(await self._core.aside(lambda: self._core.cancel(self.id)))
        self._seen = status
        return status

    async def _its_end(self) -> asyncio.Future[TaskEnded]:
        if self._end is None:
            await self._core.aside(self._ended)  # which shard the task is in is read
        return asyncio.wrap_future(self._ended())


class AsyncEngine:
    """A client on the caller's own event loop, made by `connect_async`. Its methods are those of `Engine`."""

    def __init__(self, settings: Settings, session: Session | None = None) -> None:
        self.settings = settings
        self._core = Core(settings, session)

    def __repr__(self) -> str:
        return f"<async engine {self._core}>"

    async def __aenter__(self) -> AsyncEngine:
        await self._core.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Engine.close`."""
        await self._core.close()

    async def deploy(self, workflow: Workflow) -> None:
        """As `Engine.deploy`."""
        await self._core.deploy(workflow)

    async def workflows(self) -> list[DeployedWorkflow]:
        """As `Engine.workflows`."""
        return await self._core.aside(lambda: deployed_workflows(self._core.reader))

    async def undeploy(self, name: str, *, leave_open: bool = False) -> None:
        """As `Engine.undeploy`."""
        await self._core.undeploy(name, leave_open)

    async def submit(
        self,
        workflow: Workflow[A, B],
        input: A = None,  # type: ignore[assignment]
        *,
        key: str | None = None,
        priority: int = 0,
        user: str | None = None,
        criticality: Criticality = "critical",
        timeout_s: float | None = None,
        delay_s: float | None = None,
        not_before: datetime | float | None = None,
    ) -> AsyncTask[B]:
        """As `Engine.submit`."""
        keys = None if key is None else [key]
        tasks = await self.submit_many(
            workflow,
            [input],
            keys=keys,
            priority=priority,
            user=user,
            criticality=criticality,
            timeout_s=timeout_s,
            delay_s=delay_s,
            not_before=not_before,
        )
        return tasks[0]

    async def submit_many(
        self,
        workflow: Workflow[A, B],
        inputs: Sequence[A],
        *,
        keys: Sequence[str] | None = None,
        priority: int = 0,
        user: str | None = None,
        criticality: Criticality = "critical",
        timeout_s: float | None = None,
        delay_s: float | None = None,
        not_before: datetime | float | None = None,
    ) -> list[AsyncTask[B]]:
        """As `Engine.submit_many`."""
        known = checked_keys(keys, inputs)
        shared = known, priority, user, criticality, timeout_s, start_of(delay_s, not_before)
        try:
            made = self._core.submissions.all_of(workflow, list(inputs), *shared)
        except InvalidInput as error:
            if not names_a_reference(error):
                raise
            there = await self._core.aside(lambda: taken_in(inputs))
            made = self._core.submissions.all_of(workflow, there, *shared)
        version = await self._core.deploy(workflow)
        if has_parts(made):
            accepted, ends = await self._core.submit_stowed(workflow, version, made)
        else:
            one, ends = self._core.submit(workflow.name, workflow.shards, version, [each.task for each in made])
            accepted = [one]
        ids = [id for some in accepted for id in await asyncio.wrap_future(some)]
        name, read = workflow.name, workflow.reader
        return [AsyncTask(self._core, id, name, end, read=read) for id, end in zip(ids, ends, strict=True)]

    async def ask(
        self,
        request: str | Request | Mapping[str, object],
        *,
        key: str | None = None,
        priority: int = 0,
        user: str | None = None,
        timeout_s: float | None = None,
        criticality: Criticality = "critical",
        hooks: Mapping[str, object] | None = None,
        **fields: Unpack[AskFields],
    ) -> AsyncTask:
        """As `Engine.ask`."""
        workflow, input = await self._core.aside(lambda: self._core.asked(request, fields))
        if hooks:
            from .ask_input import workflow_of  # noqa: PLC0415  (60 ms, and few bring hooks)

            workflow = await self._core.aside(lambda: workflow_of(self.settings, hooks))
        return await self.submit(
            workflow, input, key=key, priority=priority, user=user, timeout_s=timeout_s, criticality=criticality
        )

    async def submit_to(
        self, definition: Mapping[str, Any], input: Value, *, user: str, priority: int = 0, key: str | None = None
    ) -> AsyncTask:
        """Submit to a deployed workflow by its definition, without its protocols. It is for gateways.

        The input is checked by the workflow's schema alone. If the first step does not take it, the task fails.
        """
        tasks = await self._core.stowed([self._core.submissions.plain(input, key, priority, user)])
        name, shards, hash = str(definition["name"]), int(definition.get("shards", 1)), str(definition["hash"])
        accepted, (end,) = self._core.submit(name, shards, hash, tasks)
        (id,) = await asyncio.wrap_future(accepted)
        return AsyncTask(self._core, id, name, end)

    async def definitions(self) -> list[dict[str, Any]]:
        """The newest definition of each deployed workflow, as plain data. It is for gateways."""
        return await self._core.aside(self._core.reader.definitions)

    def ask_workflow(self) -> Workflow:
        """The workflow that answers requests."""
        return self._core.ask_workflow()

    @property
    def core(self) -> Core:
        """The client's core. It is for gateways, not for drivers."""
        return self._core

    async def task(self, task_id: str) -> AsyncTask:
        """As `Engine.task`."""
        record = await self._core.aside(lambda: self._core.record(task_id))
        return AsyncTask(self._core, task_id, record.workflow, seen=record.status)

    async def tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[AsyncTask]:
        """As `Engine.tasks`."""
        records = await self._core.aside(lambda: self._core.reader.list_tasks(status, workflow, user, limit))
        return [AsyncTask(self._core, record.task_id, record.workflow, seen=record.status) for record in records]

    async def dead_letters(
        self,
        workflow: str | None = None,
        user: str | None = None,
        category: Category | None = None,
        limit: int | None = 50,
    ) -> list[DeadLetter]:
        """As `Engine.dead_letters`."""
        return await self._core.aside(lambda: dead_letters(self._core.reader, workflow, user, category, limit))

    async def redrive(self, ids: Sequence[str]) -> list[AsyncTask]:
        """As `Engine.redrive`."""
        now = await _all(await self._core.aside(lambda: self._core.redrive(list(ids))))
        return [await self.task(id) for id in now]

    async def drop(self, ids: Sequence[str]) -> None:
        """As `Engine.drop`."""
        await _all(await self._core.aside(lambda: self._core.drop(list(ids))))

    async def waits(
        self,
        workflow: str | None = None,
        name: str | None = None,
        task_id: str | None = None,
        answerer: str | None = None,
        groups: Collection[str] = (),
        limit: int = 50,
    ) -> list[OpenWait]:
        """As `Engine.waits`."""
        asked = workflow, name, task_id, answerer, groups, limit
        return await self._core.aside(lambda: open_waits(self._core.reader, *asked))

    async def answer(
        self,
        task_id: str,
        name: str,
        value: Value = None,
        *,
        by: str | None = None,
        groups: Collection[str] = (),
        id: str | None = None,
        digest: str | None = None,
    ) -> AnswerReceipt:
        """As `Engine.answer`."""
        return await self._core.answer(task_id, name, value, by, id, digest, sorted(groups))

    async def signal(self, task_id: str, name: str, value: Value = None, *, id: str | None = None) -> AnswerReceipt:
        """As `Engine.signal`."""
        return await self.answer(task_id, name, value, id=id)

    async def set_limits(self, **limits: Amount) -> dict[str, LimitUse]:
        """As `Engine.set_limits`."""
        return await self._core.set_limits(limits)

    async def set_breaker(self, name: str, action: Literal["open", "reset"]) -> dict[str, BreakerStatus]:
        """As `Engine.set_breaker`."""
        return await self._core.set_breaker(name, action)

    async def status(self) -> ClusterStatus:
        """As `Engine.status`."""
        return await self._core.status()

    @property
    def joined(self) -> bool:
        """As `Engine.joined`."""
        return self._core.joined


async def _all(futures: list[Future[str]]) -> list[str]:
    """Wait for all futures and return their results. Raises the first error, once all are done."""
    found = await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found  # type: ignore[return-value]


def connect_async(**settings: Unpack[ConnectOptions]) -> AsyncEngine:
    """Make an engine for async code: `async with podium.connect_async() as engine`. All else is as for `connect`."""
    return AsyncEngine(load_settings(**settings))
