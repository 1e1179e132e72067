"""What tests write into journals, and how they wait for it."""

from __future__ import annotations

import asyncio

from podium.protocols.outcomes import TaskRecord
from podium.protocols.values import pack
from podium.supervisors.ports.journal import Closing, Entry


def record(id="t-1", **changes):
    facts = {
        "task_id": id, "workflow": "w", "version": "1", "hash": "h", "input": {"n": 1}, "user": "u", "priority": 0,
        "key": None, "status": "pending", "accepted_at": 100.0,
    }  # fmt: skip
    return TaskRecord(**{**facts, **changes})


async def durable(journal, *changes):
    done = asyncio.get_running_loop().create_future()
    journal.write(list(changes), lambda: done.set_result(None))
    await asyncio.wait_for(done, 30)


async def found(journal, ids=(), keys=()):
    done = asyncio.get_running_loop().create_future()
    journal.on_failure = done.set_exception
    journal.find(list(ids), list(keys), done.set_result)
    return await asyncio.wait_for(done, 30)


def ended(id, at, *, result=None):
    return Entry(id, 1, b"e", Closing("completed", at, pack(result), None))
