"""Checks a load that ran while machines failed: by what its steps saw (witnessed.py), and by the journal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.reading import PostgresReader
from podium.supervisors.tasks.events import StepFinished, unpack_events

AGAIN_S = 0.2
"""Seconds after a recorded outcome after which its step must not begin again. Clocks are read at different places."""


@dataclass
class Run:
    """One run of a step, as its process saw it. A process that was killed saw no end, but its last sign of life."""

    name: str
    place: str
    machine: str
    began: float
    began_at: float
    """The same in UTC seconds."""
    last: float = 0.0


@dataclass
class Seen:
    runs: list[Run] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    """Steps with two recorded outcomes."""
    again: list[str] = field(default_factory=list)
    """Steps that ran again after their outcome was recorded."""
    unfinished: int = 0

    @property
    def repeated(self) -> list[str]:
        """Return the steps that ran more than once."""
        return [place for place, times in Counter(run.place for run in self.runs).items() if times > 1]

    def above(self, name: str, most: int) -> list[tuple[float, float]]:
        """Return the times in which more than `most` runs of a protocol were alive, as (from, until)."""
        moments = sorted(
            [(run.began, 1) for run in self.runs if run.name == name]
            + [(run.last, -1) for run in self.runs if run.name == name]
        )
        level, since, found = 0, 0.0, []
        for at, change in moments:
            if level > most >= level + change:
                found.append((since, at))
            if level <= most < level + change:
                since = at
            level += change
        return found


def seen(witness: Path, database: Database) -> Seen:
    found = Seen(list(_runs(witness).values()))
    recorded = _recorded(database, found)
    for run in found.runs:
        at = recorded.get(run.place)
        if at is not None and run.began_at > at + AGAIN_S:
            found.again.append(f"{run.place} on {run.machine}, {run.began_at - at:.2f} s after its outcome")
    return found


def _runs(witness: Path) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    for line in witness.read_text().splitlines():
        at, wall, machine, _pid, what, name, run, *_more = json.loads(line)
        if what == "begins":
            task, path, _ = run.split(" ")
            runs[run] = Run(name, f"{task} {path}", machine, at, wall, at)
        else:
            runs[run].last = at
    return runs


def _recorded(database: Database, found: Seen) -> dict[str, float]:
    """Return the times at which outcomes of steps were recorded, by task and path."""
    reader, times, counts = PostgresReader(database), {}, Counter()
    for record in reader.list_tasks(limit=1_000_000):
        found.unfinished += record.finished_at is None
        top = reader.find_task(record.task_id)
        for stored in [top, *reader.subtasks(record.task_id)]:
            for event in (event for body in stored.bodies for event in unpack_events(body)):
                if isinstance(event, StepFinished):
                    place = f"{stored.record.task_id} {event.path}"
                    counts[place] += 1
                    times[place] = event.at
    found.double += [place for place, count in counts.items() if count > 1]
    return times
