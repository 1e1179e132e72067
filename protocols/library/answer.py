"""Builds the final answer of a request: its text, the sources it relies on, and the things it lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..context import Context
from ..errors import InvalidInput
from ..json_forms import from_json, to_json
from ..protocol import protocol
from ..schemas import misfit
from ..wording import place
from .context import Assembled, assembled
from .front import Planned
from .quoting import quotation, why_no_model

MAX_SOURCES = 12


class Source(BaseModel):
    """A place in a file, or in an attachment, that the answer relies on."""

    path: str
    line: int
    end_line: int


class ToolRun(BaseModel):
    """A tool that ran, or the reason why it failed."""

    tool: str
    level: str | None = None
    """Level of the sandbox in which the tool ran."""
    error: str | None = None


class Answer(BaseModel):
    """The final answer to a request."""

    text: str
    """Text of the answer in Markdown, or in JSON if the request has a schema for the answer."""
    value: object = None
    """The same answer as data, if the request has a schema."""
    sources: list[Source] = []
    type: str
    """Type of the request, as the router chose it."""
    model: str | None = None
    """Name of the model. None: the answer consists of quotations, without a model."""
    tools: list[ToolRun] = []
    missing: dict[str, str] = {}
    """Reasons by name, for sources, tools and other things that could not be used or that the answer lacks."""
    left_out: str | None = None
    """Files of the folder that are not in the index: secrets, too large ones, and the like. Nothing is missing then."""
    tokens: dict[str, int] = {}


class ToFinish(BaseModel):
    plan: Planned | None = None
    context: dict[str, object] | None = None
    sources: dict[str, object] | None = None
    results: list[dict[str, Any]] = []
    model: dict[str, Any] = {}
    answer: dict[str, Any] | None = None
    """A finished answer, which is passed on unchanged."""


@protocol(concurrency=64)
async def finish(ctx: Context, input: ToFinish) -> dict[str, object]:
    """Return the answer: Markdown, or JSON that fits the request's schema. Raises InvalidInput for a misfit."""
    if input.answer is not None:
        return input.answer
    if input.plan is None:
        raise InvalidInput(problem="there is nothing to finish", path="input.plan")
    context = context_of(input.plan, input.context, input.sources)
    runs = [_run_of(outcome) for outcome in input.results]
    missing = {f"tool {name}": why for name, why in input.plan.plan.refused.items()}
    missing |= context.missing
    model = input.model if str(input.model.get("text", "")).strip() else _without_text(input, input.plan, context)
    missing |= model.get("missing", {})
    said = set(missing.values())
    missing |= {f"tool {run.tool}": run.error for run in runs if run.error is not None and run.error not in said}
    answer = Answer(
        text=model["text"].strip(),
        sources=[Source.model_validate(each) for each in model.get("sources", [])][:MAX_SOURCES],
        type=input.plan.route.type,
        model=model.get("model"),
        tools=runs,
        missing=missing,
        left_out=context.left_out,
        tokens=model.get("tokens", {}),
    )
    schema = input.plan.request.answer_schema
    return (answer if schema is None else _as_data(answer, schema)).model_dump(mode="json")


def context_of(plan: Planned, context: Mapping[str, object] | None, sources: Mapping[str, object] | None) -> Assembled:
    """Return one context, whether it was assembled in an earlier step or is still in the form of its sources."""
    if sources is not None:
        return assembled(plan, sources)
    known = {key: value for key, value in (context or {}).items() if key in Assembled.model_fields}
    read = Assembled.model_validate(known)
    return read if read.passages else read.model_copy(update={"passages": assembled(plan, {}).passages})


def json_in(text: str) -> object:
    """Parse the JSON value of a text, with or without a code fence around it. Raises ValueError."""
    fenced = re.search(r"```(?:json)?\s*\n(.*?)```", text, re.DOTALL)
    return from_json(fenced.group(1) if fenced else text)


def why_misfit(value: object, schema: Mapping[str, object]) -> str | None:
    """Return the reason why a value does not fit a schema; None if it fits."""
    found = misfit(value, schema)
    return None if found is None else f"{place('$', found[0])}: {found[1]}"


def _as_data(answer: Answer, schema: Mapping[str, object]) -> Answer:
    """Return the answer with its value checked against the schema. Raises InvalidInput for a misfit.

    Without a model the value is {"answer", "sources"} with quotations; the schema decides whether that will do.
    """
    value: object
    if answer.model is None:
        value = {"answer": answer.text, "sources": [source.model_dump() for source in answer.sources]}
    else:
        value = json_in(answer.text)
    problem = why_misfit(value, schema)
    if problem is not None:
        how = "an answer of quotations" if answer.model is None else "the model's answer"
        raise InvalidInput(problem=f"{how} does not fit the schema: {problem}", path="answer_schema")
    return answer.model_copy(update={"value": value, "text": to_json(value)})


def _without_text(input: ToFinish, plan: Planned, context: Assembled) -> dict[str, Any]:
    """Build an output from quotations, for a pipeline that lets a model's output without readable text pass."""
    outputs = [outcome["output"] for outcome in input.results if outcome.get("output")]
    said = [(str(output["tool"]), str(output["text"])) for output in outputs]
    called = ", ".join(str(call.get("tool")) for call in input.model.get("calls", []))
    reason = f"it only called {called}, which did not run" if called else "what came of it has no text"
    sentence, short = why_no_model({"kind": "ModelMalformed", "message": reason})
    text, pieces = quotation(plan.request.text, context, said, sentence)
    sources = [{"path": piece.path, "line": piece.line, "end_line": piece.end_line} for piece in pieces]
    missing = {**input.model.get("missing", {}), "model": short}
    return {"text": text, "sources": sources, "missing": missing, "tokens": input.model.get("tokens", {})}


def _run_of(outcome: Mapping[str, Any]) -> ToolRun:
    if outcome.get("error"):
        message = str(outcome["error"].get("message", ""))
        name, _, why = message.partition(": ") if message.startswith("tool ") else ("a tool", "", message)
        return ToolRun(tool=name.removeprefix("tool "), error=why)
    output = outcome.get("output") or {}
    return ToolRun(tool=str(output.get("tool", "")), level=output.get("level"))
