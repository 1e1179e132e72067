"""Leaves Ray without letting Ray end the process.

Ray ends the process, at once and with exit code 1, when any thread calls its core worker after the core was shut down.
Threads call it without knowing: whenever the last reference to one of Ray's objects goes, ours or the user's. A
shutdown takes up to seconds when the cluster is broken, and Ray forgets its core only at the end. So the core is hidden
from all other threads before the shutdown. They find nothing to call, as they would afterwards.

Importing this module imports ray.
"""

from __future__ import annotations

import threading

import ray
from ray._private import auto_init_hook, worker

_COUNTING = ("add_object_ref_reference", "remove_object_ref_reference")
"""Methods of the core that each object reference calls when it is made and deleted. Ray prints errors of the first."""

_OF_RAY = ("ray_listen_error_messages", "ray_print_logs")
"""Beginnings of the names of threads that Ray starts in a driver and that use its core as long as they live."""


def _nothing(*_: object) -> None:
    """Do nothing: references are not counted any more."""


class _HiddenCore:
    """A proxy of Ray's core that works only in the thread that made it."""

    def __init__(self, core: object) -> None:
        self._core, self._thread = core, threading.get_ident()

    def __getattr__(self, name: str) -> object:
        if threading.get_ident() != self._thread:
            if name in _COUNTING:
                return _nothing
            if threading.current_thread().name.startswith(_OF_RAY):
                raise SystemExit  # ends that thread, which has nothing to do any more, without a word
            raise AttributeError(f"'{name}' of Ray's core: Ray is being left")
        return getattr(self._core, name)


def forbid_auto_init() -> None:
    """Keep Ray from starting a cluster of its own in this process.

    By default Ray does so when any call of it finds none, and our own calls go on while a broken cluster is left for
    another. That cluster would lie in Ray's folder, have none of our settings, and be ended by nobody; and 60 s after
    its end Ray would end this process. The environment variable for it (`prepare_ray`) comes too late where the user
    has imported Ray before.
    """
    auto_init_hook.enable_auto_connect = False


def leave_ray() -> None:
    """Call `ray.shutdown`, safely whatever other threads do meanwhile."""
    core = getattr(worker.global_worker, "core_worker", None)
    if core is not None:
        vars(worker.global_worker)["core_worker"] = _HiddenCore(core)
    ray.shutdown()
