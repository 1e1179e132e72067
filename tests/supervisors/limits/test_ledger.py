"""The ledger of permits, against a simple model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium.protocols.errors import InvalidInput
from podium.protocols.limits import read_limits
from podium.supervisors.limits.ledger import Holder, Ledger, Request, Who

H = Holder("w", 1)


def request(id, priority=0, arrived_at=0.0, holder=H, **needs):
    return Request(id, holder, needs, priority, arrived_at)


def granted(ledger):
    return [each.id for each in ledger.decide(0.0)]


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
    ledger.set_limits({"llm": 1}, 0.0)
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
        ledger.check({"llm": 3})
    with pytest.raises(InvalidInput, match="no limit is set for quota 'gpu'"):
        ledger.check({"gpu": 1})


def test_the_unknown_past_of_a_rate_goes_with_the_books():
    lender = Ledger({"tokens": "1/s burst 10"}, age_s=30, empty_at=100.0)
    borrower = Ledger({"tokens": "1/s burst 10"}, age_s=30)
    borrower.set_meters(lender.meters(104.0), 1_004.0)  # another clock
    borrower.add(request("a", tokens=5))
    assert borrower.decide(1_004.9) == []
    assert [each.id for each in borrower.decide(1_005.1)] == ["a"]
    lender.set_meters(borrower.meters(1_005.1), 105.1)
    assert lender.uses(105.1)["tokens"]["left"] == 0


def test_what_needs_a_quota_that_is_not_set_waits_for_it():
    ledger = Ledger({"llm": 2}, age_s=30)
    ledger.add(request("a", gpu=1))
    assert granted(ledger) == [] and ledger.waiting == {"llm": 0, "gpu": 1}
    ledger.set_limits({"gpu": 1}, 0.0)
    assert granted(ledger) == ["a"]
    assert ledger.held == {"llm": 0, "gpu": 1}


def test_a_limit_that_is_too_low_now_makes_wait_and_0_is_a_pause():
    ledger = Ledger({"llm": 0}, age_s=30)
    ledger.check({"llm": 3})
    ledger.add(request("a", llm=3))
    ledger.set_limits({"llm": 2}, 0.0)
    assert granted(ledger) == []
    ledger.set_limits({"llm": 3}, 0.0)
    assert granted(ledger) == ["a"]


def test_the_next_waiter_is_who_would_be_next_for_just_those_permits():
    ledger = Ledger({"llm": 2, "tool": 1, "tokens": "10/s"}, age_s=30)
    for id, needs in {"a": {"llm": 1}, "b": {"llm": 1}, "c": {"tool": 1}, "d": {"tokens": 1}}.items():
        ledger.add(request(id, **needs))
    assert ledger.decide(0.0) and ledger.next_waiter("a", 0.0) is None, "nobody waits"
    ledger.add(request("e", llm=1))
    assert ledger.next_waiter("a", 0.0).id == "e" and ledger.next_waiter("c", 0.0) is None
    ledger.lower({"llm": 1})
    assert ledger.next_waiter("a", 0.0) is None, "there is one too many"
    ledger.lower({})
    ledger.add(request("both", llm=1, tool=1, priority=9))
    assert ledger.next_waiter("a", 0.0) is None, "who needs both waits longest"
    ledger.remove("both")
    ledger.add(request("f", tokens=1))
    assert ledger.next_waiter("d", 0.0) is None, "of a rate, nothing is free when the step ends"
    ledger.hand_over(ledger.next_waiter("a", 0.0))
    assert ledger.next_waiter("a", 0.0) is None and ledger.held["llm"] == 2


def asked(id, user="", priority=0, at=0.0, workflow="w", **needs):
    return Request(id, H, needs, priority, at, 0, Who(workflow, "p", user))


def test_a_limit_per_user_holds_up_that_user_and_nobody_else():
    ledger = Ledger({"llm": 3, "llm per user": 1, "tool": 1}, age_s=30)
    for number in range(3):
        ledger.add(asked(f"ada{number}", "ada", 9, llm=1, tool=1 if number == 2 else 0))
    ledger.add(asked("bob", "bob", llm=1))
    ledger.add(asked("eve", "eve", tool=1))
    assert granted(ledger) == ["ada0", "bob", "eve"]
    assert ledger.pools("llm per user") == {"ada": 1, "bob": 1}
    ledger.remove("ada0")
    assert granted(ledger) == ["ada1"]


def test_a_limit_per_workflow_and_one_per_protocol_count_apart():
    ledger = Ledger({"llm per workflow": 1, "llm per protocol": 2}, age_s=30)
    for workflow in "vwx":
        for number in range(2):
            ledger.add(asked(f"{workflow}{number}", workflow=workflow, llm=1))
    assert granted(ledger) == ["v0", "w0"]
    ledger.remove("v0")
    assert granted(ledger) == ["v1"]


def test_a_limit_may_be_added_under_running_holders():
    ledger = Ledger({"llm": 4}, age_s=30)
    for number in range(4):
        ledger.add(asked(f"a{number}", "ada", llm=1))
    granted(ledger)
    ledger.set_limits({"llm per user": 2}, 0.0)
    ledger.add(asked("a4", "ada", llm=1))
    ledger.remove("a0")
    ledger.remove("a1")
    assert granted(ledger) == []
    ledger.remove("a2")
    assert granted(ledger) == ["a4"]


def test_a_rate_is_used_up_and_comes_back_with_time():
    ledger = Ledger({"tokens": "60/min burst 10"}, age_s=30)
    ledger.add(asked("first", tokens=10))
    ledger.add(asked("next", tokens=4))
    assert [each.id for each in ledger.decide(100.0)] == ["first"]
    ledger.remove("first")
    assert ledger.decide(103.9) == []
    assert ledger.wake_at == 104.0
    assert [each.id for each in ledger.decide(104.0)] == ["next"]
    with pytest.raises(InvalidInput, match="11 permits of 'tokens', its limit is 10"):
        ledger.check({"tokens": 11})


def test_a_rate_whose_past_is_unknown_counts_as_used_up():
    ledger = Ledger({"calls": "1/s burst 5"}, age_s=30, empty_at=50.0)
    ledger.add(asked("a", calls=5))
    assert ledger.decide(54.9) == []
    assert [each.id for each in ledger.decide(55.0)] == ["a"]


def test_a_waiter_that_a_lowered_limit_can_never_serve_holds_up_nobody():
    ledger = Ledger({"llm": 2, "tool": 1}, age_s=30)
    ledger.add(asked("big", llm=2, tool=1))
    ledger.set_limits({"llm": 1}, 0.0)
    ledger.add(asked("small", llm=1, tool=1))
    assert granted(ledger) == ["small"]
    ledger.set_limits({"llm": 3, "tool": 2}, 0.0)
    assert granted(ledger) == ["big"]


@pytest.mark.parametrize(
    ("name", "amount", "problem"),
    [
        ("llm per planet", 5, "'llm per planet' is not 'quota' or 'quota per scope'"),
        ("llm", -1, "limits.llm: a whole number, 0 or more, or a rate such as '10/s burst 30', not -1"),
        ("llm", "10/fortnight", "not '10/fortnight'"),
        ("llm", "0/s", "not '0/s'"),
        ("llm", True, "not True"),
        ("llm", 1.5, "not 1.5"),
    ],
)
def test_a_limit_that_cannot_be_read_is_named(name, amount, problem):
    with pytest.raises(InvalidInput, match=re.escape(problem)):
        Ledger({name: amount}, age_s=30)


def test_a_lowered_limit_holds_back_all_but_who_needs_more_than_that_and_goes_alone():
    ledger = Ledger({"llm": 5}, age_s=30)
    ledger.lower({"llm": 3})
    for number in range(4):
        ledger.add(asked(f"a{number}", llm=1))
    ledger.add(asked("big", llm=4))
    assert granted(ledger) == ["a0", "a1", "a2"]
    for number in range(4):
        ledger.remove(f"a{number}")
    assert granted(ledger) == ["big"]
    ledger.lower({})
    ledger.add(asked("last", llm=1))
    assert granted(ledger) == ["last"]


def served(ledger, starts, now=0.0, step_s=0.0):
    """Who gets the one permit, `starts` times; it is given back at once."""
    order = []
    for _ in range(starts):
        now += step_s
        for each in ledger.decide(now):
            order.append(each.who.user)
            ledger.remove(each.id)
    return order


def test_users_with_equal_weights_get_equal_shares_however_much_they_ask_for():
    """1,000 users, the first with 5,000 requests, the last with 20 (Jain's index of their starts)."""
    ledger = Ledger({"llm": 1}, age_s=30)
    number = 0
    for user in range(1000):
        for _ in range(20 + 4980 // (user + 1)):
            number += 1
            ledger.add(asked(f"r{number}", f"u{user}", at=0.0, llm=1))
    starts = Counter(served(ledger, 15_000))
    shares = [starts[f"u{user}"] for user in range(1000)]
    assert sum(shares) ** 2 / (1000 * sum(share**2 for share in shares)) >= 0.99


def test_shares_are_in_proportion_to_weights():
    ledger = Ledger({"llm": 1}, age_s=30, weights={"ada": 3.0})
    for number in range(400):
        ledger.add(asked(f"a{number}", "ada", llm=1))
        ledger.add(asked(f"b{number}", "bob", llm=1))
    assert Counter(served(ledger, 400)) == {"ada": 300, "bob": 100}


def test_who_was_idle_has_no_credit():
    ledger = Ledger({"llm": 1}, age_s=30)
    for number in range(100):
        ledger.add(asked(f"a{number}", "ada", llm=1))
    served(ledger, 50)
    for number in range(100):
        ledger.add(asked(f"b{number}", "bob", llm=1))
    assert Counter(served(ledger, 50)) == {"ada": 25, "bob": 25}


@given(
    priority=st.integers(0, 5),
    step_s=st.floats(0.1, 20),
    others=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["u", "v", "w"])), min_size=1, max_size=5),
)
def test_nobody_waits_for_ever_behind_higher_priorities(priority, step_s, others):
    """The bound: a level n higher goes first only while somebody waits there who came within n * age_s of the waiter.

    Every start is followed by one arrival of each kind of other, so there is always somebody more important.
    """
    ledger, age_s, now = Ledger({"llm": 1}, age_s=30), 30.0, 0.0
    ledger.add(asked("patient", "patient", priority, 0.0, llm=1))
    ahead, came = 0, defaultdict(dict)
    for number in range(10_000):
        for kind, (other, user) in enumerate(others):
            ledger.add(asked(f"{number}-{kind}", user, other, now, llm=1))
            came[other][f"{number}-{kind}"] = now
        (start,) = ledger.decide(now)
        ledger.remove(start.id)
        if start.id == "patient":
            break
        oldest = next(iter(came[start.priority].values()))
        del came[start.priority][start.id]
        assert oldest <= (start.priority - priority) * age_s
        ahead += start.priority == priority
        now += step_s
    else:
        raise AssertionError("it waited for ever")
    assert ahead <= 3, "its own level is shared by three others"


