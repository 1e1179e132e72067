"""A supervisor's client of the permits, alone: what it asks, keeps, passes on and gives back, whoever grants."""

from __future__ import annotations

import pytest

from podium.errors import Fenced, PeerLost
from podium.supervisors.limits.permit_client import PermitClient
from podium.supervisors.limits.permit_queue import Holder, Request, Who
from podium.supervisors.messages.door import with_kind
from podium.supervisors.messages.resources import (
    Acquire,
    Join,
    Lend,
    LimitsChanged,
    Recall,
    Release,
    Renew,
    Served,
    SetPlaces,
    Wanted,
    WatchLedger,
)
from podium.supervisors.settings import Governance
from tests.support.ports import Hands

GONE = PeerLost(address="resources", reason="killed")
LIMITS = {"gpu": 2, "llm": 5}


class Supervisor:
    """A client of permits; the test is the ResourceActor."""

    def __init__(self, joins=True):
        self.world, self.granted, self.crashed = Hands(), {}, []
        self.world.crash = self.crashed.append
        self.client = PermitClient(
            self.world, ["resources", [1, 7]], "w", 3, Governance(lease_s=30.0, lookahead_s=0.05)
        )
        if joins:
            self.client.connect()
            self.join()

    @property
    def line(self):
        return self.world.lines[-1]

    def join(self, limits=LIMITS):
        """Answer the join, and return it."""
        (joining,) = self.line.take(Join)
        joining.reply((limits, {}))
        (self.watch,) = self.line.take(WatchLedger)
        return joining.message

    def hear(self, said):
        self.watch.chunk(with_kind(said))
        self.world.sleep()

    def lend(self, granted=(), limits=LIMITS):
        self.hear(Lend(limits, {}, {}, list(granted)))

    def wish(self, key, **needs):
        request = Request(key, Holder("", 0), needs, 0, 100.0, 0, Who("", "", "ada", "", ""))
        self.client.acquire(request, lambda ticket: self.granted.__setitem__(key, ticket))
        self.world.sleep()

    def asked(self):
        return self.line.take(Acquire)

    def released(self):
        return [ticket for say in self.line.take(Release) for ticket in say.message.tickets]

    def hold(self, key, **needs):
        """Get permits by asking for them."""
        self.wish(key, **needs)
        (asked,) = self.asked()
        asked.reply((True,))
        return self.granted[key]


# asking


def test_a_wish_waits_until_it_has_joined_and_then_for_the_grant():
    supervisor = Supervisor(joins=False)
    supervisor.wish("a", gpu=1)
    assert supervisor.asked() == [] and supervisor.client.limit("gpu") is None
    joined = supervisor.join()
    assert (joined.shard, joined.start, joined.epoch, joined.claims) == ("w", [1, 7], 3, [])
    (asked,) = supervisor.asked()
    assert (asked.message.needs, asked.message.holder[:2]) == ({"gpu": 1}, ["w", 3])
    assert not supervisor.granted and supervisor.client.limit("gpu") == 2
    asked.reply((True,))
    assert supervisor.granted == {"a": asked.message.id}


def test_what_is_granted_as_it_was_withdrawn_goes_back():
    supervisor = Supervisor()
    supervisor.wish("a", gpu=1)
    (asked,) = supervisor.asked()
    supervisor.client.withdraw("a")
    assert supervisor.line.cancelled == [asked.number]
    asked.reply((True,))
    assert supervisor.released() == [asked.message.id] and not supervisor.granted


@pytest.mark.parametrize(("needs", "is_kept"), [({"gpu": 1}, True), ({"gpu": 2}, False), ({"llm": 1}, False)])
def test_idle_permits_serve_who_needs_exactly_them_without_a_word(needs, is_kept):
    supervisor = Supervisor()
    ticket = supervisor.hold("a", gpu=1)
    supervisor.client.release(ticket)
    supervisor.wish("b", **needs)
    assert supervisor.granted.get("b") == (ticket if is_kept else None)
    assert len(supervisor.asked()) == (not is_kept)


def test_idle_permits_go_back_after_a_second_and_at_once_when_somebody_waits():
    supervisor = Supervisor()
    first, second = supervisor.hold("a", gpu=1), supervisor.hold("b", llm=2)
    supervisor.client.release(first)
    supervisor.world.sleep(0.9)
    assert supervisor.released() == []
    supervisor.world.sleep(0.2)
    assert supervisor.released() == [first]
    supervisor.client.release(second)
    supervisor.hear(Wanted(True))
    assert supervisor.released() == [second]
    third = supervisor.hold("c", gpu=1)
    supervisor.client.release(third)
    assert supervisor.released() == [third]


