"""Notes in the shard the protocols for which no host can start, so that readers can tell why a step waits.

A note names the protocol and the beginning of its code's fingerprint. It is deleted when no pool with that code is
blocked any more, for which the workflow has to be deployed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...protocols.values import Value
from ..ports.journal import BLOCKED, Journal, Note
from ..ports.world import Logging

CODE_CHARS = 12
"""Characters of a fingerprint in the names of notes and in `podium status`."""


class Blocked:
    def __init__(self, world: Logging, journal: Journal, notes: Mapping[str, Value]) -> None:
        self._world, self._journal = world, journal
        self._noted = {name: str(why) for name, why in notes.items() if name.startswith(BLOCKED)}

    def look(self, pools: Iterable[Mapping[str, Value]]) -> None:
        """Compare the notes with the pools as they are now, and write what changed.

        Args:
            pools: descriptions of all pools, as `Pool.describe` returns them.
        """
        found = {
            f"{BLOCKED}{pool['protocol']} {pool['code']}": str(pool["blocked"]) for pool in pools if pool["blocked"]
        }
        over = [Note(name, None) for name in self._noted if name not in found]
        new = [Note(name, why) for name, why in found.items() if self._noted.get(name) != why]
        for note in new:
            self._world.log("error", "no host can start", protocol=note.name.removeprefix(BLOCKED), reason=note.value)
        for note in over:
            self._world.log("info", "hosts can start again", protocol=note.name.removeprefix(BLOCKED))
        if over or new:
            self._journal.write([*over, *new])
        self._noted = found


def blocked_protocols(notes: Mapping[str, Value]) -> dict[str, dict[str, str]]:
    """Read the reasons why no host can start, by protocol and by the beginning of its code's fingerprint."""
    found: dict[str, dict[str, str]] = {}
    for name, why in notes.items():
        if name.startswith(BLOCKED):
            ref, _, code = name.removeprefix(BLOCKED).rpartition(" ")
            found.setdefault(ref, {})[code] = str(why)
    return found
