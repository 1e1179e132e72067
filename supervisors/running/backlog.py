"""The backlog of one pool: its jobs that are not at a host.

A job that needs permits waits in the permit client. There it gets its permits and a place at a host in one decision.
It then goes before all jobs without permits. A job that needs no permits waits here. Both kinds wait in the same order:
priority with ageing, and fair shares between users.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from ..limits.fair_queue import FairQueue
from ..limits.permit_client import PermitClient
from ..limits.permit_queue import Holder, Request, Who
from ..settings import Governance
from .placement import Feeding, Job

_NOBODY = Holder("", 0)


class UserFlow(NamedTuple):
    """The jobs of one user that need no permits."""

    user: str


class Backlog:
    def __init__(self, protocol: str, permits: PermitClient, settings: Governance, pool: Feeding) -> None:
        self._protocol, self._permits, self._pool = protocol, permits, pool
        self._turns: FairQueue[UserFlow, Job] = FairQueue(settings.age_s, settings.weights)
        """Jobs that need no permits; each user is a flow."""
        self._numbers: dict[Job, int] = {}
        """Numbers of the jobs in `_turns`."""
        self._next_number = itertools.count(1)
        self._wishing: dict[str, Job] = {}
        """Jobs that wait for permits, by the text of their `id()`."""
        self._ready: deque[Job] = deque()
        self._head: Job | None = None
        """The next job of `_turns`; None if it is not known since a job came or left."""

    def __len__(self) -> int:
        return len(self._numbers) + len(self._wishing) + len(self._ready)

    def __bool__(self) -> bool:
        return bool(self._numbers or self._wishing or self._ready)

    @property
    def wishing(self) -> int:
        """Number of jobs that wait for permits, a place at a host, or both."""
        return len(self._wishing)

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
        self._turns.add(record.priority, UserFlow(record.user), (job.task.started_at, job.task.order, number, job))
        self._head = None

    def _wish(self, job: Job) -> None:
        key, record = str(id(job)), job.task.record
        self._wishing[key] = job
        who = Who("", self._protocol, record.user, "", job.key)
        needs, order = job.settings.quotas, job.task.order
        request = Request(key, _NOBODY, needs, record.priority, job.task.started_at, order, who)
        self._permits.acquire(request, partial(self._permitted, job))

    def _permitted(self, job: Job, ticket: str) -> None:
        del self._wishing[str(id(job))]
        job.ticket = ticket
        self._ready.append(job)
        self._pool.feed()

    def next_waiter(self, ticket: str) -> Job | None:
        """Return the job that may take over the permits of a ticket, or None."""
        key = self._permits.next_waiter(ticket)
        return None if key is None else self._wishing[key]

    def hand_over(self, waiter: Job) -> None:
        """Take out a job that will use the permits of a job before it."""
        key = str(id(waiter))
        self._permits.hand_over(key)
        del self._wishing[key]

    def first(self) -> Job | None:
        """Return the job that goes next when a host is free, or None."""
        if self._ready:
            return self._ready[0]
        if self._head is None and self._numbers:
            head = self._turns.head()
            assert head is not None
            self._head = head[1][3]
        return self._head

    def take_first(self) -> Job:
        """Take out the job that `first` has just returned."""
        if self._ready:
            return self._ready.popleft()
        job, self._head = self._head, None
        assert job is not None
        del self._numbers[job]
        self._turns.take(job.task.record.priority, UserFlow(job.task.record.user))
        return job

    def withdraw(self, job: Job) -> None:
        """Take out a job that is not wanted any more, and release its permits."""
        key, number = str(id(job)), self._numbers.pop(job, None)
        if number is not None:
            self._turns.withdraw(job.task.record.priority, UserFlow(job.task.record.user), number)
            self._head = None
        elif self._wishing.pop(key, None) is not None:
            self._permits.withdraw(key)
        elif job.ticket is not None:
            self._ready.remove(job)
            self._permits.release(job.ticket)
