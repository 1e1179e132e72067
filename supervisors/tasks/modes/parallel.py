"""The parallel mode: named branches, or one node over each item of a list, run at once.

A join decides when enough branches have ended and what the output is. An escalation below ends the node whatever the
join is, and passes on to the next Hierarchy above.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ....protocols.conditions import ExpressionFailed, evaluate
from ....protocols.encoded import Encoded
from ....protocols.outcomes import Failure, Outcome
from ....protocols.tree import Node, Parallel
from ....protocols.values import Value
from ..state import Finish, Move, NodeRun, Start, Stop
from .mode import Mode


@dataclass(slots=True)
class _Join:
    total: int
    waiting: deque[Start]
    """Branches that have not started, because `limit` branches run."""
    succeeded: int = 0
    failed: int = 0
    decided: Outcome | None = None
    """The outcome of the node, while a join with rest="wait" waits for the remaining branches."""


def opening(place: NodeRun) -> list[Move]:
    try:
        branches = _branches(place)
    except ExpressionFailed as error:
        return [Finish(Outcome(failure=Failure("expression", str(error)).at(place.path or place.name, 1)))]
    node = _node(place)
    join = _Join(len(branches), deque(branches))
    place.memory = join
    early = _decision(place, node, join, None)
    if early is not None:
        return [Finish(early)]
    first = min(node.limit or join.total, join.total)
    return [join.waiting.popleft() for _ in range(first)]


def following(place: NodeRun, child: NodeRun) -> list[Move]:
    node, join = _node(place), place.memory
    outcome = child.outcome
    assert outcome is not None
    if outcome.failure is None:
        join.succeeded += 1
    else:
        join.failed += 1
    decided = join.decided or _decision(place, node, join, child)
    if decided is None:
        return [join.waiting.popleft()] if join.waiting else []
    running = [label for label, branch in place.children.items() if branch.outcome is None]
    if running and node.rest == "wait":
        join.decided = decided
        return []
    return [*(Stop(label) for label in running), Finish(decided)]


def sizes_around(place: NodeRun) -> dict[str, int]:
    """Return the sizes of the lists around a node run, by the path of the Parallel node over each list."""
    found: dict[str, int] = {}
    above = place.parent
    while above is not None:
        if isinstance(above.node, Parallel) and above.node.do is not None and above.memory is not None:
            found[above.path] = above.memory.total
        above = above.parent
    return found


def timed_out(place: NodeRun) -> list[Move]:
    """Return the moves when the time limit is over: stop the running branches, and finish the node.

    The outcome is that of the join if it was decided, else a partial output (`on_timeout="partial"`) or a failure.
    """
    node, join = _node(place), place.memory
    running = [label for label, branch in place.children.items() if branch.outcome is None]
    done = join.succeeded + join.failed
    if node.on_timeout == "partial":
        outcome = join.decided or Outcome(_partial(place, node))
    else:
        message = f"{done} of {join.total} branches were done after {node.timeout_s:g} s"
        outcome = join.decided or Outcome(failure=Failure("timeout", message).at(place.path or place.name, 1))
    return [*(Stop(label) for label in running), Finish(outcome)]


def _partial(place: NodeRun, node: Parallel) -> Value:
    """Return the outputs so far, with the labels or indexes of the missing branches."""
    if node.join == "settled":
        return _briefs(place, node)
    labels = _labels(place, node)
    missing = [label for label in labels if not (label in place.children and _succeeded(place.children[label]))]
    if node.do is None:
        return {"outputs": _outputs(place, node), "missing": list(missing)}
    outputs = [None if label in missing else place.children[label].outcome.output for label in labels]  # type: ignore[union-attr]
    return {"outputs": outputs, "missing": [labels.index(label) for label in missing]}


def _labels(place: NodeRun, node: Parallel) -> list[str]:
    """Return the labels of all branches, whether they have started or not."""
    if node.do is None:
        return list(node.parallel or {})
    return [f"[{index}]" for index in range(place.memory.total)]


def _node(place: NodeRun) -> Parallel:
    assert isinstance(place.node, Parallel)
    return place.node


def _branches(place: NodeRun) -> list[Start]:
    node = _node(place)
    if node.parallel is not None:
        return [Start(name, name, branch, place.input) for name, branch in node.parallel.items()]
    assert node.each is not None and node.do is not None
    return [_item(node.do, index, item) for index, item in enumerate(_items(place, node.each))]


def _item(do: Node, index: int, item: Value) -> Start:
    return Start(f"[{index}]", str(index), do, item)


def _items(place: NodeRun, source: str) -> list[Value]:
    names = {"input": place.input, "task": place.task_input(), "outputs": place.scope()}
    items = evaluate(source, "with", names)
    if not isinstance(items, list):
        is_described = isinstance(items, Encoded)
        what = f"a {items.codec}, of which only a description is known" if is_described else type(items).__name__
        raise ExpressionFailed(f"each: `{source}` gave {what}, not a list")
    return items


def _decision(place: NodeRun, node: Parallel, join: _Join, child: NodeRun | None) -> Outcome | None:
    """Return the node's outcome if it is certain now, else None."""
    failure = child.outcome.failure if child and child.outcome else None
    if failure is not None and failure.code == "escalated":
        return Outcome(failure=failure)
    ended = join.succeeded + join.failed
    match node.join:
        case "all":
            if failure is not None:
                return Outcome(failure=failure)
            return _complete(place, node) if ended == join.total else None
        case "settled":
            return Outcome(_briefs(place, node)) if ended == join.total else None
        case _:
            return _enough(place, node, join, child)


def _enough(place: NodeRun, node: Parallel, join: _Join, child: NodeRun | None) -> Outcome | None:
    wanted = node.quorum or 1
    if join.succeeded >= wanted:
        if node.join == "any":
            assert child is not None
            return child.outcome
        return _complete(place, node)
    if join.total - join.failed < wanted:
        last = child.outcome.failure.message if child and child.outcome and child.outcome.failure else "empty"
        message = f"{node.join} missed: {join.failed} of {join.total} branches failed, the last with: {last}"
        return Outcome(failure=Failure("too_few", message).at(place.path or place.name, 1))
    return None


def _complete(place: NodeRun, node: Parallel) -> Outcome:
    return Outcome(_partial(place, node) if node.on_timeout == "partial" else _outputs(place, node))


def _outputs(place: NodeRun, node: Parallel) -> Value:
    """Return the outputs of the branches that succeeded, in the order of the definition."""
    if node.do is not None:
        return [branch.outcome.output for branch in place.children.values() if _succeeded(branch)]  # type: ignore[union-attr]
    return {
        name: place.children[name].outcome.output  # type: ignore[union-attr]
        for name in node.parallel or {}
        if name in place.children and _succeeded(place.children[name])
    }


def _succeeded(branch: NodeRun) -> bool:
    return branch.outcome is not None and branch.outcome.failure is None


def _briefs(place: NodeRun, node: Parallel) -> Value:
    """Return a brief for each branch; a branch that has not ended counts as timed out."""
    late = Outcome(failure=Failure("timeout", f"not done after {node.timeout_s or 0:g} s"))
    briefs = {}
    for label in _labels(place, node):
        branch = place.children.get(label)
        briefs[label] = ((branch and branch.outcome) or late).brief()
    return list(briefs.values()) if node.do is not None else briefs


MODE = Mode(opening, following, timed_out)
