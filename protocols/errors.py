"""Every error that Podium raises, split by what the caller can do about it.

    PodiumError
      ├─ FixTheCall   the call can never succeed as it is: correct it
      ├─ ComeBack     nothing is wrong with the call: wait, then repeat it
      ├─ Unknown      the far side went away; what it did is unknown. Podium itself retries these
      └─ GiveUp       the work itself ended badly, or its storage cannot be trusted

All fields are given by keyword and survive pickling, and all errors cross between processes as a code
and plain fields (`to_wire`, `from_wire`), never as pickles.
"""

from __future__ import annotations

from typing import Any, ClassVar

_BY_CODE: dict[str, type[PodiumError]] = {}


class PodiumError(Exception):
    """The base class of all errors of Podium. `code` is the stable name of the class in JSON output."""

    code: ClassVar[str] = "podium_error"

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _BY_CODE[cls.code] = cls

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), str(self), dict(self.__dict__))

    def to_wire(self) -> dict[str, object]:
        """Return the error as plain data: {"code", "message", "fields"}."""
        fields = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return {"code": self.code, "message": str(self), "fields": fields}


def _rebuild(kind: type[PodiumError], message: str, fields: dict[str, object]) -> PodiumError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(fields)
    return error


def from_wire(wire: dict[str, Any]) -> PodiumError:
    """Return the error that `to_wire` described. An unknown code gives a plain PodiumError."""
    kind = _BY_CODE.get(wire["code"], PodiumError)
    return _rebuild(kind, wire["message"], dict(wire.get("fields") or {}))


class FixTheCall(PodiumError):
    """The call can never succeed as it is: correct it."""

    code = "fix_the_call"


class InvalidDefinition(FixTheCall):
    """A workflow or protocol is wrong.

    `path` is the place in the tree, `problem` what is wrong, `where` file:line:column if it was read from a file.
    """

    code = "invalid_definition"

    def __init__(self, *, problem: str, path: str = "", where: str = "") -> None:
        place = ": ".join(part for part in (where, path) if part)
        super().__init__(f"{place}: {problem}" if place else problem)
        self.problem, self.path, self.where = problem, path, where


class InvalidInput(FixTheCall):
    """A value does not fit.

    `path` is the field, written like `input.files[3].name`; `problem` is what is wrong; `workflow` is the name of the
    workflow if the value was to be its input.
    """

    code = "invalid_input"

    def __init__(self, *, problem: str, path: str = "", workflow: str = "") -> None:
        whose = f"workflow '{workflow}'" if workflow else ""
        super().__init__(": ".join(part for part in (whose, path, problem) if part))
        self.problem, self.path, self.workflow = problem, path, workflow


class InvalidSetting(FixTheCall):
    """A setting does not exist or does not fit. `source` is the keyword, variable or file that it came from."""

    code = "invalid_setting"

    def __init__(self, *, name: str, source: str, problem: str) -> None:
        super().__init__(f"setting '{name}' ({source}): {problem}")
        self.name, self.source, self.problem = name, source, problem


class HookFailed(PodiumError):
    """A command that was to be told of something did not take it."""

    code = "hook_failed"

    def __init__(self, *, command: str, problem: str) -> None:
        super().__init__(f"`{command}`: {problem}")
        self.command, self.problem = command, problem


class KeyConflict(FixTheCall):
    """The submission key belongs to the task `task_id` already, with another input. Nothing was accepted."""

    code = "key_conflict"

    def __init__(self, *, key: str, task_id: str) -> None:
        super().__init__(
            f"submission key '{key}' already belongs to task {task_id} with another input; "
            f"use another key, or the same input"
        )
        self.key, self.task_id = key, task_id


class NotFound(FixTheCall):
    """There is no task, workflow or breaker (`what`) of that name or id (`name`)."""

    code = "not_found"

    def __init__(self, *, what: str, name: str, hint: str = "") -> None:
        super().__init__(f"no {what} '{name}'" + (f"; {hint}" if hint else ""))
        self.what, self.name, self.hint = what, name, hint


class AnswerRefused(FixTheCall):
    """The answer `name` to the task `task_id` does not count, and was not recorded.

    `reason` is `answered` (the answer of `by`, at `at` in UTC seconds, was first), `closed` (nobody waits for it any
    more), `stale` (it was for something else than is asked now), `not_allowed` (its sender may not answer), or `full`
    (too many answers are kept that nobody has waited for yet).
    """

    code = "answer_refused"

    def __init__(
        self, *, task_id: str, name: str, reason: str, problem: str, by: str | None = None, at: float | None = None
    ) -> None:
        super().__init__(f"answer '{name}' to task {task_id}: {problem}")
        self.task_id, self.name, self.reason, self.problem, self.by, self.at = task_id, name, reason, problem, by, at


