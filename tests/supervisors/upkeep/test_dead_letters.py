"""What follows a failure by its category, at-most-once steps, and dead letters driven again or dropped."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import podium
from podium import Adaptive, Constant, Hierarchy, Parallel, Retry, Rule, Sequence, Sleep, Step, Wait, Workflow
from podium.errors import FixTheCall, InvalidDefinition, NotFound, TaskFailed
from podium.protocols.outcomes import Failure
from podium.protocols.recovery import actions_for, category_of
from podium.supervisors.tasks.continuation import without_the_failure
from podium.supervisors.tasks.events import Redriven, StepFinished
from podium.supervisors.tasks.fold import apply, begin
from podium.testing import Faults, Simulation
from tests import sample
from tests.support.fold_play import TREES, Play, record, step

FAIL = "tests.sample:fail"

# categories and what follows them


@pytest.mark.parametrize(
    ("failure", "category"),
    [
        (Failure("invalid_input", ""), "validation"),
        (Failure("error", "", "ValidationError"), "validation"),
        (Failure("timeout", ""), "timeout"),
        (Failure("error", "", "ReadTimeout", bases=("TimeoutException",)), "timeout"),
        (Failure("error", "", "ConnectionResetError", bases=("ConnectionError", "OSError")), "dependency"),
        (Failure("breaker_open", ""), "dependency"),
        (Failure("error", "", "MemoryError"), "resource"),
        (Failure("error", "", "Busy", retry_after_s=3.0), "resource"),
        (Failure("error", "", "KeyError"), "internal"),
        (Failure("host_lost", ""), "internal"),
        (Failure("cancelled", ""), "cancelled"),
        (Failure("uncertain", ""), "uncertain"),
    ],
)
def test_categories(failure, category):
    assert category_of(failure) == category


def test_what_follows_may_be_said_by_protocol_and_step():
    failure = Failure("error", "", "ConnectionError")
    assert actions_for(failure, {}) == ("retry", "fallback", "degrade", "fail")
    assert actions_for(failure, {"dependency": ("park",)}) == ("park",)
    node = Step(FAIL, on_error={"internal": "park", "dependency": ["retry", "park"]})
    assert node.on_error == {"internal": ("park",), "dependency": ("retry", "park")}


@pytest.mark.parametrize(
    ("on_error", "problem"),
    [
        ({"internal": ["park", "fail"]}, "nothing follows 'park'"),
        ({"internal": ["fallback", "retry"]}, "actions come in the order retry, fallback, degrade, park, fail"),
        ({"internal": []}, "at least 1 item"),
        ({"external": "fail"}, "Input should be 'validation', 'resource'"),
        ({"internal": "pray"}, "Input should be 'retry', 'fallback'"),
    ],
)
def test_what_is_wrong_in_on_error_is_named(on_error, problem):
    with pytest.raises(InvalidDefinition, match=problem):
        Step(FAIL, on_error=on_error)


def attempts_with(on_error, **settings):
    """How often the step ran, and what came out: a result, or the failure's message."""
    ran = Counter()

    @podium.protocol(retry=Retry(attempts=3, initial_delay_s=0, max_delay_s=0))
    async def always(input):
        ran["always"] += 1
        raise ConnectionError("gone")

    @podium.protocol
    async def instead(input):
        ran["instead"] += 1
        return "instead"

    node = Step(always, fallback=instead, otherwise=Constant(value="nothing"), on_error=on_error, **settings)

    async def work(engine):
        try:
            return await (await engine.submit(Workflow("w", node), 1)).result(timeout_s=100)
        except TaskFailed as failed:
            return failed.cause_message

    return Simulation().run(work), ran["always"], ran["instead"]


