"""The ResourceActor alone: messages that overtake each other."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import pytest

from podium.actors.resources import ResourceActor
from podium.supervisors.limits.permit_queue import Holder, Request, Who
from podium.supervisors.limits.throttle import Thresholds
from podium.supervisors.messages.door import with_kind
from podium.supervisors.messages.resources import ELSEWHERE, GRANTED, Acquire, Join, Release
from tests.support.ports import Ask, Hands


class Journal:
    epoch = 1

    def write(self, _changes, then=None):
        if then is not None:
            then()

    async def notes(self):
        return {}


class World(Hands):
    address = "resources"

    async def open_journal(self, _shard):
        return Journal()

    def log(self, *_said, **_fields):
        pass

    def keep_log(self, *_settings):
        pass

    def crash(self, error):
        raise error


@pytest.fixture
def resources():
    actor = ResourceActor(World())
    setup = {"limits": {"gpu": 1}, "lease_s": 30.0, "age_s": 30.0, "weights": {}, "throttle": False, "cold": True}
    asyncio.run(actor.start({**setup, "thresholds": asdict(Thresholds()), "log_bytes": 0, "log_files": 0}))
    return actor


def tell(actor, message):
    ask = Ask()
    ask.kind, *ask.payload = with_kind(message)
    actor.receive(ask)
    return ask


def wish(shard, number):
    request = Request(f"{shard}@1/{number}", Holder(shard, 1), {"gpu": 1}, 0, 0.0, number, Who(workflow=shard))
    return Acquire(*request.to_wire())


def join(actor, shard, number, *claims):
    tell(actor, Join(shard, [1, 1], 1, number, list(claims), 0, {}, None))


def test_a_wish_that_was_sent_again_is_answered_whichever_message_comes_last(resources):
    """The grant went to the message that came last. If that was the older one, nobody listened: a permit was lost."""
    join(resources, "v", 1)
    join(resources, "w", 1)
    tell(resources, wish("v", 1))
    join(resources, "w", 2)
    newer, older = tell(resources, wish("w", 5)), tell(resources, wish("w", 5))
    assert newer.answers == older.answers == []
    tell(resources, Release(["v@1/1"]))
    assert newer.answers == older.answers == [GRANTED]


@pytest.mark.parametrize("withdrawn", [0, 1])
def test_a_wish_is_withdrawn_by_any_of_its_messages(resources, withdrawn):
    join(resources, "v", 1)
    join(resources, "w", 1)
    tell(resources, wish("v", 1))
    asks = [tell(resources, wish("w", 5)) for _ in range(2)]
    asks[withdrawn].cancel()
    assert [ask.answers for ask in asks].count([ELSEWHERE]) == 1
    tell(resources, Release(["v@1/1"]))
    assert tell(resources, wish("v", 2)).answers == [GRANTED]
