"""Importing the code of protocols in an actor, where it must not run a driver: that would wait for itself for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..protocols.errors import FixTheCall

_ref: ContextVar[str | None] = ContextVar("podium_importing", default=None)


class DriverAtImport(FixTheCall):
    """What an actor imports wants to drive."""

    code = "driver_at_import"


@contextmanager
def importing(ref: str) -> Iterator[None]:
    """While an actor imports the code of this protocol. Raises LookupError if that drives."""
    token = _ref.set(ref)
    try:
        yield
    except DriverAtImport as error:
        raise LookupError(str(error)) from error
    finally:
        _ref.reset(token)


def check_not_importing() -> None:
    """Raises DriverAtImport if a cluster is to be joined by a module that an actor is importing."""
    ref = _ref.get()
    if ref is not None:
        raise DriverAtImport(
            f"podium.connect is reached when a host imports the module of '{ref}', so every host would start the "
            'program again and wait for itself: put what connects and submits under `if __name__ == "__main__":`'
        )


__all__ = ["check_not_importing", "importing"]
