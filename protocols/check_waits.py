"""Checks the nodes that wait: their expressions, and that all waits of one name agree which answers count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .flaws import Flaw, expression_flaws, mapping_flaws
from .tree import Sleep, Wait
from .tree_parts import moment_of
from .wording import Loc

AGREED = ("schema", "who", "not_starter", "need", "refusal", "on_refusal", "mailbox")
"""Settings of a mailbox. All waits of its name have the same."""


def wait_flaws(loc: Loc, node: Wait) -> Iterator[Flaw]:
    yield from mapping_flaws((*loc, "show"), node.show, "with")
    if node.refusal is not None:
        yield from expression_flaws((*loc, "refusal"), node.refusal, "answer")


def sleep_flaws(loc: Loc, node: Sleep) -> Iterator[Flaw]:
    if isinstance(node.sleep.for_s, str):
        yield from expression_flaws((*loc, "sleep", "for_s"), node.sleep.for_s, "with")
    if node.sleep.until is not None:
        try:
            is_moment = moment_of(node.sleep.until) is not None
        except ValueError as error:
            yield Flaw((*loc, "sleep", "until"), str(error))
            return
        if not is_moment:
            yield from expression_flaws((*loc, "sleep", "until"), node.sleep.until, "with")


def disagreements(waits: Sequence[tuple[Loc, Wait]]) -> Iterator[Flaw]:
    """Yield a flaw for each wait that differs from the first of its name in a setting of their mailbox."""
    first: dict[str, Wait] = {}
    for loc, node in waits:
        other = first.setdefault(node.wait, node)
        for name in AGREED:
            if getattr(node, _field(name)) != getattr(other, _field(name)):
                problem = f"another wait for '{node.wait}' has another `{name}`; give one of them another name"
                yield Flaw((*loc, name), problem)


def _field(name: str) -> str:
    return "schema_" if name == "schema" else name
