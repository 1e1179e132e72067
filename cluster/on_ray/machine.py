"""This machine in a cluster of many, as one of our processes on it sees it: its lease, and the machines that are lost.

Every process makes sure that the machine has a keeper (keeper.py). It waits in the kernel for the keeper's lock, so it
costs nothing while the keeper lives, and starts another at once when the keeper has died.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...protocols.errors import PodiumError
from ...supervisors.upkeep.machine_lease import Lost, MachineState
from ..store import lock
from ..store.address import StoreAddress
from .machine_state import MachineFiles, boottime

LOOK_S = 0.25
"""Time between two looks at the machine's state, in seconds."""
WAIT_S = 0.02
"""Time between two looks for the first lease, in seconds."""
PAUSE_S = 0.5
"""Time between the end of a keeper and the start of a third, in seconds."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The facts that a process needs to be a part of a cluster on many machines."""

    generation: int
    """The number of the cluster in its installation."""
    is_lasting: bool
    """Whether the cluster goes on without the process that started it."""
    is_new: bool = False
    """Whether the process is the first at its address, so that no predecessor has left anything below it."""
    placement: str = ""
    """The machines on which owners of tasks may live, as in placement.py; "" for all."""

    def to_wire(self) -> tuple[int, bool, bool, str]:
        return self.generation, self.is_lasting, self.is_new, self.placement


class Machine:
    """This machine, for a process that runs a part of the cluster, or that uses it."""

    def __init__(self, place: StoreAddress, membership: Membership, node: str, may_be_home: bool = True) -> None:
        """`may_be_home`: whether the coordinator may live on this machine."""
        self._may_be_home = may_be_home
        self._place, self._membership, self._node = place, membership, node
        self.files = MachineFiles(place.path, membership.generation)
        self._users_lock: int | None = None
        self._is_released = False
        self._problem = ""
        """The reason why a keeper did not start."""
        self._known: set[str] = set()
        self.on_lost: Callable[[str], None] = lambda _node: None
        """Called with Ray's id of each machine that is lost."""

    async def hold(self) -> None:
        """See to it that the machine has a lease as long as this process lives, and wait until it has.

        Raises PodiumError if a keeper cannot start here.
        """
        self.see_to_a_keeper()
        while not self.has_lease():
            if self._problem:
                raise PodiumError(f"the keeper of machine {os.uname().nodename} does not start: {self._problem}")
            await asyncio.sleep(WAIT_S)
        self._known = set(self._lost())

    def see_to_a_keeper(self) -> None:
        """See to it that this machine has a keeper until `release`."""
        self.files.make()
        threading.Thread(target=self._keep_a_keeper, name="podium-machine", daemon=True).start()

    def use(self) -> None:
        """Say that this process uses the cluster, and is not to be ended with the lease of the machine."""
        self.files.make()
        self._users_lock = lock.try_take(self.files.users / str(os.getpid()))
        self.see_to_a_keeper()

    def release(self) -> None:
        self._is_released = True
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None
            (self.files.users / str(os.getpid())).unlink(missing_ok=True)

    def has_lease(self) -> bool:
        state = self.files.read()
        return state is not None and boottime() < state.until

    @property
    def id(self) -> str:
        """Id of this machine in the cluster; it has one while it has a lease."""
        state = self.files.read()
        return "" if state is None else state.id

    def mark_drained(self) -> None:
        """Note that the machine will be taken away. Its keeper then ends with the last of our processes."""
        self.files.drained(self._node).touch(mode=0o600)

    def has_gone(self, id: str, since: float) -> bool:
        """Whether nothing of ours runs any more on a machine that was there at `since`."""
        state = self.files.read()
        return state is not None and state.has_gone(id, since)

    def has_nothing_on(self, node: str, since: float) -> bool:
        """Whether no machine with this id of Ray's has a lease, as of a moment after `since`."""
        state = self.files.read()
        return state is not None and state.heard_at > since and node not in state.machines.values()

    def avoided(self) -> set[str]:
        """Return Ray's ids of the machines on which nothing should be started now."""
        state = self.files.read()
        return set() if state is None else state.avoided(boottime())

    def look(self) -> MachineState | None:
        """Look at the state, and tell of machines that are lost since the last look."""
        state = self.files.read()
        for id, lost in ({} if state is None else state.lost).items():
            if id not in self._known:
                self._known.add(id)
                self.on_lost(lost.node)
        return state

    def _lost(self) -> dict[str, Lost]:
        state = self.files.read()
        return {} if state is None else state.lost

    def _keep_a_keeper(self) -> None:
        while not self._is_released:
            held = os.open(self.files.keeper_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX)  # waits as long as a keeper lives
                if not self._is_released:
                    self._start_keeper(held)
            finally:
                os.close(held)
            time.sleep(PAUSE_S)

    def _start_keeper(self, held: int) -> None:
        """Start a keeper, which has the lock from here on. The process that is started leaves it behind, and ends."""
        facts = {"generation": self._membership.generation, "is_lasting": self._membership.is_lasting}
        setup = {"place": self._place, "node": self._node, "may_be_home": self._may_be_home, **facts}
        command = [sys.executable, "-m", "podium.cluster.on_ray.keeper"]
        self.files.keeper_log.touch(mode=0o600)
        with (
            self.files.keeper_log.open("ab") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=[held]) as child,
        ):
            child.communicate(json.dumps(setup).encode())
        if child.returncode != 0:
            said = self.files.keeper_log.read_text(errors="replace").strip().splitlines()
            self._problem = said[-1] if said else f"it ended with {child.returncode}"
