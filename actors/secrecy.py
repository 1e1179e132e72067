"""Keeps the secrets that a host has revealed out of all that leaves the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..protocols.encoded import Encoded
from ..protocols.errors import FixTheCall, InvalidInput
from ..protocols.values import Value

LEAST_CHARS = 4
"""Length from which on a revealed text is looked for: shorter ones stand in other texts by chance."""


class Secrecy:
    def __init__(self, sources: Mapping[str, str], read: Callable[[str], str]) -> None:
        """`sources` says where each secret is; `read` returns what is there, or raises OSError or LookupError."""
        self._sources, self._read = sources, read
        self._revealed: dict[str, str] = {}
        """Names of secrets by their texts."""

    def reveal(self, name: str) -> str:
        """Return the text of a secret. This may be called in any thread. Raises FixTheCall."""
        if name not in self._sources:
            known = ", ".join(sorted(self._sources)) or "none"
            raise FixTheCall(f"the setting `secrets` names no '{name}'; it names {known}")
        source = self._sources[name]
        try:
            text = self._read(source)
        except (OSError, LookupError, UnicodeDecodeError) as error:
            raise FixTheCall(f"secret '{name}' is not there: {source}: {type(error).__name__}") from None
        if len(text) >= LEAST_CHARS:
            self._revealed = {**self._revealed, text: name}
        return text

    def black_out(self, text: str) -> str:
        """Return a text with the name of each revealed secret in place of it."""
        for secret, name in self._revealed.items():
            text = text.replace(secret, f"[secret {name}]")
        return text

    def black_out_all(self, value: Value) -> Value:
        if not self._revealed:
            return value
        if isinstance(value, dict):
            return {key: self.black_out_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.black_out_all(item) for item in value]
        return self.black_out(value) if isinstance(value, str) else value

    def check(self, value: Value, path: str) -> Value:
        """Return a value that has no revealed secret in it. Raises InvalidInput with the place of one."""
        if self._revealed:
            for place, name in self._found(value, path):
                raise InvalidInput(problem=f"the secret '{name}' stands in it; pass the secret on by name", path=place)
        return value

    def _found(self, value: Value, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from self._found(key, path)
                yield from self._found(item, f"{path}.{self.black_out(str(key))}")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self._found(item, f"{path}[{index}]")
        else:
            yield from ((path, name) for secret, name in self._revealed.items() if _has(value, secret))


def _has(value: Value, secret: str) -> bool:
    if isinstance(value, str):
        return secret in value
    data = value.packed if isinstance(value, Encoded) else value
    return isinstance(data, bytes) and secret.encode() in data
