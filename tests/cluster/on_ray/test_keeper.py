"""The keeper of a machine: it keeps the lease, and ends our processes before the lease is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from podium.cluster.blobs.postgres import PostgresBlobs
from podium.cluster.on_ray.keeper import Keeper, shows_that_it_is_down
from podium.cluster.on_ray.machine import Machine, Membership
from podium.cluster.on_ray.machine_state import boottime
from podium.cluster.on_ray.process_locks import folder_of
from podium.cluster.store.address import StoreAddress
from podium.cluster.store.postgres.lease import begin
from podium.cluster.store.postgres.machines import Machines, Member, Taken
from podium.cluster.store.postgres.tables import prepare
from podium.errors import JournalFailed, PodiumError
from podium.supervisors.upkeep.machine_lease import GRACE_SHARE
from tests.support import postgres
from tests.support.cable import Cable

LEASE_S = 2.0
WORKER = """
import sys, time
from pathlib import Path
from podium.cluster.store import lock
lock.take(Path(sys.argv[1]), "worker", 0.0)
print("here", flush=True)
time.sleep(600)
"""


@pytest.fixture
def database():
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture
def admin(database):
    with psycopg.connect(database.url, autocommit=True) as db:
        yield db


@pytest.fixture
def here(database):
    """A machine that is the home of a lasting cluster, with a worker of ours, behind a cable."""
    with tempfile.TemporaryDirectory(prefix="podium-cable-") as folder, contextlib.ExitStack() as stack:
        made = Here(database, Path(folder))
        stack.callback(made.end)
        made.start()
        yield made


class Here:
    def __init__(self, database, folder, is_lasting=True, in_thread=False, may_be_home=True):
        """`in_thread`: the keeper is a thread of this process, so that a bug can be planted in it."""
        self.database, self.folder, self.is_lasting, self.in_thread = database, folder, is_lasting, in_thread
        self.may_be_home = may_be_home
        self.cable = Cable(folder, database.url)
        self.machines = Machines(database)
        self.workers = []

    def start(self):
        home = Member("first", "elsewhere", lease_s=LEASE_S)
        self.generation = begin(self.database, home, {"kind": "ray", "daemon": self.is_lasting}, lambda _claim: True)
        place = StoreAddress(str(self.folder), self.cable.url, self.database.schema, 5.0, LEASE_S)
        self.place, self.membership = place, Membership(self.generation, self.is_lasting)
        self.machine = Machine(self.place, self.membership, "node-here", self.may_be_home)
        self.worker("worker")
        if self.in_thread:
            self.machine.files.make()
            self.thread = Keeper(place, self.generation, "node-here", self.is_lasting)
            threading.Thread(target=self.thread.run, daemon=True).start()
        else:
            self.machine.see_to_a_keeper()
        until(lambda: self.machine.has_lease())

    def worker(self, address):
        path = folder_of(self.folder, self.generation) / address
        process = subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True)
        self.workers.append(process)
        assert process.stdout.readline() == "here\n"
        return process

    @property
    def keeper(self):
        return self.machine.look().keeper

    def end(self):
        self.machine.release()
        for process in self.workers:
            process.kill()
            process.wait()
        if self.in_thread:
            self.thread._lease.end("the test is over")
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.keeper, signal.SIGKILL)


def play(test, database):
    """Play a test of `here` with a keeper in a thread of this process."""
    with tempfile.TemporaryDirectory(prefix="podium-cable-") as folder, contextlib.ExitStack() as stack:
        made = Here(database, Path(folder), in_thread=True)
        stack.callback(made.end)
        made.start()
        test(made, database)


def until(holds, within_s=20.0):
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def rows(admin, database):
    query = f'SELECT id, host, lost FROM "{database.schema}".machines ORDER BY until'
    return admin.execute(query).fetchall()


def renewed(here, id):
    with here.database.connect() as db:
        return here.machines.renew(db, id, may_declare=True)


def test_the_lease_is_renewed_and_told_to_all_processes_here(here):
    first = here.machine.look()
    until(lambda: here.machine.look().until > first.until + LEASE_S / 4)
    assert here.machine.look().id == first.id
    assert boottime() < here.machine.look().until <= boottime() + LEASE_S


def test_when_the_keeper_dies_another_goes_on_with_the_lease(here):
    id, keeper = here.machine.id, here.keeper
    os.kill(keeper, signal.SIGKILL)
    until(lambda: here.keeper != keeper)
    until(lambda: here.machine.look().until > boottime() + LEASE_S / 2)
    assert here.machine.id == id
    assert here.workers[0].poll() is None


def test_a_keeper_that_comes_late_renews_a_lease_that_nobody_declared_lost(here):
    id, keeper = here.machine.id, here.keeper
    here.machine.release()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not here.machine.has_lease())
    again = Machine(here.place, here.membership, "node-here")
    again.see_to_a_keeper()
    here.workers[0].wait(10)  # it has run longer than its lease
    until(again.has_lease)
    assert again.id == id
    here.machine = again


def test_who_is_cut_off_is_dead_before_anybody_can_declare_the_machine_lost(here, database):
    watcher = Member("watcher", "watcher", lease_s=60)
    with database.connect() as db:
        here.machines.enter(db, watcher, here.generation)
    id = here.machine.id
    os.kill(here.worker("stopped").pid, signal.SIGSTOP)
    cut_at = time.monotonic()
    here.cable.pull()
    while here.workers[0].poll() is None or here.workers[1].poll() is None:
        lost = {each.id for each in renewed(here, "watcher").machines if each.is_lost}
        assert id not in lost, "it was declared lost while its processes lived"
        assert time.monotonic() < cut_at + LEASE_S + 0.5
    until(lambda: id in {each.id for each in renewed(here, "watcher").machines if each.is_lost})
    assert time.monotonic() - cut_at < LEASE_S * (1 + GRACE_SHARE) + 1.0


def test_a_machine_that_was_lost_comes_back_as_another(here, database):
    id = here.machine.id
    here.cable.pull()
    here.workers[0].wait(LEASE_S + 5)
    here.cable.mend()
    here.worker("worker")
    until(lambda: here.machine.has_lease())
    assert here.machine.id != id


def test_while_the_database_is_down_all_go_on(here, database, admin):
    id = here.machine.id
    here.cable.switch_off()
    give_up_at = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < give_up_at:
        assert here.workers[0].poll() is None
        assert here.machine.has_lease()
        time.sleep(0.05)
    here.cable.mend()
    until(lambda: here.machine.look().until > boottime() + LEASE_S / 2)
    assert (here.machine.id, here.workers[0].poll()) == (id, None)


def test_a_database_that_is_down_and_then_not_reached_is_no_reason_to_go_on(here):
    here.cable.switch_off()
    time.sleep(2 * LEASE_S)
    assert here.workers[0].poll() is None
    here.cable.pull()
    here.cable.mend()
    here.cable.pull()
    here.workers[0].wait(LEASE_S)


def test_another_cluster_ends_the_processes_of_this_one(here, database):
    home = Member("next", "elsewhere", lease_s=LEASE_S)
    began = time.monotonic()
    begin(database, home, {"kind": "ray"}, lambda _claim: True)
    assert here.workers[0].poll() == -signal.SIGKILL, "`begin` waits for it"
    assert time.monotonic() - began < LEASE_S * (1 + GRACE_SHARE) + 1.0
    assert "another cluster has taken over" in here.machine.look().over


def test_the_home_is_lost_and_this_machine_takes_its_place(here):
    until(lambda: here.machine.look().home == here.machine.id)
    assert here.machine.look().coordinator_is_missing
    here.worker("coordinator")
    until(lambda: not here.machine.look().coordinator_is_missing)
    os.kill(here.workers[-1].pid, signal.SIGKILL)
    here.workers[-1].wait()
    until(lambda: here.machine.look().coordinator_is_missing)


def test_a_machine_that_may_not_have_the_coordinator_never_takes_its_place(database):
    with tempfile.TemporaryDirectory(prefix="podium-cable-") as folder:
        made = Here(database, Path(folder), may_be_home=False)
        made.start()
        try:
            until(lambda: "first" in made.machine.look().lost)
            time.sleep(LEASE_S)
            state = made.machine.look()
            assert (state.home, state.coordinator_is_missing, state.over) == ("first", False, "")
            assert made.workers[0].poll() is None
            with database.connect() as db:
                assert made.machines.take_home(db, made.machine.id, "first", made.generation), "it is left to others"
        finally:
            made.end()


def test_a_cluster_that_is_not_lasting_ends_with_its_home(database):
    with tempfile.TemporaryDirectory(prefix="podium-cable-") as folder:
        made = Here(database, Path(folder), is_lasting=False)
        made.start()
        try:
            made.workers[0].wait(20)
            until(lambda: "driver" in made.machine.look().over)
        finally:
            made.end()


def test_a_cluster_that_ends_in_order_ends_what_is_left(here, database):
    with database.connect() as db:
        here.machines.end(db, here.generation)
    here.workers[0].wait(LEASE_S)
    until(lambda: here.machine.look().over == "the cluster has ended")


def test_a_keeper_with_nobody_to_keep_leaves(here, admin, database):
    here.machine.release()
    here.workers[0].kill()
    here.workers[0].wait()
    keeper = here.keeper
    until(lambda: not psutil.pid_exists(keeper), 30)
    assert "here" not in [host for _, host, _ in rows(admin, database)]


def test_the_mark_of_a_drain_holds_for_the_node_that_was_drained_alone(here, admin, database):
    """The machine may come back to Ray under another id, and its keeper must not end with each moment of rest."""
    keeper, gone = here.keeper, Machine(here.place, here.membership, "node-before")
    gone.mark_drained()
    here.workers[0].kill()
    here.workers[0].wait()
    looks_at = time.monotonic() + 2.5
    until(lambda: time.monotonic() > looks_at)
    assert psutil.pid_exists(keeper)
    here.machine.release()
    here.machine.mark_drained()
    until(lambda: not psutil.pid_exists(keeper), 4)
    assert "here" not in [host for _, host, _ in rows(admin, database)]


def test_a_keeper_that_cannot_start_says_why(database, tmp_path, monkeypatch):
    (tmp_path / "psycopg.py").write_text("raise ImportError('no psycopg on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    place = StoreAddress(str(tmp_path / "data"), database.url, database.schema, 5.0, LEASE_S)
    machine = Machine(place, Membership(1, True), "node-here")
    with pytest.raises(PodiumError, match=r"does not start: ImportError: no psycopg on this machine"):
        asyncio.run(machine.hold())
    machine.release()


def test_machines_are_told_of_once(here, database):
    told = []
    here.machine.on_lost = told.append
    with database.connect() as db:
        here.machines.enter(db, Member("third", "third", "node-third", 0.2), here.generation)
    until(lambda: here.machine.look() is not None and "node-third" in told)
    here.machine.look()
    assert told.count("node-third") == 1
    assert here.machine.avoided() >= {"node-third"}
    assert "third" in here.machine.look().lost


def test_only_one_of_two_clusters_begins(database):
    machines = Machines(database)
    with database.connect() as db:
        prepare(db, database)
        assert machines.claim(db) is None
        assert machines.begin(db, Member("a", "a"), {"kind": "ray"}, lambda _claim: False) == 1
        with pytest.raises(Taken) as taken:
            machines.begin(db, Member("b", "b"), {"kind": "ray"}, lambda _claim: False)
        assert (taken.value.claim.home, taken.value.claim.generation) == ("a", 1)
        assert machines.begin(db, Member("c", "c"), {"kind": "ray"}, lambda claim: claim.host == "a") == 2
        assert machines.renew(db, "a", may_declare=False) is None
        machines.end(db, 2)
        assert not machines.claim(db).is_alive
        assert machines.begin(db, Member("d", "d"), {"kind": "ray"}, lambda _claim: False) == 3


def test_what_was_declared_lost_renews_no_more(database):
    machines = Machines(database)
    with database.connect() as db:
        prepare(db, database)
        machines.begin(db, Member("a", "a", lease_s=0.1), {"kind": "ray"}, lambda _claim: False)
        machines.enter(db, Member("b", "b"), 1)
        time.sleep(0.2)
        assert machines.renew(db, "b", may_declare=False).machines[0].is_lost is False
        assert machines.renew(db, "a", may_declare=False) is not None, "nobody had declared it lost"
        time.sleep(0.2)
        assert machines.renew(db, "b", may_declare=True).machines[0].is_lost is True
        assert machines.renew(db, "a", may_declare=False) is None
        assert machines.take_home(db, "b", "a", 1)
        assert not machines.take_home(db, "c", "a", 1)


REFUSED = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs the server'
TIMED_OUT = 'connection to server at "10.0.0.2", port 5432 failed: timeout expired'


@pytest.mark.parametrize(
    "text, is_down",
    [
        (REFUSED, True),
        ('connection to server at "::1", port 5432 failed: FATAL:  the database system is starting up', True),
        (TIMED_OUT, False),
        (f"{REFUSED}\n{TIMED_OUT}", False),
        ('connection is bad: connection to server on socket "/a/.s.PGSQL.7" failed: Connection refused', True),
        ("server closed the connection unexpectedly", False),
        ('connection to server at "10.0.0.1", port 5432 failed: No route to host', False),
    ],
)
def test_only_a_server_that_says_so_is_down(text, is_down):
    assert shows_that_it_is_down(psycopg.OperationalError(text)) is is_down


def test_an_installation_of_the_format_before_is_migrated_unless_it_is_in_use(database, admin):
    with database.connect() as db:
        prepare(db, database)
    at = f'"{database.schema}"'
    admin.execute(f"DROP TABLE {at}.cluster; DROP TABLE {at}.machines; UPDATE {at}.format SET version = 1")
    for table in ("pieces", "contents", "blobs", "installation", "waits"):
        admin.execute(f"DROP TABLE {at}.{table}")
    admin.execute(f"DROP INDEX {at}.resting_tasks")
    for column in ("rests_until", "rests_clock", "rests_seal"):
        admin.execute(f"ALTER TABLE {at}.tasks DROP COLUMN {column} CASCADE")
    admin.execute(f"CREATE INDEX open_tasks ON {at}.tasks (shard, accepted_at, id) WHERE finished_at IS NULL")
    admin.execute(f"CREATE TABLE {at}.owner (host text, until timestamptz)")
    admin.execute(f"INSERT INTO {at}.owner VALUES ('there boot', now() + interval '1 hour')")
    with database.connect() as db:
        with pytest.raises(JournalFailed, match="a cluster of an older Podium runs on there"):
            prepare(db, database)
        admin.execute(f"UPDATE {at}.owner SET until = now()")
        prepare(db, database)
        assert Machines(database).claim(db) is None
    assert PostgresBlobs(database).size_of("0" * 64) is None, "the blob store is there, too"
