"""The backlog of a pool: who goes next, and that nobody is lost, doubled or left with permits, whatever happens."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium.supervisors.running.backlog import Backlog
from podium.supervisors.running.placement import Job
from podium.supervisors.settings import Governance
from podium.supervisors.tasks.fold import begin
from tests.support.fold_play import record, step


class Permits:
    """A permit client that grants what the test says."""

    def __init__(self):
        self.waiting, self.held, self.tickets = {}, set(), itertools.count(1)

    def acquire(self, request, granted):
        self.waiting[request.id] = (request, granted)

    def grant(self, key=None):
        request, granted = self.waiting.pop(key or next(iter(self.waiting)))
        ticket = f"ticket-{next(self.tickets)}"
        self.held.add(ticket)
        granted(ticket)
        return request

    def withdraw(self, key):
        del self.waiting[key]

    def release(self, ticket):
        self.held.remove(ticket)

    def next_waiter(self, ticket):
        assert ticket in self.held
        return next(iter(self.waiting), None)

    def hand_over(self, key):
        del self.waiting[key]


ORDERS = itertools.count()


def job_of(user="u", priority=0, at=100.0, quotas=None):
    facts = dataclasses.replace(record(), user=user, priority=priority, accepted_at=at)
    task, (run, *_) = begin(facts, step("a", quotas=quotas or {}))
    task.order = next(ORDERS)
    return Job(task, run.place, run.place.node, "", 0)


def backlog_of(**settings):
    permits, ready = Permits(), []
    return Backlog("p", permits, Governance(**settings), SimpleNamespace(feed=lambda: ready.append(1))), permits, ready


def order_of(backlog):
    taken = []
    while (job := backlog.first()) is not None:
        assert backlog.take_first() is job
        taken.append(job)
    return taken


def test_a_user_with_many_jobs_shares_the_turns_with_one_who_has_few():
    backlog, _, _ = backlog_of()
    for n in range(6):
        backlog.add(job_of("many", at=100.0 + n))
    for n in range(2):
        backlog.add(job_of("few", at=110.0 + n))
    users = [job.task.record.user for job in order_of(backlog)]
    assert sorted(users[:4]) == ["few", "few", "many", "many"] and len(users) == 8


@pytest.mark.parametrize(("waited_s", "first"), [(59, "urgent"), (61, "patient")])
def test_one_level_of_priority_weighs_as_much_as_so_many_seconds(waited_s, first):
    backlog, _, _ = backlog_of(age_s=30.0)
    backlog.add(job_of("urgent", priority=2, at=200.0))
    backlog.add(job_of("patient", at=200.0 - waited_s))
    assert backlog.first().task.record.user == first


def test_what_has_its_permits_goes_first_and_its_ticket_with_it():
    backlog, permits, ready = backlog_of()
    plain, wishing = job_of(), job_of(quotas={"gpu": 2})
    backlog.add(plain)
    backlog.add(wishing)
    assert backlog.first() is plain and not ready
    assert permits.grant().needs == {"gpu": 2}
    assert ready == [1] and wishing.ticket == "ticket-1"
    assert order_of(backlog) == [wishing, plain] and permits.held == {"ticket-1"}


def test_what_is_withdrawn_gives_back_what_it_had_or_asked_for():
    backlog, permits, _ = backlog_of()
    plain, asks, has = job_of(), job_of(quotas={"gpu": 1}), job_of(quotas={"gpu": 1})
    for job in (has, plain, asks):
        backlog.add(job)
    permits.grant()
    assert len(backlog) == 3 and set(backlog) == {plain, asks, has}
    for job in (has, asks, plain):
        backlog.withdraw(job)
        assert not backlog.has(job)
    assert (backlog.first(), len(backlog), bool(backlog)) == (None, 0, False)
    assert (permits.waiting, permits.held) == ({}, set())


def test_a_job_that_takes_over_permits_leaves_the_backlog_without_a_ticket_of_its_own():
    backlog, permits, _ = backlog_of()
    runs, waits = job_of(quotas={"gpu": 1}), job_of(quotas={"gpu": 1})
    backlog.add(runs)
    permits.grant()
    backlog.take_first()
    assert backlog.next_waiter(runs.ticket) is None
    backlog.add(waits)
    assert backlog.next_waiter(runs.ticket) is waits
    backlog.hand_over(waits)
    assert not backlog.has(waits) and waits.ticket is None and not permits.waiting


class BacklogMachine(RuleBasedStateMachine):
    """Jobs come, get permits, go, and are withdrawn in any order; a set of jobs is the model."""

    def __init__(self):
        super().__init__()
        self.backlog, self.permits, _ = backlog_of(weights={"a": 3.0})
        self.here, self.left = set(), 0

    @rule(user=st.sampled_from("abc"), priority=st.integers(-1, 2), at=st.integers(0, 90), asks=st.booleans())
    def add(self, user, priority, at, asks):
        job = job_of(user, priority, 100.0 + at, {"gpu": 1} if asks else {})
        self.here.add(job)
        self.backlog.add(job)

    @precondition(lambda self: self.permits.waiting)
    @rule(data=st.data())
    def grant(self, data):
        self.permits.grant(data.draw(st.sampled_from(list(self.permits.waiting))))

    @precondition(lambda self: self.backlog.first() is not None)
    @rule()
    def take(self):
        job = self.backlog.first()
        ready = [each for each in self.here if each.ticket is not None]
        assert job in (ready or self.here), "what has permits goes first"
        assert self.backlog.take_first() is job
        self.here.remove(job)
        if job.ticket is not None:
            self.permits.release(job.ticket)

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def withdraw(self, data):
        job = data.draw(st.sampled_from(sorted(self.here, key=lambda each: each.task.order)))
        self.here.remove(job)
        self.backlog.withdraw(job)
        assert not self.backlog.has(job)

    @invariant()
    def it_has_whom_it_was_given_and_nobody_else(self):
        assert set(self.backlog) == self.here
        assert len(self.backlog) == len(self.here) and bool(self.backlog) == bool(self.here)
        assert all(self.backlog.has(job) for job in self.here)
        may_go = [job for job in self.here if not job.settings.quotas or job.ticket is not None]
        assert (self.backlog.first() is None) == (not may_go)

    @invariant()
    def no_permits_are_held_but_of_those_who_are_ready(self):
        assert self.permits.held == {job.ticket for job in self.here} - {None}


TestBacklog = BacklogMachine.TestCase
