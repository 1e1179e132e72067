"""Flaws of a tree, with their places, and those that every expression may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .conditions import check_expression
from .wording import Loc


@dataclass(frozen=True, slots=True)
class Flaw:
    """One problem at one place of the tree, as a location in the file's own terms."""

    loc: Loc
    problem: str


def expression_flaws(loc: Loc, source: str, where: str) -> Iterator[Flaw]:
    try:
        check_expression(source, where)
    except ValueError as error:
        yield Flaw(loc, str(error))


def mapping_flaws(loc: Loc, given: str | Mapping[str, str] | None, where: str) -> Iterator[Flaw]:
    """Yield the flaws of one expression, or of a mapping of them."""
    if isinstance(given, str):
        yield from expression_flaws(loc, given, where)
    elif given:
        for key, source in given.items():
            yield from expression_flaws((*loc, key), source, where)
