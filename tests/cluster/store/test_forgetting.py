"""Forgetting in PostgreSQL: what is found, and that deleted rows which the server cannot remove are not met again."""

from __future__ import annotations

import asyncio
import random

import psycopg
import pytest

from podium.cluster.store.postgres.finished import Finished
from podium.cluster.store.postgres.journal import PostgresJournal
from podium.cluster.store.postgres.queries import LOOK_AT
from podium.protocols.values import pack
from podium.supervisors.ports.journal import Closing, Entry, Forget, NewTask
from tests.support import postgres
from tests.support.journals import durable, ended, record


@pytest.fixture
def database():
    database = postgres.new_database(timeout_s=5)
    yield database
    postgres.drop(database)


def new(n, at=None):
    return NewTask(record(f"t-{n:05}", accepted_at=float(n if at is None else at)), "d")


def end(n, at):
    return ended(f"t-{n:05}", float(at))


def ids(*numbers):
    return [f"t-{n:05}" for n in numbers]


def run(database, folder, work):
    async def opened():
        journal = await PostgresJournal(database, folder, "w").open()
        try:
            await work(journal)
        finally:
            await journal.close()

    asyncio.run(opened())


def test_a_task_that_was_open_when_it_was_passed_is_found_when_it_has_ended(database, tmp_path):
    async def work(journal):
        await durable(journal, *[new(n) for n in range(6)], end(0, 10), end(2, 10), end(5, 10))
        assert await journal.forgettable(50.0, 10) == ids(0, 2, 5)
        await durable(journal, *[Forget(id) for id in ids(0, 2, 5)])
        assert await journal.forgettable(50.0, 10) == []
        await durable(journal, end(1, 20), end(4, 70))
        assert await journal.forgettable(50.0, 10) == ids(1)
        assert await journal.forgettable(90.0, 10) == ids(1, 4)

    run(database, tmp_path, work)


def test_a_task_that_is_not_forgotten_is_found_again(database, tmp_path):
    async def work(journal):
        await durable(journal, *[new(n) for n in range(4)], *[end(n, 10) for n in range(4)])
        assert await journal.forgettable(50.0, 2) == ids(0, 1)
        await durable(journal, Forget("t-00001"))
        assert await journal.forgettable(50.0, 2) == ids(0, 2)

    run(database, tmp_path, work)


def test_a_task_with_an_earlier_id_than_those_passed_is_found(database, tmp_path):
    async def work(journal):
        await durable(journal, new(700), end(700, 710))
        assert await journal.forgettable(800.0, 5) == ids(700)
        await durable(journal, new(300, at=720), end(300, 730))
        assert await journal.forgettable(725.0, 5) == ids(700)
        assert await journal.forgettable(800.0, 5) == ids(300, 700)

    run(database, tmp_path, work)


def test_more_open_tasks_than_are_looked_at_at_once_hide_nothing(database, tmp_path):
    async def work(journal):
        last = 2 * LOOK_AT + 7
        await durable(journal, *[new(n, at=1) for n in range(last + 1)], end(last, 10))
        assert await journal.forgettable(50.0, 5) == ids(last)

    run(database, tmp_path, work)


def test_the_next_owner_finds_what_is_left(database, tmp_path):
    async def first(journal):
        await durable(journal, *[new(n) for n in range(3)], *[end(n, 10) for n in range(3)])
        assert await journal.forgettable(50.0, 1) == ids(0)
        await durable(journal, Forget("t-00000"))

    async def second(journal):
        assert await journal.forgettable(50.0, 9) == ids(1, 2)

    run(database, tmp_path, first)
    run(database, tmp_path, second)


def test_forgetting_a_task_takes_its_runs_along_and_no_others(database, tmp_path):
    async def work(journal):
        names = ["t-1", "t-1/a", "t-1/a/b", "t-1-x", "t-10", "t-2"]
        await durable(journal, *[NewTask(record(name, accepted_at=1.0), "d") for name in names])
        for name in names:
            await durable(journal, ended(name, 5.0))
        assert await journal.forgettable(9.0, 10) == sorted(names)
        await durable(journal, Forget("t-1"))
        assert await journal.forgettable(9.0, 10) == ["t-1-x", "t-10", "t-2"]
        assert await journal.finished_count() == 3

    run(database, tmp_path, work)


