"""Access tokens for clients of the gateways. Each token belongs to a user and has a scope.

A token is shown once, when it is created. The file keeps only its HMAC-SHA-256 under a key of the data directory, so
nobody can log in with the file or a copy of it. A comparison takes the same time for all tokens.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..protocols.errors import InvalidInput, NotFound
from ..protocols.quantities import check_priority

Scope = Literal["call", "read"]
"""`read` allows to list and read; `call` allows to start and cancel tasks, too."""
PREFIX = "podium_"
_FILE, _KEY = "tokens.json", "tokens.key"


@dataclass(frozen=True, slots=True)
class Token:
    """The stored facts of a token, without its secret."""

    id: str
    user: str
    scope: Scope
    max_priority: int
    """The highest priority of tasks that are started with the token."""
    created_at: float
    """Time of creation, in UTC seconds."""
    hash: str


class Tokens:
    def __init__(self, data: Path) -> None:
        self._data = data

    def create(self, user: str, scope: Scope = "call", max_priority: int = 0) -> tuple[str, Token]:
        """Create a token; returns its secret and its stored facts. Raises InvalidInput for a bad user or priority."""
        if not user or len(user) > 128:
            raise InvalidInput(problem="a user has a name of 1 to 128 characters", path="user")
        check_priority(max_priority, "max_priority")
        secret = PREFIX + secrets.token_urlsafe(32)
        token = Token(secrets.token_hex(4), user, scope, max_priority, time.time(), self._hash(secret))
        with self._alone():
            self._write([*self.all(), token])
        return secret, token

    def revoke(self, id: str) -> Token:
        """Remove a token and return its facts. Raises NotFound."""
        with self._alone():
            known = self.all()
            found = next((token for token in known if token.id == id), None)
            if found is None:
                raise NotFound(what="token", name=id)
            self._write([token for token in known if token.id != id])
        return found

    def all(self) -> list[Token]:
        path = self._data / _FILE
        return [Token(**each) for each in json.loads(path.read_text())] if path.exists() else []

    def find(self, secret: str) -> Token | None:
        """Return the token with this secret; None if it is unknown or revoked. Compares all tokens in constant time."""
        hash, found = self._hash(secret), None
        for token in self.all():
            if hmac.compare_digest(token.hash, hash):
                found = token
        return found

    def _hash(self, secret: str) -> str:
        return hmac.new(self._key(), secret.encode(errors="replace"), hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        path = self._data / _KEY
        if not path.exists():
            self._data.mkdir(parents=True, exist_ok=True)
            own = path.with_name(f"{_KEY}.{secrets.token_hex(8)}")
            _write_private(own, secrets.token_bytes(32))
            try:
                os.link(own, path)  # who comes second takes the first one's
            except FileExistsError:
                pass
            finally:
                own.unlink()
        return path.read_bytes()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the token file, so that no other process or thread changes it between our read and write."""
        self._data.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._data / f"{_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, tokens: list[Token]) -> None:
        new = self._data / f"{_FILE}.{os.getpid()}"
        _write_private(new, json.dumps([asdict(token) for token in tokens], indent=1).encode())
        new.replace(self._data / _FILE)


def _write_private(path: Path, content: bytes) -> None:
    """Write a file to disk that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
