"""The engine on the simulated cluster: what a client can do, and what it gets."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

import podium
from podium import Hierarchy, Parallel, Retry, Sequence, Step, Workflow
from podium.errors import (
    EngineClosed,
    FixTheCall,
    InvalidInput,
    KeyConflict,
    NotFound,
    Overloaded,
    SpawnFailed,
    TaskCancelled,
    TaskFailed,
    WaitTimedOut,
    WorkflowDown,
)
from podium.status import LimitUse
from podium.supervisors.admission import intake
from podium.testing import Faults, Simulation, simulate
from tests import sample

THREE = Workflow("three", Sequence(sample.add, sample.add, sample.add))


def engine_test(work, **options):
    return Simulation(**options).run(work)


def test_results_come_in_the_order_of_the_inputs():
    assert simulate(THREE, [{"n": n} for n in range(10)]) == [{"n": n + 3} for n in range(10)]


def test_all_four_modes_nest():
    team = {"x": sample.add, "y": Sequence(sample.add, sample.add)}
    workflow = Workflow(
        "nested",
        Sequence(
            Parallel({"a": sample.add, "b": Hierarchy(sample.lead, team=team)}),
            podium.Adaptive(
                {"pick": Step(sample.echo, with_="input.b.y"), "again": sample.add},
                start="pick",
                rules=[
                    podium.Rule(after="pick", to="again"),
                    podium.Rule(when="output.n < 10", to="again"),
                    podium.Rule(to="end"),
                ],
            ),
        ),
    )
    assert simulate(workflow, [{"n": 1}]) == [{"n": 10}]


def test_a_hierarchy_in_a_hierarchy_has_a_tier_of_its_own():
    inner = Hierarchy(sample.lead, team={"deep": sample.add})
    workflow = Workflow(
        "two-tiers", Sequence(Hierarchy(sample.lead, team={"inner": inner, "x": sample.add}, name="outer"))
    )

    async def work(engine):
        task = await engine.submit(workflow, {"n": 1})
        assert await task.result() == {"inner": {"deep": {"n": 2}}, "x": {"n": 2}}
        return list(simulation.disk.shards)

    simulation = Simulation()
    shards = simulation.run(work)
    assert {"two-tiers", "two-tiers.outer", "two-tiers.outer.inner"} <= set(shards)


def test_feedback_reaches_the_member():
    workflow = Workflow("edit", Sequence(Hierarchy(sample.strict_lead, team={"a": sample.echo, "b": sample.echo})))
    assert simulate(workflow, [None]) == [3]


def test_an_escalation_reaches_the_lead_above():
    @podium.protocol
    async def gives_up(brief):
        return podium.verdict.escalate("too hard")

    @podium.protocol
    async def boss(brief):
        if not brief["outcomes"]:
            return podium.verdict.assign()
        return podium.verdict.accept(brief["outcomes"]["inner"]["error"])

    inner = Parallel({"p": Hierarchy(gives_up, team={"x": sample.add})}, join="settled")
    (error,) = simulate(Workflow("w", Hierarchy(boss, team={"inner": inner})), [{"n": 1}])
    assert (error["code"], error["message"]) == ("escalated", "too hard")


def test_a_failed_task_names_workflow_step_attempt_and_cause():
    workflow = Workflow("bad", Sequence(sample.echo, Step(sample.fail, retry=Retry(attempts=3, initial_delay_s=1))))

    async def work(engine):
        task = await engine.submit(workflow, "x")
        with pytest.raises(TaskFailed) as caught:
            await task.result()
        error = caught.value
        assert (error.workflow, error.step, error.attempt) == ("bad", "fail", 3)
        assert (error.cause_kind, error.cause_message) == ("ValueError", "cannot do x")
        assert "sample.py" in error.cause_traceback
        assert "binding.py" not in error.cause_traceback
        assert await task.read_status() == "failed"

    engine_test(work)


def test_retries_wait_and_then_succeed():
    runs = []

    @podium.protocol(retry=Retry(attempts=5, initial_delay_s=10, jitter=False))
    async def third_time(ctx, input):
        runs.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise ConnectionError("not yet")
        return ctx.attempt

    async def work(engine):
        began = asyncio.get_running_loop().time()
        task = await engine.submit(Workflow("w", Sequence(third_time)))
        assert await task.result() == 3
        assert 30 <= asyncio.get_running_loop().time() - began < 31
        assert {key for _, key in runs} == {f"{task.id}:third_time"}

    engine_test(work)
    assert [attempt for attempt, _ in runs] == [1, 2, 3]


def test_only_the_named_kinds_are_retried():
    runs = []

    @podium.protocol(retry=Retry(attempts=5, only=("TimeoutError",)))
    async def fails(ctx, input):
        runs.append(ctx.attempt)
        raise ValueError

    with pytest.raises(TaskFailed):
        simulate(Workflow("w", Sequence(fails)), [1])
    assert runs == [1]


def test_bad_input_at_a_later_step_is_not_retried():
    workflow = Workflow("w", Sequence(sample.echo, Step(sample.greet, retry=Retry(attempts=3))))
    with pytest.raises(TaskFailed, match=r"step 'greet' \(attempt 1\): InvalidInput: .*name: Field required"):
        simulate(workflow, [{}])


def test_a_time_out_says_what_was_allowed():
    workflow = Workflow("w", Sequence(Step(sample.slow, timeout_s=2)))
    with pytest.raises(TaskFailed, match=r"step 'slow' of task t-\w+ ran out of time: 2 s allowed, 2\.0 s used"):
        simulate(workflow, [{"s": 100}])


def test_waiting_in_a_queue_does_not_count_as_running():
    workflow = Workflow("w", Sequence(Step(sample.slow, timeout_s=2)))
    assert simulate(workflow, [{"s": 1.5}] * 10) == [{"s": 1.5}] * 10


def test_the_same_key_and_payload_give_the_same_task():
    async def work(engine):
        first = await engine.submit(THREE, {"n": 1}, key="k")
        again = await engine.submit(THREE, {"n": 1}, key="k")
        assert again.id == first.id
        assert await first.result() == await again.result() == {"n": 4}
        assert (await engine.submit(THREE, {"n": 1}, key="k")).id == first.id
        assert (await engine.submit(THREE, {"n": 1}, key="k", user="other")).id != first.id
        with pytest.raises(KeyConflict, match=f"submission key 'k' already belongs to task {first.id}"):
            await engine.submit(THREE, {"n": 2}, key="k")

    engine_test(work)


def test_the_same_key_twice_in_one_batch_is_one_task():
    async def work(engine):
        one, two = await engine.submit_many(THREE, [{"n": 1}, {"n": 1}], keys=["k", "k"])
        assert one.id == two.id
        assert [await one.result(), await two.result()] == [{"n": 4}] * 2

    engine_test(work)


def test_bad_input_is_refused_before_anything_is_accepted():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.greet))
        with pytest.raises(InvalidInput, match=r"inputs\[1\]|person\.name: Field required"):
            await engine.submit_many(workflow, [{"name": "Ada"}, {}])
        with pytest.raises(InvalidInput, match=r"input\.x\[0\]: object is not plain data"):
            await engine.submit(THREE, {"x": [object()]})
        assert await engine.tasks() == []

    engine_test(work)


def test_a_protocol_in_place_of_a_workflow_is_told_apart():
    async def work(engine):
        with pytest.raises(FixTheCall, match=r"submit takes a Workflow, not FunctionProtocol"):
            await engine.submit(sample.add, {"n": 1})

    engine_test(work)


def test_cancelling_reaches_the_code_and_is_final():
    stopped = []

    @podium.protocol
    async def forever(input):
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(forever)))
        await asyncio.sleep(1)
        assert await task.cancel() == "cancelled"
        with pytest.raises(TaskCancelled):
            await task.result()
        await asyncio.sleep(5)
        assert stopped == [True]
        assert await task.read_status() == "cancelled"
        assert await task.cancel() == "cancelled"

    engine_test(work)


def test_cancelling_a_task_of_a_tier_reaches_its_members():
    async def work(engine):
        hierarchy = Hierarchy(sample.lead, team={"x": Step(sample.slow, with_={"s": "10000"})}, name="h")
        task = await engine.submit(Workflow("w", Sequence(hierarchy)), {})
        await asyncio.sleep(1)
        await task.cancel()
        await asyncio.sleep(1)
        assert simulation.disk.shard("w.h").tasks[f"{task.id}/h"].record.status == "cancelled"

    simulation = Simulation()
    simulation.run(work)


def test_events_tell_the_whole_story_once():
    @podium.protocol
    async def talks(ctx, input):
        ctx.emit({"half": input})
        ctx.log.info("about %s", input)
        await asyncio.sleep(1)
        return input

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.echo, talks))
        task = await engine.submit(workflow, 7)
        told = [(event.kind, event.step) async for event in task.events()]
        assert [event for event in told if event[0] not in ("started", "log", "chunk")] == [
            ("accepted", ""),
            ("finished", "echo"),
            ("finished", "talks"),
            ("completed", ""),
        ]
        assert ("chunk", "talks") in told
        assert len(told) == len(set(told))
        past = [(event.kind, event.step) async for event in task.events()]
        assert past == [event for event in told if event[0] not in ("started", "log")]

    engine_test(work)


def test_a_wait_that_times_out_leaves_the_task_alone():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 100})
        with pytest.raises(WaitTimedOut, match="is still running after 5 s; it goes on"):
            await task.result(timeout_s=5)
        assert await task.result() == {"s": 100}

    engine_test(work)


def test_tasks_are_listed_and_found():
    async def work(engine):
        tasks = await engine.submit_many(THREE, [{"n": n} for n in range(3)], user="ada")
        slow = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 1000})
        for task in tasks:
            await task.result()
        assert {task.id for task in await engine.tasks(status="completed")} == {task.id for task in tasks}
        assert [task.id for task in await engine.tasks(status="running")] == [slow.id]
        assert len(await engine.tasks(workflow="three", limit=2)) == 2
        assert len(await engine.tasks(user="ada")) == 3
        assert (await (await engine.task(tasks[0].id)).read_record()).result == {"n": 3}
        assert await (await engine.task(tasks[0].id)).result() == {"n": 3}
        with pytest.raises(NotFound, match="no task 't-none'"):
            await engine.task("t-none")

    engine_test(work)


def test_state_lasts_as_long_as_the_actor():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.Tally))
        tasks = await engine.submit_many(workflow, [None] * 3)
        assert [await task.result() for task in tasks] == [1, 2, 3]
        simulation.kill("supervisor/w/Tally-0")
        assert await (await engine.submit(workflow)).result() == 1

    simulation = Simulation()
    simulation.run(work)


def test_concurrency_is_one_unless_said_and_replicas_multiply_it():
    async def took(protocol):
        loop = asyncio.get_running_loop()
        tasks = await engine.submit_many(Workflow(protocol.__name__, Sequence(protocol)), [{"s": 10, "n": 0}] * 4)
        began = loop.time()
        for task in tasks:
            await task.result()
        return round(loop.time() - began)

    @podium.protocol(replicas=2)
    async def two_replicas(input):
        await asyncio.sleep(10)

    @podium.protocol(concurrency=2)
    async def two_at_once(input):
        await asyncio.sleep(10)

    async def work(given):
        nonlocal engine
        engine = given
        return [
            await took(sample.slow),
            await took(two_replicas),
            await took(two_at_once),
            await took(sample.wide),
        ]

    engine = None
    assert engine_test(work) == [40, 20, 20, 10]


def test_higher_priority_goes_first():
    order = []

    @podium.protocol
    async def notes(input):
        order.append(input)
        await asyncio.sleep(1)

    async def work(engine):
        workflow = Workflow("w", Sequence(notes))
        tasks = await engine.submit_many(workflow, ["a", "b", "c"])
        tasks.append(await engine.submit(workflow, "urgent", priority=5))
        for task in tasks:
            await task.result()

    engine_test(work, lookahead_s=0)
    assert order == ["a", "urgent", "b", "c"]


def test_quotas_bound_the_whole_cluster():
    running, most = set(), []

    @podium.protocol(quotas={"llm": 1}, concurrency=50)
    async def one(ctx, input):
        running.add(ctx.task_id)
        most.append(len(running))
        await asyncio.sleep(1)
        running.discard(ctx.task_id)

    async def work(engine):
        tasks = []
        for name in ("w1", "w2"):
            tasks += await engine.submit_many(Workflow(name, Sequence(one)), [None] * 10)
        await asyncio.sleep(0.5)
        assert {await task.read_status() for task in tasks} == {"pending", "running"}
        for task in tasks:
            await task.result()
        return (await engine.status()).quotas["llm"]

    assert engine_test(work, limits={"llm": 3}) == LimitUse(3, held=0, waiting=0)
    assert max(most) == 3


def test_limits_change_while_it_runs():
    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(sample.model)), [{"n": 0}] * 10)
        assert (await engine.set_limits(llm=7))["llm"].limit == 7
        for task in tasks:
            await task.result()

    engine_test(work, limits={"llm": 1})


def test_a_user_at_its_limit_holds_up_nobody_else():
    """Neither by the quota of the cluster nor by the places at the hosts."""
    ended = {}

    @podium.protocol(quotas={"llm": 1}, concurrency=3)
    async def model(input):
        await asyncio.sleep(1)
        ended[input] = asyncio.get_running_loop().time()

    async def work(engine):
        began = asyncio.get_running_loop().time()
        workflow = Workflow("w", Sequence(model))
        many = await engine.submit_many(workflow, [f"ada{n}" for n in range(20)], user="ada")
        few = await engine.submit_many(workflow, ["bob0", "bob1"], user="bob")
        for task in [*many, *few]:
            await task.result()
        assert ended["bob1"] - began < 3
        assert ended["ada19"] - began >= 20

    engine_test(work, limits={"llm": 3, "llm per user": 1})


@pytest.mark.parametrize("quotas", [{"llm": 1}, {}], ids=["by permits", "by places alone"])
def test_users_share_what_is_scarce_by_weight(quotas):
    started = []

    @podium.protocol(quotas=quotas, concurrency=2)
    async def model(input):
        started.append(input)
        await asyncio.sleep(1)

    async def work(engine):
        workflow = Workflow("w", Sequence(model))
        tasks = await engine.submit_many(workflow, ["ada"] * 60, user="ada")
        tasks += await engine.submit_many(workflow, ["bob"] * 20, user="bob")
        tasks += await engine.submit_many(workflow, ["eve"] * 40, user="eve")
        for task in tasks:
            await task.result()
        counts = Counter(started[10:50])
        assert abs(counts["ada"] - 10) <= 2
        assert abs(counts["bob"] - 10) <= 2
        assert abs(counts["eve"] - 20) <= 2

    engine_test(work, limits={"llm": 2}, weights={"eve": 2.0}, lookahead_s=0)


class Use:
    """How many runs of protocols that hold a quota there are at once."""

    def __init__(self):
        self.now = self.most = 0

    async def hold(self, seconds):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1


def permits_of(simulation, workflow):
    return simulation.cluster.alive(f"supervisor/{workflow}").actor._permits


def test_who_alone_wants_permits_decides_alone_and_shares_when_another_comes():
    use = Use()

    @podium.protocol(quotas={"llm": 1}, concurrency=50)
    async def model(input):
        await use.hold(1)

    async def work(engine):
        first = await engine.submit_many(Workflow("v", Sequence(model)), [None] * 40)
        await asyncio.sleep(3.5)
        assert permits_of(simulation, "v")._regime.may_grant
        quotas = (await engine.status()).quotas["llm"]
        assert (quotas.held, quotas.waiting) == (3, 28)
        await engine.set_limits(llm=4)
        await asyncio.sleep(2)
        second = await engine.submit_many(Workflow("w", Sequence(model)), [None] * 10)
        await asyncio.sleep(2)
        assert not permits_of(simulation, "v")._regime.may_grant
        for task in [*first, *second]:
            await task.result()
        return (await engine.status()).quotas["llm"]

    simulation = Simulation(limits={"llm": 3})
    assert simulation.run(work) == LimitUse(4, held=0, waiting=0)
    assert use.most == 4


@pytest.mark.parametrize("victim", ["supervisor/v", "resources"])
def test_permits_survive_the_death_of_who_has_the_books_and_of_who_lent_them(victim):
    use, starts = Use(), Counter()

    @podium.protocol(quotas={"llm": 1, "calls": 1}, concurrency=50)
    async def model(input):
        starts[input] += 1
        await use.hold(1)

    async def work(engine):
        tasks = await engine.submit_many(Workflow("v", Sequence(model)), list(range(20)))
        await asyncio.sleep(2.5)
        simulation.kill(victim)
        use.now = 0 if victim != "resources" else use.now
        tasks += await engine.submit_many(Workflow("w", Sequence(model)), list(range(100, 110)))
        for task in tasks:
            await task.result()
        assert max(starts.values()) <= (1 if victim == "resources" else 2)
        return (await engine.status()).quotas["llm"]

    simulation = Simulation(limits={"llm": 3, "calls": "2/s burst 4"})
    assert simulation.run(work) == LimitUse(3, held=0, waiting=0)
    assert use.most <= 3


@pytest.mark.parametrize("victim", [None, "supervisor/w", "everything"])
def test_a_parallel_ends_in_time_with_what_is_there_whoever_dies_meanwhile(victim):
    @podium.protocol(concurrency=10)
    async def wait(seconds):
        await asyncio.sleep(seconds)
        return seconds

    async def work(engine):
        began = asyncio.get_running_loop().time()
        each = podium.Parallel(each="input", do=Step(wait), timeout_s=20, on_timeout="partial")
        task = await engine.submit(Workflow("w", Sequence(each)), [1, 100, 2])
        await asyncio.sleep(8)
        for address in ["supervisor/w", "coordinator"] if victim == "everything" else [victim] * bool(victim):
            simulation.kill(address)
        assert await task.result() == {"outputs": [1, None, 2], "missing": [1]}
        assert 20 <= asyncio.get_running_loop().time() - began < 21
        assert [event.kind async for event in task.events()][-2:] == ["timed_out", "completed"]

    simulation = Simulation()
    simulation.run(work)


def test_changed_limits_outlive_the_coordinator_and_end_with_the_cluster():
    async def work(engine):
        await engine.deploy(Workflow("w", Sequence(sample.model)))
        await engine.set_limits(**{"llm": 7, "llm per user": "5/min burst 9"})
        for address in ("coordinator", "resources"):
            simulation.kill(address)
            await asyncio.sleep(5)
        await (await engine.submit(Workflow("w", Sequence(sample.model)), {"n": 0})).result()
        quotas = (await engine.status()).quotas
        assert (quotas["llm"].limit, quotas["llm per user"].limit) == (7, "5/min burst 9")
        with pytest.raises(InvalidInput, match=r"limits\.llm: a whole number, 0 or more, or a rate"):
            await engine.set_limits(llm="many")

    simulation = Simulation(limits={"llm": 1})
    simulation.run(work)


def test_a_rate_spaces_steps_out():
    starts = []

    @podium.protocol(quotas={"calls": 1})
    async def call(input):
        starts.append(asyncio.get_running_loop().time())

    async def work(engine):
        for task in await engine.submit_many(Workflow("w", Sequence(call)), [None] * 6):
            await task.result()

    engine_test(work, limits={"calls": "2/s burst 3"})
    waits = [round(start - starts[0], 1) for start in starts]
    assert waits == [0.0, 0.0, 0.0, 0.5, 1.0, 1.5]


def test_a_quota_without_a_limit_is_refused_when_deployed():
    async def work(engine):
        with pytest.raises(InvalidInput, match="no limit is set for quota 'gpu'"):
            await engine.submit(Workflow("w", Sequence(Step(sample.add, quotas={"gpu": 1}))), {"n": 1})

    engine_test(work)


def test_more_open_tasks_than_allowed_are_refused_with_a_time_to_come_back():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow))
        await engine.submit_many(workflow, [{"s": 1000}] * 5)
        with pytest.raises(Overloaded, match="5 tasks are open, the limit is max_open_tasks=5") as caught:
            await engine.submit(workflow, {"s": 1})
        assert caught.value.retry_after_s > 0

    engine_test(work, max_open_tasks=5)


def test_what_was_accepted_is_found_again_although_there_is_no_room_for_more():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow))
        first = await engine.submit_many(workflow, [{"s": 100}] * 2, keys=["a", "b"])
        again = await engine.submit_many(workflow, [{"s": 100}] * 2, keys=["a", "b"])
        assert [task.id for task in again] == [task.id for task in first]
        with pytest.raises(Overloaded):
            await engine.submit(workflow, {"s": 100}, key="c")
        for task in first:
            await task.result()
        await (await engine.submit(workflow, {"s": 100}, key="c")).result()

    engine_test(work, max_open_tasks=2)


def test_a_user_with_too_many_open_tasks_is_refused_and_others_are_not():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow))
        await engine.submit_many(workflow, [{"s": 10}] * 3, user="ada")
        with pytest.raises(Overloaded, match="3 tasks of user 'ada' are open, the limit is max_open_per_user=3"):
            await engine.submit(workflow, {"s": 1}, user="ada")
        simulation.kill("supervisor/w")
        with pytest.raises(Overloaded, match="3 tasks of user 'ada' are open"):
            await engine.submit(workflow, {"s": 1}, user="ada")
        await (await engine.submit(workflow, {"s": 1}, user="bob")).result()

    simulation = Simulation(max_open_per_user=3)
    simulation.run(work)


def test_a_source_that_is_too_fast_is_told_when_to_come_back_and_then_let_in():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow))
        await engine.submit_many(workflow, [{"s": 1}] * 3)
        with pytest.raises(Overloaded, match="2 at once, the rate is 1/s burst 3 for each user from 'cli'") as caught:
            await engine.submit_many(workflow, [{"s": 1}] * 2)
        await engine.submit(workflow, {"s": 1}, user="somebody else")
        assert 1.5 < caught.value.retry_after_s <= 2
        await asyncio.sleep(caught.value.retry_after_s)
        await engine.submit_many(workflow, [{"s": 1}] * 2)

    engine_test(work, source="cli", rates={"cli": "1/s burst 3"})


def test_a_machine_without_memory_takes_nothing_new_and_finishes_what_it_has():
    async def work(engine):
        workflow = Workflow("w", Sequence(sample.slow, sample.slow))
        task = await engine.submit(workflow, {"s": 10})
        simulation.memory_used = 0.93
        with pytest.raises(Overloaded, match=r"93% of the machine's memory is used, the limit is max_memory=0\.9"):
            await engine.submit(workflow, {"s": 1})
        await task.result()

    simulation = Simulation()
    simulation.run(work)


def test_a_protocol_whose_start_raises_is_reported_and_the_workflow_marked_down():
    class Broken(podium.Protocol):
        async def start(self):
            raise OSError("no such device")

        async def run(self, ctx, input):
            return input

    async def work(engine):
        workflow = Workflow("w", Sequence(Broken))
        with pytest.raises(SpawnFailed, match="did not start: no such device"):
            await engine.submit(workflow)

    engine_test(work)


def test_a_step_that_kills_its_host_again_and_again_fails_and_harms_nobody_else():
    @podium.protocol
    async def poison(input):
        if input == "poison":
            simulation.kill("supervisor/w/poison-0")
            await asyncio.sleep(1)
        return input

    async def work(engine):
        workflow = Workflow("w", Sequence(poison))
        bad, good = await engine.submit_many(workflow, ["poison", "fine"])
        with pytest.raises(TaskFailed, match="lost 4 hosts of 'poison' while it ran"):
            await bad.result()
        assert await good.result() == "fine"

    simulation = Simulation(max_losses=3)
    simulation.run(work)


def test_a_supervisor_that_dies_too_often_takes_its_workflow_down_visibly():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 1000})
        for _ in range(4):
            await asyncio.sleep(5)
            simulation.kill("supervisor/w")
        with pytest.raises(WorkflowDown, match="workflow 'w' is down: more than 3 restarts within 60 s"):
            await task.result()
        status = (await engine.status()).workflows["w"]
        assert status.state == "down"
        again = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 1})
        assert await again.result() == {"s": 1}
        assert await (await engine.task(task.id)).result() == {"s": 1000}

    simulation = Simulation(restart_intensity=3)
    simulation.run(work)


def test_a_workflow_that_is_down_takes_no_results_of_others_with_it():
    """It did: every result that the engine waited for failed with the one workflow's error."""

    async def work(engine):
        other = await engine.submit(Workflow("other", Sequence(sample.slow)), {"s": 100})
        task = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 1000})
        for _ in range(4):
            await asyncio.sleep(5)
            simulation.kill("supervisor/w")
        with pytest.raises(WorkflowDown):
            await task.result()
        assert await other.result() == {"s": 100}

    simulation = Simulation(restart_intensity=3)
    simulation.run(work)


