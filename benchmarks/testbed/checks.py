"""What must hold after the kills, by the journal and by the witness (I1 to I8 of the invariants).

What the witness can order: a start that was written to the account after the journal was read, while nothing was
alive, came after everything that was recorded then (`Snapshot`); this needs no clock. A start whose time is later
than the time in the recorded finish came after it, because the supervisor sets that time before it commits, and who
repeats a run does so after the commit failed; this needs a clock that does not jump, and covers every kill.
What it cannot: tell when within a commit the disk had it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from podium.cluster.store.rows import ENTRY_SELECT, NOTE_SELECT, TASK_SELECT, bodies_of, found_row, note_of
from podium.cluster.store.sqlite.opening import reading
from podium.cluster.store.sqlite.reading import StoredTask, shards
from podium.cluster.store.sqlite.schema import shard_path
from podium.protocols.workflow import Workflow
from podium.supervisors.tasks.events import Event, StepFailed, StepFinished, unpack_events
from podium.supervisors.tasks.fold import apply, begin

from .driver import ACKS, RESULTS, known
from .load import LIMIT, result_of
from .witness import Line

Run = tuple[str, str, int]
"""Task, step and attempt."""
EXPLAINS_S = 15.0
"""A kill explains repetitions of runs that began at most so much before: a stopped actor is noticed after a lease."""
HARMLESS = ("resources",)
"""Classes whose death leaves no outcome of a run unknown."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was recorded when nothing was alive, and how long the account was then."""

    recorded: frozenset[Run]
    offset: int


def snapshot(data: Path, offset: int) -> Snapshot:
    return Snapshot(frozenset(recorded_at(stored_tasks(data))), offset)


def stored_tasks(data: Path) -> list[StoredTask]:
    """Every task and every run of a tier, with its entries; all seals are checked. Raises JournalCorrupt."""
    return [task for shard in shards(data) for task in _stored_in(data, shard)]


def _stored_in(data: Path, shard: str) -> list[StoredTask]:
    """One pass over a shard, as FileReader reads one task."""
    with reading(shard_path(data, shard)) as db:
        notes = dict(note_of(shard, row) for row in db.execute(NOTE_SELECT))
        bodies = bodies_of(shard, db.execute(f"{ENTRY_SELECT} ORDER BY task_id, n"))
        records = [found_row(shard, row).record for row in db.execute(TASK_SELECT)]
    return [StoredTask(shard, each, notes[f"definition:{each.hash}"], bodies.get(each.task_id, [])) for each in records]


def events_of(task: StoredTask) -> Iterator[Event]:
    for body in task.bodies:
        yield from unpack_events(body)


def recorded_at(tasks: Iterable[StoredTask]) -> dict[Run, float]:
    """When the outcome of each run was taken in, in UTC seconds."""
    found: dict[Run, float] = {}
    for task in tasks:
        task_id = task.record.task_id.partition("/")[0]
        attempts: Counter[str] = Counter()
        for event in events_of(task):
            if isinstance(event, StepFinished | StepFailed):
                attempts[event.path] += 1
                found[task_id, event.path, attempts[event.path]] = event.at
    return found


def acknowledged_tasks(folder: Path, tasks: list[StoredTask]) -> list[str]:
    """I1, I5: what was acknowledged has one end, with the right result, and everybody heard the same."""
    records = {task.record.task_id: task.record for task in tasks}
    problems = []
    for ack in known(folder / ACKS):
        record = records.get(ack["id"])
        if record is None:
            problems.append(f"I1: task {ack['id']} was acknowledged and is not in the journal")
        elif record.status != "completed" or record.result["n"] != result_of(ack["workflow"], ack["input"]):
            problems.append(
                f"I1: task {ack['id']} of {ack['input']} is {record.status}: {record.result or record.failure}"
            )
    for told in known(folder / RESULTS):
        record = records.get(told["id"])
        if record is None or record.result != told["result"]:
            problems.append(
                f"I5: task {told['id']} was told to have {told['result']}, and has {record and record.result}"
            )
    open_ids = [id for id, record in records.items() if record.finished_at is None]
    return problems + [f"I1: {id} is still open" for id in open_ids]