@pytest.mark.parametrize(
    ("actions", "outcome"),
    [
        (["retry", "fallback"], ("instead", 3, 1)),
        ("fallback", ("instead", 1, 1)),
        (["retry", "degrade"], ("nothing", 3, 0)),
        ("degrade", ("nothing", 1, 0)),
        (["retry", "fail"], ("gone", 3, 0)),
        ("retry", ("gone", 3, 0)),
        ("fail", ("gone", 1, 0)),
    ],
)
def test_actions_are_taken_in_order(actions, outcome):
    assert attempts_with({"dependency": actions}) == outcome
    assert attempts_with({"internal": actions}) == ("instead", 3, 1)


# parked


class World:
    """Steps that fail as long as they are told to, with a count of their runs."""

    def __init__(self, **declared):
        self.broken, self.runs, self.keys = {"b"}, Counter(), []

        def named(name):
            async def run(ctx, input):
                self.runs[name] += 1
                self.keys.append(ctx.idempotency_key.rpartition(":")[0])
                await asyncio.sleep(1)
                if name in self.broken:
                    raise ConnectionError(f"{name} is broken")
                return f"{input}{name}"

            run.__name__ = run.__qualname__ = name
            return podium.protocol(**declared)(run)

        self.a, self.b, self.c = map(named, "abc")


PARK = {"dependency": ["retry", "park"]}


@pytest.mark.parametrize("killed", [None, "supervisor/w"])
def test_a_parked_step_waits_until_it_is_driven_again_and_then_goes_on(killed):
    world = World(on_error=PARK)

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(world.a, world.b, world.c)), "")
        await asyncio.sleep(20)
        if killed:
            simulation.kill(killed)
            await asyncio.sleep(20)
        assert await task.read_status() == "parked"
        (letter,) = await engine.dead_letters()
        assert (letter.id, letter.category, letter.failure.step) == (task.id, "dependency", "b")
        world.broken.clear()
        (again,) = await engine.redrive([task.id])
        assert again.id == task.id and await task.result() == "abc"
        assert await engine.dead_letters() == []
        return [(event.kind, event.step) async for event in task.events()]

    simulation = Simulation()
    events = simulation.run(work)
    assert world.runs == {"a": 1, "b": 2, "c": 1}
    assert events[1:4] == [("finished", "a"), ("failed", "b"), ("redriven", "")]


def test_other_branches_go_on_while_one_is_parked_and_a_dropped_one_fails():
    world = World(on_error=PARK)
    root = Parallel({"x": Sequence(world.a, world.c), "y": Step(world.b)}, join="settled")

    async def work(engine):
        task = await engine.submit(Workflow("w", root), "")
        await asyncio.sleep(20)
        assert await task.read_status() == "parked" and world.runs == {"a": 1, "b": 1, "c": 1}
        await engine.drop([task.id])
        result = await task.result()
        assert result["x"] == {"output": "ac"} and result["y"]["error"]["message"] == "b is broken"

    Simulation().run(work)


def test_what_runs_beside_a_parked_step_is_not_disturbed_when_that_is_driven_again():
    play = Play(Parallel({"a": step("a"), "b": step("b")})).failed("a", actions=("park",)).redriven()
    assert play.started == ["a"] and sorted(play.task.running) == ["a", "b"]
    world = World(on_error=PARK)

    async def work(engine):
        slow = Step(sample.slow, with_={"s": "50"})
        task = await engine.submit(Workflow("w", Parallel({"x": world.b, "y": slow, "z": world.a})), "")
        await asyncio.sleep(20)
        world.broken.clear()
        (letter,) = await engine.dead_letters()
        await engine.redrive([letter.id])
        assert (await task.result())["x"] == "b" and world.runs == {"a": 1, "b": 2}

    Simulation().run(work)


def test_a_parked_step_that_is_not_wanted_any_more_is_no_dead_letter():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, join="any"))
    play.failed("a", actions=("park",))
    assert play.task.status == "parked" and list(play.task.parked) == ["a"]
    assert play.done("b", 1).result == 1
    assert play.task.parked == {} and play.task.status == "completed"


def test_a_time_that_is_up_ends_what_is_parked():
    play = Play(Sequence(step("a"), timeout_s=3)).failed("a", actions=("park",)).timed_out()
    assert play.failure.code == "timeout" and play.task.parked == {}
    assert Play(Sequence(step("a"))).failed("a", actions=("park",)).cancel().task.parked == {}


