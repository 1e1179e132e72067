"""Puts the large parts of values into the blob store, and reads them. Hosts and clients use it.

While the store is away both wait for it, for `blobs_timeout_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..protocols.encoded import map_encoded
from ..protocols.errors import BlobsAway
from ..protocols.large import LargeParts, LocalFile, Part
from ..protocols.probes import hit
from ..protocols.stored import MET, NO_BLOBS, BlobKey, Stored, stored_in
from ..protocols.values import Value
from ..supervisors.ports.world import Working

T = TypeVar("T")

AT_ONCE = 8
"""Most parts that are put or read at the same time."""
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 2.0


class Outgoing(NamedTuple):
    """A plain value on its way out, with the large parts that were taken out of it."""

    value: Value
    large: LargeParts

    @property
    def has_parts(self) -> bool:
        return bool(self.large.parts)


class LargeValues:
    """Reads and writes the large parts of values."""

    def __init__(self, world: Working, timeout_s: float, max_blob_bytes: int) -> None:
        """`timeout_s`: longest wait for the store. `max_blob_bytes`: size of the largest file."""
        self._world, self._store, self._timeout_s = world, world.blobs, timeout_s
        self._max_blob_bytes = max_blob_bytes
        self.for_code = world.blobs_for_code(timeout_s)
        """The store for blocking code of the user."""

    async def stow(self, outgoing: Outgoing, known: frozenset[BlobKey] = NO_BLOBS) -> Value:
        """Put the large parts into the store, durably; returns the value with their keys.

        Parts that were stored before are made sure of, but for those that are `known` to be named by an open task.

        Raises BlobsAway, BlobMissing for a part that is gone, or InvalidInput for a file that cannot be read.
        """
        (value,) = await self.stow_all([outgoing], known)
        return value

    async def stow_all(self, many: Sequence[Outgoing], known: frozenset[BlobKey] = NO_BLOBS) -> list[Value]:
        """Do the same for many values, several parts at the same time."""
        parts = [part for each in many for part in each.large.parts.values()]
        keys = iter(await self._each(self._put, parts))
        placed = [each.large.placed(each.value, [next(keys) for _ in each.large.parts]) for each in many]
        given = {part.packed: part for each in many for part in stored_in(each.value) if part.is_placed}
        old = [part for part in given.values() if part.key not in known]
        renewed = await self._each(self._renewed, old)
        changed = {part.packed: new for part, new in zip(old, renewed, strict=True) if new is not part}
        return [_under(value, changed) for value in placed]

    def _renewed(self, part: Stored) -> Stored:
        """Return a part that was stored before, under a key that may be named now."""
        key = self._store.renewed(part.key)
        return part if key == part.key else Stored.under(key, part.codec, part.about, part.is_packed)

    def _put(self, part: Part) -> BlobKey:
        content = part.content
        if not isinstance(content, LocalFile):
            return self._store.put(content)
        return self._store.put_file(content.path, self._max_blob_bytes)

    async def fetch(self, parts: Iterable[Stored]) -> None:
        """Read the contents of parts. Raises BlobMissing, BlobCorrupt, BlobsAway."""
        await self._each(self._read, list(parts))

    def _read(self, part: Stored) -> None:
        part.content = self._store.get(part.key)

    def give_source(self, value: Value) -> bool:
        """Let the stored parts of a value, and what is made of them, be read later; returns whether there are any."""
        parts = list(stored_in(value)) if MET[0] else []
        for part in parts:
            part.source = self.for_code
        return bool(parts)

    async def _each(self, work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """Work on all items, several at the same time; returns the results in their order."""
        done: dict[int, T] = {}
        left = iter(enumerate(items))

        async def work_off() -> None:
            for at, item in left:
                done[at] = await self._patiently(work, item)

        await self._world.all([work_off() for _ in range(min(AT_ONCE, len(items)))])
        return [done[at] for at in range(len(items))]

    async def _patiently(self, work: Callable[[Any], T], item: Any) -> T:
        began, delay_s = self._world.monotonic(), _FIRST_DELAY_S
        while True:
            try:
                done: T = await self._world.in_thread(lambda: work(item))
                return done
            except BlobsAway:
                hit("blob store away")
                if self._world.monotonic() - began >= self._timeout_s:
                    raise
            await self._world.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)


def _under(value: Value, parts: Mapping[bytes, Stored]) -> Value:
    """Return a value with other parts in place of some, which are named by their packed form."""
    return map_encoded(value, lambda part: parts.get(part.packed, part)) if parts else value
