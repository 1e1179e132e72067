"""The result of a workflow as the type hints of its steps say: a model again, where the journal has a dict.

The result of a Sequence is that of its last node, the result of a Parallel a mapping of those of its branches or a list
of those of its items. What a Hierarchy or an Adaptive gives is decided while it runs, so no hint describes it. Nor do
hints describe the output of a join that tells which branches have failed, or of a node that a fallback of another type
may stand in for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from .binding import output_of
from .codecs.registry import decoded
from .errors import InvalidInput
from .lazy import read_whole
from .protocol import resolve
from .tree import Node, Parallel, Sequence, Step
from .values import Value

Reader: TypeAlias = Callable[[Value], Any]


def reader_of(node: Node) -> Reader | None:
    """Return the function that makes of a node's output what the hints say; None if no hint says anything."""
    if node.otherwise is not None or any(_hint_of(other) != _hint_of(node) for other in node.fallback):
        return None  # nobody can tell which of them gave an output
    return _reader_of_kind(node)


def _hint_of(node: Node) -> object:
    """Return the hint of the output of a step. Of any other node it is a hint that equals no other."""
    try:
        return output_of(resolve(node.step)).hint if isinstance(node, Step) else object()
    except LookupError:
        return object()


def _reader_of_kind(node: Node) -> Reader | None:
    if isinstance(node, Step):
        return _reader_of_step(node.step)
    if isinstance(node, Sequence):
        return reader_of(node.sequence[-1])
    if not isinstance(node, Parallel) or node.join in ("any", "settled") or node.on_timeout == "partial":
        return None
    if node.parallel is not None:
        return _by_branch({name: reader_of(branch) for name, branch in node.parallel.items()})
    return None if node.do is None else _by_item(reader_of(node.do))


def _reader_of_step(ref: str) -> Reader | None:
    try:
        hint = output_of(resolve(ref))
    except LookupError:
        return None
    return None if hint.adapter is None else partial(read_whole, hint)


def _by_branch(readers: dict[str, Reader | None]) -> Reader | None:
    def read(outputs: Value) -> Any:
        if not isinstance(outputs, dict):
            raise InvalidInput(problem="a mapping of the branches is wanted", path="output")
        return {name: (readers.get(name) or decoded)(item) for name, item in outputs.items()}

    return read if any(readers.values()) else None


def _by_item(reader: Reader | None) -> Reader | None:
    def read(outputs: Value) -> Any:
        if reader is None or not isinstance(outputs, list):
            raise InvalidInput(problem="a list of the items is wanted", path="output")
        return [reader(item) for item in outputs]

    return None if reader is None else read
