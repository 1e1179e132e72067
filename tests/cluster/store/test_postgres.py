"""What only PostgreSQL can show: the fence, connections that are lost at every moment, errors that say what to do."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

import podium
from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.lease import Lease
from podium.cluster.store.postgres.reading import PostgresReader
from podium.cluster.store.postgres.schema import lock_key, quoted
from podium.protocols.errors import DataInUse, Fenced, JournalCorrupt, JournalFailed
from podium.supervisors.ports.journal import Entry, Forget, NewTask, Note, Standing
from tests.support import postgres
from tests.support.journals import durable, found, record


@pytest.fixture
def database():
    database = postgres.new_database(timeout_s=5)
    yield database
    postgres.drop(database)


@pytest.fixture
def admin(database):
    with psycopg.connect(database.url, autocommit=True) as db:
        yield db


def cut(admin, *journals):
    """End the backends of the journals, as an administrator or a failing network does."""
    for journal in journals:
        admin.execute("SELECT pg_terminate_backend(%s)", (journal._connection.info.backend_pid,))


async def failure_of(journal, *changes):
    failed = asyncio.get_running_loop().create_future()
    journal.on_failure = failed.set_result
    journal.write(list(changes), lambda: failed.set_exception(AssertionError("acknowledged")))
    return await asyncio.wait_for(failed, 10)


def test_an_owner_that_was_replaced_changes_nothing_any_more(database, tmp_path):
    async def work():
        old = await PostgresJournal(database, tmp_path, "w").open()
        await durable(old, NewTask(record("t-1"), "d"), Note("a", 1))
        new = await PostgresJournal(database, tmp_path, "w").open()
        changes = [NewTask(record("t-2"), "d"), Entry("t-1", 1, b"x"), Note("a", 2), Standing("t-1", "running")]
        error = await failure_of(old, *changes)
        assert isinstance(error, Fenced) and (error.epoch, error.newer) == (1, 2)
        assert [task.record.task_id for task in await new.open_tasks()] == ["t-1"]
        assert (await new.open_tasks())[0].record.status == "pending"
        assert await new.notes() == {"a": 1}
        await new.close()

    asyncio.run(work())


def test_a_replaced_owner_learns_it_by_reading_too(database, tmp_path):
    async def work():
        old = await PostgresJournal(database, tmp_path, "w").open()
        new = await PostgresJournal(database, tmp_path, "w").open()
        with pytest.raises(Fenced):
            await found(old, ["t-1"])
        await new.close()

    asyncio.run(work())


def test_a_commit_waits_for_the_end_of_a_take_over_and_is_refused_then(database, tmp_path, admin):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        admin.execute("BEGIN")
        admin.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(database.schema, "w"),))
        refused = asyncio.ensure_future(failure_of(journal, NewTask(record("t-1"), "d")))
        await asyncio.to_thread(wait_for_a_waiting_backend, database)
        admin.execute(f"UPDATE {quoted(database.schema)}.shards SET epoch = 9 WHERE shard = 'w'")
        admin.execute("COMMIT")
        assert isinstance(await refused, Fenced)
        assert PostgresReader(database).find_task("t-1") is None

    asyncio.run(work())


def wait_for_a_waiting_backend(database):
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'"
    with psycopg.connect(database.url, autocommit=True) as db:
        while db.execute(query).fetchone() == (0,):
            pass


class Cut(PostgresJournal):
    """A journal whose connection is lost before, within or after the commit of the next batch that writes."""

    moment = ""

    def _attempt(self, batch):
        moment, self.moment = self.moment, "" if any(work.changes for work in batch) else self.moment
        if moment != self.moment and moment != "after":
            self._connection.close()
        rows = super()._attempt(batch)
        if moment != self.moment:
            self._connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return rows


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "changes",
    [
        [NewTask(record("t-2"), "d")],
        [Entry("t-1", 2, b"two"), Note("a", 2)],
        [Note("a", 2), Standing("t-1", "running")],
        [NewTask(record("t-2", status="failed", finished_at=1.0), "d"), Note("a", 2)],
    ],
)
def test_a_commit_over_a_lost_connection_is_made_once(database, tmp_path, moment, changes):
    async def work():
        journal = await Cut(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1"), "d"), Entry("t-1", 1, b"one"), Note("a", 1))
        journal.moment = moment
        await durable(journal, *changes)
        await durable(journal, Note("b", 1))
        assert journal.epoch == 1
        await journal.close()

    asyncio.run(work())
    with psycopg.connect(database.url) as db:
        at = quoted(database.schema)
        ids = {change.record.task_id for change in changes if isinstance(change, NewTask)} | {"t-1"}
        assert {id for (id,) in db.execute(f"SELECT id FROM {at}.tasks")} == ids
        entries = 1 + sum(isinstance(change, Entry) for change in changes)
        assert db.execute(f"SELECT count(*) FROM {at}.entries").fetchone() == (entries,)
        assert db.execute(f"SELECT epoch, line FROM {at}.shards").fetchone() == (1, 2)


def test_a_query_is_answered_although_the_connection_is_lost(database, tmp_path):
    async def work():
        journal = await Cut(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1", key="k"), "d"))
        for moment in ("before", "after"):
            journal.moment = moment
            wrote = durable(journal, Note("a", moment))
            (task,), _ = await asyncio.gather(found(journal, keys=[("u", "k")]), wrote)
            assert task.record.task_id == "t-1"
        await journal.close()

    asyncio.run(work())


def test_what_was_sent_over_a_lost_connection_and_is_late_changes_nothing(database, tmp_path, admin):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1"), "d"), Note("a", 1))
        late = journal._writing.statements(journal._fence, [Note("a", "late"), NewTask(record("t-9"), "d")])
        cut(admin, journal)
        await durable(journal, Note("a", 2))
        for statement in late:
            admin.execute(statement.sql, statement.parameters)
        assert await journal.notes() == {"a": 2}
        assert [task.record.task_id for task in await journal.open_tasks()] == ["t-1"]
        await journal.close()

    asyncio.run(work())


def test_while_the_database_is_away_changes_wait_and_nothing_is_lost(database, tmp_path):
    server = postgres.stoppable()

    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        await durable(journal, *[NewTask(record(f"t-{n}"), "d") for n in range(10)])
        server.stop()
        writing = [asyncio.ensure_future(durable(journal, Entry(f"t-{n}", 1, b"x"))) for n in range(10)]
        while not journal.is_away:
            await asyncio.sleep(0.01)
        assert not any(each.done() for each in writing)
        await asyncio.to_thread(server.start)
        await asyncio.gather(*writing)
        assert not journal.is_away
        assert [task.bodies for task in await journal.open_tasks()] == [[b"x"]] * 10
        await journal.close()

    asyncio.run(work())


def test_a_dead_actor_waits_for_no_database(database, tmp_path):
    server = postgres.stoppable()

    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        server.stop()
        journal.write([Note("a", 1)])
        while not journal.is_away:
            await asyncio.sleep(0.01)
        journal.let_go()
        await asyncio.wait_for(asyncio.to_thread(journal._thread.join), 10)

    try:
        asyncio.run(work())
    finally:
        server.start()


@pytest.mark.parametrize("lost", ["the last entry", "the last task"])
def test_an_older_copy_of_the_database_is_noticed_after_a_reconnection(database, tmp_path, admin, lost):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1"), "d"))
        if lost == "the last entry":
            await durable(journal, Entry("t-1", 1, b"x"))
        admin.execute(f"DELETE FROM {quoted(database.schema)}.{'entries' if 'entry' in lost else 'tasks'}")
        cut(admin, journal)
        error = await failure_of(journal, Note("a", 1))
        assert isinstance(error, JournalCorrupt) and "was acknowledged and is gone" in error.problem

    asyncio.run(work())


def test_a_task_that_was_forgotten_is_not_missed(database, tmp_path, admin):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1", status="failed", finished_at=1.0), "d"))
        admin.execute(f"UPDATE {quoted(database.schema)}.tasks SET finished_at = 1.0")
        await durable(journal, Forget("t-1"))
        cut(admin, journal)
        await durable(journal, Note("a", 1))
        await journal.close()

    asyncio.run(work())


def test_many_that_take_a_shard_over_at_once_get_an_epoch_each(database, tmp_path):
    async def work():
        journals = await asyncio.gather(*[PostgresJournal(database, tmp_path, "w").open() for _ in range(8)])
        assert sorted(journal.epoch for journal in journals) == list(range(1, 9))
        await asyncio.gather(*[journal.close() for journal in journals])

    asyncio.run(work())


def test_installations_with_different_schemas_share_nothing(database, tmp_path):
    other = Database(database.url, database.schema + "_b")

    async def work():
        one, two = [await PostgresJournal(each, tmp_path, "w").open() for each in (database, other)]
        await durable(one, NewTask(record("t-1", key="k"), "d"))
        await durable(two, NewTask(record("t-1", key="k"), "d"), Note("a", 1))
        assert (one.epoch, two.epoch) == (1, 1)
        assert await one.notes() == {}
        for journal in (one, two):
            await journal.close()

    try:
        asyncio.run(work())
    finally:
        postgres.drop(other)


def refusal(database, tmp_path):
    async def work():
        with pytest.raises(JournalFailed) as refused:
            await PostgresJournal(database, tmp_path, "w").open()
        return str(refused.value)

    return asyncio.run(work())


def test_a_role_that_may_make_no_tables_is_told_so(database, tmp_path, admin):
    admin.execute("DROP ROLE IF EXISTS podium_meek")
    admin.execute("CREATE ROLE podium_meek LOGIN")
    admin.execute(f"REVOKE CREATE ON DATABASE {quoted(admin.info.dbname)} FROM PUBLIC")
    meek = Database(with_user(database.url, "podium_meek"), database.schema, 5)
    assert "make the tables once with a role that may" in refusal(meek, tmp_path)
    at = quoted(database.schema)

    async def made():
        await (await PostgresJournal(database, tmp_path, "w").open()).close()

    asyncio.run(made())
    admin.execute(f"GRANT USAGE ON SCHEMA {at} TO podium_meek")
    admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {at} TO podium_meek")

    async def work():
        journal = await PostgresJournal(meek, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1"), "d"), Entry("t-1", 1, b"x"), Note("a", 1))
        await journal.close()

    asyncio.run(work())
    admin.execute(f"DROP SCHEMA {at} CASCADE")
    admin.execute("DROP ROLE podium_meek")


def with_user(url, user):
    facts = psycopg.conninfo.conninfo_to_dict(url)
    return f"postgresql://{user}@/{facts['dbname']}?host={facts['host']}"


def test_a_database_that_is_not_there_is_told_so(database, tmp_path):
    facts = psycopg.conninfo.conninfo_to_dict(database.url)
    none = Database(f"postgresql://postgres@/no_such?host={facts['host']}", timeout_s=0.2)
    assert "create the database or the role first" in refusal(none, tmp_path)


def test_a_server_that_is_not_there_is_waited_for_and_then_told(tmp_path):
    text = refusal(Database("postgresql://somebody:secret@127.0.0.1:1/x", timeout_s=0.3), tmp_path)
    assert "postgresql://127.0.0.1:1/x" in text and "secret" not in text


def test_a_read_only_database_is_told_so(database, tmp_path, admin):
    name = quoted(admin.info.dbname)
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        assert "name the primary" in refusal(database, tmp_path)
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def test_tables_of_a_later_podium_are_left_alone(database, tmp_path, admin):
    async def made():
        await (await PostgresJournal(database, tmp_path, "w").open()).close()

    asyncio.run(made())
    admin.execute(f"UPDATE {quoted(database.schema)}.format SET version = 99")
    assert "use the newer Podium" in refusal(database, tmp_path)


def test_a_damaged_record_is_noticed_and_named(database, tmp_path, admin):
    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        await durable(journal, NewTask(record("t-1"), "d"), Entry("t-1", 1, b"x"))
        admin.execute(f"UPDATE {quoted(database.schema)}.entries SET body = 'y'")
        with pytest.raises(JournalCorrupt, match="task t-1, entry 1"):
            await journal.open_tasks()
        await journal.close()

    asyncio.run(work())


def test_a_transaction_that_is_left_open_elsewhere_stops_nobody(database, tmp_path, admin):
    admin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    admin.execute("SELECT 1")

    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        for n in range(20):
            await durable(journal, NewTask(record(f"t-{n:02}"), "d"))
        await journal.close()

    asyncio.run(work())
    admin.execute("ROLLBACK")


def test_the_journal_survives_many_cuts_under_load(database, tmp_path, admin):
    """Nothing acknowledged is lost or doubled, wherever the connections are cut."""
    acknowledged = []

    async def work():
        journal = await PostgresJournal(database, tmp_path, "w").open()
        failures = []
        journal.on_failure = failures.append
        ended = threading.Event()

        def cutting():
            cut_at = 0
            with psycopg.connect(database.url, autocommit=True) as db:
                while not ended.wait(0.03):
                    if len(acknowledged) == cut_at:
                        continue  # on a busy machine it would be cut before it has done anything
                    cut_at = len(acknowledged)
                    with suppress(psycopg.OperationalError):  # it is connecting anew
                        db.execute("SELECT pg_terminate_backend(%s)", (journal._connection.info.backend_pid,))

        thread = threading.Thread(target=cutting)
        thread.start()
        try:
            for n in range(300):
                await durable(journal, NewTask(record(f"t-{n:03}"), "d"), Entry(f"t-{n:03}", 1, b"%d" % n))
                acknowledged.append(f"t-{n:03}")
        finally:
            ended.set()
            thread.join()
            assert not failures
        tasks = await journal.open_tasks()
        assert [task.record.task_id for task in tasks] == acknowledged
        assert [task.bodies for task in tasks] == [[b"%d" % n] for n in range(300)]
        await journal.close()

    asyncio.run(work())


@pytest.fixture(params=[(), ("ignore_startup_parameters = options",)], ids=["no options", "options ignored"])
def pooled(request, database):
    if shutil.which("pgbouncer") is None:
        pytest.skip("PgBouncer is not installed")
    with tempfile.TemporaryDirectory(prefix="podium-pool-") as folder:
        pooler = postgres.Pooler(Path(folder), *request.param)
        yield Database(pooler.url, database.schema, 5)
        pooler.close()


def test_behind_a_pooler_in_transaction_mode_all_is_the_same(pooled, tmp_path):
    async def work():
        journals = [await PostgresJournal(pooled, tmp_path, f"w{n}").open() for n in range(6)]
        for turn in range(30):
            writing = [
                durable(journal, NewTask(record(f"t-{turn}"), "d"), Entry(f"t-{turn}", 1, b"x"), Note("a", turn))
                for journal in journals
            ]
            await asyncio.gather(*writing)
        for journal in journals:
            assert len(await journal.open_tasks()) == 30
            assert await journal.notes() == {"a": 29}
        newer = await PostgresJournal(pooled, tmp_path, "w0").open()
        assert isinstance(await failure_of(journals[0], Note("a", 99)), Fenced)
        for journal in [newer, *journals[1:]]:
            await journal.close()

    asyncio.run(work())
    assert not pooled.is_ours(pooled.connect())
    assert len(PostgresReader(pooled).list_tasks(limit=1000)) == 180


def test_time_outs_hold_behind_a_pooler_and_without_one(database, pooled, tmp_path):
    def times_out(database):
        with psycopg.connect(database.url, autocommit=True) as holder:
            holder.execute("BEGIN")
            holder.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(database.schema, "w"),))
            return refusal(Database(database.url, database.schema, 1.5), tmp_path)

    assert "somebody holds the shard" in times_out(database)
    assert "somebody holds the shard" in times_out(pooled)


def lease_of(database, host, lease_s=15.0):
    return Lease(database, lease_s, host)


def test_one_machine_at_a_time_owns_an_installation(database):
    one, two = lease_of(database, "here boot1"), lease_of(database, "there boot1")
    one.take()
    one.take()
    with pytest.raises(DataInUse, match=r"a cluster on here \(process \d+\), whose lease ends in"):
        two.take()
    one.release()
    two.take()
    two.release()


def test_a_machine_takes_its_own_installation_back_at_once(database):
    gone, again = lease_of(database, "here boot1"), lease_of(database, "here boot1")
    gone.take()
    again.take()
    gone.release()  # it has lost the row already, and takes nothing from its successor
    with pytest.raises(DataInUse):
        lease_of(database, "there").take()
    again.release()


def test_a_lease_that_is_not_renewed_runs_out(database):
    gone, next_one = lease_of(database, "here", 0.3), lease_of(database, "there")
    gone.take()
    gone._ended.set()  # its machine has lost its power
    gone._thread.join()
    give_up_at = time.monotonic() + 10
    while True:
        try:
            next_one.take()
            break
        except DataInUse:
            assert time.monotonic() < give_up_at
    next_one.release()


def test_a_lease_is_renewed_over_a_connection_that_is_lost(database, admin):
    def until():
        return admin.execute(f"SELECT max(until) FROM {quoted(database.schema)}.machines").fetchone()[0]

    lease = lease_of(database, "here", 3)
    lease.take()
    for _ in range(2):
        before = until()
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        admin.execute(query, (f"%WITH renewed%UPDATE {quoted(database.schema)}.machines%",))
        while until() == before:
            with pytest.raises(DataInUse):
                lease_of(database, "there").take()
    lease.release()


def test_a_lease_that_was_released_can_be_taken_again_and_is_renewed(database, admin):
    def until():
        return admin.execute(f"SELECT max(until) FROM {quoted(database.schema)}.machines").fetchone()[0]

    lease = lease_of(database, "here", 0.9)
    lease.take()
    lease.release()
    lease.take()
    first = until()
    while until() == first:
        assert lease._thread.is_alive()
    lease.release()


def test_a_commit_waits_for_the_disk_whatever_the_database_says(database, tmp_path, admin):
    class Shown(PostgresJournal):
        """A journal that looks at the setting where it commits."""

        def _settle(self):
            super()._settle()
            shown.append(self._connection.execute("SHOW synchronous_commit"))

    shown = []

    async def work():
        journal = await Shown(database, tmp_path, "w").open()
        await durable(journal, Note("a", 1))
        await journal.close()
        return {cursor.fetchone()[0] for cursor in shown}

    admin.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        assert asyncio.run(work()) == {"on"}
    finally:
        admin.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


def test_an_engine_is_refused_while_another_machine_has_the_installation(database, tmp_path):
    lease = lease_of(database, "elsewhere boot")
    lease.take()
    place = {"database": database.url, "database_schema": database.schema, "cluster": "inprocess"}
    with pytest.raises(DataInUse, match="a cluster on elsewhere"):
        podium.connect(data=tmp_path, **place)
    lease.release()
    podium.connect(data=tmp_path, **place).close()
    lease.take()
    lease.release()
