"""Checks new tasks in the client, and turns them into the form that a supervisor takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, get_args

from ...actors.large_values import Outgoing
from ...protocols.errors import FixTheCall, InvalidInput
from ...protocols.large import LargeParts, LocalFile
from ...protocols.outcomes import Criticality
from ...protocols.quantities import check_priority, check_seconds, check_start
from ...protocols.stored import MET, keys_in, stored_in
from ...protocols.values import Value, check_text, check_value
from ...protocols.workflow import Workflow
from ...supervisors.messages.client import Submission
from ..config import Settings


class Prepared(NamedTuple):
    """A task as it is sent, once the large parts of its input are in the blob store."""

    task: Submission
    large: LargeParts


class Start(NamedTuple):
    """When a task may start, if not at once. See `Submission`."""

    delay_s: float | None = None
    not_before: float | None = None


AT_ONCE = Start()


def start_of(delay_s: float | None, not_before: datetime | float | None) -> Start:
    """Return when tasks may start, checked. Raises InvalidInput."""
    if isinstance(not_before, datetime):
        if not_before.tzinfo is None:
            example = "datetime(2026, 1, 1, 9, tzinfo=ZoneInfo('Europe/Berlin'))"
            raise InvalidInput(problem=f"a time without a time zone is no moment: {example}", path="not_before")
        not_before = not_before.timestamp()
    check_start(delay_s, not_before)
    return Start(delay_s, not_before)


def may_be_refused(made: Prepared) -> bool:
    """Whether the blob store may refuse an input for what is in it: a file, or a part that was stored before."""
    has_file = any(isinstance(part.content, LocalFile) for part in made.large.parts.values())
    return has_file or bool(keys_in(made.task.input))


def has_parts(made: Sequence[Prepared]) -> bool:
    """Whether there is a large part in any input, new or stored before."""
    if any(each.large.parts for each in made):
        return True
    return MET[0] and next(stored_in([each.task.input for each in made]), None) is not None


class Submissions:
    def __init__(self, settings: Settings, new_id: Callable[[], str]) -> None:
        self._settings, self._new_id = settings, new_id

    def all_of(
        self,
        workflow: Workflow,
        inputs: Sequence[Value],
        keys: Sequence[str] | None,
        priority: int,
        user: str | None,
        criticality: Criticality,
        timeout_s: float | None,
        start: Start,
    ) -> list[Prepared]:
        """Return new tasks. Raises FixTheCall, or InvalidInput that names which of several inputs."""
        if not isinstance(workflow, Workflow):
            example = "engine.submit(podium.Workflow('name', protocol), input)"
            raise FixTheCall(f"submit takes a Workflow, not {type(workflow).__name__}: {example}")
        if criticality not in get_args(Criticality):
            known = ", ".join(get_args(Criticality))
            raise InvalidInput(problem=f"'{criticality}' is none of {known}", path="criticality")
        if timeout_s is not None:
            check_seconds(timeout_s, "timeout_s")
        made = []
        for index, input in enumerate(inputs):
            name = "input" if len(inputs) == 1 else f"inputs[{index}]"
            with self._large_parts() as large:
                plain = self._checked(workflow, input, name, large)
            key = keys[index] if keys is not None else None
            made.append(Prepared(self.one(plain, key, priority, user, criticality, timeout_s, start), large))
        return made

    def _large_parts(self) -> LargeParts:
        return LargeParts(self._settings.inline_bytes, self._settings.max_blob_bytes)

    def _checked(self, workflow: Workflow, input: Value, name: str, large: LargeParts) -> Value:
        """Return the input as plain data that fits the workflow. Errors name this and which of several inputs."""
        most = self._settings.max_value_bytes
        try:
            plain = workflow.plain_input(input, name, most)
        except InvalidInput as error:
            raise InvalidInput(problem=error.problem, path=error.path, workflow=workflow.name) from error
        try:
            if not keys_in(plain):  # a value with parts that are stored already is checked by the step that reads them
                workflow.check_input(plain)
        except InvalidInput as error:
            path = ": ".join(part for part in ("" if name == "input" else name, error.path) if part)
            raise InvalidInput(problem=error.problem, path=path, workflow=workflow.name) from error
        try:
            return large.lifted(plain, name, most)
        except InvalidInput as error:
            raise InvalidInput(problem=error.problem, path=error.path, workflow=workflow.name) from error

    def answer(self, value: Value) -> Outgoing:
        """Return an answer as plain data, with its large parts beside it. Raises InvalidInput."""
        most = self._settings.max_value_bytes
        with self._large_parts() as large:
            plain = large.lifted(check_value(value, "answer", most), "answer", most)
        return Outgoing(plain, large)

    def plain(self, input: Value, key: str | None, priority: int, user: str | None) -> Prepared:
        """Return a new task of plain data, for a workflow whose protocols are not here. Raises InvalidInput."""
        most = self._settings.max_value_bytes
        with self._large_parts() as large:
            plain = large.lifted(check_value(input, "input", most), "input", most)
        return Prepared(self.one(plain, key, priority, user), large)

    def one(
        self,
        input: Value,
        key: str | None,
        priority: int,
        user: str | None,
        criticality: Criticality = "critical",
        timeout_s: float | None = None,
        start: Start = AT_ONCE,
    ) -> Submission:
        """Return a new task with checked input, as it is sent. Raises InvalidInput."""
        for text, name in ((key, "key"), (user, "user")):
            if text is not None:
                check_text(text, name)
        if user == "":
            raise InvalidInput(problem="an empty text is nobody; leave it out for your own", path="user")
        check_priority(priority)
        whose = self._settings.user if user is None else user
        source = self._settings.source
        return Submission(self._new_id(), input, whose, priority, key, False, source, criticality, timeout_s, *start)


def checked_keys(keys: Sequence[str] | None, inputs: Sequence[Value]) -> list[str] | None:
    """Return the keys, one for each input, or None. Raises ValueError if the numbers differ."""
    if keys is None:
        return None
    if len(keys) != len(inputs):
        raise ValueError(f"{len(keys)} keys for {len(inputs)} inputs")
    return list(keys)
