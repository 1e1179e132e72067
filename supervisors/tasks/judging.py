"""Decides whether an answer is recorded, or refused to its sender. Pure.

What is recorded is one of the answers that count: nothing is recorded that does not fit, comes from somebody who may
not answer, or comes too late.
"""

from __future__ import annotations

from ...protocols.conditions import ExpressionFailed
from ...protocols.errors import AnswerRefused, InvalidInput
from ...protocols.schemas import misfit
from ...protocols.tree import Wait
from ...protocols.wording import place as placed
from ..messages.client import Answer
from .events import Answered
from .mail import decision, is_refusal, mailbox, may_take, waits_for
from .state import Asked, NodeRun, TaskState


def judged(task: TaskState, node: Wait, answer: Answer, most_kept: int, now: float) -> Answered:
    """Return the event by which an answer is recorded.

    Args:
        node: a wait of that name in the tree of the task.
        most_kept: most answers of one name that are kept although nobody has waited for them yet.

    Raises:
        AnswerRefused, or InvalidInput for an answer that does not fit.
    """
    _check_sender(task, node, answer)
    path = _once(task, node, answer) if node.mailbox == "once" else _each(task, answer, most_kept)
    _check_value(node, answer)
    return Answered(answer.name, answer.id, answer.value, answer.by, answer.via, path, now)


def _refused(answer: Answer, reason: str, problem: str, first: Answered | None = None) -> AnswerRefused:
    by, at = (None, None) if first is None else (first.by, first.at)
    return AnswerRefused(task_id=answer.task_id, name=answer.name, reason=reason, problem=problem, by=by, at=at)


def _check_sender(task: TaskState, node: Wait, answer: Answer) -> None:
    if node.not_starter and answer.by == task.record.user:
        raise _refused(answer, "not_allowed", f"user '{answer.by}' has started the task, and may not answer")
    if node.who and answer.by not in node.who and not set(node.who).intersection(answer.groups):
        may = ", ".join(node.who)
        raise _refused(answer, "not_allowed", f"user '{answer.by}' may not answer; these may: {may}")


def _check_value(node: Wait, answer: Answer) -> None:
    if node.schema_ is not None and (wrong := misfit(answer.value, node.schema_)) is not None:
        raise InvalidInput(problem=wrong[1], path=placed("answer", wrong[0]))
    try:
        is_refusal(node, answer.value)
    except ExpressionFailed as error:
        raise InvalidInput(problem=str(error), path="answer") from error


def _once(task: TaskState, node: Wait, answer: Answer) -> str:
    """Check an answer to a mailbox `once`. Its answers are for all waits of that name."""
    box, places = mailbox(task, answer.name), [place for place, _ in waits_for(task, answer.name)]
    if decision(node, box.answers) is not None:
        first = box.answers[-1]
        raise _refused(answer, "answered", f"the answer of user '{first.by}' was first", first)
    if box.has_met and not places:
        raise _refused(answer, "closed", "nobody waits for it any more")
    own = next((each for each in box.answers if each.by == answer.by), None)
    if own is not None:
        raise _refused(answer, "answered", f"user '{answer.by}' has answered already", own)
    if answer.digest is not None:
        _by_digest(answer, places)
    return ""


def _each(task: TaskState, answer: Answer, most_kept: int) -> str:
    """Check an answer to a mailbox `each`; returns the path of the wait that it names."""
    box, places = mailbox(task, answer.name), [place for place, _ in waits_for(task, answer.name)]
    if answer.digest is not None:
        place = _by_digest(answer, places)
        own = next((each for each in place.memory.answers if each.by == answer.by), None)
        if own is not None:
            raise _refused(answer, "answered", f"user '{answer.by}' has answered already", own)
        return place.path
    event = Answered(answer.name, answer.id, None, answer.by, "", "", 0.0)
    if not any(may_take(place, event) for place in places) and len(box.answers) >= most_kept:
        problem = f"{len(box.answers)} answers are kept that nobody has waited for, the limit is max_kept_answers"
        raise _refused(answer, "full", problem)
    return ""


def _by_digest(answer: Answer, places: list[NodeRun]) -> NodeRun:
    """Return the open wait that asks for what the sender saw."""
    for place in places:
        assert isinstance(place.memory, Asked)
        if place.memory.digest == answer.digest:
            return place
    what = "something else is asked now" if places else "nothing is asked at present"
    raise _refused(answer, "stale", f"{what}; look at it again")