def test_what_is_parked_in_a_nested_hierarchy_is_listed_and_driven_again_there():
    world = World(on_error=PARK)

    async def work(engine):
        root = Sequence(Hierarchy(sample.lead, team={"x": world.a, "y": world.b}, name="team"))
        task = await engine.submit(Workflow("w", root), "")
        await asyncio.sleep(20)
        (letter,) = await engine.dead_letters()
        assert letter.id == f"{task.id}/team" and letter.failure.step == "team/y"
        world.broken.clear()
        await engine.redrive([letter.id])
        assert await task.result() == {"x": "a", "y": "b"}
        assert world.runs == {"a": 1, "b": 2}

    Simulation().run(work)


# failed tasks


@pytest.mark.parametrize("killed", [None, "supervisor/w"])
def test_a_failed_task_is_continued_by_another_with_everything_that_was_recorded(killed):
    world = World()

    async def work(engine):
        task = await engine.submit(
            Workflow("w", Sequence(world.a, world.b, world.c)), "", key="k", user="ada", priority=3
        )
        with pytest.raises(TaskFailed):
            await task.result()
        (letter,) = await engine.dead_letters(user="ada")
        assert (letter.id, letter.category) == (task.id, "dependency")
        assert await engine.dead_letters(user="bob") == await engine.dead_letters(category="timeout") == []
        world.broken.clear()
        (new,) = await engine.redrive([task.id])
        if killed:
            simulation.kill(killed)
        assert await new.result() == "abc"
        record = await new.read_record()
        assert new.id != task.id and (record.user, record.priority, record.key) == ("ada", 3, None)
        assert await task.read_status() == "failed" and await engine.dead_letters() == []
        assert [again.id for again in await engine.redrive([task.id])] == [new.id]
        assert set(world.keys) == {task.id}
        return [event.step async for event in new.events() if event.kind == "finished"]

    simulation = Simulation()
    assert simulation.run(work) == ["a", "b", "c"]
    assert world.runs["a"] == 1 and world.runs["b"] >= 2


def test_in_bulk_after_an_outage():
    world = World(retry=Retry(attempts=2, initial_delay_s=0), concurrency=50)

    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(world.a, world.b)), [""] * 200)
        for task in tasks:
            with pytest.raises(TaskFailed):
                await task.result()
        letters = await engine.dead_letters(limit=None)
        assert len(letters) == 200 and len(await engine.dead_letters(limit=7)) == 7
        world.broken.clear()
        again = await engine.redrive([letter.id for letter in letters])
        assert [await task.result() for task in again] == ["ab"] * 200
        assert world.runs["a"] == 200

    Simulation().run(work)


def test_a_dropped_task_stays_failed_and_is_listed_no_more():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(FAIL)), 1)
        with pytest.raises(TaskFailed):
            await task.result()
        await engine.drop([task.id])
        simulation.kill("supervisor/w")
        await asyncio.sleep(10)
        assert await engine.dead_letters() == [] and await task.read_status() == "failed"

    simulation = Simulation()
    simulation.run(work)


def test_what_is_no_dead_letter_is_named():
    async def work(engine):
        done = await engine.submit(Workflow("w", Sequence(sample.add)), {"n": 1})
        await done.result()
        running = await engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 50})
        for ids, problem in ([done.id], "is completed; only what failed"), ([running.id], "nothing of it is parked"):
            with pytest.raises(FixTheCall, match=problem):
                await engine.redrive(ids)
            with pytest.raises(FixTheCall, match=problem):
                await engine.drop(ids)
        with pytest.raises(NotFound, match="no task 't-nowhere'"):
            await engine.redrive(["t-nowhere"])

    Simulation().run(work)