@pytest.mark.parametrize("seed", [3, 11, 29])
def test_the_owner_finds_what_a_look_at_every_row_finds(seed):
    """Against a model: random tasks that begin, end and are forgotten, with looks at pages of the table in between."""
    draw, finished = random.Random(seed), Finished()
    table: dict[str, tuple[float, float | None]] = {}
    for now in range(400):
        changes = []
        for _ in range(draw.randrange(4)):
            id = f"t-{now:05}{draw.randrange(1000):03}"
            changes.append(NewTask(record(id, accepted_at=float(now)), "d"))
            table[id] = (float(now), None)
        for id in [id for id, (_, at) in table.items() if at is None and draw.random() < 0.1]:
            table[id] = (table[id][0], float(now))
            changes.append(Entry(id, 1, b"e", Closing("completed", float(now), pack(None), None)))
        finished.note(changes)
        before = float(now - draw.randrange(10))
        page = None
        while page is None or (finished.look(page, before) and len(page) == 5):
            page = [(id, *table[id]) for id in sorted(table) if id >= finished.start][:5]
        due = finished.due(before, 1_000)
        assert due == sorted(id for id, (_, at) in table.items() if at is not None and at < before)
        gone = [id for id in due if draw.random() < 0.6]
        finished.note([Forget(id) for id in gone])
        for id in gone:
            del table[id]


def test_a_commit_reads_no_rows_that_were_deleted_behind_an_old_snapshot(database, tmp_path):
    """Pages read by an end of a task, and by a search for finished tasks, however many were forgotten before."""

    async def work(journal):
        with psycopg.connect(database.url, autocommit=True) as db:
            db.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            db.execute("SELECT 1")
            for start in range(0, 4_000, 500):
                numbers = range(start, start + 500)
                await durable(journal, *[new(n, at=1) for n in numbers])
                await durable(journal, *[end(n, 2) for n in numbers])
                due = await journal.forgettable(50.0, 500)
                assert due == ids(*numbers)
                await durable(journal, *[Forget(id) for id in due])
            await durable(journal, new(9_000, at=1), new(9_001, at=1))
            before = pages(journal)
            await durable(journal, end(9_000, 2))
            assert await journal.forgettable(50.0, 500) == ids(9_000)
            await durable(journal, Forget("t-09000"))
            read = pages(journal) - before
            assert 5 < read < 90, read
            db.execute("ROLLBACK")

    def pages(journal):
        row = journal._connection.execute(
            "SELECT sum(pg_stat_get_xact_blocks_fetched(c.oid)) + sum(pg_stat_get_blocks_fetched(c.oid)) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, pg_stat_force_next_flush() "
            "WHERE nspname = %s",
            (database.schema,),
        ).fetchone()
        return int(row[0])

    run(database, tmp_path, work)


def test_a_look_that_finds_nothing_to_forget_begins_behind_what_was_deleted_next_time():
    finished = Finished()
    assert not finished.look([("t-5", 40.0, 41.0), ("t-6", 42.0, None)], before=30.0)
    assert (finished.start, finished.due(99.0, 9)) == ("t-5", [])
    finished.note([NewTask(record("t-3", accepted_at=43.0), "d"), ended("t-3", 44.0)])
    assert finished.look([("t-5", 40.0, 41.0), ("t-6", 42.0, None)], before=50.0)
    assert finished.due(99.0, 9) == ["t-3", "t-5"]


def test_deletions_are_looked_up_by_the_key_before_the_first_analyze(database, tmp_path):
    async def work(journal):
        await durable(journal, *[new(n, at=1) for n in range(300)])
        with psycopg.connect(database.url, autocommit=True) as db:
            tables = db.execute(
                "SELECT count(*) FROM pg_stats WHERE schemaname = %s AND tablename = 'tasks'", (database.schema,)
            ).fetchone()
            assert tables == (0,)
            db.execute("SET enable_seqscan = on")
            statements = journal._writing.statements(journal._fence, [Forget(id) for id in ids(*range(100))])
            for statement in statements:
                plan = "\n".join(row for (row,) in db.execute("EXPLAIN " + statement.sql, statement.parameters))
                assert "Materialize" not in plan and "Join Filter" not in plan, plan

    run(database, tmp_path, work)
