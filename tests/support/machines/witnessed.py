"""A driver on one of several machines: it submits tasks whose steps bear witness in a file that all machines share.

A step writes a line when it begins, every `TICK_S` while it works, and when it ends: so one sees how long it really
ran, also on a machine that was cut off.
"""

from __future__ import annotations

import json
import os
import time

import podium
from podium import Hierarchy, Sequence, Step, Workflow, verdict

TICK_S = 0.02
WORK_S = 0.1
SLOTS = 4


def tell(witness: str, *words: object) -> None:
    line = json.dumps([time.monotonic(), time.time(), os.uname().nodename, os.getpid(), *words]) + "\n"
    handle = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line.encode())
    os.close(handle)


def worked(ctx, input, name):
    run = f"{ctx.task_id} {ctx.step} {time.monotonic_ns()}"
    tell(input["witness"], "begins", name, run, f"{input['n']} {ctx.step}")
    end = time.monotonic() + WORK_S
    while time.monotonic() < end:
        time.sleep(TICK_S)
        tell(input["witness"], "ticks", name, run)
    tell(input["witness"], "ends", name, run)
    return input


@podium.protocol(concurrency=2, replicas=3, quotas={"slots": 1}, num_cpus=0.1)
def limited(ctx, input):
    return worked(ctx, input, "limited")


@podium.protocol(concurrency=4, replicas=3, num_cpus=0.1)
def free(ctx, input):
    return worked(ctx, input, "free")


@podium.protocol(concurrency=100)
async def lead(input):
    if input["round"] == 1:
        return verdict.assign({"one": input["input"]})
    return verdict.accept(input["outcomes"]["one"]["output"])


FLOW = Workflow("load", Sequence(free, Hierarchy(lead, team={"one": Step(limited)}, name="team")))


def main(data: str, address: str, count: str, witness: str) -> None:
    where = {"address": address} if address else {}
    with podium.connect(data=data, limits={"slots": SLOTS}, **where) as engine:
        engine.submit(FLOW, {"n": -1, "witness": witness}).result(timeout_s=120)
        began = time.monotonic()
        tasks = engine.submit_many(FLOW, [{"n": n, "witness": witness} for n in range(int(count))])
        print("submitted", flush=True)
        ends = []
        for task in tasks:
            assert task.result(timeout_s=400)["n"] >= 0
            ends.append(time.monotonic())
        known = {task.id for task in engine.tasks(limit=100_000)}
        gap_s = max(later - earlier for earlier, later in zip([began, *ends], ends, strict=False))
        facts = {"missing": sum(task.id not in known for task in tasks), "gap_s": round(gap_s, 2)}
        print(json.dumps({**facts, "took_s": round(ends[-1] - began, 2)}), flush=True)