def test_a_failed_hierarchy_is_continued_in_its_tier():
    world = World()

    @podium.protocol
    async def strict(brief):
        if not brief["outcomes"]:
            return podium.verdict.assign()
        failed = any("error" in outcome for outcome in brief["outcomes"].values())
        return podium.verdict.fail("no") if failed and world.broken else podium.verdict.accept("done")

    async def work(engine):
        root = Sequence(world.c, Hierarchy(strict, team={"x": world.a, "y": world.b}, name="team"))
        task = await engine.submit(Workflow("w", root), "")
        with pytest.raises(TaskFailed):
            await task.result()
        world.broken.clear()
        (new,) = await engine.redrive([task.id])
        assert await new.result() == "done"
        assert world.runs == {"a": 1, "b": 1, "c": 1}  # only the last verdict was asked for again

    Simulation().run(work)


def test_fallbacks_that_failed_too_begin_with_the_node_again():
    play = Play(Sequence(step("a"), step("b", fallback=[step("f"), step("g")]), step("c")))
    play.done("a", 1).failed("b").failed("b/fallback:1").failed("b/fallback:2")
    assert play.failure is not None
    assert [event.path for event in stands(play)] == ["a"]


def stands(play):
    """Which of its events stand, when the task has failed."""
    failed = dataclasses.replace(record(play.input), status="failed", failure=play.task.outcome.failure)
    return without_the_failure(failed, play.root, "", play.events)


def running_again(play):
    """What runs, when what stands is folded again."""
    task, _ = begin(record(play.input), play.root)
    for event in stands(play):
        apply(task, event)
    return sorted(task.running)


def test_a_failure_before_others_had_ended_is_the_one_that_begins_again():
    play = Play(Parallel({"a": step("a"), "b": step("b")}, rest="wait")).failed("a").done("b", 1)
    assert running_again(play) == ["a"]


def test_the_fallbacks_of_the_root_too():
    play = Play(Sequence(step("a"), step("b"), fallback=[step("f")])).done("a", 1).failed("b").failed("fallback:1")
    assert running_again(play) == ["b"]


def test_of_a_missed_quorum_all_that_failed_begin_again():
    play = Play(Parallel({name: step(name) for name in "abc"}, join="quorum(2)")).failed("a").done("b", 1).failed("c")
    assert running_again(play) == ["a", "c"]


def test_what_an_error_rule_handled_stays_handled():
    rules = [Rule(after="a", when="has(error.code)", to="b"), Rule(after="b", to="end"), Rule(to="end")]
    play = Play(Sequence(Adaptive({"a": step("a"), "b": step("b")}, start="a", rules=rules), step("c")))
    play.failed("adaptive/a").done("adaptive/b", 1).failed("c")
    assert running_again(play) == ["c"]


def test_a_node_that_was_late_begins_again_with_what_had_not_ended():
    play = Play(Sequence(Sequence(step("a"), step("b"), timeout_s=5), step("c"))).done("sequence/a", 1)
    assert running_again(play.timed_out("sequence")) == ["sequence/b"]


def test_what_decided_is_asked_again_and_what_cannot_end_otherwise_is_refused():
    rules = [Rule(when="output == 1", to="end")]
    play = Play(Sequence(step("x"), Adaptive({"a": step("a")}, start="a", rules=rules))).done("x").done("adaptive/a", 2)
    assert (play.failure.code, running_again(play)) == ("no_rule", ["adaptive/a"])
    play = Play(Sequence(step("a"), step("b", with_="input.nope"))).done("a", {})
    with pytest.raises(FixTheCall, match="it would fail again at once with what is recorded"):
        stands(play)


