"""The dispatcher without any actor: which pool a step goes to, when, and what of it is left when it is stopped."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from podium import Hierarchy, Parallel, Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.errors import EngineClosed
from podium.protocols.outcomes import TaskRecord
from podium.supervisors.running.dispatch import Dispatcher
from podium.supervisors.running.placement import Job
from podium.supervisors.running.pool import PoolContext, Pressure
from podium.supervisors.settings import Governance
from podium.supervisors.tasks.plan import Plan
from podium.supervisors.tasks.state import Run
from tests import sample
from tests.support.cells import cell_flow, last, lead, redefined
from tests.support.ports import Hands


class Family:
    """The children of a supervisor, none of which ever starts."""

    restarts = 0

    def __init__(self):
        self.wanted, self.retired = [], []

    def govern(self, policy): ...

    def adopt(self, children): ...

    def start_soon(self, children):
        self.wanted += [child.address for child in children]

    async def retire(self, children, why):
        self.retired += [child.address for child in children]
        await asyncio.sleep(0)


class News:
    """What the dispatcher says of steps, as (what, path, result)."""

    def __init__(self):
        self.told = []

    def started(self, task, place):
        self.told.append(("started", place.path, None))

    def ended(self, task, place, result):
        self.told.append(("ended", place.path, result))


class Guard:
    def has(self, job):
        return False

    def withdraw(self, job):
        return False

    def gone(self, job): ...


class Bench:
    def __init__(self, *definitions):
        self.world, self.family, self.news, self.checks = Hands(), Family(), News(), []
        means = PoolContext(self.world, Governance(), SimpleNamespace(), Guard(), self.family)
        clock = SimpleNamespace(check=lambda: self.checks.append(self.world.time))
        self.dispatcher = Dispatcher(means, self.news, SimpleNamespace(tier_setup=lambda tier: {}), clock)
        self.plans = [Plan(definition) for definition in definitions]
        for plan in self.plans:
            self.dispatcher.prepare(plan, {})

    def begin(self, plan, input=None, id="t-1"):
        """A task of a plan, and the first steps that are due in it."""
        record = TaskRecord(id, "w", "1", plan.hash, input, "ada", 1, None, "running", self.world.time)
        task, effects = plan.begin(record)
        return task, [effect.place for effect in effects if isinstance(effect, Run)]

    def run(self, plan, input=None, id="t-1"):
        task, places = self.begin(plan, input, id)
        for place in places:
            self.dispatcher.run(plan, task, place)
        return task, places

    @property
    def queued(self):
        return {pool["protocol"].partition(":")[2]: pool["queued"] for pool in self.dispatcher.pools}


def versions(*does):
    """Definitions of one workflow, the code of whose protocol was changed in between."""
    return [definition_of(cell_flow(each)) for each in does]


def bench_of(root, **settings):
    return Bench(definition_of(Workflow("w", root, **settings)))


# pools


def test_two_versions_of_one_protocol_have_hosts_at_addresses_of_their_own():
    bench = Bench(*versions("return 1", "return 2", "return 1"))
    addresses = bench.dispatcher.child_addresses
    assert sorted(addresses) == ["supervisor/w/cell-0", "supervisor/w/cell~2-0", "supervisor/w/last-0"]
    assert len({pool["code"] for pool in bench.dispatcher.pools if pool["protocol"].endswith(":cell")}) == 2


def test_a_pool_never_has_the_address_of_a_nested_supervisor():
    nested = Hierarchy(lead, team={"m": last}, name="last")
    bench = bench_of(Sequence(Step(last, name="a"), nested))
    assert set(bench.dispatcher.child_addresses) >= {"supervisor/w/last", "supervisor/w/last~2-0"}


def test_a_job_goes_to_the_code_of_its_own_version():
    bench = Bench(*versions("return 1", "return 2"))
    bench.run(bench.plans[1])
    assert bench.family.wanted == ["supervisor/w/cell~2-0"]


def test_idle_pools_of_older_versions_end_and_one_with_work_stays():
    bench = Bench(*versions("return 0", "return 1", "return 2"))
    task, (place,) = bench.run(bench.plans[1])
    asyncio.run(bench.dispatcher.retire(bench.plans[2:], EngineClosed(reason="old")))
    assert bench.family.retired == ["supervisor/w/cell-0"]
    bench.dispatcher.halt(task, place)
    asyncio.run(bench.dispatcher.retire(bench.plans[2:], EngineClosed(reason="old")))
    assert bench.family.retired == ["supervisor/w/cell-0", "supervisor/w/cell~2-0"]
    assert sorted(bench.dispatcher.child_addresses) == ["supervisor/w/cell~3-0", "supervisor/w/last-0"]


def test_a_pool_that_is_made_anew_keeps_away_from_hosts_that_are_still_ending():
    bench = Bench(*versions("return 1", "return 2"))
    changes = []
    bench.dispatcher.children_changed = lambda: changes.append(1)

    async def work():
        retiring = asyncio.create_task(bench.dispatcher.retire(bench.plans[1:], EngineClosed(reason="old")))
        await asyncio.sleep(0)
        bench.run(bench.plans[0])
        assert "supervisor/w/cell~3-0" in bench.dispatcher.child_addresses and changes == [1]
        await retiring
        bench.dispatcher.prepare(Plan(*versions("return 3")), {})
        assert "supervisor/w/cell-0" in bench.dispatcher.child_addresses

    asyncio.run(work())


# steps


def test_each_step_waits_in_the_pool_of_its_protocol_until_it_is_stopped():
    bench = bench_of(Parallel({"a": last, "b": last, "c": sample.add}))
    task, places = bench.run(bench.plans[0], 5)
    assert bench.queued == {"last": 2, "add": 1}
    assert all(bench.dispatcher.has(task, place) for place in places)
    assert not any(bench.dispatcher.is_started(task, place) for place in places)
    bench.dispatcher.halt(task, places[1])
    assert bench.queued == {"last": 1, "add": 1}
    assert [bench.dispatcher.has(task, place) for place in places] == [True, False, True]
    assert bench.news.told == []


@pytest.mark.parametrize("stops", [False, True])
def test_a_step_is_not_run_before_its_time_and_not_at_all_when_it_is_stopped(stops):
    bench = bench_of(Sequence(last))
    task, (place,) = bench.begin(bench.plans[0])
    place.wait_s, place.not_before = 30.0, bench.world.time + 30.0
    bench.dispatcher.run(bench.plans[0], task, place)
    bench.world.sleep(29)
    assert bench.queued == {"last": 0} and bench.dispatcher.has(task, place)
    if stops:
        bench.dispatcher.halt(task, place)
    bench.world.sleep(2)
    assert bench.queued == {"last": 0 if stops else 1}
    assert bench.dispatcher.has(task, place) is not stops and bench.checks


def test_a_wait_that_a_later_owner_takes_up_is_what_is_left_of_it():
    bench = bench_of(Sequence(last))
    task, (place,) = bench.begin(bench.plans[0])
    place.wait_s, place.not_before = 30.0, bench.world.time + 4.0
    bench.dispatcher.run(bench.plans[0], task, place)
    bench.world.sleep(4)
    assert bench.queued == {"last": 1}
    other, (late,) = bench.begin(bench.plans[0], id="t-2")
    late.wait_s, late.not_before = 30.0, bench.world.time - 100.0
    bench.dispatcher.run(bench.plans[0], other, late)
    assert bench.queued == {"last": 2}


def test_a_key_that_cannot_be_read_fails_the_step_and_fills_no_queue():
    keyed = redefined("return x", limit_key="input.region")
    bench = bench_of(Parallel(each="input", do=Step(keyed)))
    bench.run(bench.plans[0], [{"region": "eu"}, {"zone": 1}])
    ((what, path, result),) = bench.news.told
    assert (what, path[-3:], result.status) == ("ended", "[1]", "fail")
    assert result.value["code"] == "invalid_input" and "limit_key" in result.value["message"]
    assert bench.queued == {"cell": 1}


def test_what_is_sent_says_how_much_time_is_left_and_whose_task_it_is():
    bench = bench_of(Sequence(Step(last, timeout_s=9.0)), timeout_s=60)
    task, (place,) = bench.begin(bench.plans[0], {"n": 7}, "t-5/h")
    job = Job(task, place, bench.plans[0].settings(place.node), "", 0)
    bench.world.sleep(25)
    sent = bench.dispatcher.message(job, 3, "ticket")
    assert (sent.task_id, sent.user, sent.input, sent.timeout_s) == ("t-5", "ada", {"n": 7}, 9.0)
    assert (sent.left_s, sent.lane, sent.permit) == (35.0, 3, "ticket")


# nested Hierarchies


def test_a_nested_hierarchy_is_given_to_its_supervisor_and_stopped_there():
    teams = {name: Hierarchy(lead, team={"m": last}, name=name) for name in ("x", "y")}
    bench = bench_of(Parallel(teams))
    task, places = bench.run(bench.plans[0], 5, "t-3")
    assert bench.family.wanted == ["supervisor/w/x", "supervisor/w/y"]
    assert bench.news.told == [("started", "x", None), ("started", "y", None)]
    assert all(bench.dispatcher.is_started(task, place) for place in places)
    assert [tier.address for tier in bench.dispatcher.tiers_of("t-3/y")] == ["supervisor/w/y"]
    assert [tier.address for tier in bench.dispatcher.tiers_of("t-3/y/deeper")] == ["supervisor/w/y"]
    bench.dispatcher.halt(task, places[1])
    assert [bench.dispatcher.has(task, place) for place in places] == [True, False]
    assert len(bench.dispatcher.tiers_of("t-3/y")) == 2, "nobody knows which has it, so all are asked"


def test_runs_that_will_come_later_are_announced_and_count_as_there():
    bench = bench_of(Sequence(Hierarchy(lead, team={"m": last}, name="x")))
    task, (place,) = bench.begin(bench.plans[0], 5)
    bench.dispatcher.expect(bench.plans[0], task, place)
    assert bench.dispatcher.has(task, place) and bench.news.told == [] and bench.family.wanted == []


def test_steps_that_are_held_back_for_two_reasons_wait_for_the_end_of_both():
    """A journal that caught up fed the hosts of a supervisor that was about to leave its machine."""
    fed = []
    dispatcher = object.__new__(Dispatcher)
    dispatcher._means, dispatcher._tiers = SimpleNamespace(pressure=Pressure()), {}
    dispatcher._pools = {"p": SimpleNamespace()}
    dispatcher._pools["p"].feed = lambda: fed.append(bool(dispatcher._means.pressure))
    dispatcher.hold_back(True)
    assert dispatcher._means.pressure
    dispatcher.hold_back(False)
    assert fed == [False]
    dispatcher.begin_no_more()
    dispatcher.hold_back(True)
    dispatcher.hold_back(False)
    assert fed == [False] and dispatcher._means.pressure
