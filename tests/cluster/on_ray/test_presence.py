"""Which process is at an address: whoever was started by the newest owner."""

from __future__ import annotations

import asyncio
import os

import pytest

from podium.cluster.on_ray import process_locks as presence
from podium.cluster.store import lock
from podium.protocols.errors import Fenced


@pytest.fixture
def address(tmp_path):
    """A free address, that this process may take and let go."""
    name = "supervisor/w/a-0"
    yield name
    for handle in [presence._held.pop(name, None)]:
        if handle is not None:
            os.close(handle)


def let_go(address):
    os.close(presence._held.pop(address))


def test_a_process_is_at_its_address_as_long_as_it_lives(tmp_path, address):
    assert presence.ProcessLocks(tmp_path).process_of(address) is None
    presence.ProcessLocks(tmp_path).announce(address, epoch=1)
    assert presence.ProcessLocks(tmp_path).process_of(address) == os.getpid()
    let_go(address)
    assert presence.ProcessLocks(tmp_path).process_of(address) is None


def test_what_an_older_owner_starts_is_refused_also_when_nobody_is_there_any_more(tmp_path, address):
    presence.ProcessLocks(tmp_path).announce(address, epoch=2)
    let_go(address)
    with pytest.raises(Fenced, match="epoch 1 of shard 'supervisor/w/a-0' was overtaken by epoch 2"):
        presence.ProcessLocks(tmp_path).announce(address, epoch=1)
    presence.ProcessLocks(tmp_path).announce(address, epoch=2)


def test_an_owner_that_is_overtaken_while_it_waits_is_refused_too(tmp_path, address, monkeypatch):
    presence.ProcessLocks(tmp_path).announce(address, epoch=1)
    let_go(address)

    def overtaken(handle, wait_s):
        os.pwrite(handle, b"77 3", 0)
        return True

    monkeypatch.setattr(lock, "_wait", overtaken)
    with pytest.raises(Fenced, match="overtaken by epoch 3"):
        presence.ProcessLocks(tmp_path).announce(address, epoch=2)


def test_a_new_cluster_knows_nothing_of_the_epochs_of_the_last(tmp_path, address):
    presence.ProcessLocks(tmp_path).announce(address, epoch=9)
    let_go(address)
    asyncio.run(presence.ProcessLocks(tmp_path).end_all())
    presence.ProcessLocks(tmp_path).announce(address, epoch=1)