LIMITS = {"a": 3, "b": 2, "a per user": 2, "b per workflow": 1, "r": "30/min burst 4", "r per user": "6/min burst 3"}


class LedgerMachine(RuleBasedStateMachine):
    """Permits are neither lost nor invented, whatever the order of requests, releases and changes."""

    def __init__(self):
        super().__init__()
        self.limits = read_limits(LIMITS)
        self.ledger = Ledger(LIMITS, age_s=30)
        self.waiting, self.held = {}, {}
        self.used_up = []
        self.next, self.now = 0, 0.0

    @rule(
        needs=st.dictionaries(st.sampled_from("abr"), st.integers(1, 2), min_size=1),
        priority=st.integers(-2, 2),
        shard=st.sampled_from("xy"),
        workflow=st.sampled_from("vw"),
        user=st.sampled_from("stu"),
        wait=st.sampled_from([0.0, 0.0, 1.0, 20.0]),
    )
    def ask(self, needs, priority, shard, workflow, user, wait):
        self.time_goes_by(wait)
        if any(needs.get(limit.quota, 0) > limit.amount for limit in self.limits.values()):
            return
        self.next += 1
        wish = Request(f"r{self.next}", Holder(shard, 1), needs, priority, self.now, 0, Who(workflow, "p", user))
        self.ledger.add(wish)
        self.waiting[wish.id] = wish
        self.decide()

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data())
    def give_back(self, data):
        id = data.draw(st.sampled_from(sorted([*self.held, *self.waiting])))
        self.ledger.remove(id)
        self.held.pop(id, None)
        self.waiting.pop(id, None)
        self.decide()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def pass_on(self, data):
        """A waiter takes the place of one that would free just what it needs."""
        id = data.draw(st.sampled_from(sorted(self.held)))
        waiter = self.ledger.next_waiter(id, self.now)
        if waiter is not None:
            before = self.held.pop(id)
            assert waiter.needs == before.needs and list(self.pools(waiter)) == list(self.pools(before))
            assert all(self.has_room(*pool) for pool in self.pools(waiter)), f"{waiter} follows where nothing gets free"
            self.held[id] = before
            self.ledger.hand_over(waiter)
            del self.waiting[waiter.id]

    @precondition(lambda self: self.held or self.waiting)
    @rule(data=st.data())
    def serve_elsewhere(self, data):
        id = data.draw(st.sampled_from(sorted([*self.held, *self.waiting])))
        self.ledger.handed_over(id)
        self.held.pop(id, None)
        self.waiting.pop(id, None)
        self.decide()

    @rule(user=st.sampled_from("stu"), amount=st.integers(-2, 3))
    def charge(self, user, amount):
        self.ledger.charge(Who("v", "p", user), {"r": amount, "a": amount}, self.now)
        for limit in self.limits.values():
            if limit.quota == "r":
                self.used_up.append((self.now, limit.name, user if limit.scope == "user" else "", amount))
        self.decide()

    @rule(shard=st.sampled_from("xy"))
    def holder_dies(self, shard):
        self.ledger.remove_holders(shard)
        for book in (self.held, self.waiting):
            for id in [id for id, each in book.items() if each.holder.shard == shard]:
                del book[id]
        self.decide()

    @rule(name=st.sampled_from(["a", "b", "a per user"]), amount=st.integers(1, 4))
    def change_limit(self, name, amount):
        self.limits |= read_limits({name: amount})
        self.ledger.set_limits({name: amount}, 0.0)
        self.decide()

    @rule(wait=st.floats(0, 100))
    def wait(self, wait):
        self.time_goes_by(wait)

    def time_goes_by(self, wait):
        self.now += wait
        self.decide()

    def pools(self, request):
        for limit in self.limits.values():
            count = request.needs.get(limit.quota, 0)
            if count:
                yield limit, "" if limit.scope == "cluster" else getattr(request.who, limit.scope), count

    def in_use(self, limit, whose):
        uses = (use for each in self.held.values() for use in self.pools(each))
        return sum(count for used, owner, count in uses if (used, owner) == (limit, whose))

    def has_room(self, limit, whose, count, slack=1e-6):
        """By a meter of its own: a bucket that is filled with time. A rate may round by `slack`."""
        if limit.interval_s is None:
            return self.in_use(limit, whose) + count <= limit.amount
        level, last = limit.amount, 0.0
        for at, used, owner, amount in self.used_up:
            if (used, owner) == (limit.name, whose):
                level, last = min(limit.amount, level + (at - last) / limit.interval_s) - amount, at
        return min(limit.amount, level + (self.now - last) / limit.interval_s) >= count - slack

    def decide(self):
        for each in self.ledger.decide(self.now):
            del self.waiting[each.id]
            for limit, whose, count in self.pools(each):
                assert self.has_room(limit, whose, count), f"{each} goes beyond '{limit.name}'"
            self.held[each.id] = each
            self.used_up += [(self.now, limit.name, whose, count) for limit, whose, count in self.pools(each)]

    @invariant()
    def the_books_agree(self):
        for limit in self.limits.values():
            if limit.interval_s is None:
                pools = {"": "", **{w: w for w in "stuvw"}}
                expected = {whose: self.in_use(limit, whose) for whose in pools if self.in_use(limit, whose)}
                assert self.ledger.pools(limit.name) == expected
        counts = Counter(quota for each in self.waiting.values() for quota in each.needs)
        assert {name: counts[limit.quota] for name, limit in self.limits.items()} == self.ledger.waiting

    @invariant()
    def nobody_waits_for_what_is_free_and_nobody_else_wants(self):
        for each in self.waiting.values():
            others = {quota for other in self.waiting.values() if other is not each for quota in other.needs}
            if others.isdisjoint(each.needs):
                free = all(self.has_room(*pool, slack=-1e-6) for pool in self.pools(each))
                assert not free, f"{each} waits for nothing"


LedgerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestLedger = LedgerMachine.TestCase


def at_hosts(id, user="", **needs):
    return Request(id, H, needs, who=Who("w", "p", user, "w/p"))


def test_requests_that_lack_nothing_but_a_place_are_counted_and_no_others():
    ledger = Ledger({"llm": 5, "llm per user": 2, "gpu": 1}, age_s=30)
    for n in range(4):
        ledger.add(at_hosts(f"ada-{n}", "ada", llm=1))
    ledger.add(at_hosts("eve", "eve", llm=1, gpu=1))
    assert ledger.lacking_places("w/p", 0.0) == 3, "two of ada, one of eve"
    assert ledger.lacking_places("w/q", 0.0) == 0
    ledger.claim(Request("elsewhere", Holder("v", 1), {"gpu": 1}))
    assert ledger.lacking_places("w/p", 0.0) == 2, "eve waits for the gpu"
    ledger.remove("ada-0")
    ledger.remove("ada-1")
    ledger.remove("ada-2")
    assert ledger.lacking_places("w/p", 0.0) == 1


def test_what_a_rate_does_not_allow_yet_lacks_more_than_a_place():
    ledger = Ledger({"calls": "60/min burst 7"}, age_s=30)
    for n in range(10):
        ledger.add(at_hosts(str(n), calls=3))
    assert ledger.lacking_places("w/p", 0.0) == 2, "2 · 3 of 7"


