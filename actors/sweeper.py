"""The sweeper deletes blobs that no task names. It is a part of the coordinator."""

from __future__ import annotations

from ..protocols.errors import PodiumError
from ..protocols.probes import hit
from ..protocols.values import Value
from ..supervisors.ports.blobs import Blob
from ..supervisors.ports.journal import Journal, Note, durable
from ..supervisors.ports.world import World
from ..supervisors.settings import Governance
from ..supervisors.upkeep.sweeping import Sweep, pause_s, sweep_of, was_set

CLOCK = "clock"
"""The note about the clocks of the machine at the last sweep."""


class Sweeper:
    def __init__(self, world: World, settings: Governance, journal: Journal, clock: Value) -> None:
        """`clock`: the note of that name in the coordinator's journal."""
        self._world, self._grace_s, self._journal = world, settings.blob_grace_s, journal
        self._clock: tuple[str, float] | None = None if clock is None else (clock[0], clock[1])
        """The clocks at the last sweep that doomed a blob, or spared or deleted one."""

    async def keep_sweeping(self) -> None:
        while True:
            await self._world.sleep(pause_s(self._grace_s))
            try:
                await self._sweep()
            except PodiumError as error:  # a store that is away, or a shard that cannot be read: then nothing is swept
                self._world.log("warning", "blobs not swept", reason=str(error))

    async def _sweep(self) -> None:
        began, store = self._world.monotonic(), self._world.blobs
        blobs: list[Blob] = await self._world.in_thread(lambda: list(store.listing()))
        now, clock = self._world.now(), self._world.clock()
        clock_was_set = was_set(self._clock, clock)
        if not clock_was_set:
            await self._world.in_thread(lambda: store.drop_drafts(now - self._grace_s))
        named = await self._world.named_blobs() if blobs else set()  # after the listing
        sweep = sweep_of(blobs, named, now, self._grace_s, clock_was_set)
        if clock_was_set or sweep != Sweep():
            await durable(self._journal, [Note(CLOCK, list(clock))])
            self._clock = clock
        if self._world.monotonic() - began < pause_s(self._grace_s):  # else it knows too little of what is by now
            await self._world.in_thread(lambda: self._carry_out(sweep, now))
        if sweep.delete:
            self._world.log("info", "blobs swept", count=len(sweep.delete), bytes=sum(b.size for b in sweep.delete))

    def _carry_out(self, sweep: Sweep, now: float) -> None:
        store = self._world.blobs
        for name in sweep.spare:
            hit("blob spared")
            store.spare(name)
        for name in sweep.doom:
            hit("blob doomed")
            store.doom(name, now)
        for blob in sweep.delete:
            hit("blob deleted")
            assert blob.doomed_at is not None
            store.delete(blob.name, blob.doomed_at)
