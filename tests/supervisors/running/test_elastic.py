"""Hosts that follow the backlog (elastic.py): they start with the work and end after it, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import podium
from podium import Sequence, Supervision, Workflow
from podium.cluster.gateways.cli.metrics import exposition
from podium.cluster.gateways.cli.top import hosts_of
from podium.cluster.simulation.simulated import SimulatedCluster
from podium.errors import InvalidDefinition
from podium.protocols.errors import SpawnFailed
from podium.testing import Faults, Simulation

IDLE_S = 20.0
RESTARTS = {"restart_intensity": 100, "top_restart_intensity": 100}


class Seen:
    """The runs of one protocol, and the hosts of it."""

    def __init__(self, took_s: float = 5.0, name: str = "fit", **settings: object) -> None:
        self.running = self.most = 0
        self.runs: Counter[int] = Counter()

        @podium.protocol(name=name, **settings)
        async def fit(n):
            self.runs[n] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await asyncio.sleep(took_s)
            finally:
                self.running -= 1
            return n

        self.fit = fit

    def workflow(self, name: str = "w", **options: object) -> Workflow:
        return Workflow(name, Sequence(self.fit), **options)


def hosts(sim: Simulation, of: str = "/fit-") -> list[str]:
    return sorted(each for each in sim.cluster.addresses() if of in each)


async def pool(engine, workflow: str = "w"):
    (found,) = (await engine.status()).workflows[workflow].pools
    return found


async def results(tasks):
    return [await task.result() for task in tasks]


def test_hosts_come_with_the_backlog_and_go_when_they_are_idle():
    seen = Seen(replicas=(1, 4), concurrency=2)
    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        await engine.deploy(seen.workflow())
        assert hosts(sim) == ["supervisor/w/fit-0"]
        tasks = await engine.submit_many(seen.workflow(), list(range(32)))
        await asyncio.sleep(1)
        busy = await pool(engine)
        assert (busy.up, busy.hosts, busy.hosts_min, busy.hosts_max) == (4, 4, 1, 4)
        status = await engine.status()
        assert hosts_of(status.workflows["w"]) == "4/4 (1-4)"
        figures = [line for line in exposition(status) if line.startswith("podium_hosts_")]
        assert [line.rpartition(" ")[2] for line in figures] == ["4", "1", "4"], "up, min, max"
        assert sorted(await results(tasks)) == list(range(32))
        assert seen.most == 8
        await asyncio.sleep(IDLE_S - 2)
        assert len(hosts(sim)) == 4, "they are idle, but not for long enough"
        await asyncio.sleep(5)
        assert hosts(sim) == ["supervisor/w/fit-0"]
        assert (await pool(engine)).hosts == 1

    sim.run(work)


def test_only_as_many_hosts_start_as_have_work_at_once():
    seen = Seen(replicas=(0, 9), concurrency=3)
    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        await engine.deploy(seen.workflow())
        assert hosts(sim) == [], "none before there is work"
        tasks = await engine.submit_many(seen.workflow(), list(range(7)))
        began = asyncio.get_running_loop().time()
        await results(tasks)
        assert len(hosts(sim)) == 3
        assert asyncio.get_running_loop().time() - began < 7, "no step waited for another"
        await asyncio.sleep(IDLE_S + 2)
        assert hosts(sim) == [], "and none after it"
        assert await (await engine.submit(seen.workflow(), 99)).result() == 99

    sim.run(work)


def test_steps_of_a_trickle_go_to_the_first_hosts_so_that_the_last_ones_end():
    seen = Seen(took_s=1.0, replicas=(0, 5))
    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        await results(await engine.submit_many(seen.workflow(), list(range(5))))
        assert len(hosts(sim)) == 5
        for n in range(30):
            await results([await engine.submit(seen.workflow(), 100 + n)])
        assert hosts(sim) == ["supervisor/w/fit-0"]

    sim.run(work)


@pytest.mark.parametrize(("limit", "amount", "concurrency", "wanted"), [(3, 1, 1, 3), (7, 2, 1, 3), (5, 1, 2, 3)])
def test_no_more_hosts_start_than_the_quotas_keep_busy(limit, amount, concurrency, wanted):
    seen = Seen(replicas=(0, 8), quotas={"gpu": amount}, concurrency=concurrency)
    sim = Simulation(limits={"gpu": limit}, host_idle_s=IDLE_S)

    async def work(engine):
        tasks = await engine.submit_many(seen.workflow(), list(range(20)))
        most = 0
        while seen.runs.total() < 20:
            await asyncio.sleep(0.5)
            most = max(most, len(hosts(sim)))
        assert most == wanted
        await results(tasks)
        assert seen.most == limit // amount

    sim.run(work)


def test_hosts_start_when_a_limit_is_raised():
    seen = Seen(replicas=(0, 8), quotas={"gpu": 1})
    sim = Simulation(limits={"gpu": 2}, host_idle_s=IDLE_S)

    async def work(engine):
        tasks = await engine.submit_many(seen.workflow(), list(range(40)))
        await asyncio.sleep(7)
        assert len(hosts(sim)) == 2
        await engine.set_limits(gpu=6)
        await asyncio.sleep(1)
        assert len(hosts(sim)) == 6
        await results(tasks)

    sim.run(work)


@pytest.mark.parametrize("least", [0, 1])
def test_steps_that_wait_for_permits_of_another_workflow_start_no_host(least):
    """The ResourceActor has the ledger then, and only that knows."""
    holder = Seen(took_s=300, name="holder", concurrency=4, quotas={"gpu": 1})
    seen = Seen(replicas=(least, 8), quotas={"gpu": 1})
    sim = Simulation(limits={"gpu": 4}, host_idle_s=IDLE_S)

    async def work(engine):
        held = await engine.submit_many(holder.workflow("other"), list(range(4)))
        await asyncio.sleep(5)
        tasks = await engine.submit_many(seen.workflow(), list(range(8)))
        await asyncio.sleep(100)
        assert len(hosts(sim)) == least
        await held[0].cancel()
        await held[1].cancel()
        await asyncio.sleep(10)
        assert len(hosts(sim)) == 2
        await results(tasks)
        assert seen.most <= 4

    sim.run(work)


def test_steps_that_wait_for_a_breaker_start_no_host():
    @podium.protocol(replicas=(0, 8), retry=50, breaker=podium.Breaker(min_calls=1, open_s=500, failure_rate=0.1))
    async def fit(_n):
        raise ConnectionError("down")

    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        first = await engine.submit(Workflow("w", Sequence(fit)), 1)
        await asyncio.sleep(5)
        tasks = await engine.submit_many(Workflow("w", Sequence(fit)), list(range(20)))
        most = 0
        for _ in range(100):
            await asyncio.sleep(1)
            most = max(most, len(hosts(sim)))
        assert most <= 1
        for task in [first, *tasks]:
            await task.cancel()

    sim.run(work)


class Full(SimulatedCluster):
    """A cluster with room for some hosts of a name only. Further starts wait until there is room, as at Ray."""

    room = 2

    async def spawn(self, owner, role, address, setup, epoch=0):
        while role == "host" and sum("/fit-" in each for each in self.addresses()) >= self.room:
            self.pending.add(address)
            await asyncio.sleep(0.5)
            if address not in self.pending:
                raise SpawnFailed(address=address, reason="it was killed while it waited", kind="ActorDiedError")
        self.pending.discard(address)
        return await super().spawn(owner, role, address, setup, epoch)

    def kill(self, address):
        self.pending.discard(address)
        super().kill(address)


@pytest.fixture
def full(monkeypatch):
    Full.pending = set()
    monkeypatch.setattr("podium.cluster.simulation.simulated.SimulatedCluster", Full)
    return Full


@pytest.mark.parametrize("least", [0, 1, 4])
def test_hosts_for_which_there_is_no_room_hold_up_nothing_and_are_withdrawn(full, least):
    seen = Seen(replicas=(least, 6))
    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        await asyncio.wait_for(engine.deploy(seen.workflow()), 5)
        tasks = await engine.submit_many(seen.workflow(), list(range(12)))
        await asyncio.sleep(3)
        waiting = await pool(engine)
        assert (waiting.up, waiting.hosts, len(full.pending)) == (2, 6, 4)
        assert sorted(await results(tasks)) == list(range(12)), "the two that stand did the work"
        await asyncio.sleep(IDLE_S + 3)
        assert len(full.pending) == max(0, least - 2)
        assert len(hosts(sim)) == min(least, 2)
        assert "child lost" not in "".join(line for _, line in sim.logged)
        tasks = await engine.submit_many(seen.workflow(), list(range(12)))
        await asyncio.sleep(2)
        full.room = 5
        await asyncio.sleep(2)
        assert len(hosts(sim)) == 5, "room came, and a host with it"
        await results(tasks)

    try:
        sim.run(work)
    finally:
        full.room = 2


def test_a_restart_of_all_hosts_does_not_wait_for_one_without_room(full):
    seen = Seen(replicas=(0, 3))
    sim = Simulation(host_idle_s=IDLE_S)

    async def work(engine):
        flow = seen.workflow(supervision=Supervision(strategy="one_for_all"))
        tasks = await engine.submit_many(flow, list(range(9)))
        await asyncio.sleep(2)
        sim.kill("supervisor/w/fit-0")
        assert sorted(await asyncio.wait_for(results(tasks), 60)) == list(range(9))

    sim.run(work)


@pytest.mark.parametrize("seed", range(25))
def test_a_backlog_that_comes_and_goes_under_kills(seed):
    """Every task ends once with its result, the limit holds, and when it is calm the least hosts are left."""
    faults = Faults(0.02, 0.02, 0.02, 0.05, 0.02, kills=12, kill_within_s=150.0, freezes=2, freeze_s=20.0)
    at_once, quotas = 1 + seed % 2, {"gpu": 1} if seed % 4 else {}
    seen, most = Seen(took_s=2.0, replicas=(seed % 3, 5), concurrency=at_once, quotas=quotas), 2 if quotas else 4
    sim = Simulation(seed, {"gpu": 4}, faults, host_idle_s=5.0, rest_after_s=0, **RESTARTS)

    async def work(engine):
        flow = seen.workflow(supervision=Supervision(strategy=("one_for_one", "one_for_all", "rest_for_one")[seed % 3]))
        seen_hosts = set()
        for burst in range(8):
            inputs = [burst * 100 + n for n in range(sim.rng.randint(0, 14))]
            tasks = await engine.submit_many(flow, inputs)
            for _ in range(10):
                await asyncio.sleep(sim.rng.uniform(0, 1.5))
                seen_hosts.add(len(hosts(sim)))
            assert await results(tasks) == inputs
            await asyncio.sleep(sim.rng.uniform(0, 20))
        await asyncio.sleep(60)
        await results([await engine.submit(flow, -1)])  # a supervisor that was killed at rest starts its hosts with it
        await asyncio.sleep(30)
        assert max(seen_hosts) >= most, "they came"
        assert len(hosts(sim)) == seed % 3, "and went"
        status = await pool(engine)
        assert (status.up, status.running, status.queued) == (seed % 3, 0, 0)

    sim.run(work)


@pytest.mark.parametrize(
    ("replicas", "problem"),
    [
        ((3, 2), r"min is at least 0 and at most max: \(1, 8\), not \(3, 2\)"),
        ((-1, 2), "min is at least 0"),
        ((1, 2, 3), r"a pair \(min, max\), as \(1, 8\), not \(1, 2, 3\)"),
        ({"min": 1}, r"a pair \(min, max\), as \(1, 8\)"),
        ((0, 1_001), "at most 1,000 hosts, not 1001"),
    ],
)
def test_a_range_that_is_none_is_refused_with_the_way_out(replicas, problem):
    with pytest.raises(InvalidDefinition, match=f"replicas: .*{problem}"):
        Seen(replicas=replicas)


def test_a_range_of_one_number_is_that_number_of_hosts():
    seen = Seen(replicas=(2, 2))
    sim = Simulation(host_idle_s=1.0)

    async def work(engine):
        await engine.deploy(seen.workflow())
        await asyncio.sleep(30)
        assert len(hosts(sim)) == 2

    sim.run(work)
