"""The hierarchical mode: a supervising protocol leads a team. It gives a verdict, which is carried out, in each round.

The supervising protocol's input in each round:
    {"input": the node's input, "round": 1…, "team": [names], "outcomes": {member: {"output"} or {"error"}}}
A verdict `escalate` passes all nodes up to the next Hierarchy above. The supervising protocol of that Hierarchy finds
it among the outcomes, as an error with the code "escalated".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ....protocols.outcomes import Failure, Outcome
from ....protocols.tree import Hierarchy
from ....protocols.values import Value
from ....protocols.verdicts import VerdictValue, read_verdict
from ..state import Finish, Move, NodeRun, Start
from .mode import Mode

LEAD = "lead"


@dataclass(slots=True)
class _Team:
    round: int = 0
    inputs: dict[str, Value] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, Value] = field(default_factory=dict)
    busy: int = 0
    """Number of members that are running."""


def opening(place: NodeRun) -> list[Move]:
    place.memory = _Team()
    return _ask_lead(place)


def following(place: NodeRun, child: NodeRun) -> list[Move]:
    team: _Team = place.memory
    assert child.outcome is not None
    place.children = {label: run for label, run in place.children.items() if run is not child}
    if child.name == LEAD:
        if child.outcome.failure is not None:
            return [Finish(child.outcome)]
        return _carry_out(place, child)
    team.outcomes[child.name] = child.outcome.brief()
    team.busy -= 1
    return _ask_lead(place) if team.busy == 0 else []


def _node(place: NodeRun) -> Hierarchy:
    assert isinstance(place.node, Hierarchy)
    return place.node


def _ask_lead(place: NodeRun) -> list[Move]:
    team, node = place.memory, _node(place)
    if team.round == node.max_rounds:
        message = (
            f"max_rounds={node.max_rounds}: the supervising protocol was asked {team.round} times "
            f"and neither accepted, failed nor escalated"
        )
        return [_fail(place, "too_many_rounds", message)]
    team.round += 1
    brief = {
        "input": place.input,
        "round": team.round,
        "team": list(node.team),
        "outcomes": {name: team.outcomes[name] for name in node.team if name in team.outcomes},
    }
    return [Start(f"{LEAD}#{team.round}", LEAD, node.hierarchy, brief)]


def _carry_out(place: NodeRun, lead: NodeRun) -> list[Move]:
    assert lead.outcome is not None
    try:
        decision, verdict = read_verdict(lead.outcome.output, _node(place).team, place.input)
    except ValueError as error:
        return [Finish(Outcome(failure=Failure("bad_verdict", str(error)).at(lead.path, lead.attempt)))]
    match decision:
        case "accept":
            return [Finish(Outcome(verdict.get("output")))]
        case "assign":
            return [_start(place, name, input) for name, input in verdict["inputs"].items()]
        case "retry":
            return [_start(place, name, _again(place, name, verdict)) for name in verdict["members"]]
        case "escalate":
            return [_fail(place, "escalated", str(verdict.get("reason", "")))]
        case "fail":
            return [_fail(place, "rejected", str(verdict.get("reason", "")))]


def _again(place: NodeRun, name: str, verdict: VerdictValue) -> Value:
    """Return the last input of a member (the node's input if the member never ran), with the feedback added."""
    last = place.memory.inputs.get(name, place.input)
    feedback = verdict.get("feedback")
    if isinstance(last, dict):
        return {**last, "feedback": feedback}
    return {"input": last, "feedback": feedback}


def _start(place: NodeRun, name: str, input: Value) -> Move:
    team: _Team = place.memory
    team.inputs[name] = input
    team.runs[name] = run = team.runs.get(name, 0) + 1
    team.busy += 1
    return Start(name if run == 1 else f"{name}#{run}", name, _node(place).team[name], input)


def _fail(place: NodeRun, code: str, message: str) -> Move:
    return Finish(Outcome(failure=Failure(code, message).at(place.path or place.name, 1)))


MODE = Mode(opening, following)
