"""A driver on one of several machines: it submits tasks and prints where their steps ran, as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter

import numpy as np

import podium
from podium import Sequence, Workflow


@podium.protocol(concurrency=2, replicas=6, num_cpus=0.5)
def where(input):
    """Give the name of the machine, and an array that goes through the blob store."""
    time.sleep(0.02)
    return {"machine": os.uname().nodename, "array": np.full(50_000, float(input)), "n": input}


@podium.protocol
def passed_on(input):
    assert input["array"].sum() == 50_000 * input["n"]
    return input["machine"]


FLOW = Workflow("w", Sequence(where, passed_on))


def main(data: str, address: str, count: str) -> None:
    with podium.connect(data=data, address=address) as engine:
        for task in engine.submit_many(FLOW, [0] * 24):
            task.result(timeout_s=120)
        tasks = engine.submit_many(FLOW, list(range(int(count))))
        print("submitted", flush=True)
        ran = Counter(task.result(timeout_s=240) for task in tasks)
        known = {task.id for task in engine.tasks(limit=100_000)}
        print(json.dumps({"ran": ran, "missing": sum(task.id not in known for task in tasks)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
