"""The state of a machine in a cluster of many: one small file that its keeper writes and all our processes there read.

It says until when the machine's lease surely lasts, and which other machines are lost.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from ...supervisors.upkeep.machine_lease import Lost, MachineState


def boottime() -> float:
    """Return the seconds since this machine started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class MachineFiles:
    """The files of one cluster on one machine."""

    def __init__(self, data: Path, generation: int) -> None:
        self.folder = data / f"machine.{generation}"
        self.keeper_lock = self.folder / "keeper.lock"
        self.coordinator_lock = self.folder / "coordinator.lock"
        """Held by the process that starts a coordinator."""
        self.users = self.folder / "users"
        """A lock file for each process that uses the cluster and is no part of it."""
        self.keeper_log = data / "keeper.log"
        self._state = self.folder / "state.json"
        self._read: tuple[tuple[int, int], MachineState] | None = None
        """The state that was read last, after the inode and the time of change of its file."""

    def make(self) -> None:
        self.users.mkdir(mode=0o700, parents=True, exist_ok=True)

    def drained(self, node: str) -> Path:
        """Return the path of the mark that is there if Ray takes the machine away under this id of Ray's.

        The machine may come back, as another node of Ray.
        """
        return self.folder / f"drained.{node}"

    def read(self) -> MachineState | None:
        """Return the state; None if there is none yet."""
        try:
            found = self._state.stat()
            version = found.st_ino, found.st_mtime_ns
            if self._read is not None and self._read[0] == version:
                return self._read[1]
            facts = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        lost = {id: Lost(**each) for id, each in facts.pop("lost").items()}
        self._read = version, MachineState(**facts, lost=lost)
        return self._read[1]

    def write(self, state: MachineState) -> None:
        draft = self._state.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(state)))
        draft.replace(self._state)
