"""Presents workflows as tools of MCP, and tasks as results of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations

from ....protocols.check import walk
from ....protocols.errors import InvalidInput
from ....protocols.json_forms import json_form, not_finite_in, to_json
from ....protocols.outcomes import TaskRecord, TaskStatus
from ....protocols.requests.pipelines import NAME as ASK
from ....protocols.requests.request import Request
from ....protocols.schemas import misfit
from ....protocols.tree import Step
from ....protocols.values import Value
from ....protocols.wording import place
from ....protocols.workflow import Workflow
from ....supervisors.tasks.history import step_rows
from ...client.request_state import request_state
from ...store.contract import StoredTask
from .pages import page_of
from .wrapping import given_out, plain_object, wrapped

_ID = {"type": "string", "description": "id of the task"}
_PAGE = {"type": "integer", "minimum": 1, "maximum": 1_000_000, "description": "of a result that comes in pages"}
_TASK_FACTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"type": "string"},
        "page": {"type": "integer", "description": "if the result comes in pages: this is the text of one"},
        "pages": {"type": "integer"},
        "result": {},
    },
    "required": ["task_id", "status"],
}


@dataclass(frozen=True, slots=True)
class Published:
    """A workflow that is published as a tool."""

    definition: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.definition["name"])

    @property
    def takes_object(self) -> bool:
        """Whether the arguments are the input. Any other input is wrapped, because arguments are plain objects."""
        return self.name != ASK and plain_object(self.schema) is not None

    @property
    def schema(self) -> dict[str, object]:
        return dict((self.definition.get("interface") or {}).get("input") or self.definition.get("input") or {})

    def tool(self) -> Tool:
        if self.name == ASK:
            return Tool(name=ASK, description=_ABOUT_ASK, input_schema=_ask_schema(), output_schema=_TASK_FACTS)
        takes = plain_object(self.schema) or {**wrapped(self.schema, "input"), "required": ["input"]}
        gives = given_out((self.definition.get("interface") or {}).get("output") or {})
        facts = wrapped(gives, "result", _TASK_FACTS["properties"])
        return Tool(
            name=self.name,
            description=str(self.definition.get("description") or f"Runs the workflow '{self.name}', durably."),
            input_schema=takes,
            output_schema={**facts, "required": _TASK_FACTS["required"]},
        )

    def input_of(self, arguments: Mapping[str, object]) -> Value:
        """Return the input of the task. Raises InvalidInput with the field."""
        _check_arguments(self.tool().input_schema, arguments)
        if self.name == ASK:
            return {"request": {**arguments, "source": "mcp"}}
        return dict(arguments) if self.takes_object else arguments["input"]


_ABOUT_ASK = (
    "Answers a question, with context from files below `root`, the conversation of `session`, tools and a model; "
    "the answer names its sources."
)


def _ask_schema() -> dict[str, object]:
    schema = Request.model_json_schema()
    for name in ("user", "source"):
        del schema["properties"][name]
    return schema


def check_task_tool(name: str, arguments: Mapping[str, object]) -> None:
    """Check the arguments of a tool for tasks. Raises InvalidInput with the field."""
    schema = next(tool.input_schema for tool in task_tools() if tool.name == name)
    _check_arguments(schema, arguments)


def _check_arguments(schema: Mapping[str, object], arguments: Mapping[str, object]) -> None:
    odd = not_finite_in(arguments)
    if odd is not None:
        problem = "NaN and Infinity are no numbers of JSON; where they are meant, they are sent as texts"
        raise InvalidInput(problem=problem, path=place("arguments", odd))
    found = misfit(dict(arguments), schema)
    if found is not None:
        raise InvalidInput(problem=found[1], path=place("arguments", found[0]))


def task_tools() -> list[Tool]:
    """Return the tools for tasks, for clients without the tasks extension."""
    reads, changes = ToolAnnotations(read_only_hint=True), ToolAnnotations(destructive_hint=True)
    by_id = {"type": "object", "properties": {"task_id": _ID}, "required": ["task_id"]}
    reading = {**by_id, "properties": {"task_id": _ID, "page": _PAGE}}
    answering = {
        "type": "object",
        "properties": {
            "task_id": _ID,
            "name": {"type": "string", "maxLength": 256, "description": "the name of the wait"},
            "answer": {"description": "what fits the schema of the wait"},
            "digest": {"type": "string", "maxLength": 128, "description": "that of the wait, as it was shown"},
        },
        "required": ["task_id", "name", "answer"],
    }
    seconds = {"type": "number", "minimum": 0, "maximum": 25}
    waiting = {**by_id, "properties": {"task_id": _ID, "timeout_s": seconds, "page": _PAGE}}
    listing = {
        "type": "object",
        "properties": {
            "status": {"enum": list(get_args(TaskStatus))},
            "workflow": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 200},
        },
    }
    return [
        Tool(
            name="get_task", description="How far a task is, and its result.", input_schema=reading, annotations=reads
        ),
        Tool(
            name="wait_task",
            description="Waits for a task, 25 s at most; then its result, or how far it is.",
            input_schema=waiting,
            annotations=reads,
        ),
        Tool(
            name="answer_task",
            description="Answers a task that waits for an answer: `waits` of get_task says what it asks.",
            input_schema=answering,
            annotations=changes,
        ),
        Tool(name="cancel_task", description="Cancels a task.", input_schema=by_id, annotations=changes),
        Tool(name="list_tasks", description="Your tasks, the newest first.", input_schema=listing, annotations=reads),
    ]


TASK_TOOLS = frozenset(tool.name for tool in task_tools())


def progress_of(stored: StoredTask) -> tuple[int, int, str]:
    """Return the number of ended steps, of steps of the tree (loops and rounds may add more), and a line of both."""
    rows = step_rows(stored.record, stored.definition, stored.bodies)
    ended = sum(row.status not in ("open", "running", "retrying", "waiting") for row in rows)
    root = Workflow.from_trusted({"name": "w", "root": stored.definition["root"]}).root
    steps = sum(isinstance(node, Step) for loc, node in walk(root, ()) if not {"fallback", "undo"} & set(loc))
    running = [row.path.replace("/", ".") for row in rows if row.status == "open"]
    state = request_state(stored)
    what = "" if state is None else f", {state.state}"
    what += f", running {', '.join(running[:3])}" if running else ""
    waits = [row.waits for row in rows if row.status == "waiting" and row.waits]
    what += f", waiting for {waits[0]}" if waits else ""
    if stored.record.status == "parked":
        what = ", waiting for somebody to decide (podium dead)"
    return ended, max(steps, ended), f"{ended}/{max(steps, ended)} steps{what}"


def result_of(record: TaskRecord, page_chars: int, page: int = 1) -> CallToolResult:
    """Return the result of a call for a task that has ended. A failed task is an error of the tool.

    Raises InvalidInput for a page that its result does not have.
    """
    facts = {"task_id": record.task_id, "status": record.status}
    if record.status != "completed":
        failure = record.failure
        why = f"{failure.kind or failure.code} in step '{failure.step}': {failure.message}" if failure else "cancelled"
        return said(why, facts, is_error=True)
    result = record.result
    part = page_of(result, page_chars, page)
    if part.pages > 1:
        paged = said(part.text, {**facts, **part.facts})
        return paged.model_copy(update={"content": [*paged.content, text_block(part.note(record.task_id))]})
    text = result["text"] if record.workflow == ASK and isinstance(result, Mapping) else result
    return said(text if isinstance(text, str) else to_json(text), {**facts, "result": result})


def said(text: str, facts: Mapping[str, object] | None = None, is_error: bool = False) -> CallToolResult:
    plain = None if facts is None else json_form(facts)
    return CallToolResult(content=[text_block(text)], structured_content=plain, is_error=is_error)


def text_block(text: str) -> TextContent:
    return TextContent(type="text", text=text)
