"""Turns a client's request into input for the workflow `ask`, and plans a request without running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ...protocols.errors import InvalidInput
from ...protocols.library.builtin import SHIPPED_TOOLS
from ...protocols.library.front import cleaned, granted_folder, own_hooks, own_pipelines, pipeline_of, router_from
from ...protocols.requests.grants import requests_config
from ...protocols.requests.hooks import read_hooks
from ...protocols.requests.pipelines import NAME, ask_workflow
from ...protocols.requests.planner import RequestPlan, make_plan
from ...protocols.requests.request import Request
from ...protocols.requests.router import Route
from ...protocols.wording import first_problem, place
from ...protocols.workflow import Workflow
from ..config import Settings
from ..store.contract import Reader

RECORDED = 200
"""Largest number of recorded tasks that an estimate is made from."""


def workflow_of(settings: Settings, hooks: Mapping[str, object] | None = None) -> Workflow:
    """Return the workflow that answers requests, with the pipelines and hooks of the setting `config.requests`.

    Args:
        hooks: further hooks by state, which run after the hooks of the settings. With them, the name of the workflow is
            `ask_` and the first 8 digits of its hash.

    Raises:
        InvalidSetting, InvalidDefinition: a pipeline, a hook or a rule of the router is wrong.
    """
    config = requests_config(settings.config)
    if config.router.rules:
        router_from(config.router)
    folder = None if config.pipelines is None else str(Path(config.pipelines).resolve())
    own, theirs = ({}, {}) if folder is None else (own_pipelines(folder), own_hooks(folder))
    workflow = ask_workflow(own, read_hooks(theirs, config.hooks, hooks), config.operation_s)
    if not hooks:
        return workflow
    name = f"{NAME}_{workflow.hash[:8]}"
    return Workflow(
        name, workflow.root, description=workflow.description, starts=workflow.starts, quotas=workflow.quotas
    )


def request_of(
    asked: str | Request | Mapping[str, object], settings: Settings, fields: Mapping[str, object]
) -> Request:
    """Make a request of a text or a whole request, with `fields` set. Raises InvalidInput with the field."""
    if isinstance(asked, Request) and not fields:
        return asked
    whole = asked.model_dump() if isinstance(asked, Request) else asked
    given = {"text": whole} if isinstance(whole, str) else dict(whole)
    try:
        return Request.model_validate({"source": settings.source, "user": settings.user, **given, **fields})
    except ValidationError as error:
        loc, problem = first_problem(error, Request)
        raise InvalidInput(problem=problem, path=place("request", loc)) from error


def input_of(request: Request) -> dict[str, object]:
    return {"request": request.model_dump(mode="json", exclude_defaults=True)}


def plan_of(request: Request, user: str, settings: Settings, reader: Reader) -> tuple[Route, RequestPlan]:
    """Return the route and the plan of a request without running it. Raises InvalidInput for a forbidden folder."""
    config = requests_config(settings.governance().config)
    grants, request = config.grants_of(user), cleaned(request)
    if request.root is not None:
        request = request.model_copy(update={"root": granted_folder(request.root, grants, user)})
    route = router_from(config.router).route(request)
    tools = {**SHIPPED_TOOLS, **config.tools}
    pipeline = pipeline_of(route.type, config).root
    return route, make_plan(request, route.type, pipeline, tools, grants, recorded_s(reader, route.type))


def recorded_s(reader: Reader, type: str) -> list[float]:
    """Return the durations of completed requests of this type, in seconds, the newest first."""
    records = reader.list_tasks("completed", NAME, None, RECORDED)
    return [
        (record.finished_at or record.accepted_at) - record.accepted_at
        for record in records
        if isinstance(record.result, Mapping) and record.result.get("type") == type
    ]
