"""The ledger of permits, against a simple model."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium.actors.ledger import Holder, Ledger, Request
from podium.protocols.errors import InvalidInput

H = Holder("w", 1)


def request(id, priority=0, arrived_at=0.0, holder=H, **needs):
    return Request(id, holder, needs, priority, arrived_at)


def granted(ledger):
    return [each.id for each in ledger.decide()]


def test_all_permits_of_a_request_are_taken_in_one_decision_or_none():
    ledger = Ledger({"llm": 2, "tool": 1}, age_s=30)
    ledger.add(request("a", tool=1))
    ledger.add(request("b", llm=1, tool=1))
    assert granted(ledger) == ["a"]
    assert ledger.held == {"llm": 0, "tool": 1}
    ledger.remove("a")
    assert granted(ledger) == ["b"]


def test_higher_priority_goes_first_and_ties_in_order_of_arrival():
    ledger = Ledger({"llm": 1}, age_s=30)
    ledger.add(request("first", llm=1))
    granted(ledger)
    for id, priority in (("low", 0), ("high", 5), ("high_later", 5)):
        ledger.add(request(id, priority, llm=1))
    order = []
    for held in ("first", "high", "high_later"):
        ledger.remove(held)
        order += granted(ledger)
    assert order == ["high", "high_later", "low"]


def test_one_level_of_priority_weighs_as_much_as_age_s_of_waiting():
    ledger = Ledger({"llm": 1}, age_s=30)
    ledger.add(request("old", priority=0, arrived_at=0.0, llm=1))
    ledger.add(request("new", priority=1, arrived_at=31.0, llm=1))
    assert granted(ledger) == ["old"]


def test_a_waiter_reserves_its_quotas_and_others_pass():
    ledger = Ledger({"llm": 2, "tool": 1}, age_s=30)
    ledger.add(request("holder", llm=1))
    granted(ledger)
    ledger.add(request("big", priority=1, llm=2))
    ledger.add(request("small", llm=1))
    ledger.add(request("other", tool=1))
    assert granted(ledger) == ["other"]


def test_a_limit_is_lowered_under_running_holders():
    ledger = Ledger({"llm": 3}, age_s=30)
    for id in "abc":
        ledger.add(request(id, llm=1))
    granted(ledger)
    ledger.set_limits({"llm": 1})
    ledger.add(request("d", llm=1))
    ledger.remove("a")
    ledger.remove("b")
    assert granted(ledger) == []
    ledger.remove("c")
    assert granted(ledger) == ["d"]


def test_permits_of_a_holder_come_back_and_others_stay():
    ledger = Ledger({"llm": 2}, age_s=30)
    ledger.add(request("a", llm=1, holder=Holder("w", 1)))
    ledger.add(request("b", llm=1, holder=Holder("v", 1)))
    granted(ledger)
    ledger.remove_holders("w")
    assert ledger.held == {"llm": 1}


def test_what_can_never_be_granted_is_refused_with_the_limit():
    ledger = Ledger({"llm": 2}, age_s=30)
    with pytest.raises(InvalidInput, match="3 permits of 'llm', its limit is 2"):
        ledger.add(request("a", llm=3))
    with pytest.raises(InvalidInput, match="no limit is set for quota 'gpu'"):
        ledger.add(request("a", gpu=1))


class LedgerMachine(RuleBasedStateMachine):
    """Permits are neither lost nor invented, whatever the order of requests, releases and changes."""

    def __init__(self):
        super().__init__()
        self.limits = {"a": 3, "b": 2}
        self.ledger = Ledger(self.limits, age_s=30)
        self.waiting, self.held = {}, {}
        self.next, self.now = 0, 0.0
        self.over = Counter()

    @rule(
        a=st.integers(0, 2),
        b=st.integers(0, 2),
        priority=st.integers(-2, 2),
        shard=st.sampled_from("xy"),
        wait=st.floats(0, 50),
    )
    def ask(self, a, b, priority, shard, wait):
        self.now += wait
        needs = {name: count for name, count in (("a", a), ("b", b)) if count}
        if not needs or any(count > self.limits[name] for name, count in needs.items()):
            return
        self.next += 1
        asked = Request(f"r{self.next}", Holder(shard, 1), needs, priority, self.now)
        self.ledger.add(asked)
        self.waiting[asked.id] = asked
        self.decide()

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data())
    def give_back(self, data):
        id = data.draw(st.sampled_from(sorted([*self.held, *self.waiting])))
        self.ledger.remove(id)
        self.held.pop(id, None)
        self.waiting.pop(id, None)
        self.decide()

    @rule(shard=st.sampled_from("xy"))
    def holder_dies(self, shard):
        self.ledger.remove_holders(shard)
        for book in (self.held, self.waiting):
            for id in [id for id, each in book.items() if each.holder.shard == shard]:
                del book[id]
        self.decide()

    @rule(name=st.sampled_from("ab"), limit=st.integers(2, 4))
    def change_limit(self, name, limit):
        self.limits[name] = limit
        self.ledger.set_limits({name: limit})
        self.decide()

    def decide(self):
        before = self.used()
        for each in self.ledger.decide():
            del self.waiting[each.id]
            self.held[each.id] = each
            for name, count in each.needs.items():
                before[name] += count
                assert before[name] <= self.limits[name]

    def used(self):
        return Counter({n: sum(each.needs.get(n, 0) for each in self.held.values()) for n in "ab"})

    @invariant()
    def the_books_agree(self):
        assert self.ledger.held == {name: self.used()[name] for name in "ab"}

    @invariant()
    def nobody_waits_for_what_is_free(self):
        if self.waiting and not self.held:
            raise AssertionError(f"{self.waiting} wait although nothing is held")


LedgerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestLedger = LedgerMachine.TestCase
