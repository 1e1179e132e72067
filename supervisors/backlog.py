"""The jobs of one pool that no host has yet.

What needs permits waits at the ResourceActor, which counts the places at the hosts with everything else: such a job
gets all it needs at once, and then goes before the others. What needs none waits here, in the same order: priority
with ageing, and fair shares between users.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..protocols.values import Value
from .breaker import Call
from .permits import Permits
from .settings import Governance
from .waiting import Holder, Request, Waiting, Who

if TYPE_CHECKING:
    from .lanes import Lane
    from .pool import Host

_NOBODY = Holder("", 0)


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one step, to be run on any host of its protocol."""

    what: Any
    """The dispatcher's own: whose step this is."""
    accepted_at: float
    """UTC seconds: the older task goes first."""
    order: int
    """Of tasks accepted in the same instant."""
    priority: int
    user: str
    key: str
    """What limits "per key" count apart."""
    payload: list[Value]
    needs: Mapping[str, int]
    once: bool = False
    """Whether it must not run again when nobody knows what it has done."""
    losses: int = 0
    """Hosts that died while it ran."""
    ticket: str | None = None
    """The permits that it has, until it takes them to a host."""
    host: Host | None = None
    lane: Lane | None = None
    number: int | None = None
    call: Call | None = None
    """How its protocol's breaker let it through."""
    dropped: bool = False


class Backlog:
    def __init__(
        self,
        protocol: str,
        permits: Permits,
        settings: Governance,
        on_ready: Callable[[], None],
    ) -> None:
        """`on_ready`: a job has got its permits."""
        self._protocol, self._permits = protocol, permits
        self._on_ready = on_ready
        weights = settings.weights
        self._waiting = Waiting(settings.age_s, lambda user: weights.get(user, 1.0))
        self._jobs: dict[str, Job] = {}
        """Of `_waiting`, by the text of their `id()`."""
        self._wishing: dict[str, Job] = {}
        self._ready: deque[Job] = deque()
        self._head: Request | None = None
        """Who is next of `_waiting`, as long as nobody has come or gone."""

    def __len__(self) -> int:
        return len(self._jobs) + len(self._wishing) + len(self._ready)

    def __iter__(self) -> Iterator[Job]:
        return iter([*self._ready, *self._wishing.values(), *self._jobs.values()])

    def add(self, job: Job) -> None:
        key = str(id(job))
        if job.needs:
            self._wishing[key] = job
            self._permits.acquire(self._request(job, key), partial(self._permitted, job))
        else:
            self._jobs[key] = job
            self._waiting.add(self._request(job, key))
            self._head = None

    def _request(self, job: Job, key: str) -> Request:
        who = Who("", self._protocol, job.user, "", job.key)
        return Request(key, _NOBODY, job.needs, job.priority, job.accepted_at, job.order, who)

    def _permitted(self, job: Job, ticket: str) -> None:
        del self._wishing[str(id(job))]
        job.ticket = ticket
        self._ready.append(job)
        self._on_ready()

    def heir(self, ticket: str) -> Job | None:
        """Who is next for just those permits."""
        key = self._permits.heir(ticket)
        return None if key is None else self._wishing[key]

    def inherit(self, heir: Job) -> None:
        """It leaves, to be served with the permits of others."""
        key = str(id(heir))
        self._permits.inherit(key)
        del self._wishing[key]

    def first(self) -> Job | None:
        """Who is next, if a host is free for it."""
        if self._ready:
            return self._ready[0]
        if self._head is None and self._jobs:
            head = self._waiting.head(())
            assert head is not None
            self._head = head[2]
        return None if self._head is None else self._jobs[self._head.id]

    def take_first(self) -> Job:
        """The one that `first` has just named leaves."""
        if self._ready:
            return self._ready.popleft()
        assert self._head is not None
        head, self._head = self._head, None
        self._waiting.take(head)
        return self._jobs.pop(head.id)

    def withdraw(self, job: Job) -> None:
        """The job is not wanted any more."""
        key = str(id(job))
        if self._jobs.pop(key, None) is not None:
            self._waiting.remove(key)
            self._head = None
        elif self._wishing.pop(key, None) is not None:
            self._permits.withdraw(key)
        elif job.ticket is not None:
            self._ready.remove(job)
            self._permits.release(job.ticket)
