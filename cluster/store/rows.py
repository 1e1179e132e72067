"""Records as rows, the same for the writer and for readers; every blob is sealed with its checksum."""

from __future__ import annotations

import sqlite3
import zlib
from collections import defaultdict
from typing import Any, overload

from ...protocols.errors import JournalCorrupt
from ...protocols.outcomes import Failure, TaskRecord
from ...protocols.values import Value, pack, unpack
from ...supervisors.ports import Found, NewTask, OpenTask

TASK_COLUMNS = (
    "id", "workflow", "version", "hash", "input", "user", "priority", "key", "digest",
    "status", "accepted_at", "finished_at", "result", "failure",
)  # fmt: skip


@overload
def seal(blob: bytes) -> bytes: ...
@overload
def seal(blob: None) -> None: ...
def seal(blob: bytes | None) -> bytes | None:
    """`blob` followed by its CRC-32, four bytes, big-endian."""
    return None if blob is None else blob + zlib.crc32(blob).to_bytes(4, "big")


def unseal(shard: str, place: str, sealed: bytes) -> bytes:
    """What was sealed. Raises JournalCorrupt if a bit of it changed."""
    blob = sealed[:-4]
    if len(sealed) < 4 or zlib.crc32(blob) != int.from_bytes(sealed[-4:], "big"):
        raise JournalCorrupt(shard=shard, place=place, problem="the checksum does not match")
    return blob


def task_row(change: NewTask) -> tuple[Any, ...]:
    record = change.record
    return (
        record.task_id, record.workflow, record.version, record.hash, seal(pack(record.input)), record.user,
        record.priority, record.key, change.payload_digest, record.status, record.accepted_at, None, None, None,
    )  # fmt: skip


def found_row(shard: str, row: tuple[Any, ...]) -> Found:
    (
        id,
        workflow,
        version,
        hash,
        input,
        user,
        priority,
        key,
        digest,
        status,
        accepted,
        finished,
        result,
        failure,
    ) = row
    failed = _value(shard, id, failure)
    record = TaskRecord(
        task_id=id,
        workflow=workflow,
        version=version,
        hash=hash,
        input=_value(shard, id, input),
        user=user,
        priority=priority,
        key=key,
        status=status,
        accepted_at=accepted,
        finished_at=finished,
        result=_value(shard, id, result),
        failure=Failure.from_wire(failed) if failed else None,
    )
    return Found(record, digest)


def _value(shard: str, id: str, sealed: bytes | None) -> Value:
    return None if sealed is None else unpack(unseal(shard, f"task {id}", sealed), max_bytes=len(sealed))


def open_task_rows(shard: str, db: sqlite3.Connection) -> list[OpenTask]:
    """Every task that has not ended, with its entries, in the order of acceptance."""
    columns = ",".join(TASK_COLUMNS)
    bodies: dict[str, list[bytes]] = defaultdict(list)
    entries = db.execute(
        "SELECT task_id, n, body FROM tasks JOIN entries ON task_id = id WHERE finished_at IS NULL ORDER BY task_id, n"
    )
    for task_id, n, body in entries:
        if n != len(bodies[task_id]) + 1:
            place = f"task {task_id}, entry {len(bodies[task_id]) + 1}"
            raise JournalCorrupt(shard=shard, place=place, problem=f"missing; the next is {n}")
        bodies[task_id].append(unseal(shard, f"task {task_id}, entry {n}", body))
    rows = db.execute(f"SELECT {columns} FROM tasks WHERE finished_at IS NULL ORDER BY accepted_at, id")
    records = [found_row(shard, row).record for row in rows]
    return [OpenTask(record, bodies[record.task_id]) for record in records]
