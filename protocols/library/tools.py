"""Runs tools in a sandbox, one call at a time. Permissions are checked again at each call; the level is recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel

from ..context import Context
from ..errors import FixTheCall, InvalidInput
from ..json_forms import to_json
from ..policy import Retry
from ..protocol import Protocol
from ..requests.grants import EVERYTHING, Grants, RequestsConfig, ToolSpec, requests_config
from ..requests.planner import Call
from ..schemas import misfit
from ..wording import place
from .builtin import SHIPPED_FROM, SHIPPED_TOOLS, is_shipped
from .front import Planned
from .sandbox import Box, run_boxed, run_function
from .sandbox import ToolFailed as BoxFailed
from .sandbox_launch import levels

T = TypeVar("T")

LOOK_S = 0.05
"""Seconds between two checks whether the step of a running tool was cancelled."""


class ToCall(BaseModel):
    """A call of a tool, with the plan of its request."""

    call: Call
    plan: Planned


class ToolFailed(Exception):
    """Raised if a tool was refused, could not run, or ended badly. The message begins with `tool <name>:`."""


class Tools(Protocol):
    """Runs one tool. The answer has the tool's text, and the level of the sandbox in which the tool ran."""

    concurrency = 8
    quotas: ClassVar[Mapping[str, int]] = {"tool": 1}
    retry = Retry(attempts=2, initial_delay_s=2.0, max_delay_s=2.0, only=("TemporaryError", "ConnectionError"))
    on_error: ClassVar[Mapping[str, object]] = {"validation": "fail"}

    def run(self, ctx: Context, input: ToCall) -> dict[str, object]:
        return _on_own_loop(ctx, self._call(ctx, input))

    async def _call(self, ctx: Context, input: ToCall) -> dict[str, object]:
        config, call = requests_config(ctx.config), input.call
        grants, root = config.grants_of(ctx.user), input.plan.request.root
        try:
            spec = _granted(call, config, grants)
            _check_place(ctx, spec, grants, root)
            arguments = _checked(call, spec, grants, root)
            text, facts = await _run(spec, arguments, _box(spec, grants, root))
        except (FixTheCall, BoxFailed) as error:
            raise ToolFailed(f"tool {call.tool}: {error}") from error
        return {"tool": call.tool, "id": call.id, "arguments": arguments, "text": text, **facts}


def _on_own_loop(ctx: Context, work: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end in real time, in its own loop and thread. Cancelled with the attempt."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="podium-tool") as thread:
        return thread.submit(asyncio.run, _until_cancelled(ctx, work)).result()


async def _until_cancelled(ctx: Context, work: Coroutine[object, object, T]) -> T:
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait({task}, timeout=LOOK_S)
        if ctx.cancelled:
            task.cancel()
    return task.result()


def _granted(call: Call, config: RequestsConfig, grants: Grants) -> ToolSpec:
    tools = {**SHIPPED_TOOLS, **config.tools}
    if call.tool not in tools:
        raise InvalidInput(problem=f"there is no such tool; there are {', '.join(tools)}")
    spec = tools[call.tool]
    if not grants.allows_tool(call.tool):
        raise InvalidInput(problem="not granted to this user")
    if spec.network and not grants.allows_network:
        raise InvalidInput(problem="it needs the network, which is not granted to this user")
    return spec


def _check_place(ctx: Context, spec: ToolSpec, grants: Grants, root: str | None) -> None:
    """Check the folder of the request again. Raises InvalidInput if it is not allowed.

    The folder must still be the granted one. A foreign program must not find Podium's data directory in it, because its
    secrets let in anybody who reads them.
    """
    if root is None:
        return
    if os.path.realpath(root) != root:
        raise InvalidInput(problem=f"'{root}' has become a link since the request was made", path="request.root")
    if not grants.allows_path(root):
        raise InvalidInput(problem=f"'{root}' is not granted to this user", path="request.root")
    if is_shipped(spec) or grants == EVERYTHING:
        return
    if Path(os.path.realpath(ctx.folder)).is_relative_to(root):
        problem = f"Podium's data directory lies in '{root}'; only who may touch everything runs own tools there"
        raise InvalidInput(problem=problem, path="request.root")


def _checked(call: Call, spec: ToolSpec, grants: Grants, root: str | None) -> dict[str, object]:
    """Return the arguments, with the request's own folder as `root`. Raises InvalidInput for arguments that do not fit,
    or for one that looks like a path and is not granted."""
    arguments = dict(call.arguments)
    if "root" in spec.arguments:
        if root is None:
            raise InvalidInput(problem="it works on a folder, and the request names none")
        arguments["root"] = root
    schema = {
        "type": "object",
        "properties": dict(spec.arguments),
        "required": list(spec.required),
        "additionalProperties": False,
    }
    found = misfit(arguments, schema)
    if found is not None:
        raise InvalidInput(problem=found[1], path=place("arguments", found[0]))
    for name, value in arguments.items():
        if isinstance(value, str) and (value.startswith(("/", "~")) or ".." in value.split("/")):
            path = os.path.realpath(os.path.join(root or "/", os.path.expanduser(value)))
            if not grants.allows_path(path):
                raise InvalidInput(problem=f"'{value}' is not granted to this user", path=f"arguments.{name}")
    return arguments


def _box(spec: ToolSpec, grants: Grants, root: str | None) -> Box:
    return Box(
        wall_s=spec.wall_s,
        cpu_s=max(1, round(spec.wall_s)),
        memory_bytes=spec.memory_bytes,
        output_bytes=spec.output_bytes,
        read=() if root is None else (root,),
        network=spec.network and grants.allows_network,
        minimum=spec.minimum,
    )


async def _run(spec: ToolSpec, arguments: Mapping[str, object], box: Box) -> tuple[str, dict[str, object]]:
    """Run the tool; returns its text and the facts of its run. Raises the errors of the sandbox."""
    if spec.function is not None:
        places = (SHIPPED_FROM,) if is_shipped(spec) else ()
        said = await run_function(spec.function, dict(arguments), box, places)
        there = await asyncio.to_thread(levels)
        return said if isinstance(said, str) else to_json(said), {"level": there[-1]}
    given = _Given(arguments)
    ran = await run_boxed(
        [part.format_map(given) for part in spec.command], box, (spec.stdin or "").format_map(given).encode()
    )
    facts: dict[str, object] = {"level": ran.level, "exit_code": ran.exit_code, "truncated": ran.truncated}
    if ran.timed_out:
        raise BoxFailed(message=f"still running after {spec.wall_s:g} s, and ended", kind="TimeoutError")
    if ran.exit_code != 0:
        how = f"signal {ran.signal}" if ran.exit_code is None else f"exit code {ran.exit_code}"
        raise BoxFailed(message=f"{how}: {(ran.stderr or ran.stdout).strip()[-500:]}", kind="ProcessDied")
    is_cut = ran.truncated and len(ran.stdout.encode(errors="replace")) >= spec.output_bytes
    return f"{ran.stdout}\n(only the first {spec.output_bytes:,} bytes)" if is_cut else ran.stdout, facts


class _Given(dict[str, object]):
    """Arguments for templates; an argument that was not given is empty."""

    def __missing__(self, name: str) -> str:
        return ""
