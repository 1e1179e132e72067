"""A supervisor's client of the breakers: who passes without asking, who asks, who is refused, and what is reported."""

from __future__ import annotations

import pytest

from podium.errors import PeerLost
from podium.protocols.outcomes import Failure
from podium.protocols.policy import Breaker
from podium.supervisors.messages.door import with_kind
from podium.supervisors.messages.host import StepResult
from podium.supervisors.messages.resources import (
    AllBreakers,
    BreakerChanged,
    BreakerState,
    CallsEnded,
    Probe,
    ReportCalls,
    WatchBreakers,
)
from podium.supervisors.running.breaker import Call
from podium.supervisors.running.breaker_client import BreakerClient
from podium.supervisors.running.placement import Job
from tests.support.ports import Hands

OK = StepResult("ok", 1, 0.1)
GONE = PeerLost(address="resources", reason="killed")


class Guarded:
    """A client that guards the protocol "llm"; the test is the registry."""

    def __init__(self, *states, base=3, told=True):
        self.world, self.opened, self.outcomes = Hands(), [], {}
        self.client = BreakerClient(self.world, "resources", "w", 4, 30.0)
        self.client.declare("llm", Breaker(slow_s=5.0), self.opened.append)
        self.world.sleep()
        (self.joined,) = self.line.take(WatchBreakers)
        if told:
            self.tell_all(*states, base=base)

    @property
    def line(self):
        return self.world.lines[-1]

    def tell_all(self, *states, base=3):
        self.joined.chunk(with_kind(AllBreakers(base, [list(state) for state in states])))

    def tell(self, *state):
        self.joined.chunk(with_kind(BreakerChanged(list(BreakerState(*state)))))

    def admit(self, key=""):
        job = Job(None, None, None, key, 0)
        self.client.admit("llm", job, lambda: self._hear(job, "go"), lambda failure: self._hear(job, failure))
        return job

    def _hear(self, job, outcome):
        assert job not in self.outcomes, "let through or refused once"
        self.outcomes[job] = outcome

    def reported(self):
        return [CallsEnded(*row) for say in self.line.take(ReportCalls) for row in say.message.calls]


def opened(name="llm", left_s=20.0, generation=5):
    return BreakerState(name, "open", generation, left_s, "7 of 10 failed")


# passing


def test_while_a_breaker_is_closed_nobody_asks():
    guarded = Guarded()
    jobs = [guarded.admit(), guarded.admit("k")]
    assert [guarded.outcomes[job] for job in jobs] == ["go", "go"]
    assert [job.call for job in jobs] == [Call("llm", 3), Call("llm[k]", 3)]
    assert guarded.line.take(Probe) == []


def test_before_the_states_are_known_jobs_wait_and_then_go_each_its_way():
    guarded = Guarded(told=False)
    passes, refused = guarded.admit(), guarded.admit("k")
    assert not guarded.outcomes and guarded.client.has(passes)
    guarded.tell_all(opened("llm[k]"))
    assert guarded.outcomes[passes] == "go" and not guarded.client.has(passes)
    assert guarded.outcomes[refused].code == "breaker_open"
    assert guarded.opened == ["llm[k]"]


def test_an_open_breaker_refuses_without_asking_and_says_for_how_long():
    guarded = Guarded(opened(left_s=20.0))
    guarded.world.sleep(12)
    failure = guarded.outcomes[guarded.admit()]
    assert failure.message == "the breaker of 'llm' refuses calls: 7 of 10 failed; it lets some through in 8 s"
    assert guarded.outcomes[guarded.admit("other key")] == "go"
    assert guarded.line.take(Probe) == []


def test_one_that_was_opened_by_hand_refuses_however_long_it_takes():
    guarded = Guarded(BreakerState("llm", "forced_open", 5, None, "by ada"))
    guarded.world.sleep(1e6)
    assert guarded.outcomes[guarded.admit()].message.endswith("refuses calls: by ada")


def test_what_waits_when_a_breaker_opens_is_refused_by_key():
    guarded = Guarded()
    jobs = [guarded.admit(key) for key in ("", "k", "k", "l")]
    guarded.tell("llm[k]", "open", 4, 9.0, "slow")
    assert guarded.opened == ["llm[k]"]
    refused = guarded.client.refused("llm", "llm[k]", jobs)
    assert [job for job, _ in refused] == jobs[1:3] and "slow" in refused[0][1].message
    guarded.tell("llm[k]", "closed", 6, None, "")
    late = guarded.admit("k")
    assert (guarded.outcomes[late], late.call) == ("go", Call("llm[k]", 6))


# asking


