"""What is lost, what runs twice, and how soon does work go on, when everything is killed with N tasks in flight?

W4: N tasks of 3 steps that sleep 0.2 s each; when a sixth of the steps have ended, `kill -9` of the driver and of
every Ray process; start again on the same directory and wait for every task. A witness file, written by the steps
themselves, says what ran; the journal as it was after the kill says what was recorded.

With --open, the second step of every task hangs until the restart, so that all N are open at the kill, each with one
step recorded: what counts then is how long the next cluster needs to fold them all and to go on with them.

    python benchmarks/recovery.py [--tasks 500 | --open 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import begun, facts_of, kill_everything, machine

from podium.cluster.store.sqlite.opening import reading
from podium.cluster.store.sqlite.schema import shard_path
from podium.supervisors.tasks.events import unpack_events

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

    @podium.protocol(concurrency=2000)
    async def second(ctx, input):
        note(ctx, "start")
        is_open = os.path.exists(os.environ.get("GATE", "."))
        await asyncio.sleep(0.2 if is_open else 3600)
        note(ctx, "end")
        return {"n": input["n"] + 1}

    workflow = podium.Workflow("witnessed", podium.Sequence(step, second, step))
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
    import json, sys, time, podium
    from pathlib import Path
    from podium.cluster.store.sqlite.reading import FileReader

    def since_up(reached):
        while not reached():
            time.sleep(0.02)
        return round(time.monotonic() - up, 2)

    def is_folded():
        return engine.status().workflows["witnessed"].state == "up"

    reader, began = FileReader(Path("data")), time.monotonic()
    count = reader.open_count("witnessed")
    with podium.connect(data="data") as engine:
        up = time.monotonic()
        times = {
            "seconds_to_up": round(up - began, 2),
            "seconds_to_folded": since_up(is_folded),
            "seconds_to_first": since_up(lambda: reader.open_count("witnessed") < count),
            "seconds_to_last": since_up(lambda: reader.open_count("witnessed") == 0),
        }
        done = reader.list_tasks(status="completed", limit=10**6)
        right = [record for record in done if record.result == {"n": record.input["n"] + 3}]
        print(json.dumps({"open": count, "right": len(right), **times}))
    """
)


def recorded_steps(data: Path) -> set[str]:
    """Task and path of every step whose finish is in the journal."""
    with reading(shard_path(data, "witnessed")) as db:
        rows = db.execute("SELECT task_id, body FROM entries").fetchall()
    return {f"{task_id} {event.path}" for task_id, body in rows for event in unpack_events(body)}


def starts(witness: Path) -> Counter[str]:
    lines = witness.read_text().splitlines()
    return Counter(line.removeprefix("start ") for line in lines if line.startswith("start "))


def killed(folder: Path, count: int, environment: dict[str, str], enough: Callable[[], bool]) -> None:
    """Submit `count` tasks, and kill everything when it is `enough`."""
    driver, said = begun(folder, environment, FIRST, str(count))
    assert said == "accepted\n"
    while not enough():
        time.sleep(0.01)
    kill_everything(driver)


def measured(folder: Path, count: int, gated: bool) -> dict[str, Any]:
    witness, gate = folder / "witness.txt", folder / "gate"
    (folder / "witnessed.py").write_text(STEPS)
    witness.touch()
    environment = {**os.environ, "WITNESS": str(witness), "PYTHONPATH": str(folder)}
    if gated:
        environment["GATE"] = str(gate)
    ends = count if gated else count // 2
    killed(folder, count, environment, lambda: witness.read_text().count("end ") >= ends)
    gate.touch()
    before, recorded = starts(witness), recorded_steps(folder / "data")
    times = facts_of(folder, environment, SECOND)
    after = starts(witness)
    again = {place for place in before if after[place] > before[place]}
    return {
        "tasks": count,
        "open_at_the_kill": times.pop("open"),
        "lost": count - times.pop("right"),
        "in_flight_at_the_kill": len(set(before) - recorded),
        "ran_twice": len(again),
        "ran_again_after_recorded": len(again & recorded),
        **times,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=500)
    options.add_argument("--open", type=int, help="tasks that are all open at the kill")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        facts = measured(Path(name), given.open or given.tasks, gated=given.open is not None)
    for key, value in facts.items():
        print(f"{key:<26} {value}")
    print(json.dumps({"benchmark": "recovery", **facts, "machine": machine()}))


if __name__ == "__main__":
    main()
