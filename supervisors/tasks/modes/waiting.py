"""A Wait waits for answers, a Sleep for a time. Neither runs anything while it waits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from ....protocols.conditions import ExpressionFailed, evaluate
from ....protocols.outcomes import Failure, Outcome
from ....protocols.quantities import MAX_SECONDS
from ....protocols.tree import Sleep, Wait
from ....protocols.tree_parts import Constant, moment_of
from ....protocols.values import Value, digest
from ..state import Asked, Await, Finish, Move, NodeRun, Start, Time
from .mode import Mode

AT_TIMEOUT = "on_timeout"
"""Label of the node that follows when a Wait has timed out."""


def ask(place: NodeRun) -> list[Move]:
    node = place.node
    assert isinstance(node, Wait)
    try:
        shown = _evaluated(place, node.show)
    except ExpressionFailed as error:
        return [_failed(place, str(error))]
    place.memory = asked(place, shown)
    return [Await()]


def asked(place: NodeRun, shown: Value) -> Asked:
    """Return the question of a wait: what is shown, with the digest of that and of its place."""
    assert isinstance(place.node, Wait)
    return Asked(shown, digest([place.path, place.node.wait, shown]))


def timed_out(place: NodeRun) -> list[Move]:
    node = place.node
    assert isinstance(node, Wait)
    if isinstance(node.on_timeout, Constant):
        return [Finish(Outcome(node.on_timeout.value))]
    if node.on_timeout is not None:
        return [Start(AT_TIMEOUT, AT_TIMEOUT, node.on_timeout, place.input)]
    what = f"nobody answered '{node.wait}' within {node.timeout_s or 0:g} s"
    return [Finish(Outcome(failure=Failure("timeout", what).at(place.path or place.name, 1)))]


def follow(_place: NodeRun, child: NodeRun) -> list[Move]:
    assert child.outcome is not None
    return [Finish(child.outcome)]


def fall_asleep(place: NodeRun) -> list[Move]:
    try:
        place.time = _time(place)
    except ExpressionFailed as error:
        return [_failed(place, str(error))]
    return [Await()]


def _time(place: NodeRun) -> Time:
    """Return the time of a Sleep. Raises ExpressionFailed if an expression does not give one."""
    node, now = place.node, place.opened_at
    assert isinstance(node, Sleep)
    if node.sleep.for_s is not None:
        seconds = _evaluated(place, node.sleep.for_s) if isinstance(node.sleep.for_s, str) else node.sleep.for_s
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
            raise ExpressionFailed(
                f"`{node.sleep.for_s}` gave {str(seconds)[:60]}, not seconds from 0 to {MAX_SECONDS:g}"
            )
        return Time(now, float(seconds))
    assert node.sleep.until is not None
    moment = moment_of(node.sleep.until) or _moment(node.sleep.until, _evaluated(place, node.sleep.until))
    return Time(now, max(0.0, moment.timestamp() - now if isinstance(moment, datetime) else moment - now), True)


def _moment(source: str, value: Value) -> datetime | float:
    """Return the moment that an expression has given: a time, its text, or UTC seconds."""
    try:
        found = moment_of(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ExpressionFailed(f"`{source}`: {error}") from error
    is_number = isinstance(found, int | float) and not isinstance(found, bool) and abs(found) <= MAX_SECONDS
    if isinstance(found, datetime) or is_number:
        return found  # type: ignore[return-value]
    raise ExpressionFailed(f"`{source}` gave {str(value)[:60]}, not a time (RFC 3339) or UTC seconds")


def _evaluated(place: NodeRun, given: str | Mapping[str, str] | None) -> Value:
    """Evaluate expressions over the input of a node and the outputs before it. Raises ExpressionFailed."""
    if given is None:
        return None
    outputs = place.parent.scope() if place.parent else {}
    names = {"input": place.input, "task": place.task_input(), "outputs": outputs}
    if isinstance(given, str):
        return evaluate(given, "with", names)
    return {key: evaluate(source, "with", names) for key, source in given.items()}


def _failed(place: NodeRun, problem: str) -> Move:
    return Finish(Outcome(failure=Failure("expression", problem).at(place.path or place.name, 1)))


WAIT = Mode(ask, follow, timed_out)
SLEEP = Mode(fall_asleep, follow)
