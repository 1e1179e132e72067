"""A nested supervisor gets every version, also one that is deployed while it starts."""

from __future__ import annotations

import asyncio

from podium.errors import PeerLost
from podium.supervisors.children.nested import NestedSupervisor
from podium.supervisors.messages.supervisor import Govern


class Line:
    """A connection that keeps what is sent."""

    def __init__(self):
        self.sent = []

    def watch(self, *_):
        pass

    def send(self, message, *_):
        self.sent.append(message)

    def lose(self, _error):
        pass

    async def ask(self, message, *_):
        self.sent.append(message)


class World:
    """A world in which a start takes until the test lets it end."""

    def __init__(self):
        self.starts, self.may_end, self.lines = [], asyncio.Event(), []

    async def spawn(self, _role, _address, setup, _needs):
        self.starts.append(setup)
        await self.may_end.wait()

    def line(self, _address):
        self.lines.append(Line())
        return self.lines[-1]

    async def stop(self, _address):
        pass


def governed(line):
    return [message.definition["hash"] for message in line.sent if isinstance(message, Govern)]


def test_a_version_that_is_deployed_while_it_starts_reaches_it():
    async def work():
        world, known = World(), ["one"]
        nested = NestedSupervisor(world, "supervisor/w/team", lambda: {"definitions": list(known)}, 30.0, None)
        await nested.deploy({"hash": "one"}, {}, True)
        starting = asyncio.create_task(nested.start())
        await asyncio.sleep(0)
        assert world.starts[0]["definitions"] == ["one"]
        known.append("two")
        await nested.deploy({"hash": "two"}, {"ref": b"code"}, True)
        world.may_end.set()
        await starting
        assert governed(world.lines[0]) == ["two"]
        await nested.deploy({"hash": "three"}, {}, True)
        assert governed(world.lines[0]) == ["two", "three"]
        await nested.end(PeerLost(address="it"))
        await nested.start()
        assert governed(world.lines[1]) == [], "its setup has them all"

    asyncio.run(work())
