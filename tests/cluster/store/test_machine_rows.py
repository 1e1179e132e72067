"""The rows of machines in PostgreSQL and in memory keep one contract."""

from __future__ import annotations

from functools import partial

import pytest

from podium.cluster.store.memory.machines import MemoryMachines
from podium.cluster.store.postgres.connecting import translated
from podium.cluster.store.postgres.machines import Machines, Member
from podium.cluster.store.postgres.tables import prepare
from podium.supervisors.upkeep.machine_lease import GRACE_SHARE
from tests.support import postgres

LEASE_S = 50.0
"""Long, so that real time does not matter: time is made to pass."""


class InMemory:
    def __init__(self):
        self.now = 0.0
        self.rows = MemoryMachines(lambda: self.now)
        self.renew, self.take_home, self.leave = self.rows.renew, self.rows.take_home, self.rows.leave

    def begin(self, home):
        self.enter(home)
        self.rows.home = home

    def enter(self, id):
        self.rows.enter(id, f"host-{id}", f"node-{id}", LEASE_S)

    def pass_time(self, seconds):
        self.now += seconds


class InPostgres:
    def __init__(self, database, db):
        self.database, self.db, self.machines = database, db, Machines(database)
        self.leave, self.renew = partial(self.machines.leave, db), partial(self.machines.renew, db)

    def begin(self, home):
        self.generation = self.machines.begin(self.db, self.member(home), {"kind": "ray"}, lambda _claim: False)

    def member(self, id):
        return Member(id, f"host-{id}", f"node-{id}", LEASE_S)

    def enter(self, id):
        self.machines.enter(self.db, self.member(id), self.generation)

    def take_home(self, id, lost):
        return self.machines.take_home(self.db, id, lost, self.generation)

    def pass_time(self, seconds):
        self.db.execute(
            f'UPDATE "{self.database.schema}".machines SET until = until - make_interval(secs => {seconds})'.encode()
        )


@pytest.fixture(params=["memory", "postgres"])
def rows(request):
    if request.param == "memory":
        yield InMemory()
        return
    database = postgres.new_database()
    with translated("*", database), database.connect() as db:
        prepare(db, database)
        yield InPostgres(database, db)
    postgres.drop(database)


def seen(news):
    return news.home, [(each.id, each.host, each.node, each.is_lost) for each in news.machines]


def test_a_machine_is_seen_with_the_time_that_it_has_left(rows):
    rows.begin("a")
    rows.enter("b")
    rows.pass_time(10)
    news = rows.renew("a", False)
    assert seen(news) == ("a", [("a", "host-a", "node-a", False), ("b", "host-b", "node-b", False)])
    left = {each.id: each.left_s for each in news.machines}
    assert left["b"] == pytest.approx(LEASE_S * (1 + GRACE_SHARE) - 10, abs=5)


@pytest.mark.parametrize("may_declare", [True, False])
def test_only_who_may_declares_a_machine_lost_and_not_before_its_grace_is_over(rows, may_declare):
    rows.begin("a")
    rows.enter("b")
    rows.pass_time(LEASE_S * (1 + GRACE_SHARE) - 5)
    assert seen(rows.renew("a", may_declare))[1][1][3] is False
    rows.pass_time(10)
    assert seen(rows.renew("a", may_declare))[1][1][3] is may_declare


def test_a_machine_that_is_lost_renews_no_more_and_does_not_leave(rows):
    rows.begin("a")
    rows.enter("b")
    rows.pass_time(2 * LEASE_S)
    rows.renew("a", True)
    assert rows.renew("b", True) is None
    rows.leave("b")
    rows.enter("b")
    assert rows.renew("b", True) is None
    assert seen(rows.renew("a", True))[1][1] == ("b", "host-b", "node-b", True)


def test_nobody_declares_itself_lost_however_late_it_is(rows):
    rows.begin("a")
    rows.pass_time(3 * LEASE_S)
    assert seen(rows.renew("a", True)) == ("a", [("a", "host-a", "node-a", False)])


def test_a_machine_that_left_is_not_there_any_more(rows):
    rows.begin("a")
    rows.enter("b")
    rows.leave("b")
    rows.leave("never was")
    assert seen(rows.renew("a", True)) == ("a", [("a", "host-a", "node-a", False)])
    assert rows.renew("b", True) is None


def test_one_machine_alone_becomes_the_home_instead_of_one_that_is_lost(rows):
    rows.begin("a")
    rows.enter("b")
    rows.enter("c")
    assert rows.take_home("b", "a")
    assert not rows.take_home("c", "a")
    assert seen(rows.renew("c", False))[0] == "b"
