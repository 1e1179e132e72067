"""The rows that say which cluster has an installation, and which machines it surely has.

`cluster` has one row: the number of the cluster (`generation`), how to join it, and the machine that is its home. Each
machine that the cluster uses has a row in `machines`, its lease, which it renews by the clock of the database. When a
lease is out, and a grace after it, another machine may declare that machine lost. This is final: it renews no more.
A machine that cannot renew ends its processes before its lease is out, so a lost machine runs nothing.

A later cluster has a higher generation. Then all machines of the earlier ones renew no more, and end their processes.
The lease is a hint; what keeps two owners from writing the same shard is the epoch (see schema.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ....supervisors.upkeep.machine_lease import GRACE_SHARE, Neighbour, News
from .connecting import Connection, Database
from .schema import lock_key, quoted

CLOSED = {"kind": "closed"}
"""The facts of a cluster that has ended in order."""
_KEPT = "interval '1 day'"
_TOLD = "interval '5 minutes'"
"""Time for which machines that are lost are told of."""


@dataclass(frozen=True, slots=True)
class Member:
    """A machine, from a first process of a cluster there to the last."""

    id: str
    host: str
    """Name of the machine, and the id of its present boot."""
    node: str = ""
    """Ray's id of the machine; "" if the cluster has only one."""
    lease_s: float = 5.0

    @property
    def name(self) -> str:
        return name_of(self.host)


class Claim(NamedTuple):
    """The cluster that has the installation, or had it last."""

    generation: int
    home: str
    facts: dict[str, Any]
    host: str
    left_s: float
    """Seconds until its home may be declared lost; 0 or less if that may be now, or the cluster ended in order."""

    @property
    def is_alive(self) -> bool:
        return self.left_s > 0


class Taken(Exception):
    """Another cluster has the installation."""

    def __init__(self, claim: Claim) -> None:
        super().__init__(claim)
        self.claim = claim


