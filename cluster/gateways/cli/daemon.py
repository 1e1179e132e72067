"""A lasting local cluster: `podium up` starts this module as a process of its own, `podium down` ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....protocols.errors import DataInUse, InvalidSetting, PodiumError
from ...client.engine import Engine
from ...cluster_file import make_folder, running_cluster
from ...config import Settings, load_settings
from ...running import cluster_of

START_S = 120.0
STOP_S = 60.0


def start(settings: Settings) -> dict[str, object]:
    """Start the cluster of `settings.data` unless it runs; returns how to join it.

    Raises:
        InvalidSetting: the settings want a cluster in the process of its driver, which cannot last.
        DataInUse: an in-process engine owns the directory.
        PodiumError: it did not come up; with the end of its log.
    """
    if settings.cluster == "inprocess":
        source = settings.sources.get("cluster", "default")
        problem = "a cluster 'inprocess' ends with its driver; one that lasts runs on Ray: leave the setting out"
        raise InvalidSetting(name="cluster", source=source, problem=problem)
    if settings.address is not None and settings.database is not None:
        return _start_in_ray(settings)
    facts = cluster_of(settings.store)
    if facts is not None:
        return _joinable(settings.data, facts)
    settings.data.mkdir(parents=True, exist_ok=True)
    log = settings.data / "daemon.log"
    given = settings.model_dump(mode="json", exclude={"sources"}) | {"data": str(settings.data.resolve())}
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    assert child.stdin is not None
    with suppress(BrokenPipeError), child.stdin:  # it ended at once; its log says why
        child.stdin.write(json.dumps(given).encode())
    give_up_at = time.monotonic() + START_S
    while time.monotonic() < give_up_at:
        facts = running_cluster(settings.data)
        if facts is not None and facts["kind"] == "ray" and facts.get("daemon"):
            return facts
        if child.poll() is not None:
            break
        time.sleep(0.1)
    if facts is not None and facts["kind"] in ("ray", "inprocess"):
        return _joinable(settings.data, facts)  # somebody else was first, and its cluster ends with it
    child.terminate()  # one that is still starting would be there without anybody knowing
    tail = log.read_text(errors="replace")[-2000:]
    raise PodiumError(f"the cluster did not come up; the end of {log}:\n{tail}")


def _start_in_ray(settings: Settings) -> dict[str, object]:
    """Start a cluster on the machines of a Ray cluster unless it runs. It needs no process of ours to last."""
    asyncio.run(_visit(settings, ends=False))
    facts = cluster_of(settings.store)
    if facts is None:
        raise PodiumError(f"the cluster of {settings.store.place} has ended again")
    return facts


def stop(settings: Settings) -> bool:
    """End the cluster of these settings in order and wait until it has; False if none runs."""
    data = settings.data
    facts = cluster_of(settings.store)
    if facts is None:
        return False
    if "machines" in facts:
        asyncio.run(_visit(settings, ends=True))
        return True
    os.kill(_joinable(data, facts)["pid"], signal.SIGTERM)
    give_up_at = time.monotonic() + STOP_S
    while running_cluster(data) is not None:
        if time.monotonic() > give_up_at:
            raise PodiumError(f"process {facts['pid']} has not ended after {STOP_S:g} s")
        time.sleep(0.1)
    return True


async def _visit(settings: Settings, ends: bool) -> None:
    """Join the cluster, or start one that lasts, and leave it again; `ends`: end it before."""
    from ...on_ray.session import RaySession  # noqa: PLC0415  (Ray takes a second to be imported)

    make_folder(settings.data)
    session = RaySession(settings, daemon=True)
    await session.open()
    try:
        if ends:
            await session.end_cluster()
    finally:
        await session.close()


def _joinable(data: Path, facts: dict[str, Any]) -> dict[str, Any]:
    if facts["kind"] != "ray" or not facts.get("daemon"):
        passing = {"starting": "a cluster that is starting", "closed": "a cluster that is ending"}
        what = passing.get(facts["kind"], "an engine in the process of its driver")
        raise DataInUse(directory=str(data), holder=f"{what} ({facts.get('pid', 'unknown')})")
    return facts


def main(given: str) -> None:
    """Own a cluster until SIGTERM or SIGINT. `given`: the settings as JSON, from a pipe, because they have secrets."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    settings: dict[str, Any] = json.loads(given)
    engine = Engine(load_settings(**settings), daemon=True)
    if not engine.joined:  # else somebody was first: this one is not to outlast what it has joined
        ended.wait()
    engine.close()


if __name__ == "__main__":
    main(sys.stdin.read())