@settings(max_examples=300)
@given(TREES, st.data())
def test_what_stands_leaves_something_to_do_and_loses_no_output(root, data):
    """Whatever failed the task, if nothing is taken back: it is open again, and every recorded output is kept, but for
    those below fallbacks that failed."""
    play = Play(root, 1)
    while play.task.outcome is None and play.task.ending is None and len(play.events) < 40:
        path = data.draw(st.sampled_from(sorted([*play.task.running, *play.task.waiting])))
        kind = data.draw(st.sampled_from(["done", "fail", "late"]))
        late = sorted(path for path, place in play.task.timed.items() if not isinstance(place.node, Sleep))
        if path in play.task.waiting:
            node = play.task.waiting[path].node
            play.answered(node.wait, 0) if isinstance(node, Wait) else play.woke(path)
        elif kind == "late" and late:
            play.timed_out(data.draw(st.sampled_from(late)))
        else:
            play.failed(path) if kind == "fail" else play.done(path, 0)
    if play.task.outcome is None or play.task.outcome.failure is None:
        return
    assert running_again(play)
    kept = stands(play)
    lost = [event for event in play.events if isinstance(event, StepFinished) and event not in kept]
    assert all("fallback:" in event.path for event in lost)


def test_what_was_stopped_at_most_once_is_parked_and_not_run_again():
    play = Play(Parallel({"a": step("a"), "b": step("b")})).began("b").failed("a")
    task, _ = begin(record(), play.root)
    for event in stands(play):
        apply(task, event)
    apply(task, Redriven("t-0", "t-1", 200.0))
    assert (sorted(task.running), sorted(task.parked)) == (["a"], ["b"])
    assert task.parked["b"].parked.code == "uncertain"


# requests that come twice, and what they find


def test_a_drop_that_is_sent_again_decides_nothing_twice():
    world = World(on_error=PARK)
    world.broken = {"a", "b"}

    async def work(engine):
        root = Sequence(Parallel({"a": world.a}, join="settled"), Step(world.b, with_="1"))
        task = await engine.submit(Workflow("w", root), "")
        others = await engine.submit_many(Workflow("w", Sequence(FAIL)), [1] * 100)
        await asyncio.sleep(20)
        assert await task.read_status() == "parked" and world.runs == {"a": 1}
        dropping = asyncio.ensure_future(engine.drop([task.id, *(other.id for other in others)]))
        await asyncio.sleep(5)
        assert not dropping.done() and world.runs["b"] == 1
        simulation.kill("supervisor/w")
        await dropping
        await asyncio.sleep(30)
        assert await task.read_status() == "parked"  # b is, and nobody decided about that

    simulation = Simulation(faults=Faults(commit_s=0.1, delay_s=0.05))
    simulation.run(work)


def test_dropping_several_steps_starts_nothing_in_a_branch_that_is_over():
    deep = Sequence(Sequence(step("a"), fallback=step("f"), name="in"), name="x")
    play = Play(Parallel({"x": deep, "y": step("y")}))
    play.failed("x/in/a", actions=("park",)).failed("y", actions=("park",)).dropped()
    assert play.task.outcome is not None and play.task.running == {}


def test_a_step_that_is_driven_again_has_all_its_time():
    world = World(on_error=PARK)
    slow = Step(world.b, total_timeout_s=100, with_="input")

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(slow, Step(sample.slow, with_={"s": "60"}))), "")
        await asyncio.sleep(99.5)
        world.broken.clear()
        await engine.redrive([task.id])
        await task.result()

    Simulation().run(work)


def test_ids_that_are_wrong_keep_no_others_from_being_driven_again():
    world = World()

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(world.b)), "")
        with pytest.raises(TaskFailed):
            await task.result()
        with pytest.raises(NotFound):
            await engine.redrive(["t-nowhere", task.id])
        assert await engine.dead_letters() == []

    Simulation().run(work)


def test_what_follows_a_failed_expression_or_a_time_that_is_up_may_be_said_too():
    play = Play(Sequence(step("a"), step("b", with_="input.nope", on_error={"validation": "park"}))).done("a", {})
    assert list(play.task.parked) == ["b"]
    late = Step("tests.sample:slow", total_timeout_s=3, on_error={"timeout": "park"}, fallback=sample.echo)

    async def work(engine):
        task = await engine.submit(Workflow("w", late), {"s": 50})
        await asyncio.sleep(10)
        return await task.read_status()

    assert Simulation().run(work) == "parked"


