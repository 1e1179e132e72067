"""What a supervisor does for its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .events import Event
from .plan import Plan
from .ports import Entry
from .state import Effect, TaskState
from .tier import Tier


@dataclass(frozen=True, slots=True)
class Engine:
    tasks: Mapping[str, TaskState]
    """The open ones, by id."""
    plans: Mapping[str, Plan]
    """By hash."""
    take: Callable[[TaskState, Event], None]
    """Take an event in."""
    keep: Callable[[TaskState], None]
    """A task is open from now on."""
    entry: Callable[[TaskState, list[Event]], Entry]
    carry_out: Callable[[TaskState, list[Effect]], None]
    tiers_of: Callable[[str], list[Tier]]
    """The tiers that may know a run "<task>/<path>"."""
    report_faults: Callable[[TaskState], None]
    """Say what went wrong in the fold of a task for a fault of ours."""
    newest: Callable[[Plan], Plan]
    """The version with the same tree that is in force, or the same."""
    check_clock: Callable[[], None]
    """Before anything is given a time: times that are there move if the clock was set, and new ones do not."""
