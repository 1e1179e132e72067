"""Tasks that rest, and the open waits of tasks: the contract of every journal and reader, and the migration to it."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from contextlib import closing

import pytest

from podium import Sequence, Step, Wait, Workflow
from podium.cluster.store.rows import seal
from podium.cluster.store.sqlite.audit import audit
from podium.cluster.store.sqlite.schema import FORMAT, TABLES_3, shard_path
from podium.errors import JournalCorrupt
from podium.protocols.values import pack
from podium.supervisors.ports.journal import Closing, Entry, Forget, ListedWait, NewTask, Note, Rests, Standing
from tests import sample
from tests.support.journals import durable, record
from tests.support.stores import STORES, Files, Postgres

ASKS = {"shown": {"text": "a"}, "digest": "d", "answers": 0}
FOR_EVER = Rests(math.inf, 0.0)


def waiting(id, until=math.inf, *waits, over=()):
    return Standing(id, "waiting", Rests(until, 0.0), tuple(waits), tuple(over))


def wait(path="yes", name="yes", since=100.0, until=None, answers=0):
    return ListedWait(path, name, since, until, ASKS | {"answers": answers})


async def asked(journal, id):
    found = asyncio.get_running_loop().create_future()
    journal.resting_task(id, found.set_result)
    return await found


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    store = request.param(tmp_path)
    yield store
    if request.param is Postgres:
        store.drop()


def test_a_task_that_rests_is_not_read_at_the_start_but_by_its_id(store):
    async def work():
        journal = await store.open()
        await durable(
            journal, NewTask(record(), "d"), Entry("t-1", 1, b"x"), waiting("t-1"), NewTask(record("t-2"), "d")
        )
        await journal.close()
        again = await store.open()
        assert [task.record.task_id for task in await again.open_tasks()] == ["t-2"]
        found = await asked(again, "t-1")
        assert (found.task.record.status, found.task.bodies, found.rests) == ("waiting", [b"x"], FOR_EVER)
        assert await asked(again, "t-2") is None
        assert await asked(again, "none") is None
        assert await again.resting_counts() == {record().hash: 1}
        assert store.reader.open_count("w") == 2
        rest = store.reader.rest("w")
        assert (rest.awake, rest.first) == (1, None)
        await durable(again, Standing("t-1", "running"))
        assert await asked(again, "t-1") is None
        assert len(await again.open_tasks()) == 2
        await again.close()

    asyncio.run(work())


def test_tasks_are_found_in_the_order_in_which_their_rest_ends(store):
    ends = {"t-1": 300.0, "t-2": 200.0, "t-3": 200.0, "t-4": math.inf, "t-5": 500.0}

    async def work():
        journal = await store.open()
        for id, end in ends.items():
            await durable(journal, NewTask(record(id), "d"), waiting(id, end))
        first = await journal.resting(300.0, 2)
        assert [each.task_id for each in first] == ["t-2", "t-3"]
        last = first[-1]
        later = await journal.resting(1e300, 10, (last.rests.until, last.task_id))
        assert [(each.task_id, each.rests.until) for each in later] == [("t-1", 300.0), ("t-5", 500.0)]
        assert [each.task_id for each in await journal.resting(math.inf, 10)][-1] == "t-4"
        assert store.reader.rest("w").first == 200.0
        await journal.close()

    asyncio.run(work())


def test_a_task_that_ends_rests_no_more_and_one_that_is_forgotten_has_no_waits(store):
    async def work():
        journal = await store.open()
        await durable(journal, NewTask(record(), "d"), waiting("t-1", 200.0, wait()))
        end = Closing("completed", 105.0, pack(None), None)
        await durable(journal, Entry("t-1", 1, b"x", end), Standing("t-1", "completed", None, (), ("yes",)))
        assert await journal.resting(math.inf, 10) == []
        assert store.reader.rest("w").awake == 0
        assert store.reader.find_task("t-1").record.status == "completed"
        await durable(journal, NewTask(record("t-2"), "d"), waiting("t-2", 200.0, wait()))
        await durable(journal, Entry("t-2", 1, b"x", end))  # as when it is set aside, and dropped
        assert store.reader.waits() == []
        await durable(journal, Forget("t-2"))
        await journal.close()

    asyncio.run(work())


FLOW = Workflow("w", Sequence(Step(sample.echo), Wait("yes", who=("ann", "ben"), need=2, not_starter=True)))


def test_open_waits_are_listed_with_what_they_ask(store):
    root = FLOW.to_dict()["root"]

    async def work():
        journal = await store.open()
        definition = Note(f"definition:{record().hash}", {"name": "w", "root": root, "hash": record().hash})
        await durable(journal, definition, NewTask(record(), "d"), waiting("t-1", math.inf, wait(since=100.0)))
        other = wait("b", "other", 200.0, until=900.0)
        await durable(journal, NewTask(record("t-2"), "d"), Standing("t-2", "running", None, (other,)))
        newest, oldest = store.reader.waits()
        assert (newest.task_id, newest.wait, newest.node) == ("t-2", other, None)
        assert (oldest.task_id, oldest.wait, oldest.workflow, oldest.user) == ("t-1", wait(), "w", record().user)
        assert (oldest.node.who, oldest.node.need, oldest.node.not_starter) == (("ann", "ben"), 2, True)
        assert [each.task_id for each in store.reader.waits(name="yes")] == ["t-1"]
        assert [each.task_id for each in store.reader.waits(task_id="t-2")] == ["t-2"]
        assert store.reader.waits(workflow="no") == []
        assert len(store.reader.waits(limit=1)) == 1
        await durable(journal, waiting("t-1", math.inf, wait(answers=1)))
        assert store.reader.waits(task_id="t-1")[0].wait.asks["answers"] == 1
        await durable(journal, waiting("t-1", math.inf, over=["yes"]), Standing("t-2", "running", None, (), ("b",)))
        assert store.reader.waits() == []
        await journal.close()

    asyncio.run(work())


# SQLite alone


def test_a_shard_of_format_3_is_brought_to_4(tmp_path):
    path = shard_path(tmp_path, "w")
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in TABLES_3:
            db.execute(statement)
        db.execute("INSERT INTO shard VALUES (1, 0, 0, ?)", (seal(0, 0),))
        db.execute("PRAGMA user_version=3")

    async def work():
        journal = await Files(tmp_path).open()
        await durable(journal, NewTask(record(), "d"), waiting("t-1", 5.0, wait()))
        assert [each.task_id for each in await journal.resting(9.0, 1)] == ["t-1"]
        await journal.close()
        await (await Files(tmp_path).open()).close()  # its tables are those of a new shard

    asyncio.run(work())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)


@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("UPDATE tasks SET rests_until = 9e9", "task t-1, until when it rests"),
        ("UPDATE waits SET until = 7", "wait yes of task t-1"),
    ],
)
def test_a_changed_rest_or_wait_is_noticed(tmp_path, damage, place):
    async def work():
        journal = await Files(tmp_path).open()
        await durable(journal, NewTask(record(), "d"), waiting("t-1", 5.0, wait()))
        await journal.close()

    asyncio.run(work())
    with closing(sqlite3.connect(shard_path(tmp_path, "w"), isolation_level=None)) as db:
        db.execute(damage)
    with pytest.raises(JournalCorrupt, match=place):
        Files(tmp_path).reader.waits()
        Files(tmp_path).reader.rest("w")
    assert [flaw.place for flaw in audit(shard_path(tmp_path, "w"), "w").flaws] == [place]
