"""The checks of `podium doctor`: the machine, the data directory, and every shard in it. They change nothing.

Each check returns findings. A problem stops or loses work, now or soon. A warning is worth a look. All else is ok. The
checks work with and without a running cluster. Repairs need that no cluster runs; see repair.py.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ...protocols.errors import JournalFailed
from ..client.holdups import blocked_hosts
from ..cluster_file import closed_in_order, running_cluster
from ..sizes import size_text
from ..space import copies_in
from ..store.lock import holder
from ..store.records import Records
from ..store.sqlite.audit import Audit, audit
from ..store.sqlite.faults import as_ours
from ..store.sqlite.opening import CHECK_BYTES
from ..store.sqlite.schema import FORMAT, TABLES_OF, lock_path, mark_path, shard_path
from .blobs import BlobCheck
from .findings import Finding, Level

LITTLE_SPACE_BYTES = 1024**3
NO_SPACE_BYTES = 64 * 1024**2
SLOW_SYNC_MS = 20.0
LONG_LOG_BYTES = 64 * 1024**2
"""Length of a WAL that is too long. It is checkpointed every 8 MiB, unless a reader never ends or the writer cannot."""
_SYNCS = 20
_STRICT_TABLES = (3, 37, 0)
"""First version of SQLite with strict tables, which the journal uses."""
_RESET_BUG = ((3, 7, 0), (3, 51, 2))
"""First and last SQLite version in which two connections that write or checkpoint can damage a WAL."""
_NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "gluster", "lustre", "gfs2", "ocfs2")
"""Beginnings of types of file systems that do not share memory maps between processes or machines, as WAL needs."""


def examine(
    data: Path, clock: Callable[[], float] = time.perf_counter, blobs: BlobCheck | None = None
) -> list[Finding]:
    """Run all checks; without `blobs`, the store of blobs is left out.

    `clock` measures the disk, in seconds. Raises OSError only if a file vanishes meanwhile.
    """
    findings = [sqlite_version(sqlite3.sqlite_version_info)]
    if not data.is_dir():
        what = "no data directory here" if not data.exists() else "not a directory"
        remedy = "`podium up` makes one; or name the right one: --data, PODIUM_DATA or podium.toml"
        return [*findings, Finding("directory", "warning", str(data), what, remedy)]
    findings += directory(data)
    findings.append(space(data, shutil.disk_usage(data).free))
    findings.append(file_system(data, Path("/proc/mounts")))
    findings.append(sync_latency(data, clock))
    findings += [cluster_file(data), *private_files(data), *leftovers(data)]
    for name in shard_names(data):
        findings += shard_findings(data, name, blobs)
    return findings + ([] if blobs is None else blobs.findings())


def shard_names(data: Path) -> list[str]:
    """Return the names of all shards that have a file or a mark, sorted."""
    folder = data / "shards"
    return sorted({path.stem for kind in ("*.db", "*.mark") for path in folder.glob(kind)})


# the machine


def sqlite_version(version: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, version))
    if version < _STRICT_TABLES:
        remedy = "use a Python with SQLite 3.37 or later"
        return Finding("sqlite", "problem", f"SQLite {text}", "has no strict tables, which the journal needs", remedy)
    what = "new enough"
    if _RESET_BUG[0] <= version <= _RESET_BUG[1]:
        what = "new enough (its WAL-reset bug needs two writing connections; a shard has one)"
    return Finding("sqlite", "ok", f"SQLite {text}", what)


def directory(data: Path) -> list[Finding]:
    """Check that we may write to the directory, that it is ours, and that others may not write."""
    place, facts = str(data), data.stat()
    mode = facts.st_mode & 0o777
    if not os.access(data, os.W_OK | os.X_OK):
        return [
            Finding(
                "directory",
                "problem",
                place,
                f"not writable (mode {mode:o})",
                f"chmod u+rwx '{data}', or mount it read-write",
            )
        ]
    if facts.st_uid != os.geteuid():
        what = f"belongs to user {facts.st_uid}, this is user {os.geteuid()}"
        return [Finding("directory", "warning", place, what, "run Podium as the owner: files of two users cannot mix")]
    if mode & 0o022:
        remedy = f"chmod go-w '{data}', or podium doctor --repair"
        return [Finding("directory", "warning", place, f"others may write here (mode {mode:o})", remedy)]
    return [Finding("directory", "ok", place, f"writable, mode {mode:o}")]


def space(data: Path, free_bytes: int) -> Finding:
    what = f"{size_text(free_bytes)} free"
    if free_bytes < NO_SPACE_BYTES:
        return Finding("space", "problem", str(data), what, "free some: a full disk stops every shard")
    if free_bytes < LITTLE_SPACE_BYTES:
        return Finding("space", "warning", str(data), what, "free some before it is full")
    return Finding("space", "ok", str(data), what)


def file_system(data: Path, mounts: Path) -> Finding:
    """Check the type of the file system, by a table like /proc/mounts."""
    try:
        table = mounts.read_text()
    except OSError as error:
        return Finding("disk", "warning", str(data), f"type of file system unknown: {error.strerror} ({mounts})")
    target = data.resolve()
    best, kind = Path(), "unknown"
    for line in table.splitlines():
        _, point, type, *_ = line.split()
        place = Path(point.replace("\\040", " "))
        if target.is_relative_to(place) and len(place.parts) >= len(best.parts):
            best, kind = place, type
    if kind.startswith(_NETWORK):
        remedy = "move the data directory to a local disk: SQLite's log needs shared memory and true locks"
        return Finding("disk", "problem", str(data), f"network file system ({kind} at {best})", remedy)
    return Finding("disk", "ok", str(data), f"local file system ({kind})")


def sync_latency(data: Path, clock: Callable[[], float]) -> Finding:
    """Measure the median of 20 small writes with fdatasync, which each commit takes at least."""
    took_ms = []
    try:
        with tempfile.TemporaryFile(dir=data) as file:
            for _ in range(_SYNCS):
                file.write(b"x" * 100)
                file.flush()
                began = clock()
                os.fdatasync(file.fileno())
                took_ms.append((clock() - began) * 1000)
    except OSError as error:
        return Finding("sync", "problem", str(data), f"cannot write here: {error.strerror}", "free space or permission")
    median = statistics.median(took_ms)
    what = f"fdatasync takes {median:.2g} ms" if median < 10 else f"fdatasync takes {median:.0f} ms"
    if median > SLOW_SYNC_MS:
        return Finding("sync", "warning", str(data), what, "each step waits for it: use a faster disk")
    return Finding("sync", "ok", str(data), what)


# the directory


def cluster_file(data: Path) -> Finding:
    place = data / "cluster.json"
    running = running_cluster(data)
    if running is not None:
        return Finding("cluster", "ok", str(place), f"a cluster runs: {running['kind']}, process {running.get('pid')}")
    if place.exists() and not closed_in_order(data):
        remedy = "podium doctor --repair (the next cluster removes it, too)"
        return Finding("cluster", "warning", str(place), "of a cluster that is gone", remedy)
    return Finding("cluster", "ok", str(data), "no cluster runs")


def private_files(data: Path) -> list[Finding]:
    """Check that only the owner can read our files. Anybody who has the token can run code as the owner."""
    opened = open_to_others(data)
    findings = []
    for path, mode in opened.items():
        if not is_blob(data, path):
            check = "token" if path.name == "ray.token" else "directory"
            level: Level = "problem" if check == "token" else "warning"
            remedy = f"chmod 600 '{path}', or podium doctor --repair"
            findings.append(Finding(check, level, str(path), f"others may use it (mode {mode:o})", remedy))
    blobs = [path for path in opened if is_blob(data, path)]
    if blobs:
        what = f"others may use {len(blobs):,} of the files in it (mode {opened[blobs[0]]:o})"
        findings.append(Finding("directory", "warning", str(data / "blobs"), what, "podium doctor --repair"))
    if (data / "ray.token").exists() and not any(finding.check == "token" for finding in findings):
        findings.append(Finding("token", "ok", str(data / "ray.token"), "readable by its owner alone"))
    return findings


def open_to_others(data: Path) -> dict[Path, int]:
    """Return our files that others may use, with their modes."""
    ours = [
        data / "ray.token",
        data / "socket.token",
        data / "cluster.json",
        data / "cluster.lock",
        *sorted((data / "shards").glob("*")),
        *sorted((data / "logs").glob("*")),
        *sorted((data / "blobs").glob("*/*")),
    ]
    return {path: mode for path in ours if (mode := _mode(path)) & 0o077}


def is_blob(data: Path, path: Path) -> bool:
    """Whether a file belongs to the blob store in a data directory."""
    return path.is_relative_to(data / "blobs")


def _mode(path: Path) -> int:
    """Return the mode of a regular file, else 0. SQLite's own files may vanish at any time."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return 0
    return facts.st_mode & 0o777 if stat.S_ISREG(facts.st_mode) else 0