def test_a_request_behind_one_that_reserves_its_pool_lacks_more_than_a_place():
    ledger = Ledger({"llm": 3, "gpu": 1}, age_s=30)
    ledger.claim(request("holder", gpu=1))
    ledger.add(request("first", priority=2, llm=3, gpu=1))
    ledger.add(at_hosts("behind", llm=1))
    granted(ledger)
    assert ledger.lacking_places("w/p", 0.0) == 0
    ledger.remove("first")
    assert ledger.lacking_places("w/p", 0.0) == 1


@given(
    limit=st.integers(0, 12),
    per_user=st.integers(0, 6),
    lowered=st.none() | st.integers(1, 6),
    each=st.integers(1, 3),
    held=st.integers(0, 12),
    users=st.lists(st.sampled_from("abc"), max_size=15),
)
def test_as_many_lack_a_place_as_are_granted_when_there_are_places(limit, per_user, lowered, each, held, users):
    ledger = Ledger({"llm": limit, "llm per user": per_user}, age_s=30)
    if held:
        ledger.claim(Request("elsewhere", Holder("v", 1), {"llm": held}, who=Who(user="z")))
    ledger.lower({} if lowered is None else {"llm": lowered})
    for n, user in enumerate(users):
        ledger.add(at_hosts(str(n), user, llm=each))
    assert granted(ledger) == [], "there is no place"
    lacking = ledger.lacking_places("w/p", 0.0)
    ledger.set_places({"w/p": 100})
    assert len(granted(ledger)) == lacking
