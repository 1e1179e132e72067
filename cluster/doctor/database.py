"""The checks of `podium doctor` for an installation in PostgreSQL. They change nothing."""

from __future__ import annotations

from ...protocols.errors import PodiumError
from ..store.address import StoreAddress
from ..store.postgres.audit import DatabaseAudit, ShardRecords, audit
from ..store.postgres.connecting import Database
from ..store.postgres.schema import FORMAT
from .checks import Finding, record_findings

SLOW_ROUND_TRIP_MS = 5.0
"""Round trip above which each commit is slow: the database is far away."""
FULL_SHARE = 0.9
"""Share of the server's connections above which new ones may soon be refused."""


def examine_database(place: StoreAddress) -> list[Finding]:
    """Check the server, the tables and every shard."""
    try:
        found = audit(Database(place.url, place.schema, place.timeout_s))
    except PodiumError as error:
        return [
            Finding("database", "problem", place.place, str(error), "podium reaches it again by itself when it is back")
        ]
    findings = [*_server(place.place, found), _tables(place, found)]
    for shard, records in found.shards.items():
        findings += _shard(shard, records)
    return findings


def _server(place: str, found: DatabaseAudit) -> list[Finding]:
    settings = found.settings
    findings = []
    if found.is_standby:
        findings.append(Finding("database", "problem", place, "a standby, which cannot be written", "name the primary"))
    for name in ("fsync", "full_page_writes"):
        if settings[name] == "off":
            what = f"{name} is off: a power loss takes acknowledged tasks, and may damage the database"
            findings.append(Finding("database", "problem", place, what, f"ALTER SYSTEM SET {name} = on; and reload"))
    if settings["synchronous_commit"] == "off":
        what = "synchronous_commit is off: a crash of the server takes acknowledged tasks"
        remedy = "ALTER DATABASE … SET synchronous_commit = on"
        findings.append(Finding("database", "problem", place, what, remedy))
    if found.round_trip_ms > SLOW_ROUND_TRIP_MS:
        what = f"a round trip takes {found.round_trip_ms:.1f} ms, and each commit at least as long"
        findings.append(Finding("database", "warning", place, what, "put the database near the machines"))
    most = int(settings["max_connections"])
    if found.connections > FULL_SHARE * most:
        what = f"{found.connections} of {most} connections are taken; each shard needs one"
        findings.append(Finding("database", "warning", place, what, "raise max_connections, or put PgBouncer in front"))
    what = f"PostgreSQL {settings['server_version'].split()[0]}, a round trip takes {found.round_trip_ms:.2f} ms"
    return [*findings, Finding("database", "ok", place, what)]


def _tables(place: StoreAddress, found: DatabaseAudit) -> Finding:
    where = f"{place.place}, schema '{place.schema}'"
    if found.format is None:
        remedy = "the first engine makes them; or set another database_schema"
        return Finding("tables", "warning", where, "no tables here", remedy)
    if found.format != FORMAT:
        what = f"format {found.format}, and this Podium has {FORMAT}"
        return Finding("tables", "problem", where, what, "use the Podium that wrote it")
    return Finding("tables", "ok", where, f"format {found.format}, {len(found.shards)} shards")


def _shard(shard: str, records: ShardRecords) -> list[Finding]:
    what = f"epoch {records.epoch}, {records.open} open and {records.finished} finished tasks"
    remedy = "put a backup of the database back; the flaw is in its storage, or somebody changed the row"
    return [*record_findings(shard, records, remedy), Finding("shard", "ok", shard, what)]
