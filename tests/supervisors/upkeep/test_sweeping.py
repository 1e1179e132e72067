"""Which blobs are swept (supervisors/upkeep/sweeping.py), alone and together with a store."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium.cluster.blobs.memory import BlobDisk, MemoryBlobs
from podium.protocols.errors import BlobMissing
from podium.supervisors.ports.blobs import Blob
from podium.supervisors.upkeep.sweeping import Sweep, pause_s, sweep_of, was_set

GRACE_S = 100.0
NOW = 10_000.0


def swept(put_ago, doomed_ago=None, named=False, clock_was_set=False):
    doomed_at = None if doomed_ago is None else NOW - doomed_ago
    blob = Blob("a", 1, NOW - put_ago, doomed_at)
    sweep = sweep_of([blob], {"a"} if named else set(), NOW, GRACE_S, clock_was_set)
    return replace(sweep, delete=[blob.name for blob in sweep.delete])


def test_what_is_named_stays():
    assert swept(1_000, named=True) == Sweep()


def test_what_nobody_names_is_doomed_after_a_grace_and_deleted_after_another():
    assert swept(99) == Sweep()
    assert swept(100) == Sweep(doom=["a"])
    assert swept(1_000, doomed_ago=99) == Sweep()
    assert swept(1_000, doomed_ago=100) == Sweep(delete=["a"])


def test_what_is_named_again_is_spared():
    assert swept(1_000, doomed_ago=1_000, named=True) == Sweep(spare=["a"])


def test_a_clock_that_was_set_starts_the_grace_anew():
    assert swept(1_000, doomed_ago=1_000, clock_was_set=True) == Sweep(doom=["a"])
    assert swept(1_000, clock_was_set=True) == Sweep(doom=["a"])
    assert swept(1_000, doomed_ago=1_000, named=True, clock_was_set=True) == Sweep(spare=["a"])


def test_a_time_that_is_still_to_come_tells_nothing():
    """The clock was ahead, and was set back: dooming is always safe, deleting is not."""
    assert swept(-3_600) == Sweep(doom=["a"])
    assert swept(1_000, doomed_ago=-3_600) == Sweep(doom=["a"])


def test_a_clock_that_drifts_was_not_set():
    assert not was_set(None, ("boot", 5.0))
    assert not was_set(("boot", 5.0), ("boot", 6.0))
    assert was_set(("boot", 5.0), ("boot", 3_605.0)) and was_set(("boot", 3_605.0), ("boot", 5.0))
    assert not was_set(("boot", 5.0), ("another", 3_605.0))


def test_there_are_several_sweeps_in_a_grace_and_one_an_hour_at_least():
    assert pause_s(100.0) == 25.0 and pause_s(1_000_000.0) == 3_600.0


class Sweeping(RuleBasedStateMachine):
    """Tasks that put contents and name them less than a grace later, tasks that are forgotten, and a sweeper that may
    stop between any two of its steps."""

    def __init__(self):
        super().__init__()
        self.now = NOW
        self.store = MemoryBlobs(BlobDisk(), lambda: self.now)
        self.given = []
        """Keys that a task was given and has not named yet, with the time."""
        self.named = {}
        """Keys that tasks name, by the number of the task."""
        self.tasks, self.held = 0, []
        self.listed = self.seen = None

    @rule(content=st.sampled_from([b"a", b"b", b"c"]))
    def put(self, content):
        self.given.append((self.store.put([content]), self.now))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def pass_on(self, data):
        """A client submits what it has from an earlier task, which may be forgotten by then, and its blob gone."""
        key = data.draw(st.sampled_from(self.held))
        with suppress(BlobMissing):
            self.given.append((self.store.renewed(key), self.now))

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def name(self, data):
        at = data.draw(st.integers(0, len(self.given) - 1))
        key, _ = self.given.pop(at)
        self.tasks += 1
        self.named[self.tasks] = key
        self.held.append(key)

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def forget(self, data):
        del self.named[data.draw(st.sampled_from(list(self.named)))]

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 99.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.given = [(key, at) for key, at in self.given if self.now - at < GRACE_S]  # the others are given up

    @rule()
    def list(self):
        self.listed, self.seen = [*self.store.listing()], None

    @precondition(lambda self: self.listed is not None and self.seen is None)
    @rule()
    def read_names(self):
        self.seen = {key.name for key in self.named.values()}

    @precondition(lambda self: self.seen is not None)
    @rule()
    def carry_out(self):
        sweep = sweep_of(self.listed, self.seen, self.now, GRACE_S)
        for name in sweep.spare:
            self.store.spare(name)
        for blob in sweep.delete:
            self.store.delete(blob.name, blob.doomed_at)
        for name in sweep.doom:
            self.store.doom(name, self.now)
        self.listed = self.seen = None

    @invariant()
    def what_is_named_is_there(self):
        for key in self.named.values():
            self.store.get(key)

    def teardown(self):
        """When all is quiet, what nobody names is gone, and the rest is not doomed."""
        self.given = []
        for _ in range(3):
            self.now += GRACE_S
            self.list()
            self.read_names()
            self.carry_out()
        left = {(blob.name, blob.doomed_at) for blob in self.store.listing()}
        assert left == {(key.name, None) for key in self.named.values()}


TestSweeping = Sweeping.TestCase
TestSweeping.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
