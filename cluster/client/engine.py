"""The client for drivers: `connect`, its engine and tasks. `engine_async.py` has the same for async code.

    with podium.connect(data=".podium", limits={"llm": 5}) as engine:
        task = engine.submit(workflow, {"path": "."}, key="k1")
        print(task.result(timeout_s=60))

An engine joins the cluster that owns the data directory, or starts one that ends with it. It prints nothing and leaves
logging, signal handlers and the working directory alone. Its event loop has a thread of its own, so notebooks work.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from datetime import datetime
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, Unpack

from ...protocols.codecs.registry import decoded
from ...protocols.deprecation import deprecated
from ...protocols.errors import EngineClosed, InvalidInput, PodiumError, WaitTimedOut
from ...protocols.limits import Amount
from ...protocols.outcomes import TERMINAL, Criticality, TaskEvent, TaskRecord, TaskStatus
from ...protocols.recovery import Category
from ...protocols.requests.request import AskFields, Request
from ...protocols.results import Reader
from ...protocols.typed_nodes import A, B, Out
from ...protocols.values import Value
from ...protocols.workflow import Workflow
from ...supervisors.figures.status import BreakerStatus, ClusterStatus, LimitUse
from ...supervisors.messages.client import ClientEvent, TaskEnded
from ...supervisors.tasks.client_events import task_event
from ..config import Settings, load_settings
from ..connect_options import ConnectOptions
from ..world import new_event_loop
from .connecting import new_session
from .core import Core
from .dead_letters import DeadLetter, dead_letters
from .deployed import DeployedWorkflow, deployed_workflows
from .event_reader import Reading
from .holdups import why_held_now
from .outcome import result_of
from .ray_references import names_a_reference, taken_in
from .submissions import checked_keys, has_parts, start_of
from .waits import AnswerReceipt, OpenWait, open_waits

if TYPE_CHECKING:
    from .request_state import RequestState

T = TypeVar("T")
MOST_WAITS = 10_000
"""Most open waits of one task that `task.waits()` returns."""
LEAVE_S = 2.0
"""Seconds that `close` waits for work that ignores its cancellation, as a step of a cluster in this process may."""
END_S = 10.0
"""Seconds that `close` waits for the engine's own event loop."""


class BaseTask(Generic[Out]):
    """The base of both kinds of task: an id, and what this client knows of the task without reading a file."""

    def __init__(
        self,
        core: Core,
        task_id: str,
        workflow: str,
        end: Future[TaskEnded] | None = None,
        seen: TaskStatus | None = None,
        read: Reader = decoded,
    ) -> None:
        self.id, self.workflow = task_id, workflow
        self._read = read
        self._core, self._end, self._seen = core, end, seen

    def __repr__(self) -> str:
        """Show the status that was seen last, or `open` for a new task. Reads nothing from the journal."""
        status = self._ended_as() or self._seen or (self._end and "open")
        return f"<task {self.id} of {self.workflow}{f': {status}' if status else ''}>"

    def _ended_as(self) -> TaskStatus | None:
        """Return the final status if this client knows it, else None. Reads nothing from the journal."""
        if self._end is not None and self._end.done() and self._end.exception() is None:
            return self._end.result().status
        return None

    def _record_now(self) -> TaskRecord:
        """Read the record from the journal. Not for the event loop of an async caller."""
        record = self._core.record(self.id)
        self._seen = record.status
        return record

    def _request_state_now(self) -> RequestState | None:
        """Read the state of the request from the journal. Not for the event loop of an async caller."""
        from .request_state import request_state  # noqa: PLC0415  (its reading of requests is not for everybody)

        stored = self._core.reader.find_task(self.id)
        return None if stored is None else request_state(stored)

    def _ended(self) -> Future[TaskEnded]:
        if self._core.is_forked:
            self._core.check()
        if self._end is None:
            self._end = self._core.follow(self.id)
        return self._end