class Machines:
    """Reads and writes the rows of one installation, over a connection that the caller gives."""

    def __init__(self, database: Database) -> None:
        self._schema, at = database.schema, quoted(database.schema)
        may_be_lost_at = f"m.until + make_interval(secs => m.lease_s * {GRACE_SHARE})"
        left_s = f"extract(epoch FROM {may_be_lost_at} - now())::float8"
        self._claim = f"""
            SELECT c.generation, c.home, c.facts, coalesce(m.host, ''),
                CASE WHEN m.id IS NULL OR m.lost THEN 0 ELSE {left_s} END
            FROM {at}.cluster c LEFT JOIN {at}.machines m ON m.id = c.home"""
        self._begin = f"""
            INSERT INTO {at}.cluster (one, generation, home, facts) VALUES (1, %s, %s, %s) ON CONFLICT (one)
            DO UPDATE SET generation = excluded.generation, home = excluded.home, facts = excluded.facts"""
        self._enter = f"""
            INSERT INTO {at}.machines (id, generation, host, node, lease_s, until)
            SELECT %s, c.generation, %s, %s, %s, now() + make_interval(secs => %s) FROM {at}.cluster c
            WHERE c.generation = %s ON CONFLICT (id) DO NOTHING"""
        self._tidy = f"DELETE FROM {at}.machines WHERE until < now() - {_KEPT}"
        self._others = f"""
            SELECT coalesce(max({left_s}), 0) FROM {at}.machines m
            WHERE m.generation < %s AND m.host <> %s AND NOT m.lost"""
        self._renew = f"""
            WITH renewed AS (
                UPDATE {at}.machines m SET until = now() + make_interval(secs => m.lease_s)
                WHERE m.id = %s AND NOT m.lost AND m.generation = (SELECT generation FROM {at}.cluster) RETURNING 1
            ), declared AS (
                UPDATE {at}.machines m SET lost = true FROM {at}.cluster c WHERE %s AND m.id <> %s AND NOT m.lost
                AND m.generation = c.generation AND {may_be_lost_at} < now() RETURNING m.id
            )
            SELECT (SELECT count(*) FROM renewed), c.home, m.id, m.host, m.node,
                m.lost OR m.id IN (SELECT id FROM declared), {left_s}
            FROM {at}.cluster c JOIN {at}.machines m USING (generation)
            WHERE NOT m.lost OR m.until > now() - {_TOLD} ORDER BY m.id"""
        self._take_home = f"UPDATE {at}.cluster SET home = %s WHERE home = %s AND generation = %s"
        self._leave = f"DELETE FROM {at}.machines WHERE id = %s AND NOT lost"
        self._end = f"UPDATE {at}.cluster SET home = '', facts = %s WHERE generation = %s"
        self._listed = f"""
            SELECT m.id, m.host, m.node, m.lost, {left_s} FROM {at}.machines m JOIN {at}.cluster c USING (generation)
            WHERE NOT m.lost ORDER BY m.host, m.id"""

    def claim(self, db: Connection) -> Claim | None:
        """Return the cluster that has the installation, or had it last; None if there was none."""
        row: Any = db.execute(self._claim.encode()).fetchone()
        return None if row is None else Claim(row[0], row[1], json.loads(row[2]), row[3], row[4])

    def begin(
        self, db: Connection, home: Member, facts: Mapping[str, object], may_replace: Callable[[Claim], bool]
    ) -> int:
        """Begin the next cluster, with `home` as its first machine; returns its generation.

        Args:
            home: the machine that ends the cluster if it is lost, or whose loss makes another its home.
            facts: how to join the cluster.
            may_replace: whether a cluster that is alive by its lease is known to be gone.

        Raises:
            Taken: another cluster has the installation.
        """
        with db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(self._schema, ""),))
            claim = self.claim(db)
            if claim is not None and claim.is_alive and not may_replace(claim):
                raise Taken(claim)
            generation = 1 if claim is None else claim.generation + 1
            db.execute(self._begin.encode(), (generation, home.id, json.dumps(facts)))
            self.enter(db, home, generation)
            db.execute(self._tidy.encode())
        return generation

    def enter(self, db: Connection, member: Member, generation: int) -> None:
        """Make the row of a machine, unless it is there or another cluster has the installation."""
        row = (member.id, member.host, member.node, member.lease_s, member.lease_s, generation)
        db.execute(self._enter.encode(), row)

    def earlier_left_s(self, db: Connection, generation: int, host: str) -> float:
        """Return the seconds until all machines of earlier clusters are surely lost, except for `host` itself."""
        row: Any = db.execute(self._others.encode(), (generation, host)).fetchone()
        return float(row[0])

    def renew(self, db: Connection, id: str, may_declare: bool) -> News | None:
        """Renew the lease of a machine, in one round trip. None if it is lost, or another cluster came.

        `may_declare`: declare every machine lost whose lease and grace are over. Only somebody who has renewed without
        a break for a lease may: else nobody could renew just now, and the others come back in a moment.
        """
        rows: list[Any] = db.execute(self._renew.encode(), (id, may_declare, id)).fetchall()
        if not rows or rows[0][0] == 0:
            return None
        return News(rows[0][1], [Neighbour(*row[2:]) for row in rows])

    def take_home(self, db: Connection, id: str, lost: str, generation: int) -> bool:
        """Make a machine the home instead of one that is lost; False if another was first."""
        return db.execute(self._take_home.encode(), (id, lost, generation)).rowcount == 1

    def end(self, db: Connection, generation: int) -> None:
        """Note that a cluster ends in order. Its machines then end what runs there."""
        db.execute(self._end.encode(), (json.dumps(CLOSED), generation))

    def leave(self, db: Connection, id: str) -> None:
        """Delete the row of a machine on which nothing of the cluster runs any more."""
        db.execute(self._leave.encode(), (id,))

    def listed(self, db: Connection) -> list[Neighbour]:
        """Return the machines of the present cluster that are not lost."""
        rows: list[Any] = db.execute(self._listed.encode()).fetchall()
        return [Neighbour(*row) for row in rows]


def name_of(host: str) -> str:
    return host.partition(" ")[0]
