"""Compares the blob store with what tasks name, for `podium doctor`. It changes nothing.

What tasks name comes from the audits of the shards, which read as much of a damaged shard as can be read. Whether
nobody names a blob is said only if all shards can be read, as for the sweeper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...protocols.errors import BlobCorrupt, BlobMissing, BlobsAway, InvalidSetting, JournalCorrupt, JournalFailed
from ...supervisors.ports.blobs import Blob, BlobStore
from ...supervisors.upkeep.sweeping import pause_s
from ..blobs.hashing import Hashing, flat
from ..blobs.installation import FILE
from ..blobs.stores import blobs_there
from ..running import cluster_of
from ..sizes import size_text
from ..store.address import StoreAddress
from ..store.contract import BlobUse
from ..store.records import Records
from ..store.stores import store_of
from .findings import Finding

SHOWN_TASKS = 3
"""Most ids of tasks that a finding names."""


@dataclass(slots=True)
class _Named:
    """A blob that tasks name."""

    size: int
    tasks: int = 0
    first: list[str] = field(default_factory=list)
    """Ids of some of the tasks."""

    def told(self) -> str:
        """Return who names it, as a part of a sentence."""
        more = f" and {self.tasks - len(self.first):,} more" if self.tasks > len(self.first) else ""
        return f"named by task{'' if self.tasks == 1 else 's'} {', '.join(self.first)}{more}"


class BlobCheck:
    """The check of a blob store. The audit of each shard is shown to it first."""

    def __init__(self, place: StoreAddress, grace_s: float, now: float, reads_contents: bool = False) -> None:
        """`now`: UTC seconds. `reads_contents`: whether to read, and check, the content of each named blob."""
        self._address, self._grace_s, self._now, self._reads_contents = place, grace_s, now, reads_contents
        self._place = place.blobs or place.place
        self._named: dict[str, _Named] = {}
        self._tasks: set[str] = set()

    def see(self, found: Records) -> None:
        """Take note of the blobs that the tasks of a shard name."""
        for use in found.uses:
            self._see(use)

    def _see(self, use: BlobUse) -> None:
        named = self._named.setdefault(use.name, _Named(use.size))
        named.tasks += 1
        if len(named.first) < SHOWN_TASKS:
            named.first.append(use.task_id)
        self._tasks.add(use.task_id)

    def findings(self) -> list[Finding]:
        """Return the findings about all blobs."""
        found: list[Finding] = []
        try:
            store = self._store()
            if store is None:
                return self._of_no_name()
            listed = {blob.name: blob for blob in store.listing()}
            for name, named in self._named.items():
                found += self._of_named(store, name, named, listed.get(name))
            is_whole = not found
            found += self._of_unnamed([blob for name, blob in listed.items() if name not in self._named])
        except BlobsAway as error:
            return [*found, self._away(error.reason)]
        except (InvalidSetting, JournalFailed) as error:
            return [*found, self._away(str(error))]
        return [*found, self._summary(is_whole)]

    def drop_drafts(self) -> list[Finding]:
        """Drop what crashes left half-written, if it is older than the grace. No blob is deleted, named or not."""
        try:
            store = self._store()
            count = 0 if store is None else store.drop_drafts(self._now - self._grace_s)
        except (BlobsAway, InvalidSetting, JournalFailed):
            return []  # the check of the store says so
        what = f"{count:,} half-written {'file' if count == 1 else 'files'} removed"
        return [Finding("blob", "ok", self._place, what, repaired=True)] if count else []

    def _store(self) -> BlobStore | None:
        store = blobs_there(self._address)
        self._place = self._place if store is None else store.place
        return store

    def _away(self, reason: str) -> Finding:
        remedy = "make it reachable: steps that need it wait for `blobs_timeout_s`, and then fail"
        return Finding("blob", "problem", self._place, f"cannot be used: {reason}", remedy)

    def _of_no_name(self) -> list[Finding]:
        """The installation has no name in the store: it has had no blob yet, or the file with the name is gone."""
        if not self._named:
            return [self._summary(True)]
        what = f"{_many(len(self._named), 'blob')} of {_many(len(self._tasks), 'task')} cannot be found"
        remedy = f"restore the file '{FILE}' of the data directory, which says below which name they are"
        return [Finding("blob", "problem", self._place, what, remedy)]

    def _summary(self, is_whole: bool) -> Finding:
        if not self._named:
            return Finding("blob", "ok", self._place, "no task names a blob")
        size = size_text(sum(named.size for named in self._named.values()))
        checked = ", each read and as it was put" if self._reads_contents and is_whole else ""
        what = f"{_many(len(self._named), 'blob')}, {size}, named by {_many(len(self._tasks), 'task')}{checked}"
        return Finding("blob", "ok", self._place, what)

    # blobs that tasks name

    def _of_named(self, store: BlobStore, name: str, named: _Named, blob: Blob | None) -> Iterator[Finding]:
        if blob is None:
            yield self._missing(name, named)
        elif blob.size != named.size:
            yield self._damaged(name, named, f"it has {blob.size:,} bytes, and had {named.size:,}")
        elif self._reads_contents:
            yield from self._of_content(store, name, named)

    def _of_content(self, store: BlobStore, name: str, named: _Named) -> Iterator[Finding]:
        try:
            hashing = Hashing()
            for piece in store.read(name):
                hashing.see(flat(piece))
            if hashing.key().name != name.partition(".")[0]:
                yield self._damaged(name, named, "the content is not what its name says")
        except BlobMissing:
            yield self._missing(name, named)
        except BlobCorrupt as error:
            yield self._damaged(name, named, error.problem)
        except BlobsAway as error:
            store.size_of(name)  # raises it again if this is about the whole store
            yield self._damaged(name, named, f"it cannot be read: {error.reason}")

    def _missing(self, name: str, named: _Named) -> Finding:
        return Finding("blob", "problem", name, f"missing; {named.told()}", self._remedy(BlobMissing.code))

    def _damaged(self, name: str, named: _Named, problem: str) -> Finding:
        return Finding("blob", "problem", name, f"damaged: {problem}; {named.told()}", self._remedy(BlobCorrupt.code))

    def _remedy(self, code: str) -> str:
        return (
            f"put it back from a backup of {self._place}: a blob never changes, so any backup that has it will "
            f"do; tasks that need it fail as `{code}`"
        )

    # blobs that nobody names

    def _of_unnamed(self, unnamed: Iterable[Blob]) -> Iterator[Finding]:
        """Look at blobs that nobody named when the shards were read, before they were listed."""
        late_s = self._grace_s + pause_s(self._grace_s)
        late = [blob for blob in unnamed if self._now - (blob.doomed_at or blob.put_at) > late_s]
        named = self._named_by_now() if late else set()
        orphans = [] if named is None else [blob for blob in late if blob.name not in named]
        if orphans and cluster_of(self._address) is None:
            yield self._orphaned(orphans, "a running cluster sweeps them: podium up")
            return
        overdue = [blob for blob in orphans if blob.doomed_at is not None]
        if overdue:
            yield self._orphaned(overdue, "the cluster does not sweep them: its log says why (blobs not swept)")
        if len(overdue) < len(orphans):
            waiting = [blob for blob in orphans if blob.doomed_at is None]
            what = f"{_told(waiting)}, that no task names any more: the cluster sweeps them"
            yield Finding("blob", "ok", self._place, what)

    def _named_by_now(self) -> set[str] | None:
        """Return the names that tasks name now; None if some shard cannot be read, which its own check tells."""
        try:
            return {use.name for use in store_of(self._address).reader.blob_uses()}
        except (JournalCorrupt, JournalFailed):
            return None

    def _orphaned(self, blobs: list[Blob], remedy: str) -> Finding:
        return Finding("blob", "warning", self._place, f"orphaned: {_told(blobs)}, that no task names", remedy)


def _told(blobs: list[Blob]) -> str:
    return f"{_many(len(blobs), 'blob')}, {size_text(sum(blob.size for blob in blobs))}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
