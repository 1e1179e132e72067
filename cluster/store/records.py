"""Checks the records of a whole shard, in any store, without stopping at the first flaw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from ...protocols.errors import JournalCorrupt
from ...protocols.values import Value
from ...supervisors.ports.journal import STALLED, STUCK
from ...supervisors.upkeep.blocked import blocked_protocols
from .contract import BlobUse
from .rows import Row, blob_of, check_entry, found_row, names_in, note_of, rest_of, wait_of

MOST_FLAWS = 100
"""Largest number of flaws that are listed. The check of records ends there."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """An error at a place within the shard."""

    place: str
    problem: str


@dataclass(slots=True)
class Records:
    """The records of a shard in numbers, and all that is wrong with them."""

    flaws: list[Flaw] = field(default_factory=list)
    """Records that fail their check, or are missing between others."""
    undefined: dict[str, int] = field(default_factory=dict)
    """Open tasks whose workflow version is not in the shard, counted by the hash of the version."""
    stalled: dict[str, str] = field(default_factory=dict)
    """Open tasks that do not go on by themselves, by id, each with the reason."""
    blocked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Protocols whose hosts cannot start, in the form of `blocked_protocols`."""
    uses: list[BlobUse] = field(default_factory=list)
    """The blobs that tasks name."""
    open: int = 0
    finished: int = 0

    def look_through(
        self,
        shard: str,
        epoch: int | None,
        tasks: Iterable[Row],
        entries: Iterable[Row],
        notes: Iterable[Row],
        blobs: Iterable[Row],
        standings: Iterable[Row] = (),
        waits: Iterable[Row] = (),
    ) -> None:
        """Check all rows of a shard, in the forms of rows.py; tasks sorted by id, entries by task and number.

        Args:
            standings: rows of REST_SELECT.
        """
        check = _Check(shard, epoch, self)
        for flaw in chain(check.flaws(tasks, entries, notes, blobs), check.flaws_of_standings(standings, waits)):
            self.flaws.append(flaw)
            if len(self.flaws) >= MOST_FLAWS:
                break
        self.stalled = {
            name.partition(":")[2]: str(why) for name, why in check.notes.items() if name.startswith((STALLED, STUCK))
        }
        self.blocked = blocked_protocols(check.notes)
        self.undefined = {
            hash: count for hash, count in check.needed.items() if f"definition:{hash}" not in check.note_names
        }


class _Check:
    def __init__(self, shard: str, epoch: int | None, found: Records) -> None:
        self._shard, self._epoch, self._found = shard, epoch, found
        self._ids: set[str] = set()
        self.needed: Counter[str] = Counter()
        """Open tasks by the hash of their version."""
        self.notes: dict[str, Value] = {}
        """The notes that pass their check."""
        self.note_names: set[str] = set()
        self._listed: set[tuple[str, str]] = set()
        """Tasks and the names of their blobs."""
        self._unlisted: list[tuple[str, str]] = []

    def flaws(
        self, tasks: Iterable[Row], entries: Iterable[Row], notes: Iterable[Row], blobs: Iterable[Row]
    ) -> Iterator[Flaw]:
        yield from self._note_flaws(notes)
        yield from self._blob_flaws(blobs)
        yield from self._task_flaws(tasks)
        yield from self._entry_flaws(entries)
        yield from (
            Flaw(f"task {id}", f"it names blob {name}, which is not on its list") for id, name in self._unlisted
        )

    def flaws_of_standings(self, standings: Iterable[Row], waits: Iterable[Row]) -> Iterator[Flaw]:
        for row in standings:
            if row[1] is not None:
                yield from self._flaw(rest_of, row)
        for row in waits:
            yield from self._flaw(wait_of, row)

    def _flaw(self, read: Callable[[str, Row], object], row: Row) -> Iterator[Flaw]:
        try:
            read(self._shard, row)
        except JournalCorrupt as error:
            yield Flaw(error.place, error.problem)

    def _blob_flaws(self, rows: Iterable[Row]) -> Iterator[Flaw]:
        for row in rows:
            try:
                use = blob_of(self._shard, row)
            except JournalCorrupt as error:
                yield Flaw(error.place, error.problem)
            else:
                self._listed.add((use.task_id, use.name))
                self._found.uses.append(use)

    def _task_flaws(self, rows: Iterable[Row]) -> Iterator[Flaw]:
        for row in rows:
            self._ids.add(row[0])
            if row[11] is None:
                self.needed[row[3]] += 1
            try:
                record = found_row(self._shard, row).record
                self._unlisted += sorted(names_in(row[0], row[13]) - self._listed)
            except JournalCorrupt as error:
                yield Flaw(error.place, error.problem)
                continue
            self._found.finished += record.finished_at is not None
            self._found.open += record.finished_at is None

    def _entry_flaws(self, rows: Iterable[Row]) -> Iterator[Flaw]:
        task_id, n, epoch = None, 0, 0
        for row in rows:
            if row[0] != task_id:
                task_id, n, epoch = row[0], 0, 0
                if task_id not in self._ids:
                    yield Flaw(f"task {task_id}", "there are entries, but no task")
            place = f"task {task_id}, entry {row[1]}"
            if row[1] != n + 1:
                yield Flaw(f"task {task_id}, entry {n + 1}", f"missing; the next is {row[1]}")
            if row[2] < epoch:
                yield Flaw(place, f"written in epoch {row[2]}, behind one of epoch {epoch}")
            if self._epoch is not None and row[2] > self._epoch:
                yield Flaw(place, f"written in epoch {row[2]}, but the shard is at epoch {self._epoch}")
            try:
                check_entry(self._shard, row)
                self._unlisted += sorted(names_in(row[0], row[3]) - self._listed)
            except JournalCorrupt as error:
                yield Flaw(error.place, error.problem)
            n, epoch = row[1], row[2]

    def _note_flaws(self, rows: Iterable[Row]) -> Iterator[Flaw]:
        for row in rows:
            self.note_names.add(row[0])
            try:
                name, value = note_of(self._shard, row)
            except JournalCorrupt as error:
                yield Flaw(error.place, error.problem)
            else:
                self.notes[name] = value
