"""Nothing that an async client does reads a file on the event loop of its caller."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager

import pytest

from podium import AsyncEngine, AsyncTask, Sequence, Workflow
from podium.cluster.config import load_settings
from podium.cluster.on_ray.session import GUARD_S
from podium.errors import EngineClosed, TaskFailed, WaitTimedOut
from tests import sample

OPENS = {"open", "os.listdir", "os.scandir", "sqlite3.connect"}
CLIENT = ("podium.cluster.client.", "podium.cluster.on_ray.session")
SOCKETS = "podium.cluster.on_ray.sockets"
HELD = Workflow("held_back", Sequence(sample.slow))
ADDED = Workflow("added", Sequence(sample.add))
BROKEN = Workflow("broken_down", Sequence(sample.fail))


class Guard:
    """Makes each access to a file an error while a client's code runs in the guarded thread.

    The actors of a cluster in this process are in the same thread. Their accesses are their own affair.
    """

    def __init__(self) -> None:
        self.thread: int | None = None
        self.noticed: list[str] = []
        """Accesses, also those of background work whose errors nobody sees."""

    def __call__(self, event, _args):
        if event in OPENS and threading.get_ident() == self.thread and is_of_a_client(sys._getframe(1)):
            self.noticed.append(event)
            raise AssertionError(f"{event} on the event loop")


def is_of_a_client(frame):
    """Whether a client's code is on the stack. To find the socket of an actor is to connect, and no reading."""
    modules = []
    while frame is not None:
        modules.append(frame.f_globals.get("__name__", ""))
        frame = frame.f_back
    return any(name.startswith(CLIENT) for name in modules) and SOCKETS not in modules


GUARD = Guard()
sys.addaudithook(GUARD)


class Guarded:
    """A reader that refuses to be asked in the thread of the event loop."""

    def __init__(self, reader):
        self._reader = reader

    def __getattr__(self, name):
        assert threading.get_ident() != GUARD.thread, f"the reader's {name} on the event loop"
        return getattr(self._reader, name)


@asynccontextmanager
async def guarded(engine):
    """Open the engine, and guard its files as long as it is open. To open and close it locks and writes a file."""
    async with engine:
        engine.core._session.reader = Guarded(engine.core.reader)
        GUARD.thread, GUARD.noticed = threading.get_ident(), []
        try:
            yield engine
        finally:
            GUARD.thread = None
        assert GUARD.noticed == []


@pytest.fixture
def engine(tmp_path):
    return AsyncEngine(load_settings(data=tmp_path / "there", cluster="inprocess"))


def test_the_guard_notices_what_it_is_to_notice(engine):
    async def scene():
        async with guarded(engine):
            with pytest.raises(AssertionError, match="find_task on the event loop"):
                engine.core.record("t-17")

    asyncio.run(scene())


def test_tasks_are_submitted_followed_and_looked_up_without_a_file(engine):
    async def scene():
        async with guarded(engine):
            one, two = await engine.submit_many(BROKEN, [{"n": 5}, {"n": 6}])
            with pytest.raises(TaskFailed):
                await one
            assert await two.wait(30) and two.done()
            found = await engine.task(one.id)
            assert found.done() and await found.read_status() == (await found.read_record()).status == "failed"
            assert [event.kind async for event in found.events()][-1] == "failed"
            assert await found.read_request_state() is None
            assert {task.id for task in await engine.tasks(workflow="broken_down")} == {one.id, two.id}
            assert {letter.id for letter in await engine.dead_letters()} == {one.id, two.id}
            (again,) = await engine.redrive([two.id])
            assert await again.wait(30)
            await engine.drop([again.id])
            assert repr(found) == f"<task {one.id} of broken_down: failed>"

    asyncio.run(scene())


def test_the_cluster_is_asked_and_changed_without_a_file(engine):
    async def scene():
        async with guarded(engine):
            await engine.deploy(HELD)
            assert [each.name for each in await engine.workflows()] == ["held_back"]
            assert "held_back" in (await engine.status()).workflows
            assert "llm" in await engine.set_limits(llm=4)
            held = await engine.submit(HELD, {"s": 60})
            with pytest.raises(WaitTimedOut):
                await held.result(0.05)
            assert await held.cancel() == "cancelled"
            assert await held.wait(30)
            await engine.undeploy("held_back")

    asyncio.run(scene())


def test_a_request_is_asked_without_a_file(engine):
    async def scene():
        async with guarded(engine):
            task = await engine.ask("anybody there?", type="simple_query")
            assert await task.wait(60)
            assert (await task.read_request_state()).state in ("completed", "failed")

    asyncio.run(scene())


def test_a_task_that_was_looked_up_is_done_when_it_has_ended_and_polling_is_enough_to_hear_of_it(engine):
    async def scene():
        async with guarded(engine):
            held = await engine.submit(HELD, {"s": 60})
            found = await engine.task(held.id)
            assert not found.done()
            await held.cancel()
            async with asyncio.timeout(30):
                while not found.done():
                    await asyncio.sleep(0.01)
            assert repr(found) == f"<task {held.id} of held_back: cancelled>"

    asyncio.run(scene())


def test_whoever_polls_when_the_engine_is_closed_is_told(engine):
    async def scene():
        async with engine:
            held = await engine.submit(HELD, {"s": 60})
            found = await engine.task(held.id)
        assert not found.done()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(EngineClosed):
            found.done()

    asyncio.run(scene())


def test_properties_of_async_objects_read_nothing(engine):
    names = [name for cls in (AsyncTask, AsyncEngine) for name in dir(cls) if isinstance(getattr(cls, name), property)]
    assert set(names) == {"joined", "core"}


OWNER = """
import sys, podium
with podium.connect(data=sys.argv[1], num_cpus=1):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def a_cluster(data):
    """A cluster of another process: a client that joins it watches it by the file of its owner."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, data], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert owner.stdout.readline() == b"up\n"
        yield
    finally:
        owner.communicate(timeout=60)


@pytest.mark.ray
def test_a_client_that_joined_a_cluster_on_ray_watches_it_without_a_file_on_the_loop(tmp_path):
    async def scene():
        async with guarded(AsyncEngine(load_settings(data=tmp_path / "there"))) as engine:
            assert engine.joined
            assert await (await engine.submit(ADDED, {"n": 8})).result(60) == {"n": 9}
            await asyncio.sleep(3 * GUARD_S)
            assert (await engine.status()).workflows["added"].state == "up"

    with a_cluster(tmp_path / "there"):
        asyncio.run(scene())
