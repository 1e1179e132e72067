"""The command line. Results go to standard output, everything else to standard error.

Exit codes: 0 ok, 1 the task failed or was cancelled (or `doctor` found a problem), 2 usage or a bad definition or
input, 3 not found, 4 timed out, 130 interrupted. Reading commands (ps, show, waits, graph, validate, schema, doctor,
df) need no cluster and do not import ray.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.rich_utils import rich_format_error

from ....protocols.errors import FixTheCall, InvalidSetting, NotFound, PodiumError, WaitTimedOut
from ....protocols.outcomes import OPEN, TERMINAL
from ....protocols.printable import one_line
from ....protocols.workflow_schema import workflow_schema
from ...client.request_state import request_states
from ...loading import load_workflow
from ...store.stores import store_of
from . import daemon
from .ask import ask, plan
from .breakers import breakers
from .dead import dead
from .df import df
from .doctor import doctor
from .graph import graph
from .inputs import read_input, read_moment, standard_input
from .limits import limits
from .live import follow
from .move import move
from .one_task import (
    cancel,
    detached,
    engine_of,
    print_degraded,
    print_result,
    printed,
    settings_of,
    show,
    watch,
    with_state,
)
from .options import (
    Address,
    Data,
    Delay,
    Important,
    InProcess,
    Key,
    Limits,
    NotBefore,
    Output,
    Placement,
    Priority,
    Quiet,
    TaskTimeout,
    Timeout,
    User,
)
from .outside import mcp, token
from .router import router
from .status import status
from .terminal import error_console, styled, to_json
from .top import metrics, top
from .view import print_tasks
from .waits import answer, waits
from .workflows import undeploy, workflows


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"podium {metadata.version('podium')}")
        raise typer.Exit


app = typer.Typer(
    name="podium",
    help="Durable, supervised workflows of stateful actors on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _podium(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and end.")
    ] = False,
) -> None:
    pass


app.command()(ask)
app.command()(plan)
app.add_typer(router, name="router")
app.command()(mcp)
app.add_typer(token, name="token")
app.command()(doctor)
app.command()(df)
app.command()(move)
app.command()(status)
app.add_typer(limits, name="limits")
app.add_typer(breakers, name="breakers")
app.add_typer(dead, name="dead")
app.command()(waits)
app.command()(answer)
app.command()(top)
app.command()(metrics)
app.command()(workflows)
app.command()(undeploy)

Source = Annotated[
    str, typer.Argument(metavar="FILE|module:workflow", help="YAML or JSON file, module:workflow, or file.py:workflow.")
]
Input = Annotated[
    list[str] | None,
    typer.Option("-i", "--input", help="k=v (repeatable), @file.json, or - for standard input."),
]


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
    with engine_of(data, user, limits, in_process) as engine:
        task = engine.submit(
            workflow, value, key=key, priority=priority, criticality=criticality, timeout_s=task_timeout
        )
        try:
            follow(task, workflow.name, timeout, quiet)
            result = printed(task.plain_result(timeout_s=timeout), output)
        except KeyboardInterrupt:
            detached(task, engine)
            raise typer.Exit(130) from None
        if not quiet:
            print_degraded(error_console(), task.read_record())
    print_result(result, output, task.id)


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
    delay: Delay = None,
    not_before: NotBefore = None,
    user: User = None,
) -> None:
    """Submit a task and print its id; when this returns, the task is durable."""
    workflow = load_workflow(source)
    value = read_input(input or [], standard_input)
    starts_at = read_moment(not_before, "--not-before")
    with engine_of(data, user) as engine:
        task = engine.submit(
            workflow,
            value,
            key=key,
            priority=priority,
            criticality=criticality,
            timeout_s=task_timeout,
            delay_s=delay,
            not_before=starts_at,
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
    reader = store_of(settings_of(data).store).reader
    records = reader.list_tasks(status, workflow, user, limit)  # type: ignore[arg-type]
    states = request_states(reader, records)
    if output == "json":
        print(to_json([with_state(record, states.get(record.task_id)) for record in records]))
    elif records:
        print_tasks(records, {id: state.state for id, state in states.items()})
    else:
        error_console().print("No tasks.")


app.command()(show)
app.command()(watch)
app.command()(cancel)
app.command()(graph)


@app.command()
def validate(source: Source, output: Output = "table") -> None:
    """Check a workflow without running it."""
    workflow = load_workflow(source)
    if output == "json":
        print(to_json({"name": workflow.name, "version": workflow.version, "hash": workflow.hash}))
    else:
        print(one_line(f"{workflow.name} version {workflow.version}: ok (hash {workflow.hash[:12]})"))


@app.command()
def schema() -> None:
    """Print the JSON Schema of workflow files, for editors."""
    print(json.dumps(workflow_schema(), indent=2))


@app.command()
def up(
    data: Data = None,
    limits: Limits = None,
    address: Address = None,
    placement: Placement = None,
    output: Output = "table",
) -> None:
    """Start a lasting cluster, local or in a Ray cluster that runs; open tasks resume."""
    settings = settings_of(data, limits=limits, address=address, placement=placement)
    facts = daemon.start(settings)
    if output == "json":
        print(to_json(facts))
    where = f"in Ray at {facts['address']}" if "machines" in facts else f"process {facts['pid']}"
    error_console().print(f"Cluster of {settings.store.place} runs ({where}). `podium down` ends it.")


@app.command()
def down(data: Data = None, output: Output = "table") -> None:
    """End the lasting cluster in order; open tasks stay durable."""
    ended = daemon.stop(settings_of(data))
    if output == "json":
        print(to_json({"ended": ended}))
    error_console().print("Ended. Open tasks are kept." if ended else "No cluster is running.")


def main() -> None:
    """Entry point: errors become one line on standard error and an exit code."""
    sys.exit(_guarded(_run))


def _run() -> int:
    """Parse and run, and show the errors of the parser safely: they quote typed texts and names of files."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        error_console().print("Aborted.")
        return 1
    except OSError as error:
        if error.errno != errno.EPIPE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who read it has had enough
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        wrong: Any = error  # a ClickException, whose module depends on the version of typer
        said = one_line(wrong.format_message())
        wrong.format_message = lambda: said
        rich_format_error(wrong)
        return int(wrong.exit_code)


def _guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except PodiumError as error:
        error_console().print(styled((f"{type(error).__name__}:", "red"), f" {error}"))
        return exit_code(error)
    except Exception:
        error_console().print(traceback.format_exc().rstrip())
        return 1


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
