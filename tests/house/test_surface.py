"""Drivers find the same in synchronous and in async code, and see what an object is when they print it."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

import podium
from podium import AsyncEngine, AsyncTask, Engine, Sequence, Task, Workflow
from podium.errors import EngineClosed, TaskCancelled, TaskFailed, WaitTimedOut
from tests import sample

ONE_SIDED = {
    (Task, "timed_out"): "for the command line, which waits by itself",
    (Task, "record"): "deprecated; a property of an `AsyncTask` would read a file on the caller's event loop",
    (Task, "status"): "as `record`",
    (Task, "request_state"): "as `record`",
    (AsyncEngine, "submit_to"): "for gateways, which are async",
    (AsyncEngine, "definitions"): "for gateways",
    (AsyncEngine, "ask_workflow"): "for gateways",
    (AsyncEngine, "core"): "for gateways",
}
"""What only one side has, and why."""
TWO = Workflow("two", Sequence(sample.add, sample.plain))
HELD = Workflow("held", Sequence(sample.slow))
BROKEN = Workflow("broken", Sequence(sample.fail))


def names_of(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_") and (cls, name) not in ONE_SIDED}


@pytest.mark.parametrize(("sync", "other"), [(Engine, AsyncEngine), (Task, AsyncTask)])
def test_both_sides_have_the_same_names_with_the_same_parameters(sync, other):
    assert names_of(sync) == names_of(other)
    for name in names_of(sync):
        ours, theirs = inspect.getattr_static(sync, name), inspect.getattr_static(other, name)
        assert isinstance(ours, property) == isinstance(theirs, property), name
        if not isinstance(ours, property):
            assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name


def test_each_exception_is_one():
    for cls, name in ONE_SIDED:
        pair = {Engine: AsyncEngine, AsyncEngine: Engine, Task: AsyncTask, AsyncTask: Task}
        assert hasattr(cls, name) and not hasattr(pair[cls], name), name


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {"cluster": "inprocess", "data": "there"}


def test_a_task_says_what_is_known_of_it_and_reads_nothing_for_that(place, monkeypatch):
    with podium.connect(**place) as engine:
        task = engine.submit(HELD, {"s": 60})
        assert repr(task) == f"<task {task.id} of held: open>"
        assert not task.done() and not task.wait(0.01)
        seen = task.read_status()
        monkeypatch.setattr(type(engine._core), "record", None)
        assert repr(task) == f"<task {task.id} of held: {seen}>"
        assert task.cancel() == "cancelled"
        assert task.wait(30) and task.done()
        assert repr(task) == f"<task {task.id} of held: cancelled>"
        with pytest.raises(TaskCancelled):
            task.result()


def test_the_properties_of_a_task_that_read_files_say_what_to_write_instead(place):
    with podium.connect(**place) as engine:
        task = engine.submit(TWO, {"n": 11})
        task.wait()
        for name in ("record", "status", "request_state"):
            with pytest.warns(DeprecationWarning, match=rf"use `task\.read_{name}\(\)` instead") as told:
                assert getattr(task, name) == getattr(task, f"read_{name}")()
            assert told[0].filename == __file__


def test_a_task_that_is_found_has_the_status_under_which_it_was_found(place):
    with podium.connect(**place) as engine:
        id = engine.submit(TWO, {"n": 4}).id
        engine.task(id).wait()
        assert repr(engine.task(id)) == repr(engine.tasks()[0]) == f"<task {id} of two: completed>"


def test_waiting_for_a_task_of_a_closed_engine_does_not_say_that_it_ended(place):
    with podium.connect(**place) as engine:
        task = engine.submit(HELD, {"s": 60})
    with pytest.raises(EngineClosed):
        task.wait(30)


def test_an_engine_says_where_its_cluster_is_and_how_it_stands_with_it(place):
    with podium.connect(**place) as engine:
        assert repr(engine) == "<engine there, inprocess, started here>"
    assert repr(engine) == "<engine there, inprocess, closed>"


def test_an_async_engine_says_so_too(place):
    async def scene():
        engine = podium.connect_async(**place)
        assert repr(engine) == "<async engine there, inprocess, not open>"
        async with engine:
            assert repr(engine) == "<async engine there, inprocess, started here>"
        assert repr(engine) == "<async engine there, inprocess, closed>"

    asyncio.run(scene())


def test_awaiting_a_task_gives_its_result(place):
    async def scene():
        async with podium.connect_async(**place) as engine:
            tasks = await engine.submit_many(TWO, [{"n": 1}, {"n": 7}])
            assert await tasks[0] == await tasks[0].result() == {"n": 3}
            assert await asyncio.gather(*tasks) == [{"n": 3}, {"n": 9}]
            assert await asyncio.wait_for(await engine.submit(TWO, {"n": 2}), 30) == {"n": 4}
            with pytest.raises(TaskFailed):
                await (await engine.submit(BROKEN, {"n": 2}))

    asyncio.run(scene())


def test_giving_up_waiting_for_a_task_leaves_it_as_it_is(place):
    async def scene():
        async with podium.connect_async(**place) as engine:
            task = await engine.submit(HELD, {"s": 60})
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.05)
            assert not task.done() and not await task.wait(0.01)
            await task.cancel()
            assert await task.wait(30) and task.done()

    asyncio.run(scene())


class Watched:
    """A reader that notes in which thread it is asked."""

    def __init__(self, reader):
        self._reader, self.asked, self.here = reader, [], []

    def __getattr__(self, name):
        self.asked.append(name)
        if threading.current_thread() is threading.main_thread():
            self.here.append(name)
        return getattr(self._reader, name)


def test_an_async_engine_reads_no_journal_on_the_event_loop_of_its_caller(place):
    async def scene():
        async with podium.connect_async(**place) as engine:
            watched = engine.core._session.reader = Watched(engine.core.reader)
            bad = await engine.submit(BROKEN, {"n": 2})
            assert await bad.wait(30)
            found = await engine.task(bad.id)
            assert [task.id for task in await engine.tasks()] == [bad.id]
            assert [event.kind async for event in found.events()][-1] == "failed"
            assert await found.wait(30) and await found.cancel() == "failed"
            assert (await found.read_record()).status == await found.read_status() == "failed"
            assert await found.read_request_state() is None
            assert [each.name for each in await engine.workflows()] == ["broken"]
            (letter,) = await engine.dead_letters()
            (again,) = await engine.redrive([letter.id])
            assert await again.wait(30)
            await engine.drop([again.id])
            held = await engine.submit(HELD, {"s": 60})
            with pytest.raises(WaitTimedOut):
                await (await engine.task(held.id)).result(0.05)
            return watched

    watched = asyncio.run(scene())
    assert {"find_task", "list_tasks", "dead_letters", "definitions", "blocked"} <= set(watched.asked)
    assert watched.here == []


def test_what_is_read_before_an_async_engine_is_open_or_when_it_is_closed_says_so(place):
    async def scene():
        engine = podium.connect_async(**place)
        with pytest.raises(EngineClosed, match="not open yet"):
            await engine.tasks()
        async with engine:
            assert await engine.tasks() == []
        with pytest.raises(EngineClosed):
            await engine.tasks()

    asyncio.run(scene())
