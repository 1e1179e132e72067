"""The MCP server: answers the requests of clients.

The server has no state of its own. Tasks, results and streams are in the journal, so another process with the same
data directory can answer for them. Both generations of the protocol are served, 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError

from ....protocols.contents import with_contents
from ....protocols.errors import (
    AcceptanceUnknown,
    AnswerRefused,
    BlobCorrupt,
    BlobMissing,
    BlobsAway,
    FixTheCall,
    InvalidInput,
    NotFound,
    Overloaded,
    PodiumError,
)
from ....protocols.json_forms import to_json
from ....protocols.outcomes import TERMINAL, TaskRecord
from ....protocols.quantities import check_priority
from ....protocols.requests.pipelines import NAME as ASK
from ....protocols.stored import TEXT, WHOLE
from ....supervisors.tasks.client_events import end_event, past_events
from ....supervisors.tasks.events import readable_events
from ...client.definition import definition_of
from ...client.engine_async import AsyncEngine, AsyncTask
from ...client.request_state import RequestState, request_state, request_states
from ...client.waits import OpenWait, open_waits
from ...store.contract import StoredTask
from .callers import Caller, own_task
from .pages import page_of
from .questions import ARGUMENTS, answered, facts_of, key_of, missing_of
from .tasks import EXTENSION, ByTask, can_ask, check_name, created, decided, detailed, knows_tasks, need_tasks
from .tools import TASK_TOOLS, Published, check_task_tool, progress_of, result_of, said, task_tools

CALL_S = 25.0
"""Seconds that a call waits for its task. Then the client gets an id to come back with: many give up after 30 s."""
ASKS_S = 0.5
"""Seconds after which a call looks whether its task asks something, while it waits."""
QUICK_S = 0.25
"""Seconds that a call of a client with the tasks extension waits for its task."""
FRESH_S = 0.5
"""Seconds for which the list of published workflows is not read again."""
PROGRESS_S = 0.2
"""Least seconds between two notes of progress: each reads the task's journal."""
TELL_S = 5.0
"""Most seconds for telling one client that the list of tools has changed."""
LOOK_S = 2.0
"""Seconds between two checks for changes of the published workflows."""
OVERLOADED = -32050
"""Code of the error that says when to come back, in `data.retryAfterMs`."""
NEWER = "2026-07-28"
MAX_SESSIONS = 1_000
"""Most open sessions of the older protocol that are told of changes of the list of tools."""
MAX_EVENTS = 1_000
"""Most events in one answer."""
MOST_WAITS = 100
"""Most open waits of one task that a client is told of at once."""
MAX_READ_BYTES = 16 * 1024 * 1024
"""Most bytes of a result that are read from the blob store for one answer. What is above it is only described."""
_log = logging.getLogger("podium.mcp")
Context = ServerRequestContext[object, Any]
Called = types.CallToolResult | dict[str, object]
"""The answer to a call: a result, or a task of the extension, for which the SDK has no type."""


