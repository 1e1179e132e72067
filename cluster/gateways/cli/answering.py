"""Answers requests from the command line.

If no cluster runs, a request is answered in this process: the first answer comes in a second. The answer goes to
standard output as it grows. Notes on its missing parts, and on how it came about, go to standard error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from ....protocols.errors import InvalidInput, PodiumError, WaitTimedOut
from ....protocols.json_forms import from_json
from ....protocols.library.decoding import decoded as text_in
from ....protocols.library.front import pipeline_of
from ....protocols.outcomes import TaskEvent
from ....protocols.printable import one_line
from ....protocols.requests.grants import requests_config
from ....protocols.requests.planner import RequestPlan, estimate, steps_of
from ....protocols.requests.request import REQUEST_TYPES
from ....protocols.requests.router import Route
from ...client.ask_input import plan_of, recorded_s, request_of
from ...client.engine import Engine, Task
from ...config import Settings, load_settings
from ...store.stores import store_of
from .inputs import standard_input
from .live import Listener
from .terminal import Terminal, error_console, say, styled, to_json
from .view import lack, seconds

_SPEAKING = re.compile(r"(?:^|/)model(?:_\d+)?(?:#\d+)?(?:/fallback:\d+)?$")
"""Steps whose chunks are the answer, and not a member's part of it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question as it was typed."""

    question: str
    root: Path | None
    type: str | None
    session: str | None
    tools: list[str]
    attach: list[Path]
    schema: Path | None

    @property
    def text(self) -> str:
        return standard_input() if self.question == "-" else self.question

    def fields(self) -> dict[str, Any]:
        """Return the fields of the request that were given."""
        if self.type is not None and self.type not in REQUEST_TYPES:
            raise typer.BadParameter(f"'{self.type}' is not one of {', '.join(REQUEST_TYPES)}", param_hint="--type")
        given = {
            "root": None if self.root is None else str(self.root.resolve()),
            "type": self.type,
            "session": self.session,
            "tools": self.tools or None,
            "attachments": [{"name": path.name, "text": _read(path)} for path in self.attach] or None,
            "answer_schema": None if self.schema is None else _read_json(self.schema),
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Manner:
    """The form in which the answer is printed."""

    output: str
    timeout_s: float | None
    explain: bool
    quiet: bool


def answer(engine: Engine, asked: Ask, submitted: Mapping[str, Any], manner: Manner) -> None:
    """Answer a question and print it. `submitted`: key, priority, criticality and timeout_s of the task."""
    task = engine.ask(asked.text, **submitted, **asked.fields())
    speaker = _Speaker(aloud=manner.output == "table" and asked.schema is None)
    try:
        speaker.follow(task, manner.timeout_s)
        said = task.result(timeout_s=manner.timeout_s)
    except KeyboardInterrupt:
        error_console().print(f"\nInterrupted. The task is saved: `podium up` resumes it, `podium watch {task.id}`.")
        raise typer.Exit(130) from None
    degraded = task.read_record().degraded
    recorded = recorded_s(store_of(engine.settings.store).reader, str(said["type"]))
    if manner.output == "json":
        extra = {"task_id": task.id, "degraded": degraded} | (speaker.seen if manner.explain else {})
        print(to_json(said | extra))
    else:
        _print_answer(said, speaker)
    if not manner.quiet:
        _print_notes(said, degraded)
    if manner.explain:
        _print_explanation(engine.settings, speaker.seen, recorded)


def foresee(asked: Ask, data: str | None, output: str, user: str | None) -> None:
    settings = load_settings(data=data, user=user, source="cli")
    request = request_of(asked.text, settings, asked.fields())
    route, made = plan_of(request, settings.user, settings, store_of(settings.store).reader)
    if output == "json":
        print(to_json({"route": route.model_dump(mode="json"), "plan": made.model_dump(mode="json")}))
    else:
        _print_plan(Terminal(), route, made)


def _read(path: Path) -> str:
    try:
        text = text_in(path.read_bytes())
    except OSError as error:
        raise InvalidInput(problem=f"cannot be read: {error}", path=str(path)) from error
    if text is None:
        raise InvalidInput(problem="it is no text, or in no encoding that is known", path=str(path))
    return text


def _read_json(path: Path) -> object:
    try:
        return from_json(_read(path))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(problem=f"not JSON: {error}", path=str(path)) from error


class _Speaker:
    """Prints the answer as it grows."""

    def __init__(self, aloud: bool) -> None:
        self._aloud = aloud
        self.said = ""
        """The text so far of the attempt that speaks now."""
        self._attempt: tuple[str, int] | None = None
        self.seen: dict[str, object] = {}
        """Outputs of the steps that route and plan."""

    def follow(self, task: Task, timeout_s: float | None) -> None:
        """Print until the task ends. If the cluster goes away, `result` reports that. Raises WaitTimedOut."""
        listener = Listener(task, 0, self._take)
        listener.start()
        try:
            listener.wait(timeout_s, lambda: None)
        except WaitTimedOut:
            raise
        except PodiumError:
            return

    def _take(self, event: TaskEvent) -> None:
        if event.kind == "finished" and event.step == "route":
            self.seen["route"] = event.value["route"]
        elif event.kind == "finished" and re.search(r"/plan(#\d+)?$", event.step):
            self.seen["plan"] = event.value["plan"]
        elif event.kind in ("retrying", "lost") and self._attempt is not None and event.step == self._attempt[0]:
            self._broke_off()
        elif event.kind == "chunk" and _SPEAKING.search(event.step) and "/member_" not in event.step:
            self._say(event.step, event.attempt, str(event.value["text"]))

    def _say(self, step: str, attempt: int, text: str) -> None:
        if self._attempt != (step, attempt):
            if self.said and self._aloud:
                print("\n")
            self._attempt, self.said = (step, attempt), ""
        self.said += text
        if self._aloud:
            say(text, end="")

    def _broke_off(self) -> None:
        """Drop the text of the attempt that broke off."""
        if self.said and self._aloud:
            print("\n\n(that broke off; once more)\n")
        self._attempt, self.said = None, ""


def _print_answer(answer: dict[str, Any], speaker: _Speaker) -> None:
    if speaker.said.strip() != answer["text"].strip() or not speaker.said:
        say(answer["text"])
    elif not speaker.said.endswith("\n"):
        print()
    if answer["sources"] and answer["value"] is None:
        print("\nSources:")
        for source in answer["sources"]:
            print(one_line(f"  {source['path']}:{source['line']}"))


def _print_notes(answer: dict[str, Any], degraded: dict[str, Any]) -> None:
    console = error_console()
    if answer.get("left_out"):
        console.print(one_line(f"left out: {answer['left_out']}"), style="dim")
    for what, why in answer["missing"].items():
        console.print(f"without {what}: {why}", style="yellow")
    for what, why in degraded.items():
        if what not in answer["missing"]:
            console.print(f"degraded, without {what}: {lack(why)}", style="yellow")


def _print_explanation(settings: Settings, seen: dict[str, Any], recorded: list[float]) -> None:
    if "route" in seen and "plan" in seen:
        route, made = Route.model_validate(seen["route"]), RequestPlan.model_validate(seen["plan"])
        steps = steps_of(pipeline_of(route.type, requests_config(settings.config)).root)
        _print_plan(error_console(), route, made.model_copy(update={"steps": steps}), recorded)


def print_route(console: Terminal, route: Route) -> None:
    head = styled((route.type, "bold"), f" ({route.decided_by}): {route.why}; complexity {route.complexity:.2f}")
    console.print(head)


def _print_plan(console: Terminal, route: Route, made: RequestPlan, recorded: list[float] | None = None) -> None:
    print_route(console, route)
    table = Table("step", "state", "after", "quotas", box=None, pad_edge=False, header_style="bold")
    for step in made.steps:
        name = f"({step.name})" if step.maybe else step.name
        needs = ", ".join(f"{quota} {amount}" for quota, amount in step.quotas.items())
        table.add_row(name, step.state or "", ", ".join(step.after), needs)
    console.print(table)
    for call in made.calls:
        console.print(f"tool {call.tool}: {to_json(dict(call.arguments), indent=None)}")
    for name, why in made.refused.items():
        console.print(f"not used: {name}: {why}", style="yellow")
    taken = made.estimate if recorded is None else estimate(recorded)
    if taken is None:
        console.print("time: nothing of this type is on record yet")
    else:
        console.print(
            f"time: half are done within {seconds(taken.p50_s)}, 95 % within {seconds(taken.p95_s)} "
            f"(of {taken.tasks} on record)"
        )
