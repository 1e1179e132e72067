"""Circuit breakers: the pure state machine against resilience4j's documented behaviour, then across the cluster."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import podium
from podium import Breaker as Policy
from podium import Retry, Sequence, Step, Workflow
from podium.errors import InvalidDefinition, NotFound, TaskFailed
from podium.supervisors.running.breaker import Breaker, Outcomes
from podium.testing import Simulation

OK, FAILED, SLOW, BOTH = (Outcomes(failed, slow) for slow in (False, True) for failed in (False, True))


class Play:
    """A breaker moved by hand; time passes only by `wait`."""

    def __init__(self, **policy):
        self.breaker = Breaker("b", Policy(**{"min_calls": 1, "window": 10} | policy), itertools.count())
        self.now = 1000.0
        self.numbers = itertools.count()

    def call(self, *outcomes):
        for outcome in outcomes:
            call = self.permit()
            assert call is not None
            self.breaker.record(call, outcome, self.now)
        return self

    def permit(self):
        return self.breaker.permit(f"l{next(self.numbers)}", self.now)

    def wait(self, seconds):
        self.now += seconds
        return self

    @property
    def state(self):
        return self.breaker.state


# closed, by number of calls

CASES = [
    ("nothing is decided below the minimum", {"min_calls": 5}, [FAILED] * 4, "closed"),
    ("the minimum is enough", {"min_calls": 5}, [FAILED] * 5, "open"),
    ("a minimum above the window is the window", {"min_calls": 50, "window": 5}, [FAILED] * 5, "open"),
    ("the rate that equals the threshold opens", {"min_calls": 4}, [OK, OK, FAILED, FAILED], "open"),
    ("below the threshold it stays", {"min_calls": 4}, [OK, OK, OK, FAILED] * 5, "closed"),
    ("only the last calls count", {"min_calls": 4, "window": 4}, [OK] * 50 + [OK, FAILED, FAILED], "open"),
    ("what left the window counts no more", {"min_calls": 3, "window": 3}, [FAILED, OK, OK, OK, FAILED], "closed"),
    ("slow successes open", {"slow_s": 1, "slow_rate": 0.5, "min_calls": 4}, [OK, OK, SLOW, SLOW], "open"),
    ("slow calls need a threshold", {"min_calls": 2}, [SLOW] * 9, "closed"),
    ("all slow is the default rate", {"slow_s": 1, "min_calls": 2}, [SLOW, OK] + [SLOW] * 9, "closed"),
    ("all slow opens", {"slow_s": 1, "min_calls": 2}, [SLOW, SLOW], "open"),
    ("slow and failed is both", {"slow_s": 1, "min_calls": 2, "failure_rate": 1}, [BOTH, BOTH], "open"),
    ("a rate of 1 wants every call", {"failure_rate": 1, "min_calls": 2}, [FAILED, OK, FAILED, FAILED], "closed"),
]


@pytest.mark.parametrize(("policy", "calls", "state"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_closed(policy, calls, state):
    assert Play(**policy).call(*calls).state == state


def test_runs_of_equal_calls_count_as_so_many():
    play = Play(window=100, min_calls=50)
    play.breaker.record(play.permit(), Outcomes(False, False, 1_000_000), play.now)
    play.breaker.record(play.permit(), Outcomes(True, False, 49), play.now)
    assert (play.state, play.breaker.to_wire(play.now)["failed"]) == ("closed", 49)
    play.breaker.record(play.permit(), Outcomes(True, False, 1), play.now)
    assert play.breaker.why == "50 of the last 100 calls failed"


# closed, by time


def test_of_a_time_window_calls_leave_by_the_second():
    play = Play(window_s=10, min_calls=4).call(FAILED, FAILED).wait(9).call(FAILED)
    assert play.wait(1).call(OK, OK).state == "closed"  # the first two are 10 s old
    assert play.call(OK).state == "closed"
    assert play.wait(10).call(FAILED, FAILED, FAILED).state == "closed"
    assert play.call(FAILED).state == "open"


def test_a_time_window_has_no_bound_of_calls():
    assert Play(window_s=10, min_calls=500, window=1).call(*[FAILED] * 499).state == "closed"


# open and half-open


def test_open_refuses_until_its_time_then_tries_exactly_the_permitted_number():
    play = Play(open_s=60, probes=3).call(FAILED)
    assert play.state == "open" and play.permit() is None
    assert play.wait(59.9).permit() is None
    probes = [play.wait(0.1 * (n == 0)).permit() for n in range(20)]
    assert [probe is not None for probe in probes] == [True] * 3 + [False] * 17
    assert play.state == "half_open"


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ([OK, OK, OK, OK], "closed"),
        ([FAILED, OK, OK, OK], "closed"),
        ([FAILED, FAILED, OK, OK], "open"),
        ([SLOW, SLOW, SLOW, OK], "closed"),
        ([SLOW, SLOW, SLOW, SLOW], "open"),
    ],
)
def test_the_rates_of_the_probes_decide_when_all_have_ended(outcomes, state):
    play = Play(open_s=1, probes=4, slow_s=1).call(FAILED).wait(1)
    probes = [play.permit() for _ in range(4)]
    for probe, outcome in zip(probes, outcomes, strict=True):
        assert play.state == "half_open" and play.permit() is None
        play.breaker.record(probe, outcome, play.now)
    assert play.state == state


def test_probes_of_a_time_window_are_counted_whenever_they_end():
    play = Play(open_s=1, probes=2, window_s=5, half_open_s=None).call(FAILED).wait(1)
    one, two = play.permit(), play.permit()
    play.breaker.record(one, OK, play.now)
    play.wait(1000).breaker.record(two, OK, play.now)
    assert play.state == "closed"


def test_a_probe_without_an_outcome_is_free_for_another():
    play = Play(open_s=1, probes=1).call(FAILED).wait(1)
    lost = play.permit()
    assert play.permit() is None
    play.breaker.release(lost.lease)
    play.call(OK)
    assert play.state == "closed"
    play.breaker.record(lost, FAILED, play.now)
    assert play.state == "closed"


def test_probes_that_never_end_do_not_wedge_it():
    play = Play(open_s=1, probes=1, half_open_s=30).call(FAILED).wait(1)
    stuck = play.permit()
    assert play.wait(30).permit() is None
    assert (play.state, play.breaker.why) == ("open", "its probes had not ended after 30 s")
    assert play.wait(1).permit() is not None
    play.breaker.record(stuck, OK, play.now)
    assert play.state == "half_open"


def test_outcomes_of_an_older_state_do_not_count():
    play = Play(open_s=1, probes=1)
    late = [play.permit() for _ in range(3)]
    play.call(FAILED)
    play.breaker.record(late[0], FAILED, play.now)
    play.wait(1).call(OK)
    assert play.state == "closed"
    play.breaker.record(late[1], FAILED, play.now)
    assert play.state == "closed"


def test_by_hand():
    play = Play()
    play.breaker.force_open(play.now)
    assert play.wait(1_000_000).permit() is None
    play.breaker.reset(play.now)
    assert play.call(OK).state == "closed"


LEGAL = {
    ("closed", "open"),
    ("open", "half_open"),
    ("half_open", "open"),
    ("half_open", "closed"),
    ("closed", "half_open"),  # within one rule: opened, and its time was up
    *((state, "forced_open") for state in ("closed", "open", "half_open", "forced_open")),
    *((state, "closed") for state in ("open", "half_open", "forced_open", "closed")),
}


class Machine(RuleBasedStateMachine):
    """I9: legal transitions only, at most the permitted probes out per generation, never stuck."""

    def __init__(self):
        super().__init__()
        self.play = Play(open_s=10, probes=2, min_calls=3, half_open_s=50)
        self.calls = []
        self.before = ("closed", self.play.breaker.generation)
        self.ended = {}

    @rule()
    def permit(self):
        call = self.play.permit()
        if call is not None:
            self.calls.append(call)

    @rule(data=st.data(), outcome=st.sampled_from([OK, FAILED, SLOW, None]))
    def end(self, data, outcome):
        if self.calls:
            call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
            if outcome is None:
                self.play.breaker.release(call.lease)
            else:
                if call.lease is not None and call.generation == self.play.breaker.generation:
                    self.ended[call.generation] = self.ended.get(call.generation, 0) + 1
                self.play.breaker.record(call, outcome, self.play.now)

    @rule(seconds=st.sampled_from([1, 10, 50]))
    def wait(self, seconds):
        self.play.wait(seconds)

    @rule(action=st.sampled_from(["force", "reset"]))
    def by_hand(self, action):
        breaker = self.play.breaker
        breaker.force_open(self.play.now) if action == "force" else breaker.reset(self.play.now)

    @invariant()
    def is_sound(self):
        breaker = self.play.breaker
        state, generation = self.before
        assert breaker.generation >= generation
        if breaker.generation != generation:
            assert (state, breaker.state) in LEGAL
        elif state != breaker.state:
            raise AssertionError(f"{state} became {breaker.state} within one generation")
        self.before = breaker.state, breaker.generation
        out = len(breaker.leases) + self.ended.get(breaker.generation, 0)
        assert breaker.state != "half_open" or out <= 2

    def teardown(self):
        """Never stuck: with good calls and time it closes, unless somebody holds it open."""
        breaker = self.play.breaker
        for _ in range(10):
            if breaker.state in ("closed", "forced_open"):
                return
            self.play.wait(60)
            while (call := self.play.permit()) is not None and breaker.state == "half_open":
                breaker.record(call, OK, self.play.now)
        raise AssertionError(f"stuck: {breaker.state}")


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestMachine = Machine.TestCase


# in the cluster


class Service:
    """What the guarded protocol calls."""

    def __init__(self, **policy):
        self.down, self.calls, self.takes_s, self.running, self.most = True, [], 0.1, 0, 0
        settings = {"min_calls": 5, "open_s": 30.0, "probes": 2} | policy

        @podium.protocol(name="model", breaker=Policy(**settings), limit_key="input.key", concurrency=50)
        async def model(input):
            self.calls.append((simulation_now(), input["key"]))
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(self.takes_s)
            finally:
                self.running -= 1
            if self.down:
                raise ConnectionError("down")
            return input

        self.model = model
        self.workflow = Workflow("w", Sequence(model))
        self.input = {"key": ""}

    async def run(self, engine, count=1, workflow=None, **input):
        """How so many tasks ended, by code."""
        inputs = [self.input | input] * count
        ends = []
        for task in await engine.submit_many(workflow or self.workflow, inputs):
            try:
                await task.result()
                ends.append("ok")
            except TaskFailed as failed:
                ends.append(failed.cause_code)
        return ends


def simulation_now():
    return asyncio.get_running_loop().time()


def test_an_open_breaker_refuses_at_once_and_waiting_ones_too_then_probes_and_closes():
    service = Service()
    service.takes_s = 1

    async def work(engine):
        ends = await service.run(engine, 1000)
        assert ends.count("breaker_open") >= 850 and len(service.calls) < 150
        began, before = simulation_now(), len(service.calls)
        assert await service.run(engine, 10) == ["breaker_open"] * 10
        assert simulation_now() - began < 1 and len(service.calls) == before
        status = (await engine.status()).breakers["model"]
        assert status.state == "open" and "calls failed" in status.why
        service.down = False
        await asyncio.sleep(31)
        service.most = 0
        ends = await service.run(engine, 20)
        assert (ends.count("ok"), service.most) == (2, 2)
        assert ends.count("breaker_open") == 18
        assert await service.run(engine, 20) == ["ok"] * 20

    Simulation().run(work)


def test_it_is_shared_by_all_workflows_and_leads_to_the_fallback():
    service = Service()
    other = Workflow("other", Step(service.model, fallback=Step("tests.sample:echo", with_="error.code")))

    async def work(engine):
        await service.run(engine, 20)
        before = len(service.calls)
        task = await engine.submit(other, service.input)
        assert await task.result() == "breaker_open"
        assert len(service.calls) == before

    Simulation().run(work)


def test_a_refusal_is_not_retried_and_failures_are_through_the_breaker_each_time():
    service = Service(min_calls=3)
    root = Step(service.model, retry=Retry(attempts=10, initial_delay_s=1, max_delay_s=1, jitter=False))

    async def work(engine):
        assert await service.run(engine, workflow=Workflow("w", root)) == ["breaker_open"]
        assert len(service.calls) == 3

    Simulation().run(work)


def test_each_key_has_a_breaker_of_its_own():
    service = Service()

    async def work(engine):
        await service.run(engine, 20, key="large")
        service.down = False
        assert await service.run(engine, key="large") == ["breaker_open"]
        assert await service.run(engine, key="small") == ["ok"]
        await asyncio.sleep(1)
        assert sorted((await engine.status()).breakers) == ["model[large]", "model[small]"]

    Simulation().run(work)


def test_what_says_nothing_about_the_service_is_not_counted():
    @podium.protocol(breaker=Policy(min_calls=2, counts=("ConnectionError",)))
    async def picky(input):
        raise ValueError("no") if input == "value" else ConnectionResetError("gone")

    @podium.protocol(breaker=Policy(min_calls=2))
    async def typed(input: int) -> int:
        return input

    async def codes(engine, protocol, input, count):
        found = []
        for _ in range(count):
            task = await engine.submit(
                Workflow(protocol.__name__, Sequence(Step("tests.sample:echo"), protocol)), input
            )
            with pytest.raises(TaskFailed) as failed:
                await task.result()
            found.append(failed.value.cause_code)
            await asyncio.sleep(1)
        return found

    async def work(engine):
        assert await codes(engine, picky, "value", 4) == ["error"] * 4
        assert await codes(engine, typed, "text", 4) == ["invalid_input"] * 4
        assert await codes(engine, picky, "gone", 6) == ["error"] * 4 + ["breaker_open"] * 2

    Simulation().run(work)


def test_slow_calls_open_it():
    service = Service(slow_s=5)
    service.down, service.takes_s = False, 10

    async def work(engine):
        assert await service.run(engine, 20) == ["ok"] * 20
        assert await service.run(engine) == ["breaker_open"]

    Simulation().run(work)


def test_by_hand_it_stays_open_until_it_is_reset_whoever_dies():
    service = Service()
    service.down = False

    async def work(engine):
        with pytest.raises(NotFound, match="protocols that run and have one: none"):
            await engine.set_breaker("model", "open")
        await engine.deploy(service.workflow)
        await engine.set_breaker("model", "open")
        assert await service.run(engine) == ["breaker_open"]
        for address in ("resources", "supervisor/w", "coordinator"):
            simulation.kill(address)
            await asyncio.sleep(100)
            assert await service.run(engine) == ["breaker_open"]
        assert (await engine.set_breaker("model", "reset"))["model"].state == "closed"
        assert await service.run(engine) == ["ok"]
        with pytest.raises(NotFound, match="no breaker 'modle'"):
            await engine.set_breaker("modle", "open")

    simulation = Simulation()
    simulation.run(work)


@pytest.mark.parametrize("victim", ["supervisor/w", "supervisor/w/model-0", "resources", "supervisor/w+resources"])
def test_a_prober_that_dies_wedges_nothing(victim):
    service = Service(probes=1, half_open_s=None)

    async def work(engine):
        await service.run(engine, 20)
        service.down, service.takes_s = False, 60
        await asyncio.sleep(31)
        probing = await engine.submit(service.workflow, service.input)
        await asyncio.sleep(10)
        assert (await engine.status()).breakers["model"].probing == 1
        assert await service.run(engine) == ["breaker_open"]
        for address in victim.split("+"):
            simulation.kill(address)
        await probing.result()
        await asyncio.sleep(100)
        assert await service.run(engine) == ["ok"]  # after the death of the ResourceActor, another probe
        assert await service.run(engine, 2) == ["ok", "ok"]

    simulation = Simulation()
    simulation.run(work)


def test_a_cancelled_probe_leaves_its_place_to_another():
    service = Service(probes=1, half_open_s=None)

    async def work(engine):
        await service.run(engine, 20)
        service.down, service.takes_s = False, 60
        await asyncio.sleep(31)
        probing = await engine.submit(service.workflow, service.input)
        await asyncio.sleep(5)
        await probing.cancel()
        await asyncio.sleep(5)
        assert await service.run(engine) == ["ok"]
        assert (await engine.status()).breakers["model"].state == "closed"

    Simulation().run(work)


def test_breakers_that_nobody_uses_are_forgotten():
    service = Service(min_calls=1)

    async def work(engine):
        await engine.submit_many(service.workflow, [{"key": f"k{n}"} for n in range(50)])
        await asyncio.sleep(60)
        assert len((await engine.status()).breakers) == 50
        await asyncio.sleep(1000)
        assert (await engine.status()).breakers == {}
        assert [name for name in simulation.disk.shard("resources").notes if name.startswith("breaker:")] == []

    simulation = Simulation()
    simulation.run(work)


def test_what_is_wrong_in_a_policy_is_named():
    async def guarded(input):
        return input

    with pytest.raises(InvalidDefinition, match=r"breaker\.probes: Input should be greater than or equal to 1"):
        podium.protocol(breaker={"probes": 0})(guarded)