class Gateway:
    """Serves one engine to clients of MCP."""

    def __init__(self, engine: AsyncEngine, caller_of: Callable[[], Caller], call_s: float = CALL_S) -> None:
        self._engine, self._caller_of, self._call_s = engine, caller_of, call_s
        self._page_chars = engine.settings.mcp_page_chars
        self._ask = definition_of(engine.ask_workflow())
        self._known: dict[str, Published] = {}
        self._read_at = -math.inf
        self._bus = InMemorySubscriptionBus()
        self._sessions: OrderedDict[int, ServerSession] = OrderedDict()
        """Sessions of the older protocol that lately got the list of tools, by the id of their client parameters."""

    def server(self) -> Server[object]:
        server: Server[object] = _Server(
            "podium",
            version=version("podium"),
            instructions="Workflows as tools; long ones become tasks that survive everything. `list_tasks` finds them.",
            lifespan=self._lifespan,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscriptions_listen=ListenHandler(self._bus),
        )
        server.extensions[EXTENSION] = {}
        for method, answer in (("get", self._get), ("cancel", self._cancel), ("update", self._update)):
            server.add_request_handler(f"tasks/{method}", ByTask, answer)
        return server

    @contextlib.asynccontextmanager
    async def _lifespan(self, _server: Server[object]) -> AsyncIterator[dict[str, object]]:
        looking = asyncio.create_task(self._look_for_changes())
        try:
            yield {}
        finally:
            looking.cancel()

    # tools

    async def _published(self) -> dict[str, Published]:
        """Return the published workflows by name, read again if older than FRESH_S."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at > FRESH_S:
            self._known, self._read_at = await self._read(), now
        return self._known

    async def _read(self) -> dict[str, Published]:
        definitions = await self._engine.definitions()
        found = {str(each["name"]): Published(each) for each in definitions if each.get("interface")}
        return {**found, ASK: Published(self._ask)}

    async def _list_tools(self, ctx: Context, _params: object) -> types.ListToolsResult:
        if ctx.protocol_version < NEWER:
            self._sessions[id(ctx.session.client_params)] = ctx.session
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        own = [published.tool() for _, published in sorted((await self._published()).items())]
        return types.ListToolsResult(tools=[*own, *task_tools()])

    async def _call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        try:
            if params.name in TASK_TOOLS:
                return await self._task_tool(params.name, params.arguments or {})
            return await self._start(ctx, params)
        except Overloaded as error:
            data = {"retryAfterMs": round(1000 * (error.retry_after_s or 1.0)), "reason": str(error)}
            raise MCPError(OVERLOADED, str(error), data) from error
        except AcceptanceUnknown as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        except NotFound as error:
            return said(str(error), is_error=True)
        except FixTheCall as error:
            return said(str(error), is_error=True)
        except PodiumError as error:
            _log.exception("a call of %s failed", params.name)
            raise MCPError(types.INTERNAL_ERROR, f"{error.code}: see the log of the server") from error

    async def _start(self, ctx: Context, params: types.CallToolRequestParams) -> Called:
        caller, published = self._writing_caller(), (await self._published()).get(params.name)
        if published is None:
            raise NotFound(what="tool", name=params.name[:64])
        if published.definition.get("needs_tasks"):
            need_tasks(ctx)
        arguments = _with_responses(params)
        if published.definition.get("elicit") and can_ask(ctx) and not params.input_responses:
            schema: Mapping[str, Any] = published.tool().input_schema
            if (asks := missing_of(published.name, schema, arguments)) is not None:
                return {"resultType": "input_required", "inputRequests": {ARGUMENTS: asks}}
        input = published.input_of(arguments)
        meta: Mapping[str, object] = ctx.meta or {}
        priority = min(_priority(meta), caller.max_priority)
        if published.name == ASK:
            task = await self._engine.submit(self._engine.ask_workflow(), input, user=caller.user, priority=priority)
        else:
            task = await self._engine.submit_to(published.definition, input, user=caller.user, priority=priority)
        if knows_tasks(ctx):
            record = await self._ended(task, QUICK_S)
            keep_s = self._engine.settings.keep_finished_s
            if record is None:
                return created(await task.read_record(), keep_s)
            return result_of(await self._with_texts(record), self._page_chars)
        return await self._waited_for(ctx, task, published)

    async def _waited_for(self, ctx: Context, task: AsyncTask, published: Published) -> types.CallToolResult:
        """Return the task's result, or how to come back, and tell the progress. If the client goes, so may the task."""
        meta: Mapping[str, object] = ctx.meta or {}
        telling = asyncio.create_task(self._tell_progress(ctx, task.id)) if "progress_token" in meta else None
        try:
            record = await self._ended_unless_it_asks(task, self._call_s)
        except asyncio.CancelledError:
            if published.definition.get("when_left") == "cancel":
                await asyncio.shield(task.cancel())
            raise
        finally:
            if telling is not None:
                telling.cancel()
        if record is not None:
            return result_of(await self._with_texts(record), self._page_chars)
        return await self._unfinished(task.id)

    async def _unfinished(self, id: str) -> types.CallToolResult:
        stored = await own_task(self._engine.core, id, self._caller_of())
        text = f"Task {id} goes on: {progress_of(stored)[2]}. Call wait_task with its id."
        state, waits = request_state(stored), [facts_of(wait) for wait in await self._waits(id)]
        facts: dict[str, object] = {} if state is None else {"request": state.to_json()}
        if waits:
            text = f"Task {id} waits for an answer ({progress_of(stored)[2]}). Call answer_task: {to_json(waits)}"
            facts["waits"] = waits
        return said(text, {"task_id": id, "status": stored.record.status, **facts})

    async def _tell_progress(self, ctx: Context, id: str) -> None:
        async for event in (await self._engine.task(id)).events():
            if event.kind in ("finished", "started", "retrying") and event.step:
                ended, steps, line = progress_of(await own_task(self._engine.core, id, self._caller_of()))
                await ctx.session.report_progress(ended, steps, line)
                await asyncio.sleep(PROGRESS_S)

    async def _ended(self, task: AsyncTask, within_s: float) -> TaskRecord | None:
        """Return the record of the task once it has ended; None if that takes longer than `within_s`."""
        ended = await task.wait(within_s)
        return await task.read_record() if ended else None

    async def _ended_unless_it_asks(self, task: AsyncTask, within_s: float) -> TaskRecord | None:
        """As `_ended`, but do not wait on if the task waits for an answer that its caller may give."""
        record = await self._ended(task, min(ASKS_S, within_s))
        if record is not None or within_s <= ASKS_S:
            return record
        asking = asyncio.create_task(self._asks(task))
        ending = asyncio.create_task(self._ended(task, within_s - ASKS_S))
        try:
            await asyncio.wait((asking, ending), return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and (error := asking.exception()) is not None:
                _log.warning("whether task %s asks something is not known: %s", task.id, error)
            elif asking.done() and asking.result():
                return None
            return await ending
        finally:
            asking.cancel()
            ending.cancel()

    async def _asks(self, task: AsyncTask) -> bool:
        """Wait until the task waits for an answer that its caller may give; False if it ends before."""
        async for event in task.events():
            if event.kind == "waiting" and await self._waits(task.id):
                return True
        return False

    async def _task_tool(self, name: str, arguments: Mapping[str, Any]) -> types.CallToolResult:
        check_task_tool(name, arguments)
        if name == "list_tasks":
            return await self._listed(arguments)
        caller = self._writing_caller() if name == "cancel_task" else self._caller_of()
        id = str(arguments.get("task_id", ""))
        stored = await own_task(self._engine.core, id, caller)
        if name == "cancel_task":
            status = await (await self._engine.task(id)).cancel()
            return said(f"task {id}: {status}", {"task_id": id, "status": status})
        if name == "answer_task":
            self._writing_caller()
            return await self._answered(caller, arguments)
        if name == "wait_task" and stored.record.status not in TERMINAL:
            within_s = min(float(arguments.get("timeout_s", self._call_s)), self._call_s)
            await self._ended_unless_it_asks(await self._engine.task(id), within_s)
            stored = await own_task(self._engine.core, id, caller)
        if stored.record.status not in TERMINAL:
            return await self._unfinished(id)
        record = await self._with_texts(stored.record)
        return result_of(record, self._page_chars, int(arguments.get("page", 1)))

    async def _answered(self, caller: Caller, arguments: Mapping[str, Any]) -> types.CallToolResult:
        id, name, digest = str(arguments["task_id"]), str(arguments["name"]), arguments.get("digest")
        receipt = await self._engine.answer(id, name, arguments["answer"], by=caller.user, digest=digest)
        told = "the wait is over" if receipt.is_over else "it is kept"
        return said(f"The answer to '{name}' of task {id} is recorded; {told}.", {"task_id": id, "status": "recorded"})

    async def _waits(self, task_id: str) -> list[OpenWait]:
        """Return the open waits of a task of the caller that the caller may answer."""
        core, user = self._engine.core, self._caller_of().user
        return await core.aside(lambda: open_waits(core.reader, task_id=task_id, answerer=user, limit=MOST_WAITS))

    async def _listed(self, arguments: Mapping[str, Any]) -> types.CallToolResult:
        user, limit = self._caller_of().user, min(int(arguments.get("limit", 50)), 200)
        reader = self._engine.core.reader

        def read() -> tuple[list[TaskRecord], dict[str, RequestState]]:
            records = reader.list_tasks(arguments.get("status"), arguments.get("workflow"), user, limit)
            return records, request_states(reader, records)

        records, states = await self._engine.core.aside(read)
        rows = [_row(record, states.get(record.task_id)) for record in records]
        return said(to_json(rows), {"tasks": rows})

    async def _with_texts(self, record: TaskRecord) -> TaskRecord:
        """Return the record with the large texts and lists of its result, which are in the blob store.

        Raises MCPError if they cannot be read.
        """
        core, result = self._engine.core, record.result
        if not core.give_source(result):
            return record
        try:
            told = await core.aside(lambda: with_contents(result, (TEXT, WHOLE), MAX_READ_BYTES))
        except (BlobMissing, BlobCorrupt, BlobsAway) as error:
            _log.error("the result of task %s cannot be read: %s", record.task_id, error)
            raise MCPError(types.INTERNAL_ERROR, f"{error.code}: see the log of the server") from error
        return replace(record, result=told)

    # the tasks extension

    async def _get(self, ctx: Context, params: ByTask) -> dict[str, object]:
        stored = await self._mine(ctx, params)
        told = replace(stored, record=await self._with_texts(stored.record))
        waits = await self._waits(params.task_id) if stored.record.status not in TERMINAL else []
        return detailed(told, waits, self._engine.settings.keep_finished_s, self._page_chars)

    async def _cancel(self, ctx: Context, params: ByTask) -> dict[str, object]:
        await self._mine(ctx, params)
        self._writing_caller()
        await (await self._engine.task(params.task_id)).cancel()
        return {"resultType": "complete"}

    async def _update(self, ctx: Context, params: ByTask) -> dict[str, object]:
        """Take the client's answers to open waits, and its decision about a parked task.

        A response to what is not asked any more changes nothing. Raises InvalidInput for an answer that does not fit.
        """
        stored, decision = await self._mine(ctx, params), decided(params)
        caller = self._writing_caller()
        for wait in await self._waits(params.task_id):
            await self._take(caller, wait, params.input_responses.get(key_of(wait)))
        if stored.record.status == "parked" and decision == "redrive":
            await self._engine.redrive([params.task_id])
        elif stored.record.status == "parked" and decision == "drop":
            await self._engine.drop([params.task_id])
        return {"resultType": "complete"}

    async def _take(self, caller: Caller, wait: OpenWait, response: object) -> None:
        """Answer a wait as the client says. The same response to the same request is the same answer."""
        try:
            found = answered(wait, response)
            if found is not None:
                id, by = f"mcp {key_of(wait)} {caller.user}", caller.user
                await self._engine.answer(wait.task_id, wait.name, found[0], by=by, id=id, digest=wait.digest)
        except AnswerRefused as error:
            _log.info("an answer of %s to task %s is refused: %s", caller.user, wait.task_id, error)
        except InvalidInput as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error

    async def _mine(self, ctx: Context, params: ByTask) -> StoredTask:
        need_tasks(ctx)
        check_name(ctx, params.task_id)
        try:
            return await own_task(self._engine.core, params.task_id, self._caller_of())
        except NotFound as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error

    def _writing_caller(self) -> Caller:
        caller = self._caller_of()
        if not caller.may_call:
            raise MCPError(types.INVALID_REQUEST, "this token may only read")
        return caller

    # resources

    async def _list_resources(self, _ctx: Context, _params: object) -> types.ListResourcesResult:
        tasks = await self._engine.tasks(user=self._caller_of().user)
        found = [
            types.Resource(uri=f"task://{task.id}", name=f"{task.workflow} {task.id}", mime_type="application/json")
            for task in tasks
        ]
        found += [
            types.Resource(uri=f"workflow://{name}", name=name, mime_type="application/json")
            for name in sorted(await self._published())
        ]
        return types.ListResourcesResult(resources=found)

    async def _list_templates(self, _ctx: Context, _params: object) -> types.ListResourceTemplatesResult:
        about = {
            "task://{id}": "a task: its status, result or error",
            "task://{id}/result{?page}": "a result that is too large for one answer, page by page",
            "task://{id}/events{?from}": "what has happened to a task, from an offset on",
            "workflow://{name}": "a workflow as it is published",
        }
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(uri_template=uri, name=uri, description=text, mime_type="application/json")
                for uri, text in about.items()
            ]
        )

    async def _read_resource(self, _ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            found = await self._resource(urlsplit(str(params.uri)))
        except FixTheCall as error:
            raise MCPError(types.INVALID_PARAMS, str(error), {"uri": str(params.uri)}) from error
        text = to_json(found)
        content = types.TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[content])

    async def _resource(self, uri: SplitResult) -> dict[str, object]:
        if uri.scheme == "workflow" and uri.netloc in (published := await self._published()):
            tool = published[uri.netloc].tool()
            return {"definition": published[uri.netloc].definition, "tool": tool.model_dump(mode="json", by_alias=True)}
        if uri.scheme != "task" or uri.path not in ("", "/", "/events", "/result"):
            raise NotFound(what="resource", name=uri.geturl()[:128])
        stored = await own_task(self._engine.core, uri.netloc, self._caller_of())
        if uri.path == "/events":
            return _events(stored, _number(uri, "from", 0))
        if uri.path == "/result":
            if stored.record.status != "completed":
                raise NotFound(what="result of task", name=stored.record.task_id)
            whole = (await self._with_texts(stored.record)).result
            part = page_of(whole, self._page_chars, _number(uri, "page", 1))
            return {**part.facts, "text": part.text}
        record = await self._with_texts(stored.record)
        facts = {**record.to_json(), "progress": progress_of(stored)[2]}
        part = page_of(record.result, self._page_chars)
        return {**facts, "result": None, "pages": part.pages} if part.pages > 1 else facts

    # changes

    async def _look_for_changes(self) -> None:
        known = await self._listing()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                now = await self._listing()
            except PodiumError as error:  # the engine ends; or what is deployed cannot be read now
                _log.warning("whether the list of tools has changed is not known: %s", error)
                continue
            if now != known:
                known = now
                await self._bus.publish(ToolsListChanged())
                await asyncio.gather(*(self._tell_change(key) for key in self._sessions))

    async def _tell_change(self, key: int) -> None:
        """Tell a session of the older protocol that the list of tools has changed."""
        try:
            await asyncio.wait_for(self._sessions[key].send_tool_list_changed(), TELL_S)
        except Exception as error:  # whatever the transport says: it has gone, or does not listen
            _log.info("a client is not told of the change any more: %s", error or type(error).__name__)
            self._sessions.pop(key, None)

    async def _listing(self) -> dict[str, str]:
        """Return the JSON of each listed tool, by its name."""
        return {name: published.tool().model_dump_json() for name, published in (await self._published()).items()}


