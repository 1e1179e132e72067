"""Draws the steps of one task as a tree in a terminal, in few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from ....protocols.outcomes import TaskEvent
from ....protocols.printable import printable
from ....supervisors.tasks.history import StepRow
from .terminal import styled
from .view import MARKS, decide, local_time, said, seconds, short

MAX_SIBLINGS = 12
"""Most runs of one node (items of a list, visits, rounds) that are shown singly. More are counted."""
_NUMBER = re.compile(r"(\[\d+\]|#\d+)+$")
_COUNTED = {
    "completed": ("done", ""),
    "failed": ("failed", "red"),
    "cancelled": ("cancelled", "yellow"),
    "parked": ("parked", "yellow"),
    "retrying": ("to be tried again", "yellow"),
    "waiting": ("waiting", "magenta"),
    "running": ("running", "cyan"),
    "open": ("due or running", "cyan"),
}


class StepTree:
    """The steps of one task by path, fed with events or with stored rows."""

    def __init__(self, title: Text) -> None:
        self._title = title
        self._rows: dict[str, StepRow] = {}
        self.notes: list[str] = []
        """The last lines that steps logged or emitted."""

    def put(self, row: StepRow) -> None:
        self._rows[row.path] = row

    def take(self, event: TaskEvent) -> None:
        """Take an event of a running task."""
        if event.kind in ("chunk", "log"):
            self.notes = [*self.notes, f"{event.step}: {said(event)}"][-3:]
            return
        if event.kind == "parked":
            self.notes = [decide(event)]
        if not event.step:
            return
        row = self._rows.setdefault(event.step, StepRow(event.step, "running", event.attempt, event.at))
        row.attempt = event.attempt
        if event.kind == "started":
            row.status, row.sizes = "running", sizes_of(event)
        elif event.kind == "retrying":
            row.status = "retrying"
        elif event.kind == "answered":
            return
        elif event.kind == "waiting":
            row.status, row.waits = "waiting", asked(event.value)
            row.until = event.value.get("until") if isinstance(event.value, dict) else None
        else:
            row.status = "completed" if event.kind in ("finished", "woke") else "failed"
            row.ended_at, row.waits, row.until = event.at, "", None

    def render(self, now: float, height: int | None = None, singly: bool = False) -> RenderableType:
        """Return the tree at `now`, in UTC seconds.

        Args:
            height: lines that there is room for; if they are too few, what is done is shown in one line each.
            singly: show every run, however many of one node there are.
        """
        branches = _branches([(tuple(row.path.split("/")), row) for row in self._rows.values()], (), singly)
        room = None if height is None else height - len(self.notes) - 1
        folds = room is not None and sum(branch.lines() for branch in branches) > room
        tree = Tree(self._title, guide_style="dim")
        for branch in branches:
            branch.add_to(tree, now, folds)
        notes = Text("\n".join(map(printable, self.notes)), style="dim", overflow="ellipsis", no_wrap=True)
        return Group(tree, notes) if self.notes else tree


@dataclass(slots=True)
class _Branch:
    """A node of the tree: one run of it, or many in one."""

    name: str
    rows: list[StepRow]
    """The rows of the node; of all its runs if the branch stands for many."""
    below: list[_Branch] = field(default_factory=list)
    count: int | None = None
    """The number of runs that the branch stands for, including those that have not begun; None for a single run."""

    def lines(self) -> int:
        return 1 + sum(branch.lines() for branch in self.below)

    def add_to(self, tree: Tree, now: float, folds: bool) -> None:
        rows = list(self.all_rows())
        if folds and self.below and all(row.status == "completed" for row in rows):
            tree.add(_folded(self.name, rows))
            return
        added = tree.add(self._line(now))
        for branch in self.below:
            branch.add_to(added, now, folds)

    def all_rows(self) -> Iterator[StepRow]:
        yield from self.rows
        for branch in self.below:
            yield from branch.all_rows()

    def _line(self, now: float) -> Text:
        if self.count is not None:
            return _summary(self.name, self.count, self.rows)
        return _line(self.name, self.rows[0], now) if self.rows else styled((self.name, "bold"))


_Entry = tuple[tuple[str, ...], StepRow]
"""The rest of a row's path, and the row."""


