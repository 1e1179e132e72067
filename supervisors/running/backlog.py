"""The jobs of one pool that no host has yet.

What needs permits waits at the ResourceActor, which counts the places at the hosts with everything else: such a job
gets all it needs at once, and then goes before the others. What needs none waits here, in the same order: priority
with ageing, and fair shares between users.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from ..limits.fair_queue import FairQueue
from ..limits.permit_client import PermitClient
from ..limits.permit_queue import Holder, Request, Who
from ..settings import Governance
from .placement import Job

_NOBODY = Holder("", 0)


class Backlog:
    def __init__(
        self,
        protocol: str,
        permits: PermitClient,
        settings: Governance,
        on_ready: Callable[[], None],
    ) -> None:
        """`on_ready`: a job has got its permits."""
        self._protocol, self._permits = protocol, permits
        self._on_ready = on_ready
        weights = settings.weights
        self._turns: FairQueue[str, Job] = FairQueue(settings.age_s, lambda user: weights.get(user, 1.0), str)
        """By user."""
        self._numbers: dict[Job, int] = {}
        """Of what is in `_turns`."""
        self._next_number = itertools.count(1)
        self._wishing: dict[str, Job] = {}
        """By the text of their `id()`."""
        self._ready: deque[Job] = deque()
        self._head: Job | None = None
        """Who is next of `_turns`, as long as nobody has come or gone."""

    def __len__(self) -> int:
        return len(self._numbers) + len(self._wishing) + len(self._ready)

    def __bool__(self) -> bool:
        return bool(self._numbers or self._wishing or self._ready)

    def __iter__(self) -> Iterator[Job]:
        return iter([*self._ready, *self._wishing.values(), *self._numbers])

    def has(self, job: Job) -> bool:
        return job in self._numbers or str(id(job)) in self._wishing or job in self._ready

    def add(self, job: Job) -> None:
        if job.settings.quotas:
            self._wish(job)
            return
        number = self._numbers[job] = next(self._next_number)
        record = job.task.record
        self._turns.add(record.priority, record.user, (record.accepted_at, job.task.order, number, job))
        self._head = None

    def _wish(self, job: Job) -> None:
        key, record = str(id(job)), job.task.record
        self._wishing[key] = job
        who = Who("", self._protocol, record.user, "", job.key)
        needs, order = job.settings.quotas, job.task.order
        request = Request(key, _NOBODY, needs, record.priority, record.accepted_at, order, who)
        self._permits.acquire(request, partial(self._permitted, job))

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
        if self._head is None and self._numbers:
            head = self._turns.head()
            assert head is not None
            self._head = head[1][3]
        return self._head

    def take_first(self) -> Job:
        """The one that `first` has just named leaves."""
        if self._ready:
            return self._ready.popleft()
        job, self._head = self._head, None
        assert job is not None
        del self._numbers[job]
        self._turns.take(job.task.record.priority, job.task.record.user)
        return job

    def withdraw(self, job: Job) -> None:
        """The job is not wanted any more."""
        key, number = str(id(job)), self._numbers.pop(job, None)
        if number is not None:
            self._turns.withdraw(job.task.record.priority, job.task.record.user, number)
            self._head = None
        elif self._wishing.pop(key, None) is not None:
            self._permits.withdraw(key)
        elif job.ticket is not None:
            self._ready.remove(job)
            self._permits.release(job.ticket)