class Task(BaseTask[Out]):
    """A submitted task: `id` is its id, `workflow` the name of its workflow."""

    def read_record(self) -> TaskRecord:
        """Everything stored about the task, read now from the journal."""
        return self._record_now()

    def read_status(self) -> TaskStatus:
        """The task's status, read now: pending, running, waiting, parked, stalled, completed, failed or cancelled."""
        return self._ended_as() or self._record_now().status

    def read_request_state(self) -> RequestState | None:
        """The state of a task that answers a request, and since when, read now. None for any other task."""
        return self._request_state_now()

    @property
    def record(self) -> TaskRecord:
        """The same as `read_record()`, which replaces it: a property reads no file."""
        deprecated("`task.record`", since="0.1", goes="0.2", instead="`task.read_record()`")
        return self.read_record()

    @property
    def status(self) -> TaskStatus:
        """The same as `read_status()`, which replaces it: a property reads no file."""
        deprecated("`task.status`", since="0.1", goes="0.2", instead="`task.read_status()`")
        return self.read_status()

    @property
    def request_state(self) -> RequestState | None:
        """The same as `read_request_state()`, which replaces it: a property reads no file."""
        deprecated("`task.request_state`", since="0.1", goes="0.2", instead="`task.read_request_state()`")
        return self.read_request_state()

    def done(self) -> bool:
        """True if the task has ended, in whatever way; read now, without waiting."""
        return self.read_status() in TERMINAL

    def result(self, timeout_s: float | None = None) -> Out:
        """Wait for the end of the task and return the output of the workflow, as the type hints of its steps say.

        A task that was looked up by its id has no hints here, and gives plain data, with arrays and the like decoded.

        Raises:
            InvalidInput: The output does not fit the hints any more, because the code has changed.
            TaskFailed: The task failed; names workflow, step, attempt and the cause, with its traceback as text.
            TaskCancelled: The task was cancelled.
            WaitTimedOut: The task has not ended within `timeout_s` seconds; it goes on.
        """
        ended = self._its_end(timeout_s)
        self._core.give_source(ended.result)
        result: Out = result_of(ended, self.id, self.workflow, self._read)
        return result

    def plain_result(self, timeout_s: float | None = None) -> Value:
        """Do the same as `result`, but return the plain data that the journal has, for a program that only shows it.

        Large parts of it are only described. `podium.decoded` reads them.
        """
        ended = self._its_end(timeout_s)
        self._core.give_source(ended.result)
        return result_of(ended, self.id, self.workflow, lambda plain: plain)

    def _its_end(self, timeout_s: float | None) -> TaskEnded:
        try:
            return self._ended().result(timeout_s)
        except TimeoutError as error:
            if isinstance(error, PodiumError):
                raise
            raise self.timed_out(timeout_s) from None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the task; True if it ended, in whatever way, within `timeout_s` seconds."""
        end = self._ended()
        done, _ = wait([end], timeout_s)
        if done:
            end.result()  # raises where the end cannot be heard of any more
        return bool(done)

    def timed_out(self, waited_s: float | None) -> WaitTimedOut:
        """Make the error of a wait that took `waited_s` seconds, with the reason why the task may be held up."""
        why = why_held_now(self._core, self.workflow)
        return WaitTimedOut(task_id=self.id, waited_s=waited_s or 0.0, status=self.read_status(), reason=why)

    def events(self, from_offset: int = 0) -> Iterator[TaskEvent]:
        """Iterate over the task's events: first those recorded from an offset on, then new ones until the task ends.

        Recorded events are neither lost nor repeated. To go on later, give the last offset that you got, plus 1.
        """
        queue: SimpleQueue[ClientEvent | PodiumError | None] = SimpleQueue()
        reading = Reading(self._core, self._core.shard_of(self.id), self.id, queue.put, queue.qsize, from_offset)
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, PodiumError):
                    raise item
                event = task_event(self.id, item)
                self._core.give_source(event.value)
                yield event
                reading.caught_up(queue.qsize())
        finally:
            reading.stop()

    def waits(self) -> list[OpenWait]:
        """The answers that the task waits for, read now from the journal."""
        return open_waits(self._core.reader, task_id=self.id, limit=MOST_WAITS)

    def cancel(self) -> TaskStatus:
        """Cancel the task, durably, and return its status. A task that has ended stays as it is."""
        status = self._core.cancel(self.id).result()
        self._seen = status
        return status


class Engine:
    """A client for synchronous code, made by `connect`. Use it as a context manager, from any thread."""

    def __init__(self, settings: Settings, daemon: bool = False) -> None:
        """`daemon` marks a cluster started here as one that others may end by signal."""
        self.settings = settings
        self._core = Core(settings, new_session(settings, daemon))
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._run, name="podium", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._wait(self._core.open())
        except BaseException:
            self._end_loop()
            raise
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"<engine {self._core}>"

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster. A cluster that this engine started is stopped in order; its open tasks are kept."""
        if self._core.is_forked:
            return  # it is the parent's
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            try:
                self._wait(self._core.close())
            finally:
                self._end_loop()

    def deploy(self, workflow: Workflow) -> None:
        """Start the workflow's actors now, instead of with its first task; new tasks then run this tree and code.

        Raises:
            SpawnFailed: A protocol does not import, or its `start` raises; the error names it.
            InvalidInput: A quota has no limit, or needs more than its limit.
            FixTheCall: The workflow was deployed with another number of shards.
        """
        self._version(workflow)

    def workflows(self) -> list[DeployedWorkflow]:
        """The deployed workflows, sorted by name."""
        return deployed_workflows(self._core.reader)

    def undeploy(self, name: str, *, leave_open: bool = False) -> None:
        """Remove a workflow: its actors end, and it is neither listed nor published, until it is deployed again.
        Raises NotFound; or FixTheCall if tasks are open. With `leave_open` these wait for the next deployment."""
        self._check_open()
        self._wait(self._core.undeploy(name, leave_open))

    def _version(self, workflow: Workflow) -> str:
        """Return the hash of the deployed version; deploys it if need be."""
        self._check_open()
        hash: str = self._core.deployed(workflow) or self._wait(self._core.deploy(workflow))
        return hash

    def submit(
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
    ) -> Task[B]:
        """Submit one task. When this returns, the task is on disk.

        Args:
            key: A submission key. The same key, user, workflow and input give the same task.
            priority: A higher one goes first; `podium.BACKGROUND` is for work that nobody waits for.
            user: The user whom the task belongs to, if not the setting `user`.
            criticality: When queues fill up, sheddable tasks are refused first (docs/limits.md).
            timeout_s: The longest time of the task, in seconds from its start, instead of the workflow's.
            delay_s: The task is accepted now, and starts after so many seconds.
            not_before: The task is accepted now, and starts at this moment (UTC seconds, or a time with its zone).

        Raises:
            InvalidInput: The input does not fit the workflow; nothing was accepted.
            KeyConflict: The key belongs to a task with another input.
            Overloaded: Nothing was accepted; repeat it later. Further errors are WorkflowDown and those of `deploy`.
            AcceptanceUnknown: The database went away meanwhile; repeat it with the same key.
        """
        keys = None if key is None else [key]
        tasks = self.submit_many(
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

    def submit_many(
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
    ) -> list[Task[B]]:
        """Submit many tasks with one wait until all are on disk. The tasks are in the order of the inputs.

        All inputs are checked before any is sent. What Ray's references in them stand for is taken in. After
        KeyConflict the other tasks are accepted. After Overloaded some may be accepted, if there are more than 1,000,
        the workflow has several shards, or inputs are large; after BlobsAway, too. Submit again with the same keys to
        get them, also after AcceptanceUnknown.
        """
        known = checked_keys(keys, inputs)
        shared = known, priority, user, criticality, timeout_s, start_of(delay_s, not_before)
        try:
            made = self._core.submissions.all_of(workflow, list(inputs), *shared)
        except InvalidInput as error:
            if not names_a_reference(error):
                raise
            made = self._core.submissions.all_of(workflow, taken_in(inputs), *shared)
        version = self._version(workflow)
        if has_parts(made):
            accepted, ends = self._wait(self._core.submit_stowed(workflow, version, made))
        else:
            tasks = [each.task for each in made]
            one, ends = self._core.submit(workflow.name, workflow.shards, version, tasks)
            accepted = [one]
        ids, name, read = [id for some in accepted for id in some.result()], workflow.name, workflow.reader
        return [Task(self._core, id, name, end, read=read) for id, end in zip(ids, ends, strict=True)]

    def ask(
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
    ) -> Task:
        """Submit a request to the workflow `ask`. The task's result is the answer as a dict (docs/requests.md).

            engine.ask("how is the journal fenced?", root=".").result()["text"]

        Args:
            request: A text, or a whole request.
            hooks: The hooks by the state before which they run, each a protocol, `module:name`, a step, or a list of
                these. They run after those of the setting. The workflow is then named `ask_` and a number.
            fields: Fields of the request: root, session, type, tools, stream, attachments, answer_schema, limits,
                source.

        Raises:
            InvalidInput: A field does not fit; names it. A folder or tool that the user may not use fails the task.
        """
        workflow, input = self._core.asked(request, fields)
        if hooks:
            from .ask_input import workflow_of  # noqa: PLC0415  (60 ms, and few bring hooks)

            workflow = workflow_of(self.settings, hooks)
        return self.submit(
            workflow, input, key=key, priority=priority, user=user, timeout_s=timeout_s, criticality=criticality
        )

    def task(self, task_id: str) -> Task:
        """The task with this id, whoever submitted it and when. Raises NotFound."""
        record = self._core.record(task_id)
        return Task(self._core, task_id, record.workflow, seen=record.status)

    def tasks(
        self,
        status: TaskStatus | None = None,
        workflow: str | None = None,
        user: str | None = None,
        limit: int = 50,
    ) -> list[Task]:
        """The tasks that match every argument given, the newest first, at most `limit`."""
        records = self._core.reader.list_tasks(status, workflow, user, limit)
        return [Task(self._core, record.task_id, record.workflow, seen=record.status) for record in records]

    def dead_letters(
        self,
        workflow: str | None = None,
        user: str | None = None,
        category: Category | None = None,
        limit: int | None = 50,
    ) -> list[DeadLetter]:
        """Failed tasks and tasks with parked steps that nobody redrove or dropped, the newest first."""
        return dead_letters(self._core.reader, workflow, user, category, limit)

    def redrive(self, ids: Sequence[str]) -> list[Task]:
        """Redrive dead letters; returns the tasks that run now, in the order of the ids.

        A parked step runs again in its own task. A failed task stays as it is, and a new task continues it, with all
        recorded outputs. Redriving it again gives that new task. All ids are tried before an error is raised:
        NotFound, or FixTheCall for a task that is no dead letter.
        """
        self._check_open()
        now = [future.result() for future in _settled(self._core.redrive(list(ids)))]
        return [self.task(id) for id in now]

    def drop(self, ids: Sequence[str]) -> None:
        """Give up dead letters: failed tasks are no longer listed, parked steps fail. Errors are those of `redrive`."""
        self._check_open()
        for future in _settled(self._core.drop(list(ids))):
            future.result()

    def waits(
        self,
        workflow: str | None = None,
        name: str | None = None,
        task_id: str | None = None,
        answerer: str | None = None,
        groups: Collection[str] = (),
        limit: int = 50,
    ) -> list[OpenWait]:
        """The open waits of tasks that match every argument given, those that began last first, at most `limit`.

        Args:
            answerer: Only those that this user may answer, who is in these `groups` and roles (`group:editors`).
        """
        return open_waits(self._core.reader, workflow, name, task_id, answerer, groups, limit)

    def answer(
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
        """Answer a task that waits, or will wait, for `name`. When this returns, the answer is on disk.

        Args:
            value: The answer: plain data that fits the schema of the wait.
            by: The user who answers, if not the setting `user`.
            groups: The groups and roles of that user: `group:editors`, `role:approver`. Podium takes your word for it.
            id: An id of the answer: the same id counts once, however often it is sent.
            digest: The digest of what the user saw (`OpenWait.digest`). The answer is refused if that has changed.

        Raises:
            AnswerRefused: The answer does not count; `reason` says why. Nothing was recorded.
            InvalidInput: The answer does not fit the schema.
            NotFound: There is no such task, or its workflow never waits for that name.
        """
        self._check_open()
        return self._wait(self._core.answer(task_id, name, value, by, id, digest, sorted(groups)))

    def signal(self, task_id: str, name: str, value: Value = None, *, id: str | None = None) -> AnswerReceipt:
        """Send a value to a task under a name: an answer of a program, for whatever the task waits for by that name.

        The errors are those of `answer`.
        """
        return self.answer(task_id, name, value, id=id)

    def set_limits(self, **limits: Amount) -> dict[str, LimitUse]:
        """Change limits until the cluster ends: `engine.set_limits(llm=3, **{"llm per user": 1})`.
        Returns all limits with their use, by name. Raises InvalidInput."""
        self._check_open()
        return self._wait(self._core.set_limits(limits))

    def set_breaker(self, name: str, action: Literal["open", "reset"]) -> dict[str, BreakerStatus]:
        """Open a breaker until it is reset, or close it with empty counts; returns all by name. Raises NotFound."""
        self._check_open()
        return self._wait(self._core.set_breaker(name, action))

    def status(self) -> ClusterStatus:
        """The state of the cluster now: workflows with their hosts and counters, limits, breakers, load and alerts."""
        self._check_open()
        return self._wait(self._core.status())

    @property
    def joined(self) -> bool:
        """True if the engine joined a cluster that ran before. Then work goes on when this engine closes."""
        return self._core.joined

    def _check_open(self) -> None:
        self._core.check()
        if self._closed:
            raise EngineClosed()

    def _wait(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _end_loop(self) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=END_S)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_others() -> None:
    """Cancel the other tasks of the loop, which wait for actors that are gone. Waits at most `LEAVE_S` for them."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:  # what goes on although it was cancelled can only be left
        await asyncio.wait(others, timeout=LEAVE_S)
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), LEAVE_S)


def connect(**settings: Unpack[ConnectOptions]) -> Engine:
    """Join the cluster of the data directory, or start one that ends with this engine; returns the engine.

    Settings (docs/settings.md) are keywords here, `PODIUM_*` variables, or in `podium.toml`; the first wins.

    Raises:
        InvalidSetting: A setting does not exist or does not fit.
        DataInUse: Another process uses the data directory, and its cluster cannot be joined.
        EngineClosed: The Ray cluster at `address` cannot be joined.
    """
    return Engine(load_settings(**settings))


def _settled(futures: list[Future[str]]) -> list[Future[str]]:
    wait(futures)
    return futures
