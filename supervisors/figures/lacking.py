"""What the result of a task lacks: what something stood in for, and, of a request, what its answer names as missing."""

from __future__ import annotations

from collections.abc import Mapping

from ...protocols.outcomes import Missing
from ...protocols.requests.machine import has_stages
from ..tasks.state import TaskState

FORMAT = "format"
"""The stage of a request that says what its answer lacks."""


def lacking(task: TaskState) -> Missing:
    """Of a task that has its output. What something stood in for has its failure; what is only named, the words."""
    output = None if task.outcome is None else task.outcome.output
    named = output.get("missing") if isinstance(output, Mapping) else None
    if not isinstance(named, Mapping) or not named or not has_stages(task.root.node):
        return task.root.degraded
    said: Missing = {
        str(what): {"step": FORMAT, "error": {"code": "missing", "message": str(why), "kind": "", "step": FORMAT}}
        for what, why in named.items()
    }
    return said | task.root.degraded
