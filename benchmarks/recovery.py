"""What is lost, and what runs twice, when everything is killed with N tasks in flight?

W4: N tasks of 3 steps that sleep 0.2 s each; when a sixth of the steps have ended, `kill -9` of the driver and of
every Ray process; start again on the same directory and wait for every task. A witness file, written by the steps
themselves, says what ran; the journal as it was after the kill says what was recorded.

    python benchmarks/recovery.py [--tasks 500]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil
from harness import machine

from podium.cluster.store.reading import FileReader
from podium.supervisors.events import unpack_events

STEPS = textwrap.dedent(
    """
    import asyncio, os, podium

    def note(ctx, what):
        handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what} {ctx.task_id} {ctx.step}\\n".encode())
        os.close(handle)

    @podium.protocol(concurrency=2000)
    async def step(ctx, input):
        note(ctx, "start")
        await asyncio.sleep(0.2)
        note(ctx, "end")
        return {"n": input["n"] + 1}

    workflow = podium.Workflow("witnessed", podium.Sequence(step, step, step))
    """
)
FIRST = textwrap.dedent(
    """
    import sys, podium
    from witnessed import workflow

    engine = podium.connect(data="data")
    engine.submit_many(workflow, [{"n": n} for n in range(int(sys.argv[1]))])
    print("accepted", flush=True)
    sys.stdin.read()
    """
)
SECOND = textwrap.dedent(
    """
    import time, podium

    began = time.monotonic()
    with podium.connect(data="data") as engine:
        up_s = time.monotonic() - began
        results = [task.result(timeout_s=300)["n"] for task in engine.tasks(limit=10**6)]
        print(len(results), up_s, time.monotonic() - began)
    """
)


def recorded_steps(data: Path) -> set[str]:
    reader = FileReader(data)
    stored = (reader.find_task(record.task_id) for record in reader.list_tasks(limit=10**6))
    return {
        f"{task.record.task_id} {event.path}"
        for task in stored
        if task
        for body in task.bodies
        for event in unpack_events(body)
    }


def starts(witness: Path) -> Counter[str]:
    lines = witness.read_text().splitlines()
    return Counter(line.removeprefix("start ") for line in lines if line.startswith("start "))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=500)
    count = options.parse_args().tasks
    with tempfile.TemporaryDirectory() as name:
        folder, witness = Path(name), Path(name) / "witness.txt"
        (folder / "witnessed.py").write_text(STEPS)
        witness.touch()
        environment = {**os.environ, "WITNESS": str(witness), "PYTHONPATH": name}
        driver = subprocess.Popen(
            [sys.executable, "-c", FIRST, str(count)],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"accepted\n"
        while witness.read_text().count("end ") < count // 2:
            time.sleep(0.01)
        for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
            process.kill()
        driver.wait()
        before, recorded = starts(witness), recorded_steps(folder / "data")
        done = subprocess.run(
            [sys.executable, "-c", SECOND], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        finished, up_s, total_s = (float(part) for part in done.stdout.split())
        after = starts(witness)
    again = {place for place in before if after[place] > before[place]}
    facts = {
        "tasks": count,
        "lost": count - int(finished),
        "in_flight_at_the_kill": len(set(before) - recorded),
        "ran_twice": len(again),
        "ran_again_after_recorded": len(again & recorded),
        "seconds_after_up": round(total_s - up_s, 2),
        "seconds_to_up": round(up_s, 2),
    }
    for key, value in facts.items():
        print(f"{key:<26} {value}")
    print(json.dumps({"benchmark": "recovery", **facts, "machine": machine()}))


if __name__ == "__main__":
    main()