def test_when_its_time_is_over_each_job_asks_and_hears_whether_it_is_a_probe():
    guarded = Guarded(opened(left_s=20.0))
    guarded.world.sleep(20)
    jobs = [guarded.admit() for _ in range(3)]
    asked = guarded.line.take(Probe)
    leases = [say.message.lease for say in asked]
    assert len(set(leases)) == 3 and not guarded.outcomes
    asked[0].reply((6, leases[0]))
    asked[1].reply((None, None))
    asked[2].reply((7, None))
    assert jobs[0].call == Call("llm", 6, leases[0]) and jobs[2].call == Call("llm", 7)
    assert [guarded.outcomes[job] == "go" for job in jobs] == [True, False, True]


def test_a_probe_that_nobody_wants_any_more_goes_back():
    guarded = Guarded(BreakerState("llm", "half_open", 6, None, ""))
    job = guarded.admit()
    assert guarded.client.withdraw(job) and not guarded.client.withdraw(job)
    (asked,) = guarded.line.take(Probe)
    asked.reply((6, asked.message.lease))
    assert guarded.reported() == [CallsEnded("llm", 6, asked.message.lease, False, False, 0)]
    assert not guarded.outcomes


# reporting


def test_successes_are_reported_together_and_failures_at_once():
    guarded = Guarded()
    for _ in range(4):
        guarded.client.ended("llm", guarded.admit(), OK)
    guarded.world.sleep(0.05)
    assert guarded.reported() == []
    guarded.client.ended("llm", guarded.admit(), StepResult("fail", Failure("error", "no").to_wire(), 0.1))
    guarded.world.sleep()
    assert sorted(guarded.reported()) == [
        CallsEnded("llm", 3, None, failed, False, 4 - 3 * failed) for failed in (0, 1)
    ]
    guarded.client.ended("llm", guarded.admit(), OK)
    guarded.client.ended("llm", guarded.admit(), StepResult("ok", 1, 5.5))
    guarded.world.sleep()
    assert sorted(each.slow for each in guarded.reported()) == [False, True]
    guarded.world.sleep(1)
    assert guarded.reported() == []


@pytest.mark.parametrize("how", ["its host is lost", "it does not count", "it was dropped"])
def test_a_probe_without_an_outcome_is_another_jobs(how):
    guarded = Guarded(BreakerState("llm", "half_open", 6, None, ""))
    job = guarded.admit()
    (asked,) = guarded.line.take(Probe)
    asked.reply((6, asked.message.lease))
    job.dropped = how == "it was dropped"
    if how == "its host is lost":
        guarded.client.gone(job)
    else:
        code = "invalid_input" if how == "it does not count" else "error"
        guarded.client.ended("llm", job, StepResult("fail", Failure(code, "no").to_wire(), 0.1))
    guarded.client.gone(job)
    guarded.world.sleep(1)
    assert guarded.reported() == [CallsEnded("llm", 6, asked.message.lease, False, False, 0)]


# the registry is away


def test_while_the_registry_is_away_the_last_states_hold_and_who_has_to_ask_waits():
    guarded = Guarded(BreakerState("llm[half]", "half_open", 6, None, ""))
    asks = guarded.admit("half")
    guarded.line.lose(GONE)
    waits = guarded.admit("half")
    assert guarded.outcomes[guarded.admit("k")] == "go"
    assert guarded.client.has(asks) and guarded.client.has(waits)
    guarded.world.sleep(0.2)
    (guarded.joined,) = guarded.line.take(WatchBreakers)
    assert guarded.joined.message.number == 2
    guarded.tell_all(BreakerState("llm[half]", "half_open", 8, None, ""), base=7)
    first, second = guarded.line.take(Probe)
    first.reply((8, first.message.lease))
    second.reply((None, None))
    assert (guarded.outcomes[asks], asks.call.generation) == ("go", 8)
    assert guarded.outcomes[waits].code == "breaker_open"


def test_it_joins_again_with_the_probes_that_it_has_and_no_others():
    guarded = Guarded(BreakerState("llm", "half_open", 6, None, ""))
    jobs = [guarded.admit() for _ in range(3)]
    asked = guarded.line.take(Probe)
    asked[0].reply((6, asked[0].message.lease))
    asked[1].reply((6, asked[1].message.lease))
    guarded.client.ended("llm", jobs[1], OK)
    asked[2].reply((None, None))
    guarded.line.lose(GONE)
    guarded.world.sleep(0.2)
    (again,) = guarded.line.take(WatchBreakers)
    assert again.message.leases == [jobs[0].call.lease]


def test_one_that_was_overtaken_joins_again_but_not_at_once_and_once():
    guarded = Guarded()
    guarded.joined.reply()
    guarded.world.sleep(0.5)
    assert guarded.line.take(WatchBreakers) == []
    guarded.world.sleep(0.6)
    (again,) = guarded.line.take(WatchBreakers)
    assert again.message.number == 2
    guarded.client.declare("other", Breaker(), guarded.opened.append)
    again.reply()
    guarded.world.sleep(5)
    (latest,) = guarded.line.take(WatchBreakers)
    assert (latest.message.number, sorted(latest.message.policies)) == (3, ["llm", "other"])
