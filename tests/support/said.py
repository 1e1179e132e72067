"""Messages for tests of the exchange: most are answered with what they carry."""

from __future__ import annotations

from typing import Any, NamedTuple

from podium.supervisors.messages.door import message


@message()
class Echo(NamedTuple):
    value: Any = None


@message()
class Chunks(NamedTuple):
    count_of: int


@message()
class Never(NamedTuple):
    value: Any = None


@message()
class Silence(NamedTuple):
    """Nothing comes back."""


@message()
class Refuse(NamedTuple):
    value: Any = None


@message()
class Break(NamedTuple):
    value: Any = None


def only(value: Any) -> Any:
    """The one field of a reply."""
    return value
