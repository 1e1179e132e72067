"""How messages travel and are read again.

A message is a NamedTuple. On the wire it is its kind, which is the name of its class in snake case, and the list of its
fields in their order. A reply is the list of the fields of the one class that the message names. A chunk is the same,
with its kind in front where a message has chunks of several classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...protocols.errors import InvalidInput, NotFound
from ...protocols.values import Value

T = TypeVar("T")
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Answers:
    """Classes of the answers to a message."""

    reply: type | None
    """Class of the reply. None if the reply says only that the message was carried out."""
    chunks: tuple[type, ...]


KINDS: dict[type, str] = {}
"""Kinds of messages and chunks, by class."""
_ANSWERS: dict[type, Answers] = {}


def message(reply: type | None = None, chunks: Sequence[type] = ()) -> Callable[[type[T]], type[T]]:
    """Mark a NamedTuple as a message, and register the classes of its reply and of its chunks."""

    def mark(cls: type[T]) -> type[T]:
        KINDS[cls] = kind_from(cls)
        _ANSWERS[cls] = Answers(reply, tuple(chunks))
        return cls

    return mark


def tagged(cls: type[T]) -> type[T]:
    """Mark a NamedTuple as a chunk that travels with its kind."""
    KINDS[cls] = kind_from(cls)
    return cls


def kind_from(cls: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


def answers_of(cls: type) -> Answers:
    return _ANSWERS[cls]


def with_kind(chunk: Any) -> list[Value]:
    """A chunk with its kind in front, for messages that have chunks of several classes."""
    return [KINDS[type(chunk)], *chunk]


class Door(Generic[M]):
    """Reads incoming messages, once, into the classes that one receiver takes."""

    def __init__(self, *classes: Any) -> None:
        self.classes: dict[str, Callable[..., M]] = {KINDS[cls]: cls for cls in classes}

    def read(self, kind: str, payload: Value) -> M:
        """Read a message. Raises NotFound for an unknown kind, InvalidInput for fields that do not fit."""
        cls = self.classes.get(kind)
        if cls is None:
            raise NotFound(what="message kind", name=kind)
        try:
            return cls(*payload)
        except TypeError as error:
            raise InvalidInput(problem=f"not the fields of such a message: {error}", path=kind) from error

    def read_chunk(self, wire: list[Value]) -> M:
        """Read a chunk that travelled with its kind."""
        return self.classes[wire[0]](*wire[1:])
