"""Plans a request before any of it runs: steps and their order, tools, quotas, and the time that others took.

A plan is read off the pipeline that the request's type leads to, so it cannot differ from what runs. Times come from
recorded durations; where there are none, it says so instead of guessing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, assert_never

from pydantic import BaseModel, ConfigDict, Field

from ..protocol import declaration_of, resolve
from ..tree import Adaptive, Hierarchy, Node, Parallel, Sleep, Step, Wait, default_name
from ..tree import Sequence as InOrder
from .grants import Grants, ToolSpec
from .machine import State, stage_of
from .request import Request, RequestType

EMPTY: Mapping[str, str] = {}
MAX_TOOLS = 3
"""Most tools that are chosen by their descriptions for one request."""
_WORD = re.compile(r"[a-z][a-z0-9]{2,}")
_QUOTED = re.compile(r"`([^`\n]{1,200})`|\"([^\"\n]{1,200})\"|'([^'\n]{1,200})'")
_NAME = re.compile(r"\b[A-Za-z]+(?:_[A-Za-z0-9]+)+\b|\b[A-Z]+[a-z0-9]+[A-Z]\w*\b")
_FILE = re.compile(r"(?<![\w./-])(?:[\w./-]*[\w-]\.[A-Za-z]{1,5}|\.[a-z][\w.-]+)\b")
_SOUGHT = re.compile(r"\b(?:grep(?:\s+for)?|search(?:es)?\s+for)\s+(\w{3,})", re.IGNORECASE)
_COMMON = frozenset(
    "the and for that with this from all are what how does tool run please can you which file files below folder show "
    "each its their into one out has have use".split()
)


class Call(BaseModel):
    """A tool to be run, with its arguments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    arguments: Mapping[str, object] = {}
    id: str = ""
    """The model's own name for the call."""


class PlannedStep(BaseModel):
    """A step of the pipeline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """The path of the step in the pipeline."""
    state: State | None
    """The state of the request while it runs."""
    after: tuple[str, ...]
    """Steps that it waits for."""
    protocol: str
    quotas: Mapping[str, int]
    maybe: bool
    """Whether the step runs only for some outcomes before it: a fallback, a branch, a further round."""


class Estimate(BaseModel):
    """The times of earlier requests, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_s: float
    p95_s: float
    tasks: Annotated[int, Field(ge=1)]
    """The number of recorded tasks of the same type."""


