"""Whose turn it is: shares of users, also after one was alone; and that nobody waits while a host has room."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.supervisors.limits.fair_queue import FairQueue
from podium.supervisors.running.backlog import UserFlow
from podium.testing import Simulation

WEIGHTS = {"light": 0.1}


class Queue:
    """Turns of users by name."""

    def __init__(self):
        self.turns = FairQueue(30.0, WEIGHTS)
        self.numbers, self.waiting = count(1), {}

    def add(self, user, priority=0, at=0.0):
        number = next(self.numbers)
        flow = UserFlow(user)
        self.waiting[number] = (priority, flow)
        self.turns.add(priority, flow, (at, 0, number, (priority, user, number)))

    def take(self):
        _, (_, _, _, (priority, user, number)) = self.turns.head()
        self.turns.take(priority, UserFlow(user))
        del self.waiting[number]
        return user

    def before(self, user):
        """Starts of others until this user has one."""
        return next(n for n in count() if self.take() == user)


@pytest.mark.parametrize("out_of_turn", [False, True])
def test_who_was_alone_owes_nothing_to_who_comes_later(out_of_turn):
    queue = Queue()
    for _ in range(4_000):
        queue.add("ada")
    for _ in range(1_000):
        queue.take()
        if out_of_turn:
            queue.turns.charge(0, UserFlow("ada"))
    for _ in range(2_000):
        queue.add("bob")
    assert queue.before("ada") <= 2
    assert queue.before("bob") <= 2


def test_what_a_light_user_had_more_than_its_share_is_forgotten_while_another_is_alone():
    queue = Queue()
    for _ in range(100):
        queue.add("ada")
    queue.add("light")
    queue.before("light")
    for _ in range(50):
        queue.take()
    queue.add("light")
    assert queue.before("light") <= 1


@given(st.lists(st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["ada", "bob", "light"]), st.integers(0, 2), st.integers(0, 90)),
    st.just(("take",)),
    st.tuples(st.just("withdraw"), st.integers(0, 30)),
    st.tuples(st.just("park"), st.integers(0, 30)),
    st.just(("unpark",)),
)))  # fmt: skip
def test_nothing_is_lost_or_served_twice(steps):
    queue, parked = Queue(), []
    for kind, *how in steps:
        numbers = sorted(queue.waiting)
        if kind == "add":
            user, priority, at = how
            queue.add(user, priority, float(at))
        elif kind == "take" and queue.turns.head() is not None:
            queue.take()
        elif kind == "withdraw" and how[0] < len(numbers):
            number = numbers[how[0]]
            queue.turns.withdraw(*queue.waiting.pop(number), number)
        elif kind == "park" and how[0] < len(numbers):
            parked.append(queue.turns.park(*queue.waiting[numbers[how[0]]]))
        elif kind == "unpark":
            while parked:
                parked.pop()()
            assert (queue.turns.head() is None) == (not queue.waiting)
    while parked:
        parked.pop()()
    while queue.waiting:
        queue.take()
    assert not queue.turns and queue.turns.head() is None


def started(events, step):
    return next(event.at for event in events if event.kind == "started" and event.step == step)


def test_who_needs_no_permits_does_not_wait_for_those_who_do():
    @podium.protocol(concurrency=4)
    async def work(seconds):
        await asyncio.sleep(seconds)
        return seconds

    gpu = {"gpu": 1}
    root = Parallel({
        "holds": Step(work, quotas=gpu, **{"with": "100"}),
        "waits": Step(work, quotas=gpu, **{"with": "1"}),
        "free": Sequence(Step(work, name="first", **{"with": "5"}), Step(work, name="then", **{"with": "1"})),
    })  # fmt: skip

    async def drive(engine):
        task = await engine.submit(Workflow("w", root), None)
        return [event async for event in task.events()]

    events = Simulation(1, {"gpu": 1}).run(drive, 1_000)
    assert started(events, "free/then") - started(events, "free/first") < 10


def test_who_stands_behind_a_job_that_is_cancelled_starts_at_once():
    """One that may run only once is not sent ahead of its turn; one behind it is, as soon as that is gone."""

    @podium.protocol
    async def work(seconds):
        await asyncio.sleep(seconds)

    usual = Workflow("w", Step(work), version="1")
    once = Workflow("w", Step(work, at_most_once=True), version="2")

    async def drive(engine):
        await engine.submit(usual, 600)
        first = await engine.submit(once, 1)
        behind = await engine.submit(usual, 1)
        await asyncio.sleep(10)
        await first.cancel()
        return [event async for event in behind.events()]

    accepted, *events = Simulation(1).run(drive, 5_000)
    assert events[0].kind == "started" and 10 <= events[0].at - accepted.at < 20


def test_who_stands_behind_a_job_that_a_breaker_refuses_starts_at_once():
    @podium.protocol(breaker=podium.Breaker(), limit_key="input.key")
    async def work(input):
        await asyncio.sleep(input["s"])

    usual = Workflow("w", Step(work), version="1")
    once = Workflow("w", Step(work, at_most_once=True), version="2")

    async def drive(engine):
        await engine.submit(usual, {"key": "b", "s": 600})
        refused = await engine.submit(once, {"key": "a", "s": 1})
        behind = await engine.submit(usual, {"key": "b", "s": 1})
        await asyncio.sleep(10)
        await engine.set_breaker("work[a]", "open")
        await refused.wait()
        return (await refused.read_record()).failure, [event async for event in behind.events()]

    failure, (accepted, *events) = Simulation(1).run(drive, 5_000)
    assert failure.code == "breaker_open"
    assert events[0].kind == "started" and 10 <= events[0].at - accepted.at < 20


def test_who_comes_first_does_not_wait_behind_those_that_must_be_alone():
    """Jobs that lost a host run beside few others, so some wait although a host has room."""
    log = []

    @podium.protocol(concurrency=16, replicas=2)
    async def long(input):
        log.append((asyncio.get_running_loop().time(), input))
        await asyncio.sleep(600)
        return input

    workflow = Workflow("w", Sequence(long))

    async def drive(engine):
        await engine.submit_many(workflow, list(range(24)))
        await asyncio.sleep(5)
        simulation.kill("supervisor/w/long-0")
        await asyncio.sleep(20)
        last = await engine.submit(workflow, "last", priority=9)
        now = asyncio.get_running_loop().time()
        await last.result()
        return next(at for at, input in log if input == "last") - now

    simulation = Simulation(1)
    assert simulation.run(drive, 5_000) < 30
