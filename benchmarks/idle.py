"""What do 200 deployed workflows cost that have nothing to do, and how long does one take to wake?

Each is deployed, runs one task, and rests after two seconds. Then: the processes and the memory of the cluster, W1 of a
workflow beside them over before, and the first result of workflows at rest over the same of new ones.

    python benchmarks/idle.py [--workflows 200]
"""

from __future__ import annotations

import argparse
import tempfile
import time

import psutil
from harness import Row, machine, report, throughput, timed
from throughput import WORKFLOW, first

import podium
from podium import Sequence, Workflow

REST_S = 2.0
WAKEN = 10


def actors(engine: podium.Engine) -> int:
    """Workflows that have actors now."""
    return sum(each.state != "idle" for each in engine.status().workflows.values())


def processes() -> tuple[int, float]:
    """How many there are below this one, and their memory in MB, shared pages shared out."""
    below = psutil.Process().children(recursive=True)
    return len(below), sum(each.memory_full_info().pss for each in below) / 1e6


def result_s(engine: podium.Engine, workflow: Workflow) -> float:
    return timed(lambda: engine.submit(workflow, {"n": 1}).result(timeout_s=120))


def chain(engine: podium.Engine):
    return lambda inputs: [task.result(timeout_s=120) for task in engine.submit_many(WORKFLOW, inputs)]


def wait_for_rest(engine: podium.Engine) -> None:
    while actors(engine) > 0:
        time.sleep(0.5)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workflows", type=int, default=200)
    given = options.parse_args()
    many = f"{given.workflows} at rest"
    none_w1, many_w1 = Row("no other workflow", "W1", "tasks/s"), Row(many, "W1", "tasks/s")
    none_count, many_count = Row("no workflow", "processes", ""), Row(many, "processes", "")
    none_memory, many_memory = Row("no workflow", "memory", "MB"), Row(many, "memory", "MB")
    new, woken = Row("a new workflow", "first result", "s"), Row("a workflow at rest", "first result", "s")
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data, rest_after_s=REST_S) as engine:
        throughput(chain(engine), 300)
        none_w1.values += [throughput(chain(engine), 1_000) for _ in range(9)]
        wait_for_rest(engine)
        measure(none_count, none_memory)
        workflows = [Workflow(f"w{n}", Sequence(first)) for n in range(given.workflows)]
        new.values += [result_s(engine, workflow) for workflow in workflows]
        wait_for_rest(engine)
        measure(many_count, many_memory)
        throughput(chain(engine), 300)
        many_w1.values += [throughput(chain(engine), 1_000) for _ in range(9)]
        woken.values += [result_s(engine, workflow) for workflow in workflows[:WAKEN]]
        ratios = {
            f"processes with {many} over without": many_count.median / none_count.median,
            f"memory with {many} over without": many_memory.median / none_memory.median,
            f"W1 beside {many} over without": many_w1.median / none_w1.median,
            "first result of one at rest over a new one": woken.median / new.median,
        }
        rows = [none_count, many_count, none_memory, many_memory, none_w1, many_w1, new, woken]
        report("idle", rows, ratios, machine())


def measure(count: Row, memory: Row) -> None:
    found, mb = processes()
    count.values.append(found)
    memory.values.append(mb)


if __name__ == "__main__":
    main()