class RequestPlan(BaseModel):
    """The plan of a request: the steps, tools, permits and time that it will take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: RequestType
    steps: tuple[PlannedStep, ...]
    calls: tuple[Call, ...]
    """Tools that run first; a model may ask for others."""
    tools: tuple[str, ...]
    """All tools that the request may use."""
    refused: Mapping[str, str] = {}
    """Tools that were asked for, or tried, and are not used, and why."""
    quotas: Mapping[str, int]
    """The most permits that the request holds at once, by quota."""
    estimate: Estimate | None = None


def make_plan(
    request: Request,
    type: RequestType,
    pipeline: Node,
    tools: Mapping[str, ToolSpec],
    grants: Grants,
    durations_s: Sequence[float] = (),
    failed: Mapping[str, str] = EMPTY,
) -> RequestPlan:
    """Args:
    durations_s: of tasks on record that went through the same pipeline.
    failed: tools that were tried already, and why they are not tried again.
    """
    steps = steps_of(pipeline)
    usable = {name: spec for name, spec in tools.items() if _refusal(name, spec, grants) is None}
    wanted = [name for name in request.tools if name not in failed]
    refused = {name: why for name in wanted if (why := _why_not(name, tools, grants)) is not None}
    has_tools = any(step.state == "tool_execution" for step in steps)
    chosen = [name for name in wanted if name in usable] or _fitting(request.text, usable, failed)
    calls = [Call(tool=name, arguments=arguments_for(usable[name], request)) for name in chosen]
    able = [call for call in calls if set(usable[call.tool].required) <= set(call.arguments)]
    lacking = {call.tool: _lacking(usable[call.tool], call) for call in calls if call not in able}
    if not has_tools:
        lacking = dict.fromkeys(wanted, f"a request of the type '{type}' runs no tools")
    refused = {name: why for name, why in lacking.items() if name in wanted} | refused
    return RequestPlan(
        type=type,
        steps=steps,
        calls=tuple(able) if has_tools else (),
        tools=tuple(usable) if has_tools else (),
        refused={**failed, **refused},
        quotas=_most(steps),
        estimate=estimate(durations_s),
    )


def steps_of(pipeline: Node) -> tuple[PlannedStep, ...]:
    """Return the steps of a pipeline in the order in which they may begin."""
    return tuple(_steps(pipeline, "", (), False))


def estimate(durations_s: Sequence[float]) -> Estimate | None:
    """Return median and 95th percentile (nearest rank); None without records."""
    if not durations_s:
        return None
    ordered = sorted(durations_s)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Estimate(p50_s=ordered[len(ordered) // 2], p95_s=p95, tasks=len(ordered))


def arguments_for(tool: ToolSpec, request: Request) -> dict[str, object]:
    """Return the arguments that the request gives: its folder and text, and quotations, names and files in it."""
    quoted = ["".join(groups) for groups in _QUOTED.findall(request.text)]
    names, files = _NAME.findall(request.text), _FILE.findall(request.text)
    known: dict[str, object] = {"text": request.text}
    if request.root is not None:
        known["root"] = request.root
    sought = quoted or _SOUGHT.findall(request.text) or names
    if sought:
        known["pattern"] = sought[0]
    if files:
        known["path"] = files[0]
    return {name: known[name] for name in tool.arguments if name in known}


def _lacking(spec: ToolSpec, call: Call) -> str:
    missing = [name for name in spec.required if name not in call.arguments]
    return f"the request does not say its {' or '.join(missing)}; quote it, as in 'this'"


def _why_not(name: str, tools: Mapping[str, ToolSpec], grants: Grants) -> str | None:
    if name not in tools:
        return "there is no such tool" + (f"; there are {', '.join(tools)}" if tools else "")
    return _refusal(name, tools[name], grants)


def _refusal(name: str, spec: ToolSpec, grants: Grants) -> str | None:
    if not grants.allows_tool(name):
        return "not granted to this user"
    if spec.network and not grants.allows_network:
        return "it needs the network, which is not granted to this user"
    return None


def _fitting(text: str, tools: Mapping[str, ToolSpec], without: Collection[str]) -> list[str]:
    """Return at most MAX_TOOLS tools whose names or descriptions share most words with the request, best first."""
    words = _words(text)
    scored = [
        (len(words & _words(spec.about)) + 2 * len(words & _words(name.replace("_", " "))), name)
        for name, spec in tools.items()
        if name not in without
    ]
    best = max((score for score, _ in scored), default=0)
    return [name for score, name in sorted(scored, key=lambda each: -each[0]) if score and score >= best / 2][
        :MAX_TOOLS
    ]


def _words(text: str) -> set[str]:
    """Return the words of a text without their commonest endings."""
    return {re.sub(r"(ing|ed|es|s)$", "", word) for word in _WORD.findall(text.lower()) if word not in _COMMON}


def _most(steps: Sequence[PlannedStep]) -> dict[str, int]:
    """Return the most permits of each quota held at once. Steps with the same predecessors may run at once."""
    at_once: dict[tuple[str, ...], dict[str, int]] = {}
    for step in steps:
        needs = at_once.setdefault(step.after, {})
        for quota, amount in step.quotas.items():
            needs[quota] = needs.get(quota, 0) + (0 if step.maybe and quota in needs else amount)
    found: dict[str, int] = {}
    for needs in at_once.values():
        for quota, amount in needs.items():
            found[quota] = max(found.get(quota, 0), amount)
    return found


def _steps(node: Node, path: str, after: tuple[str, ...], maybe: bool) -> Iterator[PlannedStep]:
    """Yield the steps of a tree in the order in which they may begin."""
    if isinstance(node, Step):
        declared = declaration_of(resolve(node.step))
        quotas = declared.quotas if node.quotas is None else node.quotas
        name = path or default_name(node)
        yield PlannedStep(
            name=name, state=stage_of(name), after=after, protocol=node.step, quotas=dict(quotas), maybe=maybe
        )
    else:
        yield from _inside(node, path, after, maybe)
    for index, other in enumerate(node.fallback, 1):
        yield from _steps(other, _join(path, f"fallback:{index}"), after, True)


def _inside(node: Node, path: str, after: tuple[str, ...], maybe: bool) -> Iterator[PlannedStep]:
    match node:
        case InOrder():
            for child in node.sequence:
                steps = list(_steps(child, _join(path, str(child.name)), after, maybe))
                yield from steps
                after = _ends(steps) or after
        case Parallel():
            for label, child in _branches(node):
                yield from _steps(child, _join(path, label), after, maybe or node.do is not None)
        case Hierarchy():
            lead = _join(path, default_name(node.hierarchy))
            yield from _steps(node.hierarchy, lead, after, maybe)
            for label, child in node.team.items():
                yield from _steps(child, _join(path, label), (lead,), True)
        case Adaptive():
            for label, child in node.adaptive.items():
                leading = [rule for rule in node.rules if rule.to == label and rule.after]
                places = tuple(sorted(_join(path, str(rule.after)) for rule in leading)) or after
                certain = label == node.start or any(rule.when == "true" for rule in leading)
                yield from _steps(child, _join(path, label), places, maybe or not certain)
        case Wait():
            for (at_timeout,), child in node.own_children():
                yield from _steps(child, _join(path, str(at_timeout)), after, True)
        case Sleep():
            pass
        case Step():
            raise AssertionError("a step has nothing inside")
        case _:
            assert_never(node)


def _branches(node: Parallel) -> list[tuple[str, Node]]:
    if node.do is not None:
        return [(node.do.name or default_name(node.do), node.do)]
    return list((node.parallel or {}).items())


def _ends(steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """Return the names of the steps that no other step waits for, without fallbacks."""
    waited_for = {name for step in steps for name in step.after}
    return tuple(step.name for step in steps if step.name not in waited_for and "fallback:" not in step.name)


def _join(path: str, label: str) -> str:
    return f"{path}/{label}" if path else label