def keys(folder: Path, tasks: list[StoredTask]) -> list[str]:
    """I7: one key, one task."""
    ids = defaultdict(set)
    for ack in known(folder / ACKS):
        ids[ack["key"]].add(ack["id"])
    for task in tasks:
        if task.record.key is not None:
            ids[task.record.key].add(task.record.task_id)
    return [f"I7: key {key} has the tasks {sorted(found)}" for key, found in ids.items() if len(found) > 1]


def starts_after_finish(lines: list[Line], recorded: dict[Run, float]) -> list[str]:
    """I2, by the clock."""
    return [
        f"I2: {line.run} started {line.at - recorded[line.run]:.4f} s after its finish was taken in"
        for line in lines
        if line.what == "start" and line.at > recorded.get(line.run, line.at)
    ]


def starts_after_snapshot(later: list[Line], then: Snapshot) -> list[str]:
    """I2, without a clock: `later` was witnessed after the snapshot."""
    return [
        f"I2: {line.run} started again, although its finish was recorded when everything was dead"
        for line in later
        if line.what == "start" and line.run in then.recorded
    ]


def repetitions(lines: list[Line], kills: list[tuple[str, float]]) -> tuple[int, list[str]]:
    """How many runs were repeated, and I2: each repetition follows a death that left the outcome unknown.

    Args:
        kills: class and time of each.
    """
    starts: dict[Run, list[float]] = defaultdict(list)
    for line in lines:
        if line.what == "start":
            starts[line.run].append(line.at)
    again = [(run, *pair) for run, times in starts.items() for pair in pairwise(sorted(times))]
    deaths = [at for kind, at in kills if kind not in HARMLESS]
    unexplained = [
        f"I2: {run} started again after {second - first:.3f} s, and nothing had died"
        for run, first, second in again
        if not any(first - EXPLAINS_S <= at <= second for at in deaths)
    ]
    return len(again), unexplained


def known_work(lines: list[Line], recorded: dict[Run, float], tasks: list[StoredTask]) -> list[str]:
    """Nothing ran that was not accepted, and nothing was recorded that did not run."""
    ids = {task.record.task_id for task in tasks}
    ended = {line.run for line in lines if line.what == "end"}
    strangers = {line.task_id for line in lines} - ids
    problems = [f"I1: {id} ran, and is in no journal" for id in sorted(strangers)]
    inner = {run for run in recorded if run[1] == "team"}  # what a tier ran as a whole has no line of its own
    return problems + [f"I2: {run} is recorded, and was not seen to end" for run in recorded.keys() - ended - inner]


def limits(lines: list[Line]) -> list[str]:
    """I3, by locks that go with their holders."""
    return [
        f"I3: {line.in_use} permits of 'llm' in use at {line.at:.3f}, the limit is {LIMIT}; the last was {line.run}"
        for line in lines
        if line.what == "take" and line.in_use > LIMIT
    ]


def at_rest(status: dict[str, Any]) -> list[str]:
    """I4."""
    uses = status["quotas"].items()
    return [f"I4: at rest, of '{quota}' {use}" for quota, use in uses if use["held"] or use["waiting"]]


def epochs(data: Path) -> list[str]:
    """I6, I8: entries of a task have no gaps, and their epochs never fall."""
    problems = []
    for shard in shards(data):
        with sqlite3.connect(f"file:{data / 'shards' / shard}.db?mode=ro", uri=True) as db:
            entries = defaultdict(list)
            for task_id, n, epoch in db.execute("SELECT task_id, n, epoch FROM entries ORDER BY task_id, n"):
                entries[task_id].append((n, epoch))
        for task_id, found in entries.items():
            if [n for n, _ in found] != list(range(1, len(found) + 1)):
                problems.append(f"I6: entries of {task_id} are {[n for n, _ in found]}")
            if any(later < earlier for (_, earlier), (_, later) in pairwise(found)):
                problems.append(f"I8: epochs of {task_id} are {[epoch for _, epoch in found]}")
    return problems


def folds(tasks: list[StoredTask]) -> list[str]:
    """I6: folding the journal again gives what was recorded."""
    problems = []
    for task in tasks:
        record = task.record
        root = Workflow.from_trusted({"name": "again", "root": task.definition["root"]}).root
        state, _ = begin(record, root, record.task_id.partition("/")[2])
        for event in events_of(task):
            apply(state, event)
        output = state.outcome.output if state.outcome else None
        if (state.status, output) != (record.status, record.result):
            problems.append(
                f"I6: {record.task_id} is {record.status} with {record.result}, and folds to {state.status}, {output}"
            )
    return problems
