"""What do N tasks that wait for an answer cost, how soon are they back after a kill, and how soon does an answer act?

N tasks are accepted and wait. Then `kill -9` of the driver and of every Ray process, and a new start on the same
directory. All waits must be there, and no process may be there for them. The first answer wakes the workflow. Then
answers are given one at a time, and the step behind each says when it began.

    python benchmarks/waiting.py [--tasks 100000] [--answers 300]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from harness import Row, begun, bytes_in, facts_of, kill_everything, machine, percentile, report

APPROVALS = textwrap.dedent(
    """
    import time, podium
    from podium import Sequence, Wait, Workflow

    @podium.protocol
    async def after(input):
        return time.time()

    workflow = Workflow("approvals", Sequence(Wait("approval"), after))
    """
)
ACTORS = textwrap.dedent(
    """
    import psutil

    def actors():
        "Processes with an actor of Podium: coordinator, resources, supervisors, hosts."
        return sum("Resident" in each.name() for each in psutil.Process().children(recursive=True))
    """
)
FIRST = textwrap.dedent(
    """
    import json, sys, time, podium
    from pathlib import Path
    from actors import actors
    from approvals import workflow

    count = int(sys.argv[1])
    engine = podium.connect(data="data")
    before, began = actors(), time.monotonic()
    tasks = engine.submit_many(workflow, [{"n": n} for n in range(count)])
    accepted_s = time.monotonic() - began
    while engine.status().workflows["approvals"].waiting != count:
        time.sleep(0.1)
    found = {"accepted_s": accepted_s, "waiting_s": time.monotonic() - began, "actors": before}
    Path("ids.json").write_text(json.dumps([task.id for task in tasks]))
    print(json.dumps(found), flush=True)
    sys.stdin.read()
    """
)
SECOND = textwrap.dedent(
    """
    import json, sys, time, podium
    from pathlib import Path
    from actors import actors

    ids, answers = json.loads(Path("ids.json").read_text()), int(sys.argv[1])
    began = time.monotonic()
    with podium.connect(data="data") as engine:
        up_s = time.monotonic() - began
        there = engine.waits("approvals", limit=len(ids) + 1)
        there_s = time.monotonic() - began - up_s
        assert {wait.task_id for wait in there} == set(ids), len(there)
        status, running = engine.status().workflows["approvals"], actors()
        assert status.state == "idle", status

        def answered(id):
            sent = time.time()
            engine.answer(id, "approval", True)
            receipt = time.time()
            return engine.task(id).result(timeout_s=60) - sent, receipt - sent

        first_s, _ = answered(ids[0])
        times = [answered(id) for id in ids[1 : answers + 1]]
        print(json.dumps({
            "up_s": up_s,
            "there_s": there_s,
            "running": running,
            "first_s": first_s,
            "begun_ms": [1000 * begun for begun, _ in times],
            "receipt_ms": [1000 * receipt for _, receipt in times],
        }))
    """
)


def measured(folder: Path, count: int, answers: int) -> dict[str, Any]:
    (folder / "approvals.py").write_text(APPROVALS)
    (folder / "actors.py").write_text(ACTORS)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    driver, told = begun(folder, environment, FIRST, str(count))
    kill_everything(driver)
    size = bytes_in(folder / "data")
    after = facts_of(folder, environment, SECOND, str(answers))
    return json.loads(told) | after | {"bytes": size / count}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=100_000)
    options.add_argument("--answers", type=int, default=300)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.tasks, given.answers)
    system = f"{given.tasks:,} waits"
    rows = [
        Row(system, "accepted", "tasks/s", [given.tasks / found["accepted_s"]]),
        Row(system, "until all wait", "s", [found["waiting_s"]]),
        Row(system, "actors for them", "", [found["running"] - found["actors"]]),
        Row(system, "disk per task", "bytes", [found["bytes"]]),
        Row(system, "start after the kill", "s", [found["up_s"]]),
        Row(system, "then all listed", "s", [found["there_s"]]),
        Row(system, "first answer to step", "s", [found["first_s"]]),
        Row(system, "answer to receipt", "ms", found["receipt_ms"]),
        Row(system, "answer to step", "ms", found["begun_ms"]),
    ]
    report("waiting", rows, {"p99 of answer to step, ms": percentile(found["begun_ms"], 0.99)}, machine())


if __name__ == "__main__":
    main()
