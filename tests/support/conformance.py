"""The server that the conformance suite of MCP is run against: `make conformance`.

The suite's scenarios of the tasks extension ask for tools by name; here they are workflows. Everybody who calls is one
user, without a token: for loopback, and for this.

    python -m tests.support.conformance [--port 8766] [--suite FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import uvicorn

import podium
from podium import Parallel, Sequence, Wait, Workflow
from podium.cluster.gateways.mcp.callers import Caller
from podium.cluster.gateways.mcp.server import Gateway


@podium.protocol(concurrency=100)
async def greeting(input: dict) -> str:
    return f"Hello, {input.get('name', 'you')}!"


@podium.protocol(concurrency=100)
async def slow_greeting(input: dict) -> str:
    await asyncio.sleep(1.0)
    return await greeting(input)


@podium.protocol(concurrency=100)
async def compute(input: dict) -> str:
    await asyncio.sleep(float(input.get("seconds", 0)))
    return f"computed {input.get('label', '')}"


@podium.protocol(concurrency=100)
async def fail_late(input: dict) -> str:
    await asyncio.sleep(1.0)
    raise ValueError("this job always fails")


@podium.protocol(concurrency=100)
async def fall_over(input: dict) -> str:
    await asyncio.sleep(1.0)
    raise podium.errors.WorkflowDown(workflow="protocol_error_job", reason="as the suite wants it")


def _workflow(name: str, protocol: object, properties: dict[str, str] | None = None) -> Workflow:
    needs_tasks = name == "failing_job"
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in (properties or {}).items()}}
    return Workflow(
        name, Sequence(protocol), input=schema, description=f"For the suite: {name}.", needs_tasks=needs_tasks
    )


WORKFLOWS = [
    _workflow("greet", greeting, {"name": "string"}),
    _workflow("slow_compute", compute, {"seconds": "number", "label": "string"}),
    _workflow("failing_job", fail_late),
    _workflow("protocol_error_job", fall_over),
]


_CONFIRM = {"type": "object", "properties": {"confirm": {"type": "boolean"}}, "required": ["confirm"]}
_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
WORKFLOWS += [
    Workflow(
        "confirm_delete",
        Sequence(Wait("confirm", schema=_CONFIRM, show="input")),
        input={"type": "object", "properties": {"filename": {"type": "string"}}},
    ),
    Workflow(
        "multi_input",
        Parallel({"who": Wait("who", schema=_NAME), "sure": Wait("sure", schema=_CONFIRM)}),
        input={"type": "object"},
    ),
    Workflow(
        "test_tool_with_task",
        Sequence(slow_greeting),
        input={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        elicit=True,
        needs_tasks=True,
    ),
]


SCENARIOS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-input",
    "tasks-mrtr-composition",
)
"""All of the tasks extension."""


async def serve(port: int, suite: Path | None) -> int:
    """Serve until the suite has run, or for good without one; returns how many scenarios failed."""
    with tempfile.TemporaryDirectory() as data:
        async with podium.connect_async(data=data, cluster="inprocess") as engine:
            for workflow in WORKFLOWS:
                await engine.deploy(workflow)
            app = Gateway(engine, lambda: Caller("suite")).server().streamable_http_app()
            server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
            serving = asyncio.create_task(server.serve())
            if suite is None:
                await serving
                return 0
            failed = [scenario for scenario in SCENARIOS if not await passes(suite, port, scenario)]
            server.should_exit = True
            await serving
            print(f"{len(SCENARIOS) - len(failed)} of {len(SCENARIOS)} scenarios passed; failed: {failed}")
            return len(failed)


async def passes(suite: Path, port: int, scenario: str) -> bool:
    command = [
        str(suite / "node_modules/.bin/node"),
        str(suite / "node_modules/@modelcontextprotocol/conformance/dist/index.js"),
        *("server", "--url", f"http://127.0.0.1:{port}/mcp", "--scenario", scenario),
    ]
    running = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    said, _ = await running.communicate()
    lines = said.decode().splitlines()
    print("\n".join(line for line in lines if any(word in line for word in ("SUCCESS", "FAILURE", "Passed"))))
    return running.returncode == 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=8766)
    options.add_argument("--suite", type=Path, help="folder in which the suite and its Node are installed")
    given = options.parse_args()
    sys.exit(asyncio.run(serve(given.port, given.suite)))


if __name__ == "__main__":
    main()
