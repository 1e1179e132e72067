"""How long does a call take for 100 MCP clients at once, over HTTP, each with a session of its own?

Each client of the official SDK calls a workflow of three trivial steps, durable on Ray, some times; the server is the
one of `podium mcp --http`, in another process than the clients.

    python benchmarks/mcp_clients.py [--clients 100] [--calls 10]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
from harness import Row, machine, percentile, report
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from podium.cluster.tokens import Tokens

HERE = Path(__file__).parent
MODES = ("legacy", "2026-07-28")


async def client(url: str, token: str, mode: str, calls: int, start: asyncio.Event) -> list[float]:
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
    async with http, Client(streamable_http_client(url, http_client=http), mode=mode) as session:
        await start.wait()
        samples = []
        for n in range(calls):
            began = time.perf_counter()
            result = await session.call_tool("chain", {"n": n})
            samples.append((time.perf_counter() - began) * 1000)
            assert result.structured_content["result"] == {"n": n + 3}
        return samples


async def measured(url: str, token: str, mode: str, clients: int, calls: int) -> tuple[list[float], float]:
    """Milliseconds of each call, and calls per second of all together."""
    start = asyncio.Event()
    working = [asyncio.create_task(client(url, token, mode, calls, start)) for _ in range(clients)]
    await asyncio.sleep(5)
    start.set()
    began = time.perf_counter()
    samples = [ms for each in await asyncio.gather(*working) for ms in each]
    return samples, len(samples) / (time.perf_counter() - began)


def wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server does not come up")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clients", type=int, default=100)
    options.add_argument("--calls", type=int, default=10)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as data, socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        place.close()
        token = Tokens(Path(data)).create("bench")[0]
        command = [sys.executable, "-m", "podium", "mcp", "throughput:WORKFLOW", "--http", "--port", str(port)]
        environment = {**os.environ, "PODIUM_RATES": "{}"}
        with subprocess.Popen([*command, "--data", data], cwd=HERE, env=environment) as server:
            try:
                wait_for(port)
                url, rows = f"http://127.0.0.1:{port}/mcp", []
                for mode in MODES:
                    asyncio.run(measured(url, token, mode, 5, 5))
                    alone, _ = asyncio.run(measured(url, token, mode, 1, 30))
                    together, per_s = asyncio.run(measured(url, token, mode, given.clients, given.calls))
                    for name, values in ((f"{mode}, one client", alone), (f"{mode}, {given.clients}", together)):
                        rows += [Row(name, f"p{p}", "ms", [percentile(values, p / 100)]) for p in (50, 95)]
                    rows.append(Row(f"{mode}, {given.clients}", "calls", "/s", [per_s]))
            finally:
                server.terminate()
        report("mcp_clients", rows, {}, machine())


if __name__ == "__main__":
    main()