def _branches(entries: list[_Entry], above: tuple[str, ...], singly: bool, merged: bool = False) -> list[_Branch]:
    """Return the branches directly below a place, with all below them. If `merged`, each stands for many runs."""
    groups: dict[str, dict[str, list[_Entry]]] = {}
    for path, row in entries:
        groups.setdefault(_stem(path[0]), {}).setdefault(path[0], []).append((path, row))
    found = []
    for stem, runs in groups.items():
        if merged or (len(runs) > MAX_SIBLINGS and not singly):
            together = [entry for run in runs.values() for entry in run]
            found.append(_branch(stem or "items", together, (*above, stem), singly, _count(together, (*above, stem))))
        else:
            found += [_branch(name, run, (*above, name), singly) for name, run in runs.items()]
    return found


def _branch(name: str, run: list[_Entry], path: tuple[str, ...], singly: bool, count: int | None = None) -> _Branch:
    own = [row for rest, row in run if len(rest) == 1]
    below = [(rest[1:], row) for rest, row in run if len(rest) > 1]
    return _Branch(name, own, _branches(below, path, singly, count is not None), count)


def _stem(segment: str) -> str:
    return _NUMBER.sub("", segment)


def _count(entries: list[_Entry], stem: tuple[str, ...]) -> int:
    """Return the number of runs of a node, including those that have not begun, if the length of the list is known."""
    depth = len(stem) - 1
    begun = {tuple(row.path.split("/"))[: depth + 1] for _, row in entries}
    lists = {"/".join((*run[:depth], _stem(run[depth]))).strip("/") for run in begun}
    sizes = {path: size for _, row in entries for path, size in row.sizes.items() if path in lists}
    return max(len(begun), sum(sizes.values()))


def sizes_of(event: TaskEvent) -> dict[str, int]:
    """Return the lengths of the lists around a step that began, by the path of the node over each list."""
    return event.value.get("of", {}) if isinstance(event.value, dict) else {}


def asked(value: object) -> str:
    """Return what a node waits for, from the value of the `waiting` event."""
    if isinstance(value, dict) and value.get("name"):
        return f"an answer: {value['name']}"
    return "its time"


def _summary(name: str, count: int, rows: list[StepRow]) -> Text:
    counted = Counter("pending" if row.waits and row.status != "waiting" else row.status for row in rows)
    parts: list[str | tuple[str, str]] = []
    for status, (word, style) in _COUNTED.items():
        if counted[status] or (status == "completed" and rows):
            number = f"{counted[status]} of {count}" if status == "completed" else f", {counted[status]}"
            parts.append((f"{number} {word}", style))
    if counted["pending"]:
        whys = Counter(row.waits for row in rows if row.waits and row.status != "waiting")
        parts.append((f", {counted['pending']} wait: {whys.most_common(1)[0][0]}", "yellow"))
    return styled(name, (f" × {count}" + (": " if parts else ""), "dim"), *parts)


def _folded(name: str, rows: list[StepRow]) -> Text:
    took = max(row.ended_at or row.opened_at for row in rows) - min(row.opened_at for row in rows)
    return styled(MARKS["completed"], f" {name} ", (f"{len(rows)} steps, {seconds(max(0.0, took))}", "dim"))


def _line(name: str, row: StepRow, now: float) -> Text:
    took = seconds(max(0.0, (row.ended_at or now) - row.opened_at))
    if row.status == "waiting":
        took = f"since {local_time(row.opened_at)}"
    attempt = f" attempt {row.attempt}" if row.attempt > 1 else ""
    problem = ""
    if row.failure is not None and row.status != "completed":
        problem = f" {row.failure.kind or row.failure.code}: {short(row.failure.message)}"
    waits = f" waits: {row.waits}" if row.waits else ""
    if row.status == "waiting":
        until = f", until {local_time(row.until)}" if row.until is not None else ""
        waits = f" waits for {row.waits}{until}"
    mark = MARKS["pending"] if row.waits and row.status != "waiting" else MARKS[row.status]
    return styled(mark, f" {name} ", (took, "dim"), (attempt, "dim"), (problem, "red"), (waits, "yellow"))


def went_wrong(rows: Iterable[StepRow]) -> list[StepRow]:
    """Return the rows that failed, wait for another attempt, or are parked."""
    return [row for row in rows if row.status in ("failed", "retrying", "parked")]