class ComeBack(PodiumError):
    """Nothing is wrong with the call: wait, then repeat it."""

    code = "come_back"


class Overloaded(ComeBack):
    """The task was refused before anything was accepted, for `reason`. Repeat it after `retry_after_s` seconds."""

    code = "overloaded"

    def __init__(self, *, reason: str, retry_after_s: float) -> None:
        super().__init__(f"overloaded: {reason}; come back in {retry_after_s:g} s")
        self.reason, self.retry_after_s = reason, retry_after_s


class AcceptanceUnknown(ComeBack):
    """The store of tasks went away while `task_id` was on its way there. When it is back, the task may run, or not.

    Repeat the submission with the same key after `retry_after_s` seconds: the same key gives the same task. Without a
    key, look for `task_id` before you submit anew.
    """

    code = "acceptance_unknown"

    def __init__(self, *, task_id: str, retry_after_s: float) -> None:
        super().__init__(
            f"nobody knows whether task {task_id} was accepted: the store of tasks went away while it was on its way; "
            f"repeat it with the same key in {retry_after_s:g} s, or look for that task when the store is back"
        )
        self.task_id, self.retry_after_s = task_id, retry_after_s


class WaitTimedOut(ComeBack, TimeoutError):
    """The wait of `result(timeout_s=…)` ended; the task goes on. `reason` says what may hold it up, if that is known.

    It is a `TimeoutError`, too.
    """

    code = "wait_timed_out"

    def __init__(self, *, task_id: str, waited_s: float, status: str, reason: str = "") -> None:
        goes_on = f"it goes on when this is mended: {reason}" if reason else "it goes on"
        super().__init__(f"task {task_id} is still {status} after {waited_s:g} s; {goes_on}")
        self.task_id, self.waited_s, self.status, self.reason = task_id, waited_s, status, reason


class BlobsAway(ComeBack):
    """The blob store at `place`, which has the large parts of values, cannot be used now."""

    code = "blobs_away"

    def __init__(self, *, place: str, reason: str) -> None:
        super().__init__(f"the blob store {place} cannot be used: {reason}")
        self.place, self.reason = place, reason


class WorkflowDown(ComeBack):
    """The workflow is down: its supervisor died too often and was stopped. Its tasks are kept. Deploy it again."""

    code = "workflow_down"

    def __init__(self, *, workflow: str, reason: str) -> None:
        super().__init__(f"workflow '{workflow}' is down: {reason}; its tasks wait until it is deployed again")
        self.workflow, self.reason = workflow, reason


class DataInUse(ComeBack):
    """Another process (`holder`) uses the data directory, and its cluster cannot be joined."""

    code = "data_in_use"

    def __init__(self, *, directory: str, holder: str) -> None:
        super().__init__(f"data directory '{directory}' is in use by {holder}")
        self.directory, self.holder = directory, holder


class Unknown(PodiumError):
    """The other side of a call is gone, and nobody knows what it did. Podium itself repeats such calls."""

    code = "unknown_outcome"


class PeerLost(Unknown):
    """The actor at `address` is gone for good. A successor may follow."""

    code = "peer_lost"

    def __init__(self, *, address: str, reason: str = "") -> None:
        super().__init__(f"{address} is gone" + (f": {reason}" if reason else ""))
        self.address, self.reason = address, reason


class PeerUnreachable(Unknown):
    """One call to `address` failed in a way that may pass."""

    code = "peer_unreachable"

    def __init__(self, *, address: str, reason: str = "") -> None:
        super().__init__(f"{address} does not answer" + (f": {reason}" if reason else ""))
        self.address, self.reason = address, reason


class EngineClosed(PodiumError):
    """The engine was closed, or its cluster is gone for good, for `reason`. Accepted tasks are kept: connect again."""

    code = "engine_closed"

    def __init__(self, *, reason: str = "the engine is closed") -> None:
        super().__init__(reason)
        self.reason = reason


class GiveUp(PodiumError):
    """The work itself ended badly, or its storage cannot be trusted."""

    code = "give_up"


