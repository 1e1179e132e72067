"""The loop of the simulation: a process that is stopped or dead runs nothing."""

from __future__ import annotations

import asyncio

import pytest

from podium.cluster.simulation.virtual_loop import Process, VirtualLoop, in_process


@pytest.mark.parametrize(("is_killed", "ran"), [(False, ["late"]), (True, [])])
def test_what_a_stopped_process_was_to_run_is_run_when_it_thaws_unless_it_was_killed(is_killed, ran):
    """A supervisor that was killed while it was stopped went on when it thawed, and started hosts."""
    loop, process, done = VirtualLoop(), Process("p"), []

    async def work():
        process.freeze()
        in_process(process, lambda: loop.call_later(1, done.append, "late"))
        await asyncio.sleep(2)
        assert done == []
        process.dead = is_killed
        process.thaw()
        await asyncio.sleep(1)

    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    assert done == ran
