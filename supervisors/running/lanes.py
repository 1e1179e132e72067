"""Lanes: permits that pass on from job to job at the host itself, without a way to the supervisor and back.

A permit travels to a host with the job that got it. Jobs that would be next for just what it holds follow, without
permits, and wait there: when a job ends, the host gives its permit to the next of its lane, or sends it back with the
answer. A permit is always in one place; a host that has none left for jobs on their way to it gets it sent once more.
As many are sent ahead as the lane works off in `lookahead_s`, so none where steps are long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial

from ..limits.permit_client import PermitClient
from ..messages.host import Permit, PermitLeft
from ..ports.messaging import Reply
from ..ports.world import Scheduling
from .backlog import Backlog
from .placement import Host, Job, Lane


class Lanes:
    """Of the hosts of one pool."""

    def __init__(
        self,
        world: Scheduling,
        permits: PermitClient,
        backlog: Backlog,
        has_room: Callable[[Host], bool],
        send: Callable[[Host, Job, str | None], None],
    ) -> None:
        """`has_room`: whether a host may get one more ahead of its turn; `send` it a job with a permit or without."""
        self._world, self._permits, self._backlog = world, permits, backlog
        self._has_room, self._send = has_room, send
        self._numbers = itertools.count(1)
        self._looking = False
        self._open = 0
        """Lanes at all of the hosts."""

    def enter(self, host: Host, ticket: str) -> Lane:
        """The lane at a host for which the permits of a ticket are good; they are there from now on."""
        pools = self._permits.pools(ticket)
        if pools not in host.lanes:
            host.lanes[pools] = Lane(next(self._numbers), pools)
            self._open += 1
        host.lanes[pools].tickets[ticket] = None
        return host.lanes[pools]

    def look_ahead_soon(self, hosts: Iterable[Host]) -> None:
        """Send those who are next after them; once for all that happens in this turn of the loop."""
        if self._open and not self._looking:
            self._looking = True
            self._world.call_later(0.0, partial(self._look_ahead, hosts))

    def _look_ahead(self, hosts: Iterable[Host]) -> None:
        self._looking = False
        for host in hosts:
            for lane in host.lanes.values():
                self._fill(host, lane)

    def _fill(self, host: Host, lane: Lane) -> None:
        """Send those who are next for the permits of a lane to wait in it."""
        ticket = next(iter(lane.tickets))
        if self._permits.pools(ticket) != lane.pools:
            return  # the limits have changed
        ahead = math.floor(host.works_off(len(lane.tickets)))
        while lane.jobs < len(lane.tickets) + ahead and self._has_room(host):
            heir = self._backlog.heir(ticket)
            if heir is None or heir.losses or heir.settings.at_most_once:
                return
            self._backlog.inherit(heir)
            heir.lane = lane
            self._send(host, heir, None)

    def permit_back(self, host: Host, lane: Lane, ticket: str) -> None:
        """No job was waiting in the lane when one with these permits ended. One may have been sent meanwhile."""
        if lane.jobs >= len(lane.tickets) and host.line is not None:
            host.line.send(Permit(lane.number, ticket), partial(self._permit_unused, host, lane))
            return
        del lane.tickets[ticket]
        if not lane.tickets:
            del host.lanes[lane.pools]
            self._open -= 1
        self._permits.release(ticket)

    def _permit_unused(self, host: Host, lane: Lane, reply: Reply) -> None:
        if reply.error is not None or host.lanes.get(lane.pools) is not lane:
            return
        left = reply.read(PermitLeft)
        if left.permit is not None:
            self.permit_back(host, lane, left.permit)

    def end(self, host: Host) -> None:
        """The host is certainly gone: its permits are free."""
        lanes = list(host.lanes.values())
        host.lanes.clear()
        self._open -= len(lanes)
        for lane in lanes:
            for ticket in lane.tickets:
                self._permits.release(ticket)