class _Server(Server[object]):
    """Declares its capabilities: clients are told when the list of tools changes, but not of changed resources."""

    def get_capabilities(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, object]] | None = None,
        extensions: dict[str, dict[str, object]] | None = None,
        *,
        protocol_version: str | None = None,
    ) -> types.ServerCapabilities:
        found = super().get_capabilities(
            notification_options, experimental_capabilities, extensions, protocol_version=protocol_version
        )
        resources = types.ResourcesCapability(subscribe=False, list_changed=False)
        return found.model_copy(update={"tools": types.ToolsCapability(list_changed=True), "resources": resources})


def _with_responses(params: types.CallToolRequestParams) -> dict[str, object]:
    """Return the arguments of a call, with those that the user has typed into a form."""
    response = (params.input_responses or {}).get(ARGUMENTS)
    typed = getattr(response, "content", None) if getattr(response, "action", "") == "accept" else None
    return {**(typed or {}), **(params.arguments or {})}


def _priority(meta: Mapping[str, object]) -> int:
    try:
        return check_priority(meta.get("podium/priority", 0), "_meta.podium/priority")
    except InvalidInput as error:
        raise MCPError(types.INVALID_PARAMS, str(error)) from error


def _number(uri: SplitResult, name: str, otherwise: int) -> int:
    """Return a whole number from the query of a URI. Raises InvalidInput."""
    (text, *_) = parse_qs(uri.query).get(name, [str(otherwise)])
    if not re.fullmatch("[0-9]{1,15}", text):
        raise InvalidInput(problem="a whole number of at most 15 digits is wanted", path=f"?{name}")
    return int(text)


def _row(record: TaskRecord, state: RequestState | None) -> dict[str, object]:
    row: dict[str, object] = {"task_id": record.task_id, "workflow": record.workflow, "status": record.status}
    return row if state is None else {**row, "request": state.to_json()}


def _events(stored: StoredTask, since: int) -> dict[str, object]:
    """Return at most MAX_EVENTS recorded events from an offset on, and the offset to go on with."""
    past = past_events(stored.record, readable_events(stored.bodies))
    if stored.record.status in TERMINAL:
        past.append(end_event(stored.record, len(past)))
    page = [event._asdict() for event in past[since : since + MAX_EVENTS]]
    return {"events": page, "next": since + len(page), "ended": stored.record.status in TERMINAL}