def test_a_submission_that_nobody_has_acknowledged_ends_with_the_engine():
    """It did not: a thread in `submit` waited for ever when another closed the engine."""

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.echo))
        assert await (await engine.submit(workflow, 1)).result() == 1
        pending = asyncio.create_task(engine.submit(workflow, 2))
        await asyncio.sleep(0)
        await engine.close()
        with pytest.raises(EngineClosed):
            await pending

    Simulation().run(work)


@pytest.mark.parametrize("kill_at_s", [0.0, 0.001, 0.01, 0.05])
def test_tasks_submitted_together_begin_in_slices_and_none_is_lost_or_doubled(monkeypatch, kill_at_s):
    monkeypatch.setattr(intake, "SLICE", 3)

    async def work(engine):
        workflow = Workflow("w", Sequence(sample.add, sample.add))
        await engine.deploy(workflow)
        keys = [f"k{n}" for n in range(20)]
        pending = asyncio.create_task(engine.submit_many(workflow, [{"n": n} for n in range(20)], keys=keys))
        await asyncio.sleep(kill_at_s)
        simulation.kill("supervisor/w")
        tasks = await pending
        assert [await task.result() for task in tasks] == [{"n": n + 2} for n in range(20)]
        assert len({task.id for task in tasks}) == len(await engine.tasks(limit=100)) == 20

    simulation = Simulation()
    simulation.run(work)


