"""Leaving Ray without being ended by it.

Ray ends the process, at once and with exit code 1, when any thread reaches for its core after that was shut down. And
threads do reach for it without knowing: whenever the last hold on a reference to one of Ray's objects is let go, be it
ours or the user's. Shutting down takes up to seconds when the cluster is broken, and only then does Ray forget its
core. So the core is hidden from every other thread before: they find nothing to call, as they would afterwards.

Importing this module imports ray.
"""

from __future__ import annotations

import threading
from typing import Any

import ray
from ray._private import auto_init_hook, worker

_COUNTING = ("add_object_ref_reference", "remove_object_ref_reference")
"""What every reference calls as it comes and goes; Ray prints an error of the first."""

_OF_RAY = ("ray_listen_error_messages", "ray_print_logs")
"""Names of threads that Ray starts in a driver, and that look for its core as long as they live."""


def _nothing(*_: Any) -> None:
    """Nobody counts references any more."""


class _HiddenCore:
    """Ray's core, for the thread that made this."""

    def __init__(self, core: Any) -> None:
        self._core, self._thread = core, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
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
    """`ray.shutdown`, whatever other threads do meanwhile."""
    core = getattr(worker.global_worker, "core_worker", None)
    if core is not None:
        vars(worker.global_worker)["core_worker"] = _HiddenCore(core)
    ray.shutdown()