class TaskFailed(GiveUp):
    """The task failed; `result()` raises it.

    `workflow`, `step` and `attempt` say where. `cause_code`, `cause_kind`, `cause_message` and `cause_traceback` are
    the failure's code, class name, text and traceback (see `Failure`).
    """

    code = "task_failed"

    def __init__(self, *, task_id: str, workflow: str, failure: dict[str, Any]) -> None:
        step, attempt = failure.get("step", ""), failure.get("attempt", 1)
        place = f"step '{step}' (attempt {attempt})" if step else "the workflow"
        super().__init__(
            f"task {task_id} of workflow '{workflow}' failed in {place}: "
            f"{failure.get('kind') or failure['code']}: {failure['message']}"
            + (f" (not tried again: {failure['note']})" if failure.get("note") else "")
        )
        self.task_id, self.workflow, self.step, self.attempt = task_id, workflow, step, attempt
        self.cause_code, self.cause_kind = failure["code"], failure.get("kind", "")
        self.cause_message, self.cause_traceback = failure["message"], failure.get("traceback", "")

    def __str__(self) -> str:
        text = str(self.args[0])
        return f"{text}\n{self.cause_traceback}" if self.cause_traceback else text


class TaskCancelled(GiveUp):
    """The task was cancelled; `result()` raises it."""

    code = "task_cancelled"

    def __init__(self, *, task_id: str, workflow: str) -> None:
        super().__init__(f"task {task_id} of workflow '{workflow}' was cancelled")
        self.task_id, self.workflow = task_id, workflow


class JournalFailed(GiveUp):
    """The journal of `shard` cannot write. Its supervisor stops. Nothing was acknowledged that is not on disk."""

    code = "journal_failed"

    def __init__(self, *, shard: str, reason: str) -> None:
        super().__init__(f"journal of shard '{shard}' cannot write: {reason}")
        self.shard, self.reason = shard, reason


class JournalCorrupt(GiveUp):
    """The journal of `shard` is damaged: a checksum does not match, or records are missing. See docs/journal.md."""

    code = "journal_corrupt"

    def __init__(self, *, shard: str, place: str, problem: str) -> None:
        super().__init__(
            f"journal of shard '{shard}' cannot be trusted at {place}: {problem}; what to do: podium doctor"
        )
        self.shard, self.place, self.problem = shard, place, problem


class BlobMissing(GiveUp):
    """A large part of a value is not in the blob store at `place`. See docs/values.md."""

    code = "blob_missing"

    def __init__(self, *, name: str, place: str) -> None:
        super().__init__(
            f"blob {name} is not in {place}: it is lost, or was put elsewhere; what is lost: podium doctor"
        )
        self.name, self.place = name, place


class BlobCorrupt(GiveUp):
    """A large part of a value is not in the blob store at `place` as it was put there. See docs/values.md."""

    code = "blob_corrupt"

    def __init__(self, *, name: str, place: str, problem: str) -> None:
        super().__init__(f"blob {name} in {place} cannot be trusted: {problem}; what to do: podium doctor --blobs")
        self.name, self.place, self.problem = name, place, problem


class Fenced(GiveUp):
    """A newer supervisor owns the shard, so the older one must stop at once. Drivers do not see this error."""

    code = "fenced"

    def __init__(self, *, shard: str, epoch: int, newer: int) -> None:
        super().__init__(f"epoch {epoch} of shard '{shard}' was overtaken by epoch {newer}")
        self.shard, self.epoch, self.newer = shard, epoch, newer


class TooManyRestarts(GiveUp):
    """The children of a supervisor died more often than its restart intensity allows."""

    code = "too_many_restarts"

    def __init__(self, *, intensity: int, period_s: float, last: str) -> None:
        super().__init__(f"more than {intensity} restarts within {period_s:g} s; the last was for: {last}")
        self.intensity, self.period_s, self.last = intensity, period_s, last


ENVIRONMENT_FAILED = "EnvironmentFailed"
"""Kind of a SpawnFailed: the actor's environment could not be prepared, which may be due to the network."""


class SpawnFailed(GiveUp):
    """The actor at `address` could not be started, for `reason`. `kind` is the class name of the cause."""

    code = "spawn_failed"

    def __init__(self, *, address: str, reason: str, kind: str = "") -> None:
        super().__init__(f"{address} did not start: {reason}")
        self.address, self.reason, self.kind = address, reason, kind

    @property
    def has_died(self) -> bool:
        """Whether the actor died while it was starting, perhaps for no fault of its own."""
        return self.kind == PeerLost.__name__

    @property
    def is_of_code(self) -> bool:
        """Whether the actor's code or environment is at fault, so that another start at once does not help."""
        return self.kind in ("LookupError", ENVIRONMENT_FAILED)
