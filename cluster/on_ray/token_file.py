"""The secret of a data directory, which every connection to a process of its cluster has to show.

The folder of the sockets is its owner's alone; but code that runs as the owner inside a box (a tool, a model's code)
may be able to reach a socket and not to read files. So reaching one is not enough.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

NAME = "socket.token"
SIZE_BYTES = 32


def token_of(data: Path) -> bytes:
    """The secret, made if it is not there; readable by its owner alone. Raises OSError."""
    path = data / NAME
    with suppress(FileNotFoundError):
        return _checked(path)
    draft = data / f"{NAME}.{secrets.token_hex(8)}.draft"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, secrets.token_bytes(SIZE_BYTES))
        with suppress(FileExistsError):  # another process was first: its secret holds
            os.link(draft, path)
    finally:
        os.close(handle)
        draft.unlink()
    return _checked(path)


def _checked(path: Path) -> bytes:
    token = path.read_bytes()
    if len(token) != SIZE_BYTES:
        raise OSError(f"{path} is no secret of ours: end the cluster and remove it")
    return token