def test_a_step_that_cancels_itself_has_failed_and_nothing_stands_in_for_it():
    ran = []

    @podium.protocol(retry=Retry(attempts=3, initial_delay_s=0))
    async def gives_up(input):
        ran.append(1)
        raise asyncio.CancelledError

    async def work(engine):
        task = await engine.submit(Workflow("w", Step(gives_up, fallback=sample.echo)), 1)
        with pytest.raises(TaskFailed, match="the step cancelled itself"):
            await task.result()

    Simulation().run(work)
    assert ran == [1]


# at most once


def once(**settings):
    began = []

    @podium.protocol(at_most_once=True, retry=Retry(attempts=5), **settings)
    async def pay(ctx, input):
        began.append(ctx.attempt)
        await asyncio.sleep(10)
        if input == "broken":
            raise ValueError("no money")
        return "paid"

    return pay, began


@pytest.mark.parametrize("victim", ["supervisor/w", "supervisor/w/pay-0", "supervisor/w+supervisor/w/pay-0"])
def test_a_run_that_nobody_knows_the_end_of_is_not_repeated_but_parked(victim):
    pay, began = once()

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(sample.echo, pay)), 1)
        await asyncio.sleep(5)
        for address in victim.split("+"):
            simulation.kill(address)
        await asyncio.sleep(60)
        assert await task.read_status() == "parked" and began == [1]
        (letter,) = await engine.dead_letters()
        assert (letter.failure.code, letter.category) == ("uncertain", "uncertain")
        await engine.redrive([letter.id])
        assert await task.result() == "paid" and len(began) == 2

    simulation = Simulation()
    simulation.run(work)


def test_what_had_not_been_sent_yet_does_run():
    pay, began = once()

    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(pay)), [1] * 5)
        await asyncio.sleep(15)  # the second runs, three wait
        simulation.kill("supervisor/w")
        await asyncio.sleep(100)
        assert sorted([await task.read_status() for task in tasks]) == ["completed"] * 4 + ["parked"]
        assert len(began) == 5

    simulation = Simulation()
    simulation.run(work)


def test_an_at_most_once_step_that_times_out_is_uncertain_and_one_that_raises_has_failed():
    pay, began = once(timeout_s=3)
    late = Workflow("w", Step(pay, on_error={"uncertain": "fail"}))

    async def ends(engine, workflow, input):
        task = await engine.submit(workflow, input)
        with pytest.raises(TaskFailed) as failed:
            await task.result()
        return failed.value.cause_code, failed.value.attempt

    async def work(engine):
        assert await ends(engine, late, 1) == ("uncertain", 1)
        raising, _ = once()
        assert await ends(engine, Workflow("v", Sequence(raising)), "broken") == ("error", 1)

    Simulation().run(work)
    assert began == [1]


def test_an_at_most_once_step_may_be_cancelled_at_any_moment():
    for after in range(0, 60, 3):
        pay, _ = once(quotas={"llm": 1})

        async def work(engine, after=after, pay=pay):
            tasks = await engine.submit_many(Workflow("w", Sequence(pay)), [1] * 3)
            await asyncio.sleep(after / 1000)
            await tasks[0].cancel()
            assert [await task.result() for task in tasks[1:]] == ["paid"] * 2
            assert (await engine.status()).quotas["llm"].held == 0

        Simulation(after, limits={"llm": 1}).run(work)


# what the differential test found


@podium.protocol(on_error={"validation": "park"})
async def parks(input):
    return input


def test_what_is_parked_at_the_acceptance_says_so():
    async def work(engine):
        task = await engine.submit(
            Workflow("w", Sequence(Step(parks, with_="input.x", on_error={"validation": "park"}))), {}
        )
        return (await task.read_record()).status, [letter.id == task.id for letter in await engine.dead_letters()]

    assert Simulation().run(work) == ("parked", [True])


