"""The types of nodes for type checkers: the input that a node takes, and the output that it gives.

`Runs[In, Out]` is what may stand in a tree: a protocol that is a function, a class derived from `Protocol`, or a node.
Nothing here has an effect when a program runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias

from typing_extensions import TypeVar

In = TypeVar("In", contravariant=True, default=Any)
Out = TypeVar("Out", covariant=True, default=Any)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")

Text: TypeAlias = str | Mapping[str, Any]
"""A node as in YAML."""


class Runs(Protocol[In, Out]):
    """A node or protocol with an input and an output."""

    def _runs(self, value: In, /) -> Out: ...


if TYPE_CHECKING:

    class Typed(Generic[In, Out]):
        """The base of nodes and workflows that have an input and an output."""

        def _runs(self, value: In, /) -> Out: ...

    class TypedClass(Generic[In, Out]):
        """The base of protocols that are classes."""

        @classmethod
        def _runs(cls, value: In, /) -> Out: ...

else:

    class Typed:
        def __class_getitem__(cls, _types):
            return cls

    TypedClass = Typed