def test_two_versions_of_a_workflow_run_side_by_side():
    async def work(engine):
        old = await engine.submit(Workflow("w", Sequence(sample.slow, sample.echo)), {"s": 50})
        new = await engine.submit(Workflow("w", Sequence(sample.echo), version="2"), "new")
        assert await new.result() == "new"
        assert await old.result() == {"s": 50}
        assert ((await old.read_record()).version, (await new.read_record()).version) == ("1", "2")

    engine_test(work)


def test_one_seed_gives_one_run():
    def history(seed):
        faults = Faults(lose_reply=0.1, lose_request=0.1, repeat=0.1, delay_s=0.1, commit_s=0.1, kills=3)
        simulation = Simulation(seed, faults=faults)

        async def work(engine):
            tasks = await engine.submit_many(THREE, [{"n": n} for n in range(5)])
            return [(await task.result(), (await task.read_record()).finished_at) for task in tasks]

        return simulation.run(work), simulation.killed

    assert history(5) == history(5)
    assert history(5) != history(6)


def test_protocols_get_the_clusters_config_a_folder_and_the_time_that_is_left():
    @podium.protocol(timeout_s=5.0)
    async def look(ctx: podium.Context) -> list:
        mark = Path(ctx.folder) / "mark"
        seen = mark.exists()
        mark.touch()
        await asyncio.sleep(2.0)
        return [ctx.config["colour"], seen, ctx.left_s]

    async def work(engine):
        workflow = Workflow("look", Sequence(look))
        first = await (await engine.submit(workflow)).result()
        return first, await (await engine.submit(workflow)).result()

    first, second = Simulation(config={"colour": "red"}).run(work)
    assert first[:2] == ["red", False] and second[:2] == ["red", True]
    assert first[2] == pytest.approx(3.0, abs=0.1)