def test_a_with_is_applied_once_however_often_its_step_is_driven_again():
    """The step is parked because its fallback's expression failed; its own was fine."""
    failing = Step(fails_at_first, with_={"x": "input"}, fallback=Step(parks, with_="input.nowhere"))
    HEALED.clear()

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(failing)), 1)
        await asyncio.sleep(10)
        assert await task.read_status() == "parked"
        HEALED.append(True)
        await engine.redrive([task.id])
        return await task.result(timeout_s=30)

    assert Simulation().run(work) == {"x": 1}


HEALED = []


@podium.protocol(on_error={"internal": ["fallback", "park"]})
async def fails_at_first(input):
    if not HEALED:
        raise RuntimeError("no")
    return input


@pytest.mark.parametrize("join", ["all", "quorum(2)"])
def test_a_failure_of_an_unnamed_parallel_at_the_root_names_it(join):
    tree = podium.Parallel({"a": Step(fails), "b": Step(fails)}, join=join)

    async def work(engine):
        task = await engine.submit(Workflow("w", tree), 1)
        with pytest.raises(TaskFailed) as failed:
            await task.result()
        return failed.value.step

    assert Simulation().run(work) == ("a" if join == "all" else "parallel")


@podium.protocol(on_error={"internal": "fail"})
async def fails(input):
    raise RuntimeError("no")


def test_task_is_what_was_submitted_in_rules_and_each_too():
    each = podium.Parallel(each="task.items", do=parks)
    rules = [podium.Rule(after="each", when="task.more", to="each"), podium.Rule(to="end")]
    tree = podium.Adaptive({"each": each}, start="each", rules=rules, with_={"only": "input.items"}, max_visits=1)

    async def work(engine):
        task = await engine.submit(Workflow("w", tree), {"items": [1, 2], "more": False})
        return await task.result()

    assert Simulation().run(work) == [1, 2]


def test_notes_of_dropped_letters_go_with_their_tasks():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(fails)), 1)
        with pytest.raises(TaskFailed):
            await task.result()
        await engine.drop([task.id])
        await asyncio.sleep(300)
        return [note for note in simulation.disk.shards["w"].notes if task.id in note]

    simulation = Simulation(keep_finished_s=60)
    assert simulation.run(work) == []


@pytest.mark.parametrize("has_undo", [True, False])
@pytest.mark.parametrize("timeout_s", [None, 50])
def test_a_failed_task_with_a_time_of_its_own_goes_on_and_has_that_time_again(has_undo, timeout_s):
    """After an undo it begins anew. Its first step was lost then, if the task had a time of its own."""
    runs = []

    @podium.protocol
    async def first(input):
        runs.append("first")
        return input

    @podium.protocol
    async def undo_first(_done):
        runs.append("undo")

    @podium.protocol
    async def second(input):
        runs.append("second")
        if runs.count("second") == 1:
            raise ValueError("the first time")
        await asyncio.sleep(20 if runs.count("second") == 2 else 1_000)
        return input

    workflow = Workflow("w", Sequence(Step(first, undo=undo_first if has_undo else None), second))

    async def work(engine):
        task = await engine.submit(workflow, 1, timeout_s=timeout_s)
        with pytest.raises(TaskFailed, match="the first time"):
            await task.result()
        (again,) = await engine.redrive([task.id])
        return await again.result()

    assert Simulation().run(work) == 1
    assert runs == (["first", "second", "undo", "first", "second"] if has_undo else ["first", "second", "second"])


def test_a_failed_task_that_is_continued_has_no_more_than_its_time():
    @podium.protocol
    async def slow(input):
        tried.append(1)
        if len(tried) == 1:
            raise ValueError("the first time")
        await asyncio.sleep(1_000)

    tried: list[int] = []

    async def work(engine):
        task = await engine.submit(Workflow("w", slow), 1, timeout_s=50)
        with pytest.raises(TaskFailed, match="the first time"):
            await task.result()
        (again,) = await engine.redrive([task.id])
        with pytest.raises(TaskFailed, match="time"):
            await again.result()

    Simulation().run(work, within_s=500)
