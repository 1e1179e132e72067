"""The secret of a data directory, which every connection to a process of its cluster must send first.

Only the owner may enter the folder of the sockets. But code that runs as the owner in a sandbox (a tool, code of a
model) may be able to reach a socket, though it cannot read files. So access to a socket is not enough.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

NAME = "socket.token"
SIZE_BYTES = 32


def token_of(data: Path) -> bytes:
    """Return the secret. Makes its file if it is missing, readable by its owner alone. Raises OSError."""
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
