"""Lanes pass permits on from job to job at the host itself, without a round trip to the supervisor.

A permit travels to a host with the job that got it. The jobs that are next for exactly these permits follow without
permits of their own, and wait at the host. When a job ends, the host gives its permit to the next job of the lane, or
sends the permit back with the result. A permit is always in one place. If a permit comes back while jobs of its lane
are on their way to the host, it is sent to the host once more. As many jobs are sent ahead as the lane works off in
`lookahead_s`, so none where steps are long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from functools import partial

from ...protocols.probes import hit
from ..limits.permit_client import PermitClient
from ..messages.host import Permit, PermitLeft
from ..ports.messaging import Reply
from ..ports.world import Scheduling
from .backlog import Backlog
from .placement import Feeding, Host, Lane


class Lanes:
    """The lanes at all hosts of one pool."""

    def __init__(self, world: Scheduling, permits: PermitClient, backlog: Backlog, pool: Feeding) -> None:
        self._world, self._permits, self._backlog, self._pool = world, permits, backlog, pool
        self._numbers = itertools.count(1)
        self._looking = False
        self._open = 0
        """Number of lanes at all hosts together."""

    def enter(self, host: Host, ticket: str) -> Lane:
        """Put the permits of a ticket into their lane at a host; returns the lane."""
        pools = self._permits.pools(ticket)
        if pools not in host.lanes:
            host.lanes[pools] = Lane(next(self._numbers), pools)
            self._open += 1
        host.lanes[pools].tickets[ticket] = None
        return host.lanes[pools]

    def look_ahead_soon(self, hosts: Iterable[Host]) -> None:
        """Fill the lanes of these hosts, once for everything that happens in this turn of the event loop."""
        if self._open and not self._looking:
            self._looking = True
            self._world.call_later(0.0, partial(self._look_ahead, hosts))

    def _look_ahead(self, hosts: Iterable[Host]) -> None:
        self._looking = False
        for host in hosts:
            for lane in host.lanes.values():
                self._fill(host, lane)

    def _fill(self, host: Host, lane: Lane) -> None:
        """Send the jobs that are next for the permits of a lane, to wait in the lane."""
        ticket = next(iter(lane.tickets))
        if self._permits.pools(ticket) != lane.pools:
            return  # the limits have changed
        ahead = math.floor(host.works_off(len(lane.tickets)))
        while lane.jobs < len(lane.tickets) + ahead and self._pool.has_room_ahead(host):
            waiter = self._backlog.next_waiter(ticket)
            if waiter is None or waiter.losses or waiter.settings.at_most_once:
                return
            self._backlog.hand_over(waiter)
            waiter.lane = lane
            self._pool.send(host, waiter, None)

    def permit_back(self, host: Host, lane: Lane, ticket: str) -> None:
        """Take back a permit for which no job was waiting at the host; send it again if a job is on its way there."""
        if lane.jobs >= len(lane.tickets) and host.line is not None:
            hit("permit sent again")
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
            hit("permit sent in vain")
            self.permit_back(host, lane, left.permit)

    def end(self, host: Host) -> None:
        """Release all permits at a host that is certainly gone."""
        lanes = list(host.lanes.values())
        host.lanes.clear()
        self._open -= len(lanes)
        for lane in lanes:
            for ticket in lane.tickets:
                self._permits.release(ticket)