def drafts(data: Path) -> list[Path]:
    """Return the half-written files that a crash left."""
    folders = (data, data / "shards")
    return sorted(path for folder in folders for kind in ("*.draft", "*.draft-journal") for path in folder.glob(kind))


def leftovers(data: Path) -> list[Finding]:
    if running_cluster(data) is not None:
        return []
    findings = [
        Finding("directory", "warning", str(path), "half-written, of no use", "podium doctor --repair")
        for path in drafts(data)
    ]
    for path in copies_in(data):
        findings.append(Finding("directory", "ok", str(path), "a copy that Podium does not need: remove it at will"))
    return findings


# the shards


def shard_findings(data: Path, shard: str, blobs: BlobCheck | None = None) -> list[Finding]:
    path = shard_path(data, shard)
    try:
        found = audit(path, shard)
    except (JournalFailed, OSError) as error:
        what = str(as_ours(shard, path, error))
        return [Finding("shard", "problem", shard, what, f"look at the modes: ls -l '{path}'*")]
    if blobs is not None:
        blobs.see(found)
    remedy = f"put a copy back, or keep what is sound: {accept_loss_command(data, shard)}"
    findings = [*_trust(data, shard, found), *record_findings(shard, found, remedy)]
    held = _held(data, shard)
    if held is not None:
        findings.append(held)
    return [*findings, _summary(path, shard, found)]


