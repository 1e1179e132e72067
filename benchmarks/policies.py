"""What do policies cost when nothing goes wrong: W1 with retries, all time-outs and a breaker, against W1 without?

W1 as in throughput.py: tasks of three trivial sequential steps, submitted at once, all results checked. The same work
with and without policies takes turns in one cluster.

    python benchmarks/policies.py [--tasks 1000] [--repeats 7]
"""

from __future__ import annotations

import argparse
import tempfile

from harness import Row, machine, report
from throughput import WORKFLOW, throughput

import podium
from podium import Breaker, Retry, Sequence, Step, Workflow

GUARDED = {"retry": Retry(), "timeout_s": 60.0, "idle_timeout_s": 30.0, "breaker": Breaker(slow_s=10)}


@podium.protocol(**GUARDED)
async def first_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**GUARDED)
async def second_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**GUARDED)
async def third_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


STEPS = [Step(protocol, total_timeout_s=300) for protocol in (first_guarded, second_guarded, third_guarded)]
WITH_POLICIES = Workflow("guarded", Sequence(*STEPS), timeout_s=600)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=7)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:

        def chain(workflow):
            return lambda inputs: [task.result(timeout_s=120) for task in engine.submit_many(workflow, inputs)]

        systems = {"without policies": chain(WORKFLOW), "with all of them": chain(WITH_POLICIES)}
        rows = {name: Row(name, f"W1, {given.tasks} tasks", "tasks/s") for name in systems}
        for run in systems.values():
            throughput(run, 200)
        for _ in range(given.repeats):
            for name, run in systems.items():
                rows[name].values.append(throughput(run, given.tasks))
        ratio = rows["with all of them"].median / rows["without policies"].median
        report("policies", list(rows.values()), {"with over without (target >= 0.9)": ratio}, machine())


if __name__ == "__main__":
    main()
