"""The repairs of `podium doctor --repair`. They need that no cluster runs, and hold the lock of each shard they change.

Without `--accept-loss` no repair loses data. It removes half-written files of a crash, tightens modes, rebuilds indexes
and marks, and folds logs into their files. No blob is ever deleted. With `--accept-loss` a shard that lost data is
copied aside, and then continues with its sound records.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ...protocols.errors import DataInUse, NotFound
from ..cluster_file import ClusterFile, running_cluster
from ..store.lock import holder, try_take
from ..store.rows import SHARD_SELECT, count_of, seal
from ..store.sqlite.audit import Audit, audit
from ..store.sqlite.faults import as_ours
from ..store.sqlite.mark import Count
from ..store.sqlite.rebuild import copy_aside, rebuild, write_mark
from ..store.sqlite.schema import FORMAT, SEALED, TABLES_OF, lock_path, mark_path, shard_path
from .blobs import BlobCheck
from .checks import drafts, examine, index_damage, is_blob, open_to_others, shard_names
from .findings import Finding


def repair(data: Path, accept_loss: Collection[str], now: float, blobs: BlobCheck | None = None) -> list[Finding]:
    """Repair a data directory; returns the repairs, then the findings of all checks afterwards.

    Args:
        accept_loss: names of damaged shards that are to go on with their sound records.
        now: UTC seconds, for the names of copies.
        blobs: the check of the blob store, if that is to be looked at, too.

    Raises:
        DataInUse: a cluster runs. NotFound: no such shard. JournalFailed: the file system refuses.
        InvalidSetting: the directory cannot be written.
    """
    if not data.is_dir():
        return examine(data, blobs=blobs)
    unknown = sorted(set(accept_loss) - set(shard_names(data)))
    if unknown:
        raise NotFound(what="shard", name=unknown[0], hint=f"there are {', '.join(shard_names(data)) or 'none'}")
    with _alone(data) as done:
        done += _tidy(data)
        done += [] if blobs is None else blobs.drop_drafts()
        for shard in shard_names(data):
            path = shard_path(data, shard)
            try:
                done += _mend_shard(path, shard, shard in accept_loss, now)
            except (sqlite3.Error, OSError) as error:
                raise as_ours(shard, path, error) from error
    return [*done, *examine(data, blobs=blobs)]


@contextmanager
def _alone(data: Path) -> Iterator[list[Finding]]:
    """Keep clusters out. Yields the repairs: one if a stale `cluster.json` was removed. Raises DataInUse."""
    stale = data / "cluster.json"
    was_there = stale.exists()
    file = ClusterFile(data)
    if not file.take():
        facts = running_cluster(data) or {}
        raise DataInUse(directory=str(data), holder=f"a cluster (process {facts.get('pid', 'unknown')}): podium down")
    try:
        yield [_done("cluster", str(stale), "removed: its cluster is gone")] if was_there else []
    finally:
        file.release()


def _done(check: str, place: str, what: str) -> Finding:
    return Finding(check, "ok", place, what, repaired=True)


def _tidy(data: Path) -> list[Finding]:
    done = []
    for path in drafts(data):
        path.unlink()
        done.append(_done("directory", str(path), "removed: it was half-written"))
    opened = open_to_others(data)
    for path, mode in opened.items():
        path.chmod(0o600)
        if not is_blob(data, path):
            check = "token" if path.name == "ray.token" else "directory"
            done.append(_done(check, str(path), f"mode {mode:o} is now 600"))
    blobs = sum(is_blob(data, path) for path in opened)
    if blobs:
        done.append(_done("directory", str(data / "blobs"), f"the mode of {blobs:,} of the files in it is now 600"))
    mode = data.stat().st_mode & 0o777
    if mode & 0o022:
        data.chmod(mode & ~0o022)
        done.append(_done("directory", str(data), f"mode {mode:o} is now {mode & ~0o022:o}"))
    return done


def _mend_shard(path: Path, shard: str, accept_loss: bool, now: float) -> list[Finding]:
    lock = try_take(lock_path(path))
    if lock is None:
        pid = holder(lock_path(path))
        what = f"left alone: held by process {pid or 'unknown'}"
        return [Finding("shard", "warning", shard, what, f"see what it is: ps -fp {pid}" if pid else "")]
    try:
        return _mend(path, shard, accept_loss, now)
    finally:
        os.close(lock)


def _mend(path: Path, shard: str, accept_loss: bool, now: float) -> list[Finding]:
    done = []
    found = audit(path, shard)
    indexes = index_damage(found.structure)
    if indexes and not found.flaws:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for index in indexes:
                db.execute(f"REINDEX {index}")
                done.append(_done("shard", shard, f"index {index} made anew"))
        found = audit(path, shard)
    if found.sound and accept_loss:
        done.append(Finding("shard", "ok", shard, "nothing is lost here: nothing to accept"))
    elif accept_loss:
        done += _accept_loss(path, shard, found, now)
        found = audit(path, shard)
    if not found.sound or found.format is None:
        return done
    if found.marked is None and found.count is not None:
        write_mark(path, found.count)
        done.append(_done("shard", shard, "its mark made anew"))
    if found.log_bytes:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        done.append(_done("shard", shard, "its log folded into the file"))
    return done


def _raise_to_mark(path: Path, shard: str, found: Audit) -> None:
    """Raise the counts of a sound shard behind its mark to the mark, so that epochs and commits go on rising."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        counts = [count_of(shard, db.execute(SHARD_SELECT).fetchone()), found.marked or Count(0, 0)]
        epoch, commits = max(count.epoch for count in counts), max(count.commits for count in counts)
        db.execute("UPDATE shard SET epoch = ?, commits = ?, seal = ?", (epoch, commits, seal(epoch, commits)))
        db.execute("COMMIT")


def _accept_loss(path: Path, shard: str, found: Audit, now: float) -> list[Finding]:
    """Copy the shard aside and continue with its sound records. Returns a finding for each loss."""
    if found.format not in (None, *TABLES_OF) and (found.structure or found.flaws):
        what = f"left alone: of format {found.format}, and only formats {SEALED} to {FORMAT} can be cut back"
        return [Finding("shard", "warning", shard, what, "put a copy back; a later format needs the later Podium")]
    folder = copy_aside(path, datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ"))
    done = [_done("shard", shard, f"its files copied to {folder}")]
    if found.lost:
        done.append(Finding("shard", "warning", shard, f"loss accepted: it {found.lost}", repaired=True))
    if found.format not in (None, *TABLES_OF):
        mark_path(path).unlink(missing_ok=True)
        return done
    if found.count is not None and not (found.structure or found.flaws):
        _raise_to_mark(path, shard, found)
    else:
        losses = rebuild(path, shard)
        done += [Finding("record", "warning", shard, f"lost: {loss}", repaired=True) for loss in losses]
        done.append(_done("shard", shard, "written anew from what is sound"))
    return done
