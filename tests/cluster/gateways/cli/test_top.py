"""What `podium top` shows and `podium metrics` prints."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict

import pytest
from rich.console import Console

import podium
from podium import Adaptive, Hierarchy, Parallel, Retry, Rule, Sequence, Step, Workflow
from podium.cluster.gateways.cli.metrics import exposition
from podium.cluster.gateways.cli.top import Look, picture
from podium.status import ClusterStatus, Counts, Durations, Load, StepDurations, ThrottleStatus, WorkflowStatus
from podium.supervisors.figures.counters import BOUNDS_S, Histogram
from podium.testing import Simulation
from tests import sample


@pytest.fixture(scope="module")
def looks():
    """Two, ten seconds apart."""
    simulation = Simulation(limits={"llm": 1})
    simulation.cpu_used, simulation.memory_used = 0.25, 0.5

    async def look(engine):
        at = asyncio.get_running_loop().time()
        return Look(await engine.status(), at)

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow, Step(sample.model, retry=Retry(attempts=2))))
        await engine.submit_many(workflow, [{"s": 1, "n": 1}] * 4)
        await asyncio.sleep(2)
        before = await look(engine)
        await asyncio.sleep(10)
        await engine.submit(workflow, {"s": 100, "n": 1})
        await asyncio.sleep(1)
        return before, await look(engine)

    return simulation.run(work)


def shown(look, before, width=140):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(picture(look, before, width))
    return console.export_text()


def test_top_shows_workflows_rates_latencies_and_limits(looks):
    before, after = looks
    text = shown(after, before)
    assert "CPU 25%   memory 50%" in text
    (row,) = [line for line in text.splitlines() if line.startswith("w ")]
    assert re.search(r"w +up +1 +1 +0 +2/2 +\d\.\d +≤ [\d.]+ +≤ [\d.]+ +0", row), row
    assert re.search(r"llm +1 +0 +0", text)
    assert "ended/s" in shown(before, None)


@pytest.mark.parametrize(("width", "kept"), [(100, "lag ms"), (80, "p99 s"), (60, "queued"), (40, "open")])
def test_a_narrow_screen_has_fewer_columns_and_cuts_none(looks, width, kept):
    before, after = looks
    text = shown(after, before, width)
    head = next(line for line in text.splitlines() if line.startswith("workflow"))
    assert "…" not in text
    assert kept in head and all(word in head for word in ("open", "running", "queued"))
    assert max(map(len, text.splitlines())) <= width


SAMPLE = re.compile(r'([a-z_]+)(\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)+\})? ([-+.e\d]+)')


def test_metrics_are_in_the_format_of_prometheus(looks):
    lines = exposition(looks[1].status)
    families = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    values = defaultdict(dict)
    for line in lines:
        if not line.startswith("#"):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert re.sub("_(bucket|sum|count)$", "", name) in families or name in families
            values[name][labels or ""] = float(value)
    assert values["podium_tasks_ended_total"]['{workflow="w",outcome="completed"}'] == 4
    assert values["podium_tasks_open"]['{workflow="w"}'] == 1
    buckets = list(values["podium_task_seconds_bucket"].values())
    assert buckets == sorted(buckets)
    assert len(buckets) == len(BOUNDS_S) + 1
    assert buckets[-1] == values["podium_task_seconds_count"]['{workflow="w"}'] == 4
    steps = values["podium_step_seconds_count"]
    assert steps['{workflow="w",step="model",protocol="tests.sample:model"}'] == 4
    assert not any("t-0" in line for line in lines), "no task ids as labels"


def test_names_are_escaped_as_the_format_wants():
    down = WorkflowStatus("h", "1", "wait", 1, False, "down")
    status = ClusterStatus({'a"b\\c': down}, {}, {}, ThrottleStatus(1.0, ()), Load(0.0, 0.0), ())
    assert 'podium_workflow_up{workflow="a\\"b\\\\c"} 0' in exposition(status)


def test_times_are_by_place_in_the_tree_and_protocol_whatever_round_or_item_it_was():
    @podium.protocol
    async def slow(input):
        await asyncio.sleep(2)
        return input

    @podium.protocol(retry=Retry(attempts=3, initial_delay_s=1, max_delay_s=1, jitter=False))
    async def at_last(ctx, input):
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return input

    async def work(engine):
        each = Parallel(each="input", do=Step(slow, fallback=sample.echo), name="all")
        team = Hierarchy(sample.lead, team={"x": slow}, name="team")
        loop = Adaptive({"a": at_last}, start="a", rules=[Rule(after="a", when="visits.a < 2", to="a"), Rule(to="end")])
        await (await engine.submit(Workflow("w", Sequence(each, team, loop)), [1, 2, 3])).result()
        with pytest.raises(podium.errors.TaskFailed):
            await (await engine.submit(Workflow("w2", Sequence(sample.fail)), 1)).result()
        return await engine.status()

    status = Simulation().run(work)
    counted = {
        (step, protocol.rpartition(".")[2]): (durations.count, round(durations.sum_s))
        for step, protocol, durations in status.workflows["w"].counts.step_s
    }
    assert counted == {("all", "slow"): (3, 12), ("team", ""): (1, 2), ("adaptive/a", "at_last"): (2, 4)}
    ((step, protocol, durations),) = status.workflows["w2"].counts.step_s
    assert (step, protocol, durations.count) == ("fail", "tests.sample:fail", 1)


def test_no_label_holds_what_a_terminal_takes_for_an_order():
    histogram = Histogram()
    histogram.observe(1.0)
    once = Durations.from_wire(histogram.to_wire())
    rows = (StepDurations("a/b", 'mod:x"\x1b]0;y\x07\n\u202e', once),)
    counts = Counts(
        tasks={}, steps={}, task_s=once, transitions=(), step_s=rows, state_s={}, permit_s=once, answers_refused={}
    )
    flow = WorkflowStatus("h", "1", "wait", 1, False, "up", open=0, load=Load(0.0, 0.0), counts=counts)
    status = ClusterStatus({"w": flow}, {}, {}, ThrottleStatus(1.0, ()), Load(0.0, 0.0), ())
    lines = [line for line in exposition(status) if "step_seconds" in line]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert lines[-1].endswith('protocol="mod:x\\"\\\\x1b]0;y\\\\x07\\\\n\\\\u202e"} 1')


def test_top_names_what_somebody_should_look_at():
    simulation = Simulation(limits={"llm": 1}, throttle=True, alerts={"busy": "load.cpu > 0.9"}, alert_every_s=1)

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.model))
        for user in ("ada", "bob"):
            await engine.submit_many(workflow, [{"n": 1}] * 4000, user=user)
        simulation.cpu_used = 0.95
        await asyncio.sleep(10)
        return Look(await engine.status(), 0.0)

    look = simulation.run(work)
    text = shown(look, None)
    assert "alert 'busy': load.cpu > 0.9" in text
    assert "limits are at 90%: 95% of the CPU is used" in text or "limits are at 80%" in text
    assert re.search(r"ada +\d+", text) and re.search(r"bob +\d+", text)
    assert 'podium_alert_firing{alert="busy"} 1' in exposition(look.status)


def test_a_quantile_is_the_bound_of_its_bucket():
    histogram = Histogram()
    assert Durations.from_wire(histogram.to_wire()).quantile_s(0.5) is None
    for seconds in [0.004] * 98 + [0.3, 5000.0]:
        histogram.observe(seconds)
    durations = Durations.from_wire(histogram.to_wire())
    assert [durations.quantile_s(share) for share in (0.5, 0.99, 1.0)] == [0.005, 0.5, None]
