"""The mailboxes of a task: which answers a wait takes, and what it makes of them. Pure.

A mailbox belongs to one task and one name, from the acceptance of the task to its end. So an answer may come before a
node waits for it. Whether an answer is good enough to be recorded is decided before (`judging.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from ...protocols.conditions import holds
from ...protocols.outcomes import Failure, Outcome
from ...protocols.tree import Wait
from ...protocols.values import Value
from .events import Answered
from .state import Asked, Mailbox, NodeRun, TaskState


def waits_for(task: TaskState, name: str) -> Iterator[tuple[NodeRun, Wait]]:
    """Yield the open waits for a name, in the order in which they began."""
    for place in list(task.waiting.values()):
        if isinstance(place.node, Wait) and place.node.wait == name:
            yield place, place.node


def waits_now(task: TaskState) -> dict[str, Wait]:
    """Return an open wait for each name, those of steps that ask included."""
    return {place.node.wait: place.node for place in task.waiting.values() if isinstance(place.node, Wait)}


def mailbox(task: TaskState, name: str) -> Mailbox:
    if task.mail is None:
        task.mail = {}
    return task.mail.setdefault(name, Mailbox())


def put(task: TaskState, answer: Answered) -> None:
    """Put an answer into its mailbox. An answer with the id of an earlier one changes nothing."""
    box = mailbox(task, answer.name)
    if answer.id not in box.came_at:
        box.came_at[answer.id] = answer.at
        box.answers.append(answer)


def settled(task: TaskState, name: str) -> list[tuple[NodeRun, Outcome]]:
    """Hand the answers of a mailbox to the waits for its name; returns the waits that are over, with their outcomes."""
    box = mailbox(task, name)
    over: list[tuple[NodeRun, Outcome]] = []
    for place, node in waits_for(task, name):
        box.has_met = True
        answers = box.answers if node.mailbox == "once" else _taken(box, place)
        outcome = decision(node, answers)
        if outcome is not None and outcome.failure is not None:
            outcome = Outcome(failure=outcome.failure.at(place.path, 1))
        if outcome is not None:
            place.memory.answers = list(answers)
            over.append((place, outcome))
    return over


def _taken(box: Mailbox, place: NodeRun) -> list[Answered]:
    """Move answers of a mailbox `each` to a wait, as long as it needs more; returns all that it has."""
    asked, node = place.memory, place.node
    assert isinstance(asked, Asked)
    assert isinstance(node, Wait)
    for answer in list(box.answers):
        if decision(node, asked.answers) is not None:
            break
        if may_take(place, answer):
            box.answers.remove(answer)
            asked.answers.append(answer)
    return asked.answers


def may_take(place: NodeRun, answer: Answered) -> bool:
    """Whether an answer of a mailbox `each` is one for this wait: it names no other, and its sender has none there."""
    return answer.path in ("", place.path) and all(answer.by != other.by for other in place.memory.answers)


def count_answers(task: TaskState, path: str) -> int | None:
    """Count the answers that an open wait has so far; None for a Sleep."""
    place = task.waiting[path]
    if not isinstance(place.node, Wait):
        return None
    if place.node.mailbox == "each":
        return len(place.memory.answers)
    return len(mailbox(task, place.node.wait).answers)


def decision(node: Wait, answers: list[Answered]) -> Outcome | None:
    """Return the outcome that the answers make; None if more are needed."""
    agreed: list[Answered] = []
    refused: list[Answered] = []
    for answer in answers:
        if is_refusal(node, answer.value):
            refused.append(answer)
            if node.on_refusal == "fail" or not _can_be_met(node, len(refused)):
                return Outcome(failure=_refused(node, refused))
            if node.on_refusal == "finish":
                return Outcome(_output(node, [*agreed, answer]))
        else:
            agreed.append(answer)
            if len(agreed) == node.need:
                return Outcome(_output(node, agreed))
    return None


def is_refusal(node: Wait, value: Value) -> bool:
    """Whether an answer is a refusal. Raises ExpressionFailed if the condition fails on it."""
    return node.refusal is not None and holds(node.refusal, {"answer": value}, "answer")


def _can_be_met(node: Wait, refused: int) -> bool:
    return not node.who or node.has_groups or len(set(node.who)) - refused >= node.need


def _refused(node: Wait, refused: list[Answered]) -> Failure:
    who = " and ".join(answer.by for answer in refused)
    message = f"{who} refused '{node.wait}'"
    if node.on_refusal == "go_on":
        message += f", so it cannot have {node.need} answers any more"
    return Failure("refused", message)


def _output(node: Wait, answers: list[Answered]) -> Value:
    outputs = [_signed(answer) if node.signed else answer.value for answer in answers]
    return outputs[-1] if node.need == 1 else outputs


def _signed(answer: Answered) -> Value:
    return {"value": answer.value, "by": answer.by, "at": answer.at, "via": answer.via}
