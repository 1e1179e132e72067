"""Rates: never more than the burst and what comes back, in any window of time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import podium
from podium import Sequence, Workflow
from podium.protocols.limits import read_limits
from podium.supervisors.limits.ledger import Holder, Ledger, Request, Who
from podium.supervisors.limits.rates import RateMeters
from podium.testing import Simulation

PERIODS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}
TINY = 1e-6
rates = st.builds(
    lambda amount, period, burst: (amount, period, burst),
    st.sampled_from([0.5, 1, 3, 7, 10, 90_000]),
    st.sampled_from(list(PERIODS_S)),
    st.sampled_from([None, 1, 2, 10, 1000]),
)


def written(amount, period, burst):
    return f"{amount:g}/{period}" + ("" if burst is None else f" burst {burst}")


def most_in_a_window(uses, window_s):
    """The largest sum of amounts used at times within one window, its end not included."""
    most, first, total = 0.0, 0, 0.0
    for at, amount in uses:
        total += amount
        while uses[first][0] <= at - window_s + TINY:
            total -= uses[first][1]
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize(
    ("text", "burst"),
    [("10/s", 10), ("0.5/s", 1), ("90000/min", 90_000), ("1/day", 1), ("2.5/s", 2.5), ("10/s burst 1", 1)],
)
def test_the_burst_is_what_the_documentation_says(text, burst):
    assert read_limits({"r": text})["r"].amount == burst


@given(rates, st.lists(st.tuples(st.floats(0, 200), st.integers(1, 5)), max_size=60))
def test_a_meter_gives_no_more_than_its_burst_and_its_amount_in_any_period(rate, wishes):
    amount, period, _ = rate
    limit = read_limits({"r": written(*rate)})["r"]
    meters, now, uses = RateMeters(), 1000.0, []
    for wait, count in wishes:
        now += wait * limit.interval_s / 10
        count = min(count, limit.amount)
        if meters.free_at(("r", ""), limit, count, now) <= now:
            meters.use(("r", ""), limit, count, now)
            uses.append((now, count))
    assert most_in_a_window(uses, PERIODS_S[period]) <= limit.amount + amount + TINY


events = st.lists(
    st.one_of(
        st.tuples(st.just("wish"), st.integers(1, 4), st.sampled_from(["ada", "bob"]), st.integers(-1, 2)),
        st.tuples(st.just("wait"), st.floats(0, 30)),
        st.tuples(st.just("lend")),
        st.tuples(st.just("crash")),
    ),
    max_size=80,
)


@settings(max_examples=150)
@given(st.sampled_from([("10/s", 10, 10), ("10/s burst 3", 10, 3), ("2/s burst 20", 2, 20)]), events)
def test_a_ledger_grants_no_more_whoever_has_the_books_and_whoever_dies(rate, steps):
    text, amount, burst = rate
    limits, now, granted = {"r": text, "r per user": "5/s burst 4"}, 1000.0, []
    ledger, open_wishes, n = Ledger(limits, 30.0), {}, 0

    def decide():
        for request in ledger.decide(now):
            granted.append((now, request.needs["r"], request.who.user))
            del open_wishes[request.id]
            ledger.remove(request.id)

    for step, *what in steps:
        if step == "wish":
            n += 1
            count, user, priority = what
            request = Request(str(n), Holder("w", 1), {"r": min(count, burst)}, priority, now, n, Who(user=user))
            open_wishes[request.id] = request
            ledger.add(request)
        elif step == "wait":
            until = now + what[0] / amount
            while ledger.wake_at <= until:
                now = max(now, ledger.wake_at)
                decide()
            now = until
        else:
            wire = ledger.meters(now)
            ledger = Ledger(limits, 30.0, None, now) if step == "crash" else Ledger(limits, 30.0)
            if step == "lend":
                ledger.set_meters(wire, now)
            for request in open_wishes.values():
                ledger.add(request)
        decide()
    assert most_in_a_window([(at, count) for at, count, _ in granted], 1.0) <= burst + amount + TINY
    for user in ("ada", "bob"):
        own = [(at, count) for at, count, who in granted if who == user]
        assert most_in_a_window(own, 1.0) <= 4 + 5 + TINY


def test_nothing_that_may_be_granted_waits_longer_than_the_rate_says():
    ledger, now, times = Ledger({"r": "10/s burst 3"}, 30.0), 1000.0, []
    for n in range(23):
        ledger.add(Request(str(n), Holder("w", 1), {"r": 1}, 0, 0.0, n))
    while len(times) < 23:
        times += [round(now - 1000.0, 6)] * len(ledger.decide(now))
        now = max(now, min(ledger.wake_at, now + 10))
    assert times == [0.0] * 3 + [round(n / 10, 6) for n in range(1, 21)]


@pytest.mark.parametrize("seed", range(6))
def test_steps_of_two_supervisors_begin_no_faster_while_one_of_them_dies(seed):
    began = []

    @podium.protocol(quotas={"calls": 1}, concurrency=100, replicas=2)
    async def call(input):
        began.append((asyncio.get_running_loop().time(), 1))
        await asyncio.sleep(0.01)

    async def work(engine):
        flow = Workflow("w", Sequence(call), shards=2)
        tasks = await engine.submit_many(flow, range(40))
        await asyncio.sleep(0.6)
        simulation.kill(["supervisor/w", "resources", "supervisor/w/2"][seed % 3])
        tasks += await engine.submit_many(flow, range(40))
        for task in tasks:
            await task.result()

    simulation = Simulation(seed, limits={"calls": "10/s burst 5"}, lease_s=1.0)
    simulation.run(work)
    assert len(began) >= 80 and most_in_a_window(sorted(began), 1.0) <= 15
