"""The tasks extension, `io.modelcontextprotocol/tasks` (SEP-2663): long calls as tasks that clients come back to.

A task of MCP is a task of ours, under the same id. The client gets the id when the acceptance of the task is durable.
So the id always leads to the task, in this process or in another one after this one has died.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import Field

from ....protocols.outcomes import TERMINAL, TaskRecord
from ...client.request_state import request_state
from ...client.waits import OpenWait
from ...store.contract import StoredTask
from .questions import requests_of
from .tools import progress_of, result_of

EXTENSION = "io.modelcontextprotocol/tasks"
POLL_MS = 500
DECISION = "decision"
"""Key of the question about the fate of the parked steps of a task."""
PROTOCOL_FAILURES = frozenset({"workflow_down", "host_lost", "internal"})
"""Codes of failures of the machinery. Any other failure is one of the tool itself, which has run."""


class ByTask(types.RequestParams):
    """Parameters of `tasks/get`, `tasks/cancel` and `tasks/update`."""

    task_id: str = Field(alias="taskId", max_length=256)
    input_responses: dict[str, Any] = Field(alias="inputResponses", default_factory=dict)


def knows_tasks(ctx: ServerRequestContext[object, object]) -> bool:
    """Whether the client of this request has declared the extension, for the request or the session."""
    own: Any = (ctx.meta or {}).get(types.CLIENT_CAPABILITIES_META_KEY) or {}
    if EXTENSION in (own.get("extensions") or {}):
        return True
    wanted = types.ClientCapabilities(extensions={EXTENSION: {}})
    return ctx.protocol_version >= "2026-07-28" and ctx.session.check_client_capability(wanted)


def can_ask(ctx: ServerRequestContext[object, object]) -> bool:
    """Whether the client of this request can ask its user with a form, in the result of a call."""
    if ctx.protocol_version < "2026-07-28":
        return False
    own: Any = (ctx.meta or {}).get(types.CLIENT_CAPABILITIES_META_KEY) or {}
    asks = own.get("elicitation")
    if asks is not None:
        return "url" not in asks or "form" in asks
    return ctx.session.check_client_capability(types.ClientCapabilities(elicitation=types.ElicitationCapability()))


def need_tasks(ctx: ServerRequestContext[object, object]) -> None:
    if not knows_tasks(ctx):
        needs: dict[str, object] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, f"needs the extension {EXTENSION}", needs)


def check_name(ctx: ServerRequestContext[object, object], task_id: str) -> None:
    """Check, over HTTP, that the header `Mcp-Name` names the task of the request (SEP-2243)."""
    headers = getattr(ctx.request, "headers", None)
    if headers is not None and headers.get("mcp-name") != task_id:
        raise MCPError(types.HEADER_MISMATCH, "the header Mcp-Name is not params.taskId")


def created(record: TaskRecord, keep_s: float) -> dict[str, object]:
    """Return the result of the call that started the task."""
    return {"resultType": "task", **_facts(record, "working", keep_s)}


def detailed(stored: StoredTask, waits: Sequence[OpenWait], keep_s: float, page_chars: int) -> dict[str, object]:
    """Return the result of `tasks/get`. `waits` are the open waits that the client may answer."""
    record, asked = stored.record, requests_of(waits)
    if record.status == "parked":
        asked[DECISION] = {"method": "elicitation/create", "params": _question(record)}
    if asked:
        return {"resultType": "complete", **_facts(record, "input_required", keep_s), "inputRequests": asked}
    if record.status not in TERMINAL:
        state = request_state(stored)
        facts = _facts(record, "working", keep_s) | ({} if state is None else {"lastUpdatedAt": _iso(state.updated_at)})
        return {"resultType": "complete", **facts, "statusMessage": progress_of(stored)[2]}
    if record.status == "cancelled":
        return {"resultType": "complete", **_facts(record, "cancelled", keep_s)}
    if record.failure is not None and record.failure.code in PROTOCOL_FAILURES:
        error = {"code": types.INTERNAL_ERROR, "message": record.failure.message}
        return {"resultType": "complete", **_facts(record, "failed", keep_s), "error": error}
    result = result_of(record, page_chars).model_dump(mode="json", by_alias=True, exclude_none=True)
    return {"resultType": "complete", **_facts(record, "completed", keep_s), "result": result}


def decided(params: ByTask) -> Literal["redrive", "drop"] | None:
    """Return the decision of a client about a parked task; None if it has not decided."""
    said = params.input_responses.get(DECISION) or {}
    decision = (said.get("content") or {}).get("decision") if said.get("action") == "accept" else None
    return "drop" if said.get("action") == "decline" else decision if decision in ("redrive", "drop") else None


def _question(record: TaskRecord) -> dict[str, object]:
    choices = {"type": "string", "enum": ["redrive", "drop"], "description": "run what is parked again, or let it fail"}
    return {
        "mode": "form",
        "message": f"Task {record.task_id} of '{record.workflow}' is parked: nobody knows what a step has done, or it "
        "failed and is to be decided about. Shall it run again, or be dropped?",
        "requestedSchema": {"type": "object", "properties": {"decision": choices}, "required": ["decision"]},
    }


def _facts(record: TaskRecord, status: str, keep_s: float) -> dict[str, object]:
    return {
        "taskId": record.task_id,
        "status": status,
        "createdAt": _iso(record.accepted_at),
        "lastUpdatedAt": _iso(record.finished_at or record.accepted_at),
        "ttlMs": int(keep_s * 1000),
        "pollIntervalMs": POLL_MS,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
