"""Keeps the secrets that a host has revealed out of all that leaves the host."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from ..protocols.encoded import Encoded
from ..protocols.errors import FixTheCall, InvalidInput
from ..protocols.values import Value

LEAST_CHARS = 4
"""Length from which on a revealed text is looked for: shorter ones stand in other texts by chance."""
PIECE_CHARS = 8
"""Length of the pieces of a secret of twice that length and more that are blacked out, too: a message may have been
cut before anybody could look at it."""
_ENCODINGS = ("utf-8", "utf-16-le", "utf-32-le")
"""Encodings of texts in arrays and the like."""


class Secrecy:
    def __init__(self, sources: Mapping[str, str], read: Callable[[str], str]) -> None:
        """`sources` says where each secret is; `read` returns what is there, or raises OSError or LookupError."""
        self._sources, self._read = sources, read
        self._revealed: dict[str, str] = {}
        """Names of secrets by their texts."""
        self._pieces: dict[str, str] = {}
        """Names of secrets by pieces of their texts."""

    @property
    def is_needed(self) -> bool:
        """Whether a secret was revealed."""
        return bool(self._revealed)

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
        self.keep(name, text)
        return text

    def keep(self, name: str, text: str) -> None:
        """Look for a text, and for its escaped forms, from now on: it is a secret, or a part of one."""
        forms = {text, repr(text)[1:-1], json.dumps(text)[1:-1]}
        pieces = {
            form[at : at + PIECE_CHARS]: name
            for form in forms
            if len(form) >= 2 * PIECE_CHARS
            for at in range(len(form) - PIECE_CHARS + 1)
        }
        self._revealed.update({form: name for form in forms if len(form) >= LEAST_CHARS})
        self._pieces.update(pieces)

    def _longest_first(self) -> list[tuple[str, str]]:
        """Return a copy of texts and names, since other threads may reveal more meanwhile."""
        return sorted(self._revealed.items(), key=lambda item: -len(item[0]))

    def black_out(self, text: str) -> str:
        """Return a text with the name of each revealed secret in place of it, and of pieces of it."""
        for secret, name in self._longest_first():
            text = text.replace(secret, f"[secret {name}]")
        return self._without_pieces(text) if self._pieces else text

    def _without_pieces(self, text: str) -> str:
        kept: list[str] = []
        at = done = 0
        while at <= len(text) - PIECE_CHARS:
            name = self._pieces.get(text[at : at + PIECE_CHARS])
            if name is None:
                at += 1
                continue
            kept += [text[done:at], f"[secret {name}]"]
            while text[at : at + PIECE_CHARS] in self._pieces:
                at += 1
            at = done = at + PIECE_CHARS - 1
        return "".join([*kept, text[done:]])

    def black_out_all(self, value: Value) -> Value:
        if not self._revealed:
            return value
        if isinstance(value, dict):
            return {key: self.black_out_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.black_out_all(item) for item in value]
        return self.black_out(value) if isinstance(value, str) else value

    def cleaned(self, error: Exception) -> Exception:
        """Return an error of the same name whose text has no secret in it; the error itself if nothing was revealed."""
        if not self._revealed:
            return error
        return type(type(error).__name__, (Exception,), {})(self.black_out(str(error)))  # type: ignore[no-any-return]

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
            yield from ((path, name) for secret, name in self._longest_first() if _has(value, secret))


def _has(value: Value, secret: str) -> bool:
    if isinstance(value, str):
        return secret in value
    if isinstance(value, int | float):
        return not isinstance(value, bool) and secret == str(value)
    data = value.packed if isinstance(value, Encoded) else value
    return isinstance(data, bytes) and any(secret.encode(each, "surrogatepass") in data for each in _ENCODINGS)
