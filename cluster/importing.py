"""Guards imports of protocols in an actor: a driver that ran during the import would wait for itself for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..protocols.errors import FixTheCall

_ref: ContextVar[str | None] = ContextVar("podium_importing", default=None)


class DriverAtImport(FixTheCall):
    """A module that an actor imports tries to connect to a cluster."""

    code = "driver_at_import"


@contextmanager
def importing(ref: str) -> Iterator[None]:
    """Wrap the import of a protocol's code in an actor. Raises LookupError if the code tries to connect."""
    token = _ref.set(ref)
    try:
        yield
    except DriverAtImport as error:
        raise LookupError(str(error)) from error
    finally:
        _ref.reset(token)


def check_not_importing() -> None:
    """Raise DriverAtImport if called while an actor imports a module. Called before a client connects to a cluster."""
    ref = _ref.get()
    if ref is not None:
        raise DriverAtImport(
            f"podium.connect is reached when a host imports the module of '{ref}', so every host would start the "
            'program again and wait for itself: put what connects and submits under `if __name__ == "__main__":`'
        )


__all__ = ["check_not_importing", "importing"]
