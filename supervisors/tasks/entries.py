"""Makes the journal entries of a task from its events. The last entry also holds the outcome of the task."""

from __future__ import annotations

from dataclasses import replace

from ...protocols.errors import InvalidInput
from ...protocols.outcomes import Failure, Outcome, TaskStatus
from ...protocols.stored import MET, NO_BLOBS
from ...protocols.tree import Wait
from ...protocols.values import MAX_VALUE_BYTES, pack
from ..figures.lacking import lacking
from ..ports.journal import Closing, Entry, ListedWait, Rests, Standing
from .client_events import count_told
from .events import Event, blobs_in, pack_events
from .mail import count_answers
from .state import TaskState


def entry_of(task: TaskState, events: list[Event], now: float, max_value_bytes: int = MAX_VALUE_BYTES) -> Entry:
    """Make the next journal entry of a task, after these events were folded in.

    If the task has ended, its record is updated and the entry has the outcome. A result that is larger than
    `max_value_bytes` when packed (it may be joined of many outputs) is refused: the task fails as `invalid_output`.
    """
    body = pack_events(events)
    closing = _closed(task, now, max_value_bytes) if task.outcome is not None else None
    task.entries += 1
    for event in events:
        task.told += count_told(event)
    return Entry(task.record.task_id, task.entries, body, closing, blobs_in(events) if MET[0] else NO_BLOBS)


_USUAL = ("running", "pending")


def standing(task: TaskState, clock_s: float) -> Standing | None:
    """Return how a task stands, and take it for stored; None if that is stored already.

    Args:
        clock_s: see `Rests`.
    """
    if not (task.waiting or task.listed or task.parked) and (task.record.status in _USUAL or task.outcome is not None):
        return None
    waits, over = _listing(task)
    status = task.status
    if task.outcome is None and status in _USUAL and task.record.status in _USUAL:
        status = task.record.status
    may_rest = "/" not in task.record.task_id  # the supervisor above a nested run keeps its supervisor up anyway
    rests = Rests(task.rests_until(), clock_s) if status == "waiting" and may_rest else None
    if status == task.record.status and rests == task.rests and not waits and not over:
        return None
    task.rests = rests
    if task.outcome is None:
        task.record = replace(task.record, status=status)  # type: ignore[arg-type]
    return Standing(task.record.task_id, status, rests, waits, over)


def began(task: TaskState) -> Standing:
    """Return how a task stands that was pending, and runs now."""
    task.record = replace(task.record, status="running")
    return Standing(task.record.task_id, "running")


def take_for_listed(task: TaskState) -> None:
    """Take all open waits of a task for listed in the inbox."""
    _listing(task)


def _listing(task: TaskState) -> tuple[tuple[ListedWait, ...], tuple[str, ...]]:
    """Return the waits that the inbox lacks or has wrong, and the paths of those that it has no more; notes both."""
    now = {} if task.outcome is not None else {path: count_answers(task, path) for path in task.waiting}
    now = {path: count for path, count in now.items() if count is not None}
    listed = task.listed or {}
    over = tuple(path for path in listed if path not in now)
    new = tuple(_open_wait(task, path) for path, count in now.items() if listed.get(path) != count)
    task.listed = now  # type: ignore[assignment]
    return new, over


def _open_wait(task: TaskState, path: str) -> ListedWait:
    place = task.waiting[path]
    node, asked = place.node, place.memory
    assert isinstance(node, Wait)
    until = None if place.time is None else place.time.until
    asks = {"shown": asked.shown, "digest": asked.digest, "answers": count_answers(task, path)}
    return ListedWait(path, node.wait, place.opened_at, until, asks)


def _closed(task: TaskState, now: float, max_value_bytes: int) -> Closing:
    assert task.outcome is not None
    result = None if task.outcome.failure else _packed_result(task, max_value_bytes)
    failure = task.outcome.failure
    status: TaskStatus = task.status  # type: ignore[assignment]
    lacks = {} if failure else lacking(task)
    task.record = task.record.ended(status, now, task.outcome.output, failure, lacks)
    trouble = failure.to_wire() if failure else lacks
    return Closing(status, now, result, pack(trouble) if trouble else None)


def _packed_result(task: TaskState, max_value_bytes: int) -> bytes | None:
    assert task.outcome is not None
    try:
        packed = pack(task.outcome.output)
        if len(packed) <= max_value_bytes:
            return packed
        problem = f"the result has {len(packed)} bytes packed, the limit is {max_value_bytes}"
    except InvalidInput as error:
        problem = f"the result: {error.problem}"
    task.outcome = Outcome(failure=Failure("invalid_output", problem, step=task.root.path or task.root.name))
    return None