@pytest.mark.parametrize(("later_s", "passes_on"), [(0.04, True), (0.06, False)])
def test_within_its_window_a_permit_passes_on_to_who_waits_here(later_s, passes_on):
    supervisor = Supervisor()
    ticket = supervisor.hold("a", gpu=1)
    supervisor.wish("b", gpu=1)
    (asked,) = supervisor.asked()
    supervisor.world.sleep(later_s)
    assert supervisor.client.next_waiter(ticket) == ("b" if passes_on else None)
    if passes_on:
        supervisor.client.hand_over("b")
        supervisor.world.sleep()
        assert [say.message.tickets for say in supervisor.line.take(Served)] == [[asked.message.id]]
        assert not supervisor.granted.get("b"), "its job uses the permits of the one before"


# the ledger on loan


def test_on_loan_it_grants_by_itself_up_to_the_limit_and_in_turn():
    supervisor = Supervisor()
    supervisor.lend()
    for key in "abc":
        supervisor.wish(key, gpu=1)
    assert set(supervisor.granted) == {"a", "b"} and supervisor.asked() == []
    supervisor.client.release(supervisor.granted["a"])
    assert set(supervisor.granted) == {"a", "b", "c"} and supervisor.released() == []


def test_what_was_granted_before_the_loan_counts_in_it():
    supervisor = Supervisor()
    for key in "abc":
        supervisor.wish(key, gpu=1)
    tickets = [say.message.id for say in supervisor.asked()]
    supervisor.lend(granted=tickets[1:2])
    assert set(supervisor.granted) == {"b", "a"}
    assert supervisor.granted["b"] == tickets[1]


def test_a_limit_that_is_raised_on_loan_serves_at_once_who_waits():
    supervisor = Supervisor()
    supervisor.lend()
    supervisor.wish("a", gpu=2)
    supervisor.wish("b", gpu=2)
    supervisor.hear(LimitsChanged({"gpu": 4, "llm": 5}, {}))
    assert set(supervisor.granted) == {"a", "b"}


def test_a_borrower_that_nobody_renews_stops_before_others_may_begin():
    supervisor = Supervisor()
    supervisor.lend()
    supervisor.world.sleep(61)
    supervisor.wish("late", gpu=1)
    assert not supervisor.granted
    renewals = supervisor.line.take(Renew)
    renewals[-1].reply()
    supervisor.world.sleep()
    assert set(supervisor.granted) == {"late"}


def test_when_the_ledger_is_recalled_it_joins_with_what_it_holds_and_asks_for_the_rest():
    supervisor = Supervisor()
    supervisor.lend()
    for key in "abc":
        supervisor.wish(key, gpu=1)
    supervisor.hear(Recall())
    joined = supervisor.join()
    assert [claim[0] for claim in joined.claims] == [supervisor.granted["a"], supervisor.granted["b"]]
    assert joined.meters is not None and joined.join == 2
    (asked,) = supervisor.asked()
    asked.reply((True,))
    assert supervisor.granted["c"] == asked.message.id


# the ResourceActor is lost


def test_what_is_held_and_wished_outlives_the_one_who_grants():
    supervisor = Supervisor()
    held, back = supervisor.hold("a", gpu=1), supervisor.hold("b", llm=1)
    supervisor.wish("c", gpu=1)
    supervisor.line.lose(GONE)
    supervisor.world.sleep(0.3)
    supervisor.client.release(back)
    joined = supervisor.join()
    assert [claim[0] for claim in joined.claims] == [held, back]
    assert supervisor.released() == [back], "it came back while the claim was on its way"
    (asked,) = supervisor.asked()
    asked.reply((True,))
    assert set(supervisor.granted) == {"a", "b", "c"} and not supervisor.crashed


def test_one_that_was_given_up_ends_itself():
    supervisor = Supervisor(joins=False)
    supervisor.wish("a", gpu=1)
    (joining,) = supervisor.line.take(Join)
    joining.refuse(Fenced(shard="w", epoch=3, newer=4))
    assert len(supervisor.crashed) == 1 and not supervisor.granted


def test_places_are_told_once_for_each_change_and_again_in_the_next_join():
    supervisor = Supervisor()
    for count in (2, 2, 4):
        supervisor.client.set_places("llm", count)
    told = [(say.message.change, dict(say.message.places)) for say in supervisor.line.take(SetPlaces)]
    assert told == [(1, {"w/llm": 2}), (2, {"w/llm": 4})]
    supervisor.line.lose(GONE)
    supervisor.world.sleep(0.3)
    joined = supervisor.join()
    assert (joined.change, dict(joined.places)) == (2, {"w/llm": 4})
