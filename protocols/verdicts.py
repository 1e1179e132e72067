"""Verdicts and gotos: outputs by which a supervising protocol, or a node of an Adaptive, decides what happens next.

Each is a dict with a reserved key, so that it is plain data in any language and in the journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .values import Value

VERDICT = "$verdict"
GOTO = "$goto"

Decision = Literal["accept", "assign", "retry", "escalate", "fail"]
VerdictValue: TypeAlias = dict[str, Any]


def accept(output: Value = None) -> VerdictValue:
    """The verdict that the team's work is done: `output` becomes the output of the Hierarchy."""
    return {VERDICT: "accept", "output": output}


def assign(inputs: Mapping[str, Value] | Iterable[str] | None = None) -> VerdictValue:
    """The verdict to run members, each with its own input.

    Args:
        inputs: A mapping of member name to input. Or only names: each of them gets the input of the Hierarchy. None
            means the whole team.
    """
    if inputs is None:
        return {VERDICT: "assign", "inputs": None}
    if isinstance(inputs, Mapping):
        return {VERDICT: "assign", "inputs": dict(inputs)}
    return {VERDICT: "assign", "members": list(inputs)}


def retry(members: Iterable[str], feedback: Value = None) -> VerdictValue:
    """The verdict to run members again, with their last input and `feedback`.

    An input that is a mapping gets the key "feedback". Any other becomes {"input": …, "feedback": …}.
    """
    return {VERDICT: "retry", "members": list(members), "feedback": feedback}


def escalate(reason: str) -> VerdictValue:
    """The verdict to leave the decision to the next Hierarchy above. If there is none, the task fails."""
    return {VERDICT: "escalate", "reason": reason}


def fail(reason: str) -> VerdictValue:
    """The verdict that this Hierarchy has failed."""
    return {VERDICT: "fail", "reason": reason}


def goto(node: str, input: Value = None) -> VerdictValue:
    """The output of a node of an Adaptive that goes to `node` next, with `input`, past the rules."""
    return {GOTO: node, "input": input}


@dataclass(frozen=True, slots=True)
class Goto:
    """An output of a node in an Adaptive that chooses the next node without the rules. The class form of `goto`."""

    node: str
    """The name of the next node."""
    input: Value = None
    """The input of that node."""

    def plain(self) -> VerdictValue:
        """The same as plain data, as `goto(node, input)` gives it."""
        return goto(self.node, self.input)


def as_goto(output: Value) -> tuple[str, Value] | None:
    """(node, input) if `output` is a goto, else None."""
    if isinstance(output, dict) and GOTO in output:
        return str(output[GOTO]), output.get("input")
    return None


def read_verdict(output: Value, team: Iterable[str], default_input: Value) -> tuple[Decision, VerdictValue]:
    """Read and check the decision in the output of a supervising protocol.

    Returns:
        The decision and its fields; for `assign` always with "inputs": {member: input}.

    Raises:
        ValueError: not a verdict, or one that names nobody in the team; says what was expected.
    """
    names = list(team)
    if not isinstance(output, dict) or output.get(VERDICT) not in (
        "accept",
        "assign",
        "retry",
        "escalate",
        "fail",
    ):
        raise ValueError(
            f"expected a verdict (accept, assign, retry, escalate or fail from podium.verdict), "
            f"got {type(output).__name__} {str(output)[:80]!r}"
        )
    decision: Decision = output[VERDICT]
    if decision == "assign":
        inputs = output.get("inputs")
        if inputs is None:
            inputs = dict.fromkeys(output.get("members") or names, default_input)
        output = {**output, "inputs": inputs}
    _check_members(decision, output.get("inputs") if decision == "assign" else output.get("members"), names)
    return decision, output


def _check_members(decision: Decision, chosen: Any, team: list[str]) -> None:
    if decision not in ("assign", "retry"):
        return
    if not chosen:
        raise ValueError(f"verdict '{decision}' names no member; the team is {', '.join(team)}")
    for name in chosen:
        if name not in team:
            raise ValueError(f"verdict '{decision}' names '{name}', the team is {', '.join(team)}")
