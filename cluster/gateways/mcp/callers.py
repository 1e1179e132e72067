"""Identifies the caller: every read, list, cancel and stream is for one user, and sees that user's tasks only."""

from __future__ import annotations

from dataclasses import dataclass

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken

from ....protocols.errors import NotFound
from ....protocols.outcomes import TaskRecord
from ...client.core import Core
from ...store.contract import StoredTask
from ...tokens import Token, Tokens


@dataclass(frozen=True, slots=True)
class Caller:
    user: str
    may_call: bool = True
    """Whether the caller may start and cancel tasks, and not only read."""
    max_priority: int = 1_000_000

    def sees(self, record: TaskRecord) -> bool:
        return record.user == self.user


async def own_task(core: Core, id: str, caller: Caller) -> StoredTask:
    """Return a task of the caller. Raises NotFound for any other, whether there is such a task or not."""
    is_one = id.startswith("t-") and "/" not in id
    stored = await core.aside(lambda: core.reader.find_task(id)) if is_one else None
    if stored is None or not caller.sees(stored.record):
        raise NotFound(what="task", name=id[:64])
    return stored


class Verifier:
    """Tells the SDK the owner of a token; implements its `TokenVerifier`."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> AccessToken | None:
        found = self._tokens.find(token)
        if found is None:
            return None
        claims = {"max_priority": found.max_priority}
        return AccessToken(token="", client_id=found.id, scopes=[found.scope], subject=found.user, claims=claims)


def caller_of_token() -> Caller:
    """Return the caller of the current request, by its token. The SDK refuses requests without one."""
    access = get_access_token()
    if access is None or not access.subject:
        raise PermissionError("a request without a token came through")
    claims = access.claims or {}
    return Caller(access.subject, "call" in access.scopes, int(claims.get("max_priority", 0)))


__all__ = ["Caller", "Token", "Verifier", "caller_of_token", "own_task"]
