"""How fast are durable tasks of three steps, against the same chain in plain Ray calls, in the same run?

W1: N tasks of 3 trivial sequential steps submitted at once, all results checked (tasks/s).
W2: the same task, one at a time, 200 times after 20 warm-ups (ms).

Podium commits every step's output with synchronous=FULL before the next step starts, in one shard or in two, each with
a supervisor of its own; the plain Ray chains keep nothing. Two idioms of plain Ray: a coordinator actor that awaits
each step, and the fastest one known, references chained by the driver over synchronous actors. The systems take turns,
so that the machine's drift hits all alike.

    python benchmarks/throughput.py [--tasks 1000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile

from harness import Chain, Row, latencies_ms, machine, percentile, report, throughput

import podium


@podium.protocol
async def first(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol
async def second(input: dict) -> dict:
    return {"n": input["n"] + 1}


@podium.protocol
async def third(input: dict) -> dict:
    return {"n": input["n"] + 1}


WORKFLOW = podium.Workflow("chain", podium.Sequence(first, second, third))
SHARDED = podium.Workflow("sharded", WORKFLOW.root, shards=2)
OURS, OURS_SHARDED = "podium, durable", "podium, two shards"


def podium_chain(engine: podium.Engine, workflow: podium.Workflow = WORKFLOW) -> Chain:
    return lambda inputs: [task.result(timeout_s=600) for task in engine.submit_many(workflow, inputs)]


def podium_one(engine: podium.Engine) -> Chain:
    return lambda inputs: [engine.submit(WORKFLOW, inputs[0]).result(timeout_s=120)]


def ray_chains() -> tuple[Chain, Chain]:
    """A coordinator that awaits each step, and references chained by the driver."""
    import ray

    @ray.remote(num_cpus=0)
    class AsyncStep:
        async def run(self, input: dict) -> dict:
            return {"n": input["n"] + 1}

    @ray.remote(num_cpus=0)
    class Step:
        def run(self, input: dict) -> dict:
            return {"n": input["n"] + 1}

    @ray.remote(num_cpus=0)
    class Chainer:
        def __init__(self, steps: list) -> None:
            self.steps = steps

        async def run(self, input: dict) -> dict:
            for step in self.steps:
                input = await step.run.remote(input)
            return input

    chainer = Chainer.remote([AsyncStep.remote() for _ in range(3)])
    steps = [Step.remote() for _ in range(3)]

    def chained(input: dict):
        for step in steps:
            input = step.run.remote(input)
        return input

    return (
        lambda inputs: ray.get([chainer.run.remote(input) for input in inputs]),
        lambda inputs: ray.get([chained(input) for input in inputs]),
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as data, podium.connect(data=data) as engine:
        coordinator, references = ray_chains()
        plain = {"ray, coordinator": coordinator, "ray, references": references}
        bulk = {OURS: podium_chain(engine), OURS_SHARDED: podium_chain(engine, SHARDED), **plain}
        single = {OURS: podium_one(engine), **plain}
        w1 = {name: Row(name, f"W1, {given.tasks} tasks", "tasks/s") for name in bulk}
        p50 = {name: Row(name, "W2, p50", "ms") for name in single}
        p99 = {name: Row(name, "W2, p99", "ms") for name in single}
        for chain in bulk.values():
            throughput(chain, 200)
        for chain in single.values():
            latencies_ms(chain, 20)
        for _ in range(given.repeats):
            for name, chain in bulk.items():
                w1[name].values.append(throughput(chain, given.tasks))
        for _ in range(given.repeats):
            for name, chain in single.items():
                samples = latencies_ms(chain, 200 // given.repeats)
                p50[name].values.append(percentile(samples, 0.5))
                p99[name].values.append(percentile(samples, 0.99))
        best = max(w1["ray, coordinator"].median, w1["ray, references"].median)
        ratios = {
            "W1, podium over the best plain Ray idiom (target >= 3)": w1[OURS].median / best,
            "W1, podium in two shards over it (target >= 3, then 6)": w1[OURS_SHARDED].median / best,
            "W2 p50, podium over the plain Ray coordinator (target <= 1.3)": p50[OURS].median
            / p50["ray, coordinator"].median,
        }
        report("throughput", [*w1.values(), *p50.values(), *p99.values()], ratios, machine())


if __name__ == "__main__":
    main()