def accept_loss_command(data: Path, shard: str) -> str:
    return f"podium doctor --data '{data}' --repair --accept-loss {shard}"


def _trust(data: Path, shard: str, found: Audit) -> list[Finding]:
    """Check that the shard as a whole has all that was acknowledged."""
    findings = []
    accept = accept_loss_command(data, shard)
    if found.lost:
        remedy = f"put the newest files of it back (.db with -wal); or go on without: {accept}"
        findings.append(Finding("shard", "problem", shard, found.lost, remedy))
    if found.structure:
        repairable = index_damage(found.structure)
        remedy = (
            f"podium doctor --data '{data}' --repair" if repairable else f"put a copy back, or keep the rest: {accept}"
        )
        what = ("an index disagrees: " if repairable else "damaged pages: ") + found.structure[0]
        more = f" (and {len(found.structure) - 1} more)" if len(found.structure) > 1 else ""
        findings.append(Finding("shard", "problem", shard, what + more, remedy))
    if found.marked is None and found.format in TABLES_OF:
        what = "no mark: lost commits would not be noticed" if not _has_mark(data, shard) else "its mark is torn"
        remedy = f"podium doctor --data '{data}' --repair (the next cluster makes it, too)"
        findings.append(Finding("shard", "warning", shard, what, remedy))
    if found.log_bytes > LONG_LOG_BYTES:
        what = f"its log has {size_text(found.log_bytes)}: something reads it without end, or it cannot be folded in"
        findings.append(Finding("shard", "warning", shard, what, "end what reads it, or podium doctor --repair"))
    return findings


def index_damage(structure: list[str]) -> list[str]:
    """Return the indexes to rebuild if nothing else is wrong, else an empty list."""
    signs = ("missing from index ", "wrong # of entries in index ", "non-unique entry in index ")
    names = set()
    for problem in structure:
        sign = next((sign for sign in signs if sign in problem), None)
        if sign is None:
            return []
        names.add(problem.partition(sign)[2].split()[0])
    return sorted(names & {"open_tasks", "task_keys"})


def _has_mark(data: Path, shard: str) -> bool:
    return mark_path(shard_path(data, shard)).exists()


def record_findings(shard: str, found: Records, remedy: str) -> list[Finding]:
    """Return the findings about the records of a shard. `remedy` is for records that fail their check."""
    findings = [Finding("record", "problem", f"{shard}: {flaw.place}", flaw.problem, remedy) for flaw in found.flaws]
    for hash, tasks in found.undefined.items():
        what = f"version {hash[:12]} is not in the shard, and {tasks} open tasks need it"
        again = "deploy that version again: run its program, or podium submit with its file"
        findings.append(Finding("record", "problem", shard, what, again))
    for id, why in found.stalled.items():
        ways = f"podium dead redrive {id} when the cause is mended, podium dead drop {id}, or podium cancel {id}"
        findings.append(Finding("task", "problem", f"{shard}: {id}", f"stalled: {why}", ways))
    mend = "mend the code and deploy it again: start its driver, or podium submit; a new name needs the old one, too"
    level: Level = "problem" if found.open else "warning"
    return findings + [Finding("host", level, shard, why, mend) for why in blocked_hosts(found.blocked)]


def _held(data: Path, shard: str) -> Finding | None:
    """Return a warning if a process holds the shard although no cluster runs."""
    pid = holder(lock_path(shard_path(data, shard)))
    if pid is None or running_cluster(data) is not None:
        return None
    what = f"held by process {pid}, though no cluster runs"
    return Finding("shard", "warning", shard, what, f"the next cluster ends it; or look at it now: ps -fp {pid}")


def _summary(path: Path, shard: str, found: Audit) -> Finding:
    if not path.exists() or found.format is None:
        return Finding("shard", "ok", shard, "empty so far" if found.sound else "nothing more can be read of it")
    pid = holder(lock_path(path))
    facts = [f"format {found.format}"]
    if found.count is not None:
        facts += [f"epoch {found.count.epoch}", f"{found.open} open and {found.finished} finished tasks"]
    if found.format < FORMAT:
        facts.append(f"brought to format {FORMAT} when the next cluster opens it")
    facts += [size_text(path.stat().st_size), f"log {size_text(found.log_bytes)}"]
    if path.stat().st_size > CHECK_BYTES:
        facts.append("too large to be checked as a whole whenever it is opened")
    facts.append(f"held by process {pid}" if pid is not None else "held by nobody")
    return Finding("shard", "ok", shard, ", ".join(facts))
