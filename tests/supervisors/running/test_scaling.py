"""The decision how many hosts a protocol has whose `replicas` are a range (scaling.py): by example and property."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from podium.supervisors.running.scaling import Change, Demand, Scaling


def demand(running=0, waiting=0, permitted=0, up=0, starting=0):
    return Demand(running, waiting, permitted, up, starting)


def test_as_many_hosts_start_at_once_as_have_steps():
    scaling = Scaling(1, 8, 4, 60)
    assert scaling.decide(0, demand(waiting=1)) == Change(start=1)
    assert scaling.decide(1, demand(running=4, waiting=9, up=1)) == Change(start=3), "13 steps, 4 at a host"
    assert scaling.decide(2, demand(running=4, waiting=9, up=1, starting=3)) == Change(), "they are on their way"
    assert scaling.decide(3, demand(running=4, waiting=500, up=1, starting=3)) == Change(start=4), "at most 8"


def test_the_least_hosts_start_without_work_and_never_end():
    scaling = Scaling(3, 5, 1, 10)
    assert scaling.decide(0, demand()) == Change(start=3)
    assert scaling.decide(1_000, demand(up=3)) == Change()


def test_a_protocol_at_rest_may_have_no_host():
    scaling = Scaling(0, 5, 2, 10)
    assert scaling.decide(0, demand()) == Change()
    assert scaling.decide(1, demand(waiting=3)) == Change(start=2)
    assert scaling.decide(2, demand(up=2)) == Change()
    assert scaling.decide(12, demand(up=2)) == Change(end=2)


def test_steps_that_wait_for_permits_count_only_as_far_as_they_could_have_them():
    scaling = Scaling(0, 9, 2, 60)
    assert scaling.decide(0, demand(permitted=0)) == Change()
    assert scaling.decide(1, demand(permitted=5)) == Change(start=3)


def test_a_host_ends_when_none_was_needed_in_place_of_it_for_the_whole_time():
    scaling = Scaling(1, 8, 1, 60)
    scaling.decide(0, demand(running=6, up=6))
    assert scaling.decide(10, demand(running=2, up=6)) == Change()
    assert scaling.decide(40, demand(running=4, up=6)) == Change(), "the 6 of a moment ago may come back"
    assert scaling.decide(59.9, demand(running=1, up=6)) == Change()
    assert scaling.decide(60, demand(running=1, up=6)) == Change(end=2), "4 were wanted 20 s ago"
    assert scaling.decide(99, demand(running=1, up=4)) == Change()
    assert scaling.decide(100, demand(running=1, up=4)) == Change(end=3)


LOADS = st.lists(
    st.tuples(st.floats(0, 30), st.integers(0, 30), st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=60
)


@given(least=st.integers(0, 4), extra=st.integers(0, 6), each=st.integers(1, 5), idle_s=st.floats(1, 50), loads=LOADS)
def test_hosts_follow_the_load_within_bounds_and_do_not_flap(least, extra, each, idle_s, loads):
    scaling = Scaling(least, least + extra or 1, each, idle_s)
    most, now, there, wanted_at = least + extra or 1, 0.0, 0, []
    for pause_s, running, waiting, permitted, come_up in loads:
        now += pause_s
        up = there if come_up else there // 2
        change = scaling.decide(now, demand(running, waiting, permitted, up, there - up))
        steps = running + waiting + permitted
        wanted = min(most, max(least, math.ceil(steps / each)))
        wanted_at.append((now, wanted))
        assert not (change.start and change.end)
        assert there + change.start >= wanted, "it grows at once"
        if change.start:
            assert there + change.start == wanted, "and to no more than have work"
        there -= change.end
        recently = max(count for at, count in wanted_at if at > now - idle_s)
        assert there >= recently or not change.end, "none ends that was wanted within the idle time"
        there += change.start
        assert not change.end or there == recently, "and all that were not end"
        assert least <= there <= most


@given(st.lists(st.integers(0, 12), min_size=2, max_size=40))
def test_a_load_that_comes_and_goes_within_the_idle_time_starts_each_host_once(loads):
    scaling, there, starts = Scaling(0, 12, 1, 100), 0, 0
    for n, steps in enumerate(loads):
        change = scaling.decide(n * 99 / len(loads), demand(waiting=steps, up=there))
        there, starts = there + change.start - change.end, starts + change.start
    assert starts == there == max(loads)
