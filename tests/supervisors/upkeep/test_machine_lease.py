"""The decisions of a keeper: nobody works on when he may be declared lost, and no machine stays without a home."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium.cluster.store.memory.machines import MemoryMachines
from podium.supervisors.upkeep.machine_lease import (
    AVOIDED_S,
    GONE_S,
    IDLE_LEASES,
    MISSING_S,
    NONE_S,
    PROOF_SHARE,
    START_S,
    MachineLease,
    MachineState,
    Neighbour,
    News,
)

LEASE_S = 5.0


def lease(id="a", is_lasting=True, now=0.0):
    return MachineLease(MachineState(id, f"host-{id}", f"node-{id}", 1, 0.0), LEASE_S, is_lasting, now)


def news(*others, home="a", own_s=6.0):
    return News(home, [Neighbour("a", "host-a", "node-a", False, own_s), *others])


def neighbour(id, is_lost=False, left_s=4.0):
    return Neighbour(id, f"host-{id}", f"node-{id}", is_lost, left_s)


def test_a_lease_lasts_from_the_moment_at_which_its_renewal_was_sent():
    mine = lease()
    assert not mine.heard(10.0, news())
    assert mine.state.until == 15.0
    mine.look(15.0, is_used=True, has_coordinator=True)
    assert not mine.over
    mine.look(15.001, is_used=True, has_coordinator=True)
    assert mine.over == "its lease could not be renewed"


@pytest.mark.parametrize("began", [12.0, 14.9])
def test_a_database_that_is_down_prolongs_the_lease_and_one_that_is_silent_does_not(began):
    silent, down = lease(), lease()
    for mine in (silent, down):
        mine.heard(10.0, news())
    silent.failed(began, began + 0.1, is_down=False)
    down.failed(began, began + 0.1, is_down=True)
    assert silent.state.until == 15.0
    assert down.state.until == max(15.0, began + PROOF_SHARE * LEASE_S)


def test_a_machine_without_a_lease_gets_none_from_a_database_that_is_down():
    mine = lease()
    mine.failed(3.0, 3.1, is_down=True)
    assert mine.state.until == 0.0
    mine.look(60.0, is_used=True, has_coordinator=False)
    assert not mine.over


def test_only_who_renewed_for_a_lease_without_a_break_may_declare_others_lost():
    mine = lease(now=100.0)
    assert not mine.may_declare(105.0)
    assert mine.may_declare(105.1)
    mine.failed(106.0, 107.0, is_down=False)
    assert not mine.may_declare(112.0)
    assert mine.may_declare(112.1)


def test_who_is_declared_lost_or_replaced_ends():
    mine = lease()
    assert not mine.heard(1.0, None)
    assert "declared lost" in mine.over
    assert mine.next_renewal_s(None) == 0.0


def test_lost_machines_are_remembered_and_avoided_for_a_while():
    mine = lease()
    mine.heard(10.0, news(neighbour("b", is_lost=True)))
    mine.heard(12.0, news())
    assert set(mine.state.lost) == {"b"}
    assert mine.state.avoided(10.0 + AVOIDED_S - 0.1) == {"node-b"}
    assert mine.state.avoided(10.0 + AVOIDED_S) == set()


def test_a_machine_that_left_or_was_lost_has_gone_and_one_that_was_not_heard_of_yet_has_not():
    mine = lease()
    mine.heard(10.0, news(neighbour("b"), neighbour("c", is_lost=True)))
    assert not mine.state.has_gone("b", 5.0)
    assert mine.state.has_gone("c", 20.0)
    assert mine.state.has_gone("d", 9.9)
    assert not mine.state.has_gone("d", 10.0), "it may have come after that"
    assert not mine.state.has_gone("", 0.0)
    mine.failed(12.0, 12.1, is_down=True)
    assert not mine.state.has_gone("d", 10.0), "nothing was heard since"
    mine.heard(13.0, news())
    assert mine.state.has_gone("b", 12.0)
    assert mine.state.machines == {"a": "node-a"}


@pytest.mark.parametrize(
    ("others", "home", "homeless"),
    [
        ([neighbour("b")], "b", False),
        ([neighbour("b", is_lost=True)], "b", True),
        ([], "b", True),
        ([], "a", False),
    ],
)
def test_a_home_that_is_lost_is_to_be_replaced(others, home, homeless):
    mine = lease()
    assert mine.heard(1.0, news(*others, home=home)) is homeless
    driver = lease(is_lasting=False)
    assert not driver.heard(1.0, news(*others, home=home))
    assert ("machine of the driver" in driver.over) is homeless


def test_a_cluster_without_any_home_has_ended():
    mine = lease()
    assert not mine.heard(1.0, news(home=""))
    assert mine.over == "the cluster has ended"


def test_the_next_renewal_is_a_third_of_a_lease_away_or_when_a_machine_may_be_lost():
    mine = lease()
    assert mine.next_renewal_s(news()) == pytest.approx(LEASE_S / 3)
    assert mine.next_renewal_s(news(neighbour("b", left_s=0.7))) == 0.7
    assert mine.next_renewal_s(news(neighbour("b", left_s=-3.0))) == 0.2
    assert mine.next_renewal_s(news(neighbour("b", is_lost=True, left_s=-3.0))) == pytest.approx(LEASE_S / 3)


def test_a_keeper_ends_when_nothing_has_run_here_for_two_leases():
    mine = lease()
    mine.look(5.0, is_used=True, has_coordinator=False)
    mine.look(5.0 + IDLE_LEASES * LEASE_S, is_used=False, has_coordinator=False)
    assert not mine.over
    mine.look(5.1 + IDLE_LEASES * LEASE_S, is_used=False, has_coordinator=False)
    assert mine.over == "nothing runs here"


def at_home(is_lasting, seen):
    mine = lease(is_lasting=is_lasting)
    renew(mine, 0.0)
    mine.look(1.0, True, seen)
    return mine


def renew(mine, now):
    mine.heard(now, news())


def test_a_coordinator_that_is_gone_is_missing_after_a_while():
    mine = at_home(is_lasting=True, seen=True)
    for now in (2.0, 2.0 + MISSING_S):
        renew(mine, now)
        mine.look(now, True, False)
        assert not mine.state.coordinator_is_missing
    mine.look(2.1 + MISSING_S, True, False)
    assert mine.state.coordinator_is_missing
    mine.look(2.2 + MISSING_S, True, True)
    assert not mine.state.coordinator_is_missing


def test_a_cluster_whose_first_coordinator_never_starts_ends():
    mine = at_home(is_lasting=True, seen=False)
    renew(mine, 1.0 + START_S)
    mine.look(1.0 + START_S, True, False)
    assert not mine.over
    mine.look(1.1 + START_S, True, False)
    assert mine.over
    assert mine.ends_cluster


def test_without_a_coordinator_for_long_a_lasting_cluster_ends_and_one_of_a_driver_soon():
    lasting, driver = at_home(True, True), at_home(False, True)
    for mine, most_s in ((lasting, NONE_S), (driver, GONE_S)):
        mine.look(2.0, True, False)
        renew(mine, 2.0 + most_s)
        mine.look(2.0 + most_s, True, False)
        assert not mine.over
        mine.look(2.1 + most_s, True, False)
        assert mine.over
    assert lasting.ends_cluster
    assert not driver.ends_cluster


def test_who_becomes_the_home_has_to_have_a_coordinator_at_once():
    mine = lease()
    assert mine.heard(1.0, news(home="b"))
    mine.became_home()
    assert mine.state.home == "a"
    assert mine.state.coordinator_is_missing


def test_a_keeper_ends_with_the_last_that_ran_on_a_machine_that_will_be_taken_away():
    mine = lease()
    assert not mine.heard(1.0, news(neighbour("b"), home="b"))
    mine.look(1.5, is_used=True, has_coordinator=False, is_drained=True)
    assert not mine.over
    mine.look(2.5, is_used=False, has_coordinator=False, is_drained=True)
    assert mine.over == "nothing runs here"


def test_who_is_handed_the_home_has_to_have_a_coordinator_at_once():
    mine = lease()
    assert not mine.heard(1.0, news(neighbour("b"), home="b"))
    assert not mine.heard(2.0, news(neighbour("b"), home="a"))
    assert mine.state.coordinator_is_missing


def test_the_first_home_has_time_to_start_its_coordinator():
    mine = lease()
    assert not mine.heard(1.0, news(home="a"))
    assert not mine.state.coordinator_is_missing


# together


@dataclass
class Played:
    """A keeper in a run with steps of time, and when it was last at work."""

    lease: MachineLease
    is_cut: bool = False
    next_s: float = 0.0
    ended_at: float | None = None
    declared: list = field(default_factory=list)


EVENTS = st.lists(
    st.tuples(
        st.floats(0.05, 4.0),
        st.sampled_from(["cut a", "cut b", "cut c", "heal", "store down", "store up"]),
    ),
    max_size=25,
)


@given(EVENTS)
def test_no_machine_is_declared_lost_while_it_may_work(events):
    """Whatever is cut, healed, stopped and started: who is declared lost has ended before, and for good."""
    now, is_down = 0.0, False
    rows = MemoryMachines(lambda: now)
    played = {id: Played(lease(id)) for id in "abc"}
    rows.home = "a"
    for id in played:
        rows.enter(id, f"host-{id}", f"node-{id}", LEASE_S)
    for pause_s, event in [*events, (20.0, "heal")]:
        end = now + pause_s
        while now < end:
            for id, each in played.items():
                _step(id, each, rows, now, is_down)
            lost = {id for id, row in rows._rows.items() if row.is_lost}
            working = {id for id, each in played.items() if each.ended_at is None}
            assert not lost & working, f"{lost & working} at {now}"
            now += 0.05
        match event.split():
            case ["cut", id]:
                played[id].is_cut = True
            case ["heal"]:
                for each in played.values():
                    each.is_cut = False
            case ["store", state]:
                is_down = state == "down"


def _step(id, each, rows, now, is_down):
    mine = each.lease
    if each.ended_at is not None:
        return
    mine.look(now, is_used=True, has_coordinator=True)
    if mine.over:
        each.ended_at = now
    elif now >= each.next_s:
        if each.is_cut or is_down:
            mine.failed(now, now, is_down and not each.is_cut)
            each.next_s = now + 0.2
        else:
            found = rows.renew(id, mine.may_declare(now))
            mine.heard(now, found)
            each.next_s = now + mine.next_renewal_s(found)
