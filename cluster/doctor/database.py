"""The checks of `podium doctor` for an installation in PostgreSQL. They change nothing."""

from __future__ import annotations

from collections.abc import Collection

from ...protocols.errors import NotFound, PodiumError
from ..store.address import StoreAddress
from ..store.postgres.audit import DatabaseAudit, ShardRecords, audit
from ..store.postgres.connecting import Database
from ..store.postgres.mark import mark_path
from ..store.postgres.schema import FORMAT
from ..store.postgres.store import shards_folder
from .blobs import BlobCheck
from .checks import record_findings
from .findings import Finding

SLOW_ROUND_TRIP_MS = 5.0
"""Round trip above which each commit is slow: the database is far away."""
EVERY = "*"
"""Stands for all shards in `--accept-loss`: a whole database goes back in time at once."""
FULL_SHARE = 0.9
"""Share of the server's connections above which new ones may soon be refused."""


def examine_database(place: StoreAddress, blobs: BlobCheck | None = None) -> list[Finding]:
    """Check the server, the tables, every shard, and the store of blobs unless that is left out."""
    try:
        found = audit(Database(place.url, place.schema, place.timeout_s), shards_folder(place.path))
    except PodiumError as error:
        return [
            Finding("database", "problem", place.place, str(error), "podium reaches it again by itself when it is back")
        ]
    findings = [*_server(place.place, found), _tables(place, found)]
    for shard, records in found.shards.items():
        findings += _shard(place, shard, records)
        if blobs is not None:
            blobs.see(records)
    if blobs is not None and found.format == FORMAT:
        findings += blobs.findings()
    return findings


def accept_losses(place: StoreAddress, shards: Collection[str]) -> list[Finding]:
    """Forget what this machine knows of shards, so that they go on with what the database has now.

    The caller owns the installation. `EVERY` stands for all shards. Raises NotFound for a shard without a loss.
    """
    database, folder = Database(place.url, place.schema, place.timeout_s), shards_folder(place.path)
    lost = {shard: records.lost for shard, records in audit(database, folder).shards.items() if records.lost}
    wanted = sorted(lost) if EVERY in shards else sorted(set(shards))
    for shard in wanted:
        if shard not in lost:
            raise NotFound(what="lost data of shard", name=shard, hint=f"there is some of {', '.join(lost) or 'none'}")
    for shard in wanted:
        mark_path(folder, place.url, place.schema, shard).unlink()
    return [Finding("shard", "warning", each, f"loss accepted: {lost[each]}", repaired=True) for each in wanted]


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


def _shard(place: StoreAddress, shard: str, records: ShardRecords) -> list[Finding]:
    remedy = "put a backup of the database back; the flaw is in its storage, or somebody changed the row"
    findings = record_findings(shard, records, remedy)
    if records.lost is not None:
        accept = f"podium doctor --data '{place.place}' --repair --accept-loss {shard}"
        remedy = f"put a newer backup back; or go on with what is there: {accept} ('{EVERY}' for all shards)"
        findings.append(Finding("shard", "problem", shard, records.lost, remedy))
    if records.epoch is None:
        return findings
    what = f"epoch {records.epoch}, {records.open} open and {records.finished} finished tasks"
    return [*findings, Finding("shard", "ok", shard, what)]
