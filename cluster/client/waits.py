"""The open waits of tasks, as people and programs see them, and the receipts of answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...protocols.values import Value
from ..store.contract import Reader, StoredWait

PAGE = 200
"""Waits that are read at first if only those count that somebody may answer."""


@dataclass(frozen=True, slots=True)
class OpenWait:
    """A task waits for an answer. Times are UTC seconds since 1970."""

    task_id: str
    """The id of the task."""
    workflow: str
    """The name of its workflow."""
    user: str
    """The user whom the task belongs to."""
    name: str
    """The name by which the answer comes."""
    path: str
    """The path of the node that waits, in the tree."""
    since: float
    """The time at which the node began to wait."""
    until: float | None
    """The time at which the wait ends without an answer; None without a limit."""
    shown: Value
    """The value of `show`: what the answer is about."""
    digest: str
    """The digest of that, for `answer(digest=…)`."""
    schema: Mapping[str, Any] | None
    """The JSON Schema of an answer; None for any plain data."""
    who: tuple[str, ...]
    """The users, groups and roles who may answer. Empty means everybody who can reach the task."""
    not_starter: bool
    """True if the user whom the task belongs to may not answer."""
    need: int
    """The number of answers that are needed."""
    answers: int
    """The number of answers so far."""

    def may_answer(self, user: str, groups: Collection[str] = ()) -> bool:
        """Whether a user may answer, who is in these groups and roles (`group:editors`, `role:approver`)."""
        if self.not_starter and user == self.user:
            return False
        return not self.who or user in self.who or not set(self.who).isdisjoint(groups)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AnswerReceipt:
    """An answer is on disk."""

    task_id: str
    """The id of the task."""
    name: str
    """The name by which the answer came."""
    at: float
    """The time at which it was recorded, in UTC seconds. An answer that is repeated has the time of the first."""
    path: str
    """The path of the wait that it went to. Empty if no node waits for it yet, or if the answer is repeated."""
    is_over: bool
    """True if the wait is over with it."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def open_waits(
    reader: Reader,
    workflow: str | None = None,
    name: str | None = None,
    task_id: str | None = None,
    answerer: str | None = None,
    groups: Collection[str] = (),
    limit: int = 50,
) -> list[OpenWait]:
    """Return the open waits that fit all that is given, those that began last first, at most `limit`."""
    if answerer is None:
        return [_open_wait(each) for each in reader.waits(workflow, name, task_id, limit)]
    most = max(limit, PAGE)
    while True:
        stored = reader.waits(workflow, name, task_id, most)
        found = [wait for wait in map(_open_wait, stored) if wait.may_answer(answerer, groups)]
        if len(found) >= limit or len(stored) < most:
            return found[:limit]
        most *= 4


def _open_wait(stored: StoredWait) -> OpenWait:
    node, wait = stored.node, stored.wait
    return OpenWait(
        task_id=stored.task_id,
        workflow=stored.workflow,
        user=stored.user,
        name=wait.name,
        path=wait.path,
        since=wait.since,
        until=wait.until,
        shown=wait.asks["shown"],
        digest=wait.asks["digest"],
        schema=node.schema_ if node is not None else None,
        who=node.who if node is not None else (),
        not_starter=node is not None and node.not_starter,
        need=1 if node is None else node.need,
        answers=wait.asks["answers"],
    )
