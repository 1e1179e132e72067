"""The command line. Results go to standard output, everything else to standard error.

Exit codes: 0 ok, 1 the task failed or was cancelled (or `doctor` found a problem), 2 usage or a bad definition or
input, 3 not found, 4 timed out, 130 interrupted. Reading commands (ps, show, validate, schema, doctor) need no cluster
and do not import ray.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ...protocols.errors import (
    EngineClosed,
    FixTheCall,
    InvalidSetting,
    NotFound,
    PodiumError,
    TaskCancelled,
    TaskFailed,
    WaitTimedOut,
)
from ...protocols.outcomes import OPEN, TERMINAL, Criticality, TaskRecord
from ...protocols.workflow_schema import workflow_schema
from ...supervisors.history import step_rows
from ..client import Engine, Task, connect
from ..cluster_file import running_cluster
from ..config import Settings, load_settings, parse_limits
from ..loading import load_workflow
from ..request_state import RequestState, request_state, request_states
from ..store.reading import FileReader
from . import daemon
from .ask import ask, plan
from .breakers import breakers
from .dead import dead
from .doctor import doctor
from .inputs import read_input, standard_input
from .limits import limits
from .live import follow
from .options import Data, Output
from .outside import mcp, token
from .router import router
from .status import status
from .top import metrics, top
from .view import StepTree, error_console, lack, local_time, seconds, task_table, to_json

app = typer.Typer(
    name="podium",
    help="Durable, supervised workflows of stateful actors on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(ask)
app.command()(plan)
app.add_typer(router, name="router")
app.command()(mcp)
app.add_typer(token, name="token")
app.command()(doctor)
app.command()(status)
app.add_typer(limits, name="limits")
app.add_typer(breakers, name="breakers")
app.add_typer(dead, name="dead")
app.command()(top)
app.command()(metrics)

Source = Annotated[str, typer.Argument(metavar="FILE|module:workflow", help="YAML or JSON file, or a name.")]
TaskId = Annotated[str, typer.Argument(metavar="ID")]
Input = Annotated[
    list[str] | None,
    typer.Option("-i", "--input", help="k=v (repeatable), @file.json, or - for standard input."),
]
Key = Annotated[str | None, typer.Option("--key", help="Submission key: the same key gives the same task.")]
Priority = Annotated[int, typer.Option("--priority", help="Higher goes first; below 0 is background.")]
Important = Annotated[Criticality, typer.Option("--criticality", help="What is sheddable is refused first.")]
User = Annotated[str | None, typer.Option("--user", help="Who submits (default: the login name).")]
TaskTimeout = Annotated[
    float | None, typer.Option("--task-timeout", help="Seconds in which the task has to end, or it fails.")
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds to wait; the task goes on.")]
Limits = Annotated[str | None, typer.Option("--limits", help="Permits per quota: llm=5,tool=10.")]
InProcess = Annotated[bool, typer.Option("--in-process", help="Run in this process instead of on Ray.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress on standard error.")]


@app.command()
def run(
    source: Source,
    input: Input = None,
    data: Data = None,
    output: Output = "table",
    key: Key = None,
    priority: Priority = 0,
    criticality: Important = "critical",
    task_timeout: TaskTimeout = None,
    user: User = None,
    timeout: Timeout = None,
    limits: Limits = None,
    in_process: InProcess = False,
    quiet: Quiet = False,
) -> None:
    """Run a workflow on one input and print its result."""
    workflow = load_workflow(source)
    value = read_input(input or [], standard_input)
    with _engine(data, user, limits, in_process) as engine:
        task = engine.submit(
            workflow, value, key=key, priority=priority, criticality=criticality, timeout_s=task_timeout
        )
        try:
            follow(task, workflow.name, timeout, quiet)
            result = task.result(timeout_s=timeout)
        except KeyboardInterrupt:
            _detached(task, engine)
            raise typer.Exit(130) from None
        _print_degraded(error_console(), task.record)
    _print_result(result, output)


@app.command()
def submit(
    source: Source,
    input: Input = None,
    data: Data = None,
    output: Output = "table",
    key: Key = None,
    priority: Priority = 0,
    criticality: Important = "critical",
    task_timeout: TaskTimeout = None,
    user: User = None,
) -> None:
    """Submit a task and print its id; when this returns, the task is durable."""
    workflow = load_workflow(source)
    value = read_input(input or [], standard_input)
    with _engine(data, user) as engine:
        task = engine.submit(
            workflow, value, key=key, priority=priority, criticality=criticality, timeout_s=task_timeout
        )
        print(to_json({"task_id": task.id}) if output == "json" else task.id)
        if not engine.joined:
            error_console().print("Saved. No cluster is running: `podium up` starts one, and the task with it.")


@app.command()
def ps(
    data: Data = None,
    output: Output = "table",
    status: Annotated[
        str | None, typer.Option("--status", help=f"One of {', '.join(sorted(OPEN | TERMINAL))}.")
    ] = None,
    workflow: Annotated[str | None, typer.Option("--workflow")] = None,
    user: Annotated[str | None, typer.Option("--user")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1)] = 50,
) -> None:
    """List tasks, the newest first."""
    if status is not None and status not in OPEN | TERMINAL:
        raise typer.BadParameter(
            f"'{status}' is not one of {', '.join(sorted(OPEN | TERMINAL))}", param_hint="--status"
        )
    reader = FileReader(_settings(data).data)
    records = reader.list_tasks(status, workflow, user, limit)  # type: ignore[arg-type]
    states = request_states(reader, records)
    if output == "json":
        print(to_json([_with_state(record, states.get(record.task_id)) for record in records]))
    elif records:
        Console().print(task_table(records, {id: state.state for id, state in states.items()}))
    else:
        error_console().print("No tasks.")


@app.command()
def show(task_id: TaskId, data: Data = None, output: Output = "table") -> None:
    """Show one task: its steps with status, attempts, times and errors."""
    reader = FileReader(_settings(data).data)
    stored = reader.find_task(task_id)
    if stored is None:
        raise NotFound(what="task", name=task_id)
    record = stored.record
    parts = [stored, *reader.subtasks(task_id)]
    rows = [row for part in parts for row in step_rows(part.record, part.definition, part.bodies)]
    state = request_state(stored)
    if output == "json":
        print(to_json(_with_state(record, state) | {"steps": [row.to_json() for row in rows]}))
        return
    tree = StepTree(f"[bold]{record.workflow}[/] {record.task_id} {record.status}")
    for row in rows:
        tree.put(row)
    console = Console(highlight=False)
    console.print(tree.render(record.finished_at or max((row.opened_at for row in rows), default=0.0)))
    _print_facts(console, record, state)


dead.command("show")(show)


def _with_state(record: TaskRecord, state: RequestState | None) -> dict[str, Any]:
    """The record as JSON; of a request with `request`: {"state", "updated_at"}."""
    return record.to_json() | ({} if state is None else {"request": state.to_json()})


def _print_facts(console: Console, record: TaskRecord, state: RequestState | None) -> None:
    console.print(f"accepted {local_time(record.accepted_at)}, user {record.user}, priority {record.priority}")
    if state is not None and record.finished_at is None:
        console.print(f"request {state.state} since {local_time(state.updated_at)}")
    if record.finished_at is not None:
        took = seconds(record.finished_at - record.accepted_at)
        console.print(f"{record.status} {local_time(record.finished_at)}, after {took}")
    _print_degraded(console, record)
    if record.failure is not None:
        failure = record.failure
        console.print(f"{failure.kind or failure.code} in '{failure.step}': {failure.message}", markup=False)
        if failure.traceback:
            console.print(failure.traceback, markup=False, style="dim")


def _print_degraded(console: Console, record: TaskRecord) -> None:
    for what, why in record.degraded.items():
        console.print(f"degraded, without {what}: {lack(why)}", markup=False)


@app.command()
def watch(
    task_id: TaskId,
    data: Data = None,
    timeout: Timeout = None,
    output: Output = "table",
    from_offset: Annotated[int, typer.Option("--from", min=0, help="Offset of the first event to tell.")] = 0,
) -> None:
    """Follow a task live until it ends, and print its result."""
    settings = _settings(data)
    stored = FileReader(settings.data).find_task(task_id)
    if stored is None:
        raise NotFound(what="task", name=task_id)
    if stored.record.status in OPEN and running_cluster(settings.data) is None:
        reason = f"task {task_id} is {stored.record.status}, but no cluster is running: `podium up` resumes it"
        raise EngineClosed(reason=reason)
    if stored.record.status in TERMINAL:
        _print_result(_stored_result(stored.record), output)
        return
    with _engine(data) as engine:
        task = engine.task(task_id)
        try:
            follow(task, stored.record.workflow, timeout, False, from_offset)
            result = task.result(timeout_s=timeout)
        except KeyboardInterrupt:
            _detached(task, engine)
            raise typer.Exit(130) from None
        _print_degraded(error_console(), task.record)
    _print_result(result, output)


def _stored_result(record: TaskRecord) -> Any:
    if record.failure is not None and record.status == "failed":
        raise TaskFailed(task_id=record.task_id, workflow=record.workflow, failure=record.failure.to_wire())
    if record.status == "cancelled":
        raise TaskCancelled(task_id=record.task_id, workflow=record.workflow)
    return record.result


@app.command()
def cancel(task_id: TaskId, data: Data = None, output: Output = "table") -> None:
    """Cancel a task. One that has ended stays as it is."""
    stored = FileReader(_settings(data).data).find_task(task_id)
    if stored is None:
        raise NotFound(what="task", name=task_id)
    after: str = stored.record.status
    if after in OPEN:
        with _engine(data) as engine:
            after = engine.task(task_id).cancel()
    else:
        error_console().print(f"task {task_id} has already ended: {after}")
    print(to_json({"task_id": task_id, "status": after}) if output == "json" else after)


@app.command()
def validate(source: Source, output: Output = "table") -> None:
    """Check a workflow without running it."""
    workflow = load_workflow(source)
    if output == "json":
        print(to_json({"name": workflow.name, "version": workflow.version, "hash": workflow.hash}))
    else:
        print(f"{workflow.name} version {workflow.version}: ok (hash {workflow.hash[:12]})")


@app.command()
def schema() -> None:
    """Print the JSON Schema of workflow files, for editors."""
    print(json.dumps(workflow_schema(), indent=2))


@app.command()
def up(data: Data = None, limits: Limits = None, output: Output = "table") -> None:
    """Start a lasting local cluster for the data directory; open tasks resume."""
    settings = _settings(data, limits=limits)
    facts = daemon.start(settings)
    if output == "json":
        print(to_json(facts))
    error_console().print(f"Cluster of {settings.data} runs (process {facts['pid']}). `podium down` ends it.")


@app.command()
def down(data: Data = None, output: Output = "table") -> None:
    """End the lasting cluster in order; open tasks stay durable."""
    ended = daemon.stop(_settings(data).data)
    if output == "json":
        print(to_json({"ended": ended}))
    error_console().print("Ended. Open tasks are kept." if ended else "No cluster is running.")


def _settings(data: Path | None, user: str | None = None, limits: str | None = None) -> Settings:
    parsed = parse_limits(limits, "option --limits") if limits else None
    return load_settings(data=data, user=user, limits=parsed, source="cli")


def _engine(data: Path | None, user: str | None = None, limits: str | None = None, in_process: bool = False) -> Engine:
    parsed = parse_limits(limits, "option --limits") if limits else None
    return connect(data=data, user=user, limits=parsed, source="cli", cluster="inprocess" if in_process else None)


def _print_result(result: Any, output: str) -> None:
    if output == "table" and isinstance(result, str):
        print(result)
    else:
        print(to_json(result))


def _detached(task: Task, engine: Engine) -> None:
    note = error_console()
    if engine.joined:
        note.print(f"\nDetached. The task goes on; to follow it:\n  podium watch {task.id}")
    else:
        note.print(
            f"\nInterrupted. The task is saved. To resume it and to follow it:\n  podium up\n  podium watch {task.id}"
        )


def main() -> None:
    """Entry point: errors become one line on standard error and an exit code."""
    sys.exit(_guarded(lambda: app(standalone_mode=True)))


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except KeyboardInterrupt:
        return 130
    except PodiumError as error:
        error_console().print(f"[red]{type(error).__name__}:[/] ", end="")
        error_console().print(str(error), markup=False)
        return exit_code(error)
    return 0


def exit_code(error: PodiumError) -> int:
    match error:
        case NotFound():
            return 3
        case FixTheCall() | InvalidSetting():
            return 2
        case WaitTimedOut():
            return 4
        case _:
            return 1
