"""What of a failed task's events stands if it is to go on from where it failed. Pure."""

from __future__ import annotations

from ..protocols.outcomes import TaskRecord
from ..protocols.tree import Node
from .events import OF_THE_TASK, Event, StepBegan
from .fold import apply, begin
from .state import Place, TaskState


def without_the_failure(record: TaskRecord, root: Node, prefix: str, events: list[Event]) -> list[Event]:
    """All events but those that led to the failure: the last one, and if a fallback failed for good, everything of the
    fallbacks of that node, and what opened the first of them."""
    if not events:
        return []
    kept, last = events[:-1], events[-1]
    path = None if isinstance(last, OF_THE_TASK) else last.path
    while path is not None and "/fallback:" in path:
        node = path.rpartition("/fallback:")[0]
        opened_by = _opened_by(record, root, prefix, kept, node)
        if opened_by is None:
            break
        failed = kept[opened_by]
        kept = [event for n, event in enumerate(kept) if n != opened_by and not _is_below(event, f"{node}/fallback:")]
        path = None if isinstance(failed, OF_THE_TASK) else failed.path
    return [event for event in kept if not isinstance(event, StepBegan)]


def _opened_by(record: TaskRecord, root: Node, prefix: str, events: list[Event], node: str) -> int | None:
    """Which event opened the first fallback of the node at that path."""
    task, _ = begin(record, root, prefix)
    for number, event in enumerate(events):
        apply(task, event)
        if _has_fallback(task, node):
            return number
    return None


def _has_fallback(task: TaskState, node: str) -> bool:
    return any(place.path == node and place.fallbacks for place in _places(task.root))


def _places(place: Place) -> list[Place]:
    return [place, *(below for child in place.children.values() for below in _places(child))]


def _is_below(event: Event, path: str) -> bool:
    return not isinstance(event, OF_THE_TASK) and event.path.startswith(path)
