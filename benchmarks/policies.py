"""What do policies cost when nothing goes wrong: W1 with policies, against W1 without?

W1 as in throughput.py: tasks of three trivial sequential steps, submitted at once, all results checked. "Default
policies" are a retry, a time-out of attempts and a breaker on each step, with their defaults; "all of them" adds every
other kind of time-out there is, of steps and of the task. The same work takes turns in one cluster.

    python benchmarks/policies.py [--tasks 1000] [--repeats 7]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

from harness import Row, machine, over, report, throughput
from throughput import WORKFLOW

import podium
from podium import Breaker, Retry, Sequence, Step, Workflow

USUAL = {"retry": Retry(), "timeout_s": 60.0, "breaker": Breaker()}
ALL = {**USUAL, "idle_timeout_s": 30.0, "breaker": Breaker(slow_s=10)}


@podium.protocol(**USUAL)
async def first_usual(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**USUAL)
async def second_usual(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**USUAL)
async def third_usual(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**ALL)
async def first_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**ALL)
async def second_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol(**ALL)
async def third_guarded(input: dict) -> dict:
    return {"n": input["n"] + 1}


STEPS = [Step(protocol, total_timeout_s=300) for protocol in (first_guarded, second_guarded, third_guarded)]
SYSTEMS = {
    "without policies": WORKFLOW,
    "default policies": Workflow("usual", Sequence(first_usual, second_usual, third_usual)),
    "all of them": Workflow("guarded", Sequence(*STEPS), timeout_s=600),
}


def chain(engine: podium.Engine, workflow: Workflow) -> Callable[[list[dict]], list[dict]]:
    return lambda inputs: [task.result(timeout_s=120) for task in engine.submit_many(workflow, inputs)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=12)
    given = options.parse_args()
    rows = {name: Row(name, f"W1, {given.tasks} tasks", "tasks/s") for name in SYSTEMS}
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        for workflow in SYSTEMS.values():
            throughput(chain(engine, workflow), 200)
        names = list(SYSTEMS)
        for n in range(given.repeats):
            for name in names[n % len(names) :] + names[: n % len(names)]:  # each comes first as often as last
                rows[name].values.append(throughput(chain(engine, SYSTEMS[name]), given.tasks))
        without = rows["without policies"]
        ratios = {
            "default policies over none (target >= 0.9)": over(rows["default policies"], without),
            "all of them over none": over(rows["all of them"], without),
        }
        report("policies", list(rows.values()), ratios, machine())


if __name__ == "__main__":
    main()
