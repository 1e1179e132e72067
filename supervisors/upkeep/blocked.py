"""Which protocols no host can start of, kept in the shard, so that whoever reads it can say why a step waits.

A note names the protocol and the beginning of its code's fingerprint; it goes when a deployment has brought other code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...protocols.values import Value
from ..ports.journal import BLOCKED, Journal, Note
from ..ports.world import Logging

CODE_CHARS = 12
"""Of a fingerprint, in the names of notes and in `podium status`."""


class Blocked:
    def __init__(self, world: Logging, journal: Journal, notes: Mapping[str, Value]) -> None:
        self._world, self._journal = world, journal
        self._noted = {name: str(why) for name, why in notes.items() if name.startswith(BLOCKED)}

    def look(self, pools: Iterable[Mapping[str, Value]]) -> None:
        """`pools` as `Pool.describe` gives them."""
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
    """By protocol and the beginning of its code's fingerprint: why no host of it can start."""
    found: dict[str, dict[str, str]] = {}
    for name, why in notes.items():
        if name.startswith(BLOCKED):
            ref, _, code = name.removeprefix(BLOCKED).rpartition(" ")
            found.setdefault(ref, {})[code] = str(why)
    return found
