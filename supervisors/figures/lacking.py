"""Finds the parts that are missing from a task's result: those that its nodes recorded, or a request's answer names."""

from __future__ import annotations

from collections.abc import Mapping

from ...protocols.outcomes import Missing
from ...protocols.requests.machine import has_stages
from ..tasks.state import TaskState

FORMAT = "format"
"""The stage of a request whose output names the missing parts of the answer."""


def lacking(task: TaskState) -> Missing:
    """Return the missing parts of a task's output, each with an error.

    A part that a fallback or a constant stood in for has the failure that it replaced. A part that only the answer of a
    request names has the words of the answer.
    """
    output = None if task.outcome is None else task.outcome.output
    named = output.get("missing") if isinstance(output, Mapping) else None
    if not isinstance(named, Mapping) or not named or not has_stages(task.root.node):
        return task.root.degraded
    said: Missing = {
        str(what): {"step": FORMAT, "error": {"code": "missing", "message": str(why), "kind": "", "step": FORMAT}}
        for what, why in named.items()
    }
    return said | task.root.degraded
