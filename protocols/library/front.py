"""The first steps of every request: choose its pipeline, check its permissions, and plan its work."""

from __future__ import annotations

import importlib
import os
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel

from ..context import Context
from ..errors import InvalidInput, InvalidSetting
from ..protocol import protocol
from ..requests.grants import Grants, RequestsConfig, RouterSettings, read_setting, requests_config
from ..requests.pipelines import hooks_from, read_pipeline, shipped_pipelines
from ..requests.planner import RequestPlan, make_plan
from ..requests.request import REQUEST_TYPES, Attachment, Request, RequestType
from ..requests.router import Route, Router, Rule
from ..requests.scorer import NaiveBayes, Scorer
from ..workflow import Workflow
from .builtin import SHIPPED_TOOLS


class Asked(BaseModel):
    """The input of the workflow `ask`."""

    request: Request


class Routed(BaseModel):
    request: Request
    route: Route


class Checked(BaseModel):
    """A request that was cleaned and checked, with the grants of its user."""

    request: Request
    route: Route
    grants: Grants


class Planned(BaseModel):
    """All facts about a request that later steps need."""

    request: Request
    route: Route
    grants: Grants
    plan: RequestPlan


class ToPlan(BaseModel):
    """A checked request, with the outcomes of the tools that failed."""

    checked: Checked
    failed: list[object] = []


@protocol(concurrency=64)
async def route(ctx: Context, input: Asked) -> Routed:
    """Choose the pipeline of a request. The route in the result contains the reason."""
    router = _router(requests_config(ctx.config).router.model_dump_json())
    return Routed(request=input.request, route=router.route(input.request))


@protocol(concurrency=64)
async def validate(ctx: Context, input: Routed) -> Checked:
    """Clean the request, and look up the grants of its user. Raises InvalidInput for a request that is not allowed."""
    grants = requests_config(ctx.config).grants_of(ctx.user)
    request = cleaned(input.request)
    if request.root is not None:
        request = request.model_copy(update={"root": granted_folder(request.root, grants, ctx.user)})
    return Checked(request=request, route=input.route, grants=grants)


@protocol(concurrency=64)
async def plan(ctx: Context, input: ToPlan | Checked) -> Planned:
    """Plan steps, tools and quotas of the request. When it is planned again, the tools that failed are left out."""
    checked, failed = (input.checked, input.failed) if isinstance(input, ToPlan) else (input, [])
    config = requests_config(ctx.config)
    made = make_plan(
        checked.request,
        checked.route.type,
        pipeline_of(checked.route.type, config).root,
        {**SHIPPED_TOOLS, **config.tools},
        checked.grants,
        failed=dict(filter(None, map(_tool_and_why, failed))),
    )
    lean = made.model_copy(update={"steps": ()})  # it goes through every step; who wants to see them makes them again
    return Planned(request=checked.request, route=checked.route, grants=checked.grants, plan=lean)


def cleaned(request: Request) -> Request:
    """Return the request in composed Unicode (NFC), without control characters except line ends and tabs.

    Raises InvalidInput if no text is left.
    """
    text = _plain_text(request.text)
    if not text:
        raise InvalidInput(problem="the request has no text", path="input.request.text")
    attachments = tuple(Attachment(name=each.name, text=_plain_text(each.text)) for each in request.attachments)
    return request.model_copy(update={"text": text, "attachments": attachments})


def granted_folder(root: str, grants: Grants, user: str) -> str:
    """Return the real path of a folder. Raises InvalidInput if there is no such folder, or the user may not read it."""
    path = os.path.realpath(Path(root).expanduser())
    if not grants.allows_path(path):
        problem = f"user '{user}' may not read it; `config.requests.grants` says what they may"
        raise InvalidInput(problem=problem, path="input.request.root")
    if not os.path.isdir(path):
        raise InvalidInput(problem=f"no such folder: {path}", path="input.request.root")
    return path


def pipeline_of(type: RequestType, config: RequestsConfig) -> Workflow:
    own = {} if config.pipelines is None else own_pipelines(config.pipelines)
    return own.get(type) or shipped_pipelines()[type]


@lru_cache(maxsize=8)
def own_pipelines(folder: str) -> Mapping[RequestType, Workflow]:
    """Read the pipelines in a folder, one file `<type>.yaml` each. Raises InvalidDefinition."""
    paths = {type: Path(folder) / f"{type}.yaml" for type in REQUEST_TYPES}
    return {type: read_pipeline(path.read_text(), str(path)) for type, path in paths.items() if path.is_file()}


@lru_cache(maxsize=8)
def own_hooks(folder: str) -> Mapping[str, object]:
    """Read `hooks.yaml` in a folder of pipelines; returns the hooks by state. Raises InvalidDefinition."""
    path = Path(folder) / "hooks.yaml"
    return hooks_from(path.read_text(), str(path)) if path.is_file() else {}


@lru_cache(maxsize=8)
def _router(settings: str) -> Router:
    read = RouterSettings.model_validate_json(settings)
    return router_from(read)


def router_from(settings: RouterSettings) -> Router:
    """Build a router from its settings. Raises InvalidSetting, or InvalidDefinition for a rule."""
    place = "config.requests.router.rules"
    rules = [read_setting(Rule, rule, f"{place}.{number}") for number, rule in enumerate(settings.rules)]
    return Router(rules=tuple(rules), scorer=_scorer(settings))


def _scorer(settings: RouterSettings) -> Scorer | None:
    if settings.scorer is not None:
        module, _, name = settings.scorer.partition(":")
        try:
            return getattr(importlib.import_module(module), name)()  # type: ignore[no-any-return]
        except (ImportError, AttributeError, ValueError) as error:
            raise InvalidSetting(name="config.requests.router.scorer", source="config", problem=str(error)) from error
    if settings.trained is not None:
        try:
            return NaiveBayes.from_json(Path(settings.trained).read_text())
        except OSError as error:
            raise InvalidSetting(name="config.requests.router.trained", source="config", problem=str(error)) from error
    return None


def _plain_text(text: str) -> str:
    composed = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    return "".join(c for c in composed if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs")).strip()


def _tool_and_why(outcome: object) -> tuple[str, str] | None:
    """Return the name of the tool and its error, from a message that begins with `tool <name>: `; else None."""
    message = str((outcome.get("error") or {}).get("message", "")) if isinstance(outcome, Mapping) else ""
    name, _, why = message.partition(": ")
    return (name.removeprefix("tool "), why) if name.startswith("tool ") else None
