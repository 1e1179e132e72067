"""What do N sleeping tasks cost, how soon are they back after a kill, and what if many are due in the same second?

N tasks sleep until tomorrow. `kill -9` of the driver and of every Ray process; a new start on the same directory, and
one more task, until the workflow is up again and knows of all of them. Then more tasks sleep until one and the same
moment. Behind it, each has a step that needs one of 200 permits for 10 ms, and that says when it began. Beside them,
tasks of another workflow run one at a time, before and meanwhile.

    python benchmarks/sleeping.py [--tasks 1000000] [--due 10000]
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

SLEEPERS = textwrap.dedent(
    """
    import asyncio, psutil, time, podium
    from podium import Sequence, Sleep, Step, Workflow

    @podium.protocol(concurrency=500)
    async def after(input):
        began = time.time()
        await asyncio.sleep(0.01)
        return began - input["at"]

    @podium.protocol(concurrency=500)
    async def beside(input):
        return input

    workflow = Workflow("sleepers", Sequence(Sleep(until="input.at"), Step(after, quotas={"permits": 1})))
    other = Workflow("other", Sequence(beside))
    settings = {
        "data": "data", "limits": {"permits": 200}, "rest_after_s": 3600.0,
        "max_open_tasks": 4_000_000, "max_open_per_user": 4_000_000,
    }

    def actors_mb():
        "Memory of the processes with an actor of Podium, shared pages shared out."
        below = psutil.Process().children(recursive=True)
        return sum(each.memory_full_info().pss for each in below if "Resident" in each.name()) / 1e6

    def state(engine):
        return engine.status().workflows["sleepers"]

    def wait_until(reached):
        began = time.monotonic()
        while not reached():
            time.sleep(0.05)
        return time.monotonic() - began
    """
)
FIRST = textwrap.dedent(
    """
    import json, sys, time, podium
    from sleepers import actors_mb, settings, state, wait_until, workflow

    count, tomorrow = int(sys.argv[1]), time.time() + 86_400
    engine = podium.connect(**settings)
    engine.submit_many(workflow, [{"at": tomorrow}] * 1_000)
    wait_until(lambda: state(engine).waiting == 1_000)
    before_mb, began = actors_mb(), time.monotonic()
    for _ in range(count // 10_000):
        engine.submit_many(workflow, [{"at": tomorrow}] * 10_000)
    accepted_s = time.monotonic() - began
    wait_until(lambda: state(engine).waiting == count + 1_000)
    asleep_s = time.monotonic() - began
    found = {"accepted_s": accepted_s, "asleep_s": asleep_s, "before_mb": before_mb, "mb": actors_mb()}
    print(json.dumps(found), flush=True)
    sys.stdin.read()
    """
)
SECOND = textwrap.dedent(
    """
    import json, sys, threading, time, podium
    from sleepers import actors_mb, other, settings, state, wait_until, workflow

    def beside_ms():
        began = time.perf_counter()
        engine.submit(other, {}).result(timeout_s=60)
        return 1000 * (time.perf_counter() - began)

    count, due = int(sys.argv[1]) + 1_000, int(sys.argv[2])
    began = time.monotonic()
    with podium.connect(**settings) as engine:
        up_s = time.monotonic() - began
        engine.submit(workflow, {"at": time.time() + 86_400})  # it wakes the workflow
        wait_until(lambda: state(engine).waiting == count + 1)
        known_s, mb = time.monotonic() - began - up_s, actors_mb()
        before = [beside_ms() for _ in range(200)]
        at = time.time() + max(10, due / 500)
        tasks = engine.submit_many(workflow, [{"at": at}] * due)
        wait_until(lambda: state(engine).waiting == count + 1 + due)
        early_s = at - time.time()
        time.sleep(max(0.0, early_s - 0.2))
        late, meanwhile = [], []
        collector = threading.Thread(target=lambda: late.extend(task.result(timeout_s=600) for task in tasks))
        collector.start()
        while collector.is_alive():
            meanwhile.append(beside_ms())
        assert len(late) == due and min(late) >= 0
        print(json.dumps({
            "up_s": up_s, "known_s": known_s, "mb_again": mb, "early_s": early_s, "late_s": late, "before": before,
            "meanwhile": meanwhile,
        }))
    """
)


def measured(folder: Path, count: int, due: int) -> dict[str, Any]:
    (folder / "sleepers.py").write_text(SLEEPERS)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    driver, told = begun(folder, environment, FIRST, str(count))
    kill_everything(driver)
    size = bytes_in(folder / "data")
    after = facts_of(folder, environment, SECOND, str(count), str(due))
    return json.loads(told) | after | {"bytes": size / count}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1_000_000)
    options.add_argument("--due", type=int, default=10_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.tasks, given.due)
    asleep, due = f"{given.tasks:,} asleep", f"{given.due:,} due at once"
    rows = [
        Row(asleep, "accepted", "tasks/s", [given.tasks / found["accepted_s"]]),
        Row(asleep, "until all sleep", "s", [found["asleep_s"]]),
        Row(asleep, "memory, followed", "MB", [found["mb"]]),
        Row(asleep, "disk per task", "bytes", [found["bytes"]]),
        Row(asleep, "start after the kill", "s", [found["up_s"]]),
        Row("1,000 asleep", "memory", "MB", [found["before_mb"]]),
        Row(asleep, "memory after it", "MB", [found["mb_again"]]),
        Row(asleep, "first use until awake", "s", [found["known_s"]]),
        Row(due, "step after its moment", "s", sorted(found["late_s"])[::100]),
        Row("other work before", "one task", "ms", found["before"]),
        Row("other work meanwhile", "one task", "ms", found["meanwhile"]),
    ]
    ratios = {
        "p99 of step after its moment, s": percentile(found["late_s"], 0.99),
        "p99 of other work before, ms": percentile(found["before"], 0.99),
        "p99 of other work meanwhile, ms": percentile(found["meanwhile"], 0.99),
    }
    report("sleeping", rows, ratios, machine())


if __name__ == "__main__":
    main()
