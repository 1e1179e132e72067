"""Shows, follows and cancels tasks by their ids. An id may be shortened as long as it is unique."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ....protocols.contents import with_contents
from ....protocols.encoded import Encoded
from ....protocols.errors import EngineClosed, InvalidInput, NotFound, TaskCancelled, TaskFailed
from ....protocols.outcomes import OPEN, TERMINAL, TaskEvent, TaskRecord
from ....protocols.printable import one_line
from ....protocols.stored import stored_in
from ....protocols.values import Value
from ....supervisors.tasks.history import StepRow, note_blocked, step_rows
from ....supervisors.tasks.journalled import journalled_events
from ...blobs.stores import blobs_of
from ...client.engine import Engine, Task, connect
from ...client.recorded import WENT_WRONG, as_it_was, recorded_events
from ...client.request_state import RequestState, request_state
from ...config import Settings, load_settings, parse_limits
from ...running import cluster_of
from ...store.contract import Reader, StoredTask
from ...store.ids import whole_id
from ...store.stores import store_of
from .dead import dead
from .events_table import print_events
from .live import follow
from .options import Data, Output, Timeout
from .saving import save
from .step_tree import StepTree, went_wrong
from .terminal import Terminal, error_console, say, styled, to_json
from .value_text import value_text
from .view import event_line, lack, local_time, seconds, why_wrong

TaskId = Annotated[str, typer.Argument(metavar="ID", help="Of a task; its beginning, if no other begins so.")]
TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Of tasks, or their beginnings.")]
Failed = Annotated[bool, typer.Option("--failed", help="Only the steps that went wrong, every one and its attempts.")]
Events = Annotated[bool, typer.Option("--events", help="The journalled events, one line each; -o json has them whole.")]
At = Annotated[int | None, typer.Option("--at", min=0, metavar="N", help="As it was after entry N (see --events).")]
Saved = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Write the output to a new file instead.")]
SHOWN_LINES = 10
"""Most lines of an input, an output, the attempts or the missing parts in `podium show`."""
SHOWN_CHARS = 2_000
"""Most characters of an input or an output in `podium show`; `-o json` and `--save` have all of it."""


def show(
    task_id: TaskId,
    data: Data = None,
    output: Output = "table",
    failed: Failed = False,
    events: Events = False,
    at: At = None,
    saved: Saved = None,
) -> None:
    """Show one task: input, output, its steps, and why each attempt failed that did."""
    if events and failed:
        raise typer.BadParameter("either all --events, or the steps that --failed", param_hint="--events")
    settings = settings_of(data)
    reader = store_of(settings.store).reader
    stored = found_task(reader, settings, task_id)
    if saved is not None:
        form = save(_stored_result(_ended(stored.record)), saved, blobs_of(settings.store))
        say(f"{saved}: {form}")
        return
    view = _View([stored, *reader.subtasks(stored.record.task_id)], len(stored.bodies))
    if at is None:
        view.blocked = reader.blocked(stored.record.workflow)
    else:
        view.parts, view.now = as_it_was(view.parts, at)
    if events:
        _show_events(view, output)
    else:
        _show_steps(view, output, failed)


@dataclass(slots=True)
class _View:
    """The view of a task: as it is, or as it was at a moment."""

    parts: list[StoredTask]
    """The task, then the runs of its nested Hierarchies."""
    entries: int
    """The number of entries in the journal."""
    now: float | None = None
    """The moment that is shown; None for the task as it is."""
    blocked: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def moment(self) -> dict[str, object]:
        """The moment, for programs, if the task is shown as it was."""
        if self.now is None:
            return {}
        return {"at": {"entry": len(self.parts[0].bodies), "entries": self.entries, "time": self.now}}


def _show_events(view: _View, output: str) -> None:
    stored, *runs = view.parts
    rows = journalled_events(stored.record, stored.bodies)
    stalled = one_line(f"stalled: {stored.stalled}") if stored.stalled else ""
    if output == "json":
        told: dict[str, object] = {"task_id": stored.record.task_id, "status": stored.record.status} | view.moment
        told |= {"stalled": stored.stalled} if stalled else {}
        print(to_json(told | {"events": [row.to_json() for row in rows]}))
        return
    print_events(rows)
    notes = [f"of a nested Hierarchy, with a journal of its own: podium show {run.record.task_id}" for run in runs]
    for note in [*([stalled] if stalled else []), *(f"{note} --events" for note in notes)]:
        error_console().print(note)


def _show_steps(view: _View, output: str, failed: bool) -> None:
    stored = view.parts[0]
    record = stored.record
    rows = [row for part in view.parts for row in rows_of(part, view.blocked)]
    events = _events_of(view.parts)
    wrong = [event for event in events if event.kind in WENT_WRONG]
    if output == "json":
        outputs = {event.step: event.value for event in events if event.kind == "finished"}
        steps = [row.to_json() | {"output": outputs.get(row.path)} for row in rows]
        attempts = [_attempt(event) for event in wrong]
        told = {"steps": steps, "attempts": attempts} | ({"stalled": stored.stalled} if stored.stalled else {})
        print(to_json(with_state(record, request_state(stored)) | view.moment | told))
        return
    tree = StepTree(styled((record.workflow, "bold"), f" {record.task_id} {record.status}"))
    for row in went_wrong(rows) if failed else rows:
        tree.put(row)
    console = Terminal()
    now = view.now or record.finished_at or max((row.opened_at for row in rows), default=0.0)
    console.print(tree.render(now, singly=failed))
    if view.now is not None:
        print(f"as it was after entry {len(stored.bodies)} of {view.entries}, {local_time(view.now)}")
    _print_facts(console, record, wrong, request_state(stored), sys.maxsize if failed else SHOWN_LINES)
    for name in dict.fromkeys(row.asks for row in rows if row.asks):
        console.print(f"podium answer {record.task_id} {name}", soft_wrap=True)
    if stored.stalled:
        console.print(one_line(f"stalled: {stored.stalled}"), soft_wrap=True, style="red")
        console.print(f"podium dead redrive {record.task_id} when the cause is mended, or drop; or podium cancel")


dead.command("show")(show)


def rows_of(part: StoredTask, blocked: dict[str, dict[str, str]] | None = None) -> list[StepRow]:
    rows = step_rows(part.record, part.definition, part.bodies)
    note_blocked(rows, part.definition.get("code") or {}, blocked or {})
    return rows


def with_state(record: TaskRecord, state: RequestState | None) -> dict[str, object]:
    """Return the record as JSON; that of a request has `request`: {"state", "updated_at"}."""
    return record.to_json() | ({} if state is None else {"request": state.to_json()})


def _events_of(parts: list[StoredTask]) -> list[TaskEvent]:
    """Return the events of all steps, each once, by time. A task records those of its nested Hierarchies, too, without
    outputs."""
    told = (event for part in parts for event in recorded_events(part) if event.step)
    once = {(event.step, event.attempt, event.kind, event.at): event for event in told}
    return sorted(once.values(), key=lambda event: event.at)


def _attempt(event: TaskEvent) -> dict[str, object]:
    """Return a failed attempt as JSON, for programs."""
    value: Any = event.value if isinstance(event.value, dict) else {}
    error = value.get("failure", value) or None
    told = {"step": event.step, "attempt": event.attempt, "kind": event.kind, "at": event.at}
    return told | {"error": error, "retry_at": value.get("retry_at") if "failure" in value else None}


def _print_facts(
    console: Terminal, record: TaskRecord, wrong: list[TaskEvent], state: RequestState | None, most: int
) -> None:
    accepted = f"accepted {local_time(record.accepted_at)}, user {record.user}, priority {record.priority}"
    console.print(one_line(accepted), soft_wrap=True)
    if state is not None and record.finished_at is None:
        console.print(f"request {state.state} since {local_time(state.updated_at)}")
    _print_value(console, "input", record.input)
    if record.finished_at is not None:
        took = seconds(record.finished_at - record.accepted_at)
        console.print(f"{record.status} {local_time(record.finished_at)}, after {took}")
    if record.status == "completed":
        _print_value(console, "output", record.result)
    print_degraded(console, record, most)
    for event in wrong[:most]:
        console.print(one_line(why_wrong(event)), soft_wrap=True, style="red")
    if len(wrong) > most:
        console.print(f"{len(wrong) - most:,} attempts more went wrong: --failed", style="red")
    if record.failure is not None:
        failure = record.failure
        console.print(f"{failure.kind or failure.code} in '{failure.step}': {failure.message}", soft_wrap=True)
        if failure.traceback:
            console.print(failure.traceback, style="dim", soft_wrap=True)


def _print_value(console: Terminal, name: str, value: Value) -> None:
    """Print a value on one line if it fits or is a single part, else below its name. A cut is told."""
    line = value_text(value)
    is_one_line = isinstance(value, Encoded) or len(line) <= console.width - len(name) - 2
    text = line if is_one_line else f"\n{value_text(value, indent=2)}"
    shown = "\n".join(text.split("\n", SHOWN_LINES + 1)[: SHOWN_LINES + 1])[:SHOWN_CHARS]
    more = len(text) - len(shown)
    console.print(f"{name}: {shown}" + (f"\n({more:,} characters more: -o json)" if more else ""), soft_wrap=True)


def print_degraded(console: Terminal, record: TaskRecord, most: int = SHOWN_LINES) -> None:
    for what, why in list(record.degraded.items())[:most]:
        place = "" if why["step"].endswith(f"[{what}]") else f" {what}:"
        console.print(one_line(f"degraded, without{place} {lack(why)}"))
    if len(record.degraded) > most:
        console.print(f"degraded, without {len(record.degraded) - most:,} more: podium show {record.task_id} --failed")


def watch(
    task_id: TaskId,
    data: Data = None,
    timeout: Timeout = None,
    output: Output = "table",
    from_offset: Annotated[int, typer.Option("--from", min=0, help="Offset of the first event to tell.")] = 0,
) -> None:
    """Follow a task live until it ends, and print its result; of one that has ended, tell what is recorded."""
    settings = settings_of(data)
    stored = found_task(store_of(settings.store).reader, settings, task_id)
    record = stored.record
    if record.status in OPEN and cluster_of(settings.store) is None:
        reason = f"task {record.task_id} is {record.status}, but no cluster is running: `podium up` resumes it"
        raise EngineClosed(reason=reason)
    if record.status in TERMINAL:
        _tell_recorded(stored, from_offset)
        recorded = _stored_result(record)
        for part in stored_in(recorded):
            part.source = blobs_of(settings.store)
        print_result(printed(recorded, output), output, record.task_id)
        return
    with engine_of(data) as engine:
        task = engine.task(record.task_id)
        try:
            follow(task, record.workflow, timeout, False, from_offset)
            result = printed(task.plain_result(timeout_s=timeout), output)
        except KeyboardInterrupt:
            detached(task, engine)
            raise typer.Exit(130) from None
        print_degraded(error_console(), task.read_record())
    print_result(result, output, task.id)


def _tell_recorded(stored: StoredTask, from_offset: int) -> None:
    console = error_console()
    for event in recorded_events(stored, from_offset):
        console.print(event_line(event))
    print_degraded(console, stored.record)


def _ended(record: TaskRecord) -> TaskRecord:
    """Return the record of a task that has ended. Raises InvalidInput for another."""
    if record.status in OPEN:
        raise InvalidInput(problem=f"task {record.task_id} is {record.status}, and has no output yet", path="--save")
    return record


def _stored_result(record: TaskRecord) -> object:
    if record.failure is not None and record.status == "failed":
        raise TaskFailed(task_id=record.task_id, workflow=record.workflow, failure=record.failure.to_wire())
    if record.status == "cancelled":
        raise TaskCancelled(task_id=record.task_id, workflow=record.workflow)
    return record.result


def cancel(
    task_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Of tasks, or their beginnings.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All open ones, of that workflow and user if given.")] = False,
    workflow: Annotated[str | None, typer.Option("--workflow", help="With --all: of this workflow.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="With --all: of this user.")] = None,
    data: Data = None,
    output: Output = "table",
) -> None:
    """Cancel tasks. Those that have ended stay as they are; if one of the ids is wrong, none is cancelled."""
    if bool(task_ids) == every:
        raise typer.BadParameter("give either ids or --all", param_hint="ID...")
    settings = settings_of(data)
    reader = store_of(settings.store).reader
    if every:
        records = [each for status in OPEN for each in _listed(reader, status, workflow, user)]
    else:
        found = _all_found(reader, settings, task_ids or [])
        records = list({each.record.task_id: each.record for each in found}.values())
    after: dict[str, str] = {record.task_id: record.status for record in records}
    open_ids = [record.task_id for record in records if record.status in OPEN]
    if open_ids:
        with engine_of(data) as engine:
            after |= {task_id: engine.task(task_id).cancel() for task_id in open_ids}
    for record in records:
        if record.task_id not in open_ids:
            error_console().print(f"task {record.task_id} has already ended: {record.status}")
    _print_cancelled(after, output)


def _listed(reader: Reader, status: str, workflow: str | None, user: str | None) -> list[TaskRecord]:
    return reader.list_tasks(status, workflow, user, sys.maxsize)  # type: ignore[arg-type]


def _print_cancelled(after: dict[str, str], output: str) -> None:
    """Print the status of one task alone, and those of several with their ids."""
    rows = [{"task_id": task_id, "status": status} for task_id, status in after.items()]
    if output == "json":
        print(to_json(rows[0] if len(rows) == 1 else rows))
    else:
        print("\n".join(row["status"] if len(rows) == 1 else f"{row['task_id']} {row['status']}" for row in rows))


def _all_found(reader: Reader, settings: Settings, task_ids: list[str]) -> list[StoredTask]:
    return [found_task(reader, settings, task_id) for task_id in task_ids]


def found_task(reader: Reader, settings: Settings, typed: str) -> StoredTask:
    task_id = whole_id(store_of(settings.store).reader, typed)
    stored = reader.find_task(task_id)
    if stored is None:
        raise NotFound(what="task", name=task_id)
    return stored


def settings_of(
    data: str | None,
    user: str | None = None,
    limits: str | None = None,
    address: str | None = None,
    placement: str | None = None,
) -> Settings:
    parsed = parse_limits(limits, "option --limits") if limits else None
    return load_settings(data=data, user=user, limits=parsed, address=address, placement=placement, source="cli")


def engine_of(data: str | None, user: str | None = None, limits: str | None = None, in_process: bool = False) -> Engine:
    parsed = parse_limits(limits, "option --limits") if limits else None
    return connect(data=data, user=user, limits=parsed, source="cli", cluster="inprocess" if in_process else None)


def printed(result: Value, output: str) -> Value:
    """Return what is printed of an output: all, but on a terminal its large parts stay descriptions. It blocks."""
    return result if _for_a_person(output) else with_contents(result)


def print_result(result: Value, output: str, task_id: str) -> None:
    """Print an output. On a terminal, each array, file or large text in it is a few words, as in `podium show`."""
    if output == "table" and isinstance(result, str):
        say(result)
    elif _for_a_person(output):
        say(value_text(result, indent=2))
    else:
        print(to_json(result))
    if _for_a_person(output) and any(stored_in(result)):
        error_console().print(f"to have all of it: podium show {task_id} --save FILE")


def _for_a_person(output: str) -> bool:
    return output == "table" and sys.stdout.isatty()


def detached(task: Task, engine: Engine) -> None:
    note = error_console()
    if engine.joined:
        note.print(f"\nDetached. The task goes on; to follow it:\n  podium watch {task.id}")
    else:
        note.print(
            f"\nInterrupted. The task is saved. To resume it and to follow it:\n  podium up\n  podium watch {task.id}"
        )
