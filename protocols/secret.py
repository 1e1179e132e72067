"""Secrets: values that travel by name, and are looked up in the host when the code reveals them.

The setting `secrets` says where each secret is: in a variable of the environment, or in a file. Both are those of the
machine of the host. What a host has revealed is kept out of all that leaves it (actors/secrecy.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar, get_args, overload

from pydantic import BaseModel, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from .codecs.registry import Codec, register
from .errors import FixTheCall, InvalidInput

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}")
SOURCE = re.compile(r"env:[A-Za-z_]\w*|file:/.+")
"""The place of a secret: `env:VARIABLE`, or `file:` and an absolute path."""
_KEY = "$secret"


class Resolver(Protocol):
    """Whoever looks secrets up, and keeps them out of what leaves the host."""

    def reveal(self, name: str) -> str: ...

    def keep(self, name: str, text: str) -> None: ...

    def black_out(self, text: str) -> str: ...


RESOLVER: ContextVar[Resolver] = ContextVar("resolver")
"""The resolver of the code of a protocol that runs in this context."""
_OF_PROCESS: list[Resolver] = []
"""The resolver of the host that started last in this process: threads that a step starts have no context."""


def resolve_in_threads(resolver: Resolver) -> None:
    """Use a resolver where the context has none."""
    _OF_PROCESS[:] = [resolver]


def black_out(text: str) -> str:
    """Return a text without secrets that were revealed in this context. Call it before a text is cut."""
    resolver = RESOLVER.get(None)
    return text if resolver is None else resolver.black_out(text)


class Secret(Generic[T]):
    """A secret that the setting `secrets` names: `podium.Secret("db")`. It travels by its name only.

        class Query(BaseModel):
            text: str
            password: podium.Secret[str]

        engine.submit(workflow, Query(text="…", password=podium.Secret("db")))

    In a step, `query.password.reveal()` gives the text. It comes from the environment or a file on the machine of the
    host, and never gets into the journal, an event, an error or a log of Podium's: an output or a chunk that has it in
    it is refused, and in error messages and `ctx.log` it is blacked out. With another type, as in `Secret[int]`, the
    text is read as that type. A secret that no type hint describes gets its type by hand: `podium.Secret("port", int)`.
    """

    __slots__ = ("_kind", "name")

    @overload
    def __init__(self: Secret[str], name: str) -> None: ...
    @overload
    def __init__(self, name: str, kind: type[T]) -> None: ...
    def __init__(self, name: str, kind: Any = str) -> None:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidInput(
                problem=f"{name!r} is no name of a secret: letters, digits, `_`, `.` and `-`, at most 64"
            )
        self.name, self._kind = name, kind

    def reveal(self) -> T:
        """The secret itself, looked up now.

        Raises:
            FixTheCall: The setting `secrets` does not name it, its place is empty, or this is no host: a driver only
                passes secrets on.
        """
        resolver = RESOLVER.get(next(iter(_OF_PROCESS), None))
        if resolver is None:
            raise FixTheCall(f"secret '{self.name}': only the code of a protocol reveals secrets")
        revealed: T = self._read(resolver.reveal(self.name))
        for part in _texts_in(revealed):
            resolver.keep(self.name, part)
        return revealed

    def _read(self, text: str) -> Any:
        if self._kind is str:
            return text
        if self._kind is bytes:
            return text.encode()
        adapter: TypeAdapter[Any] = TypeAdapter(self._kind)
        for read in (adapter.validate_strings, adapter.validate_json):
            with suppress(ValidationError):  # its message has the text
                return read(text)
        raise FixTheCall(f"secret '{self.name}' cannot be read as {self._kind}")

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Secret, self.name))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        kind = (*get_args(source), str)[0]
        named = core_schema.typed_dict_schema({_KEY: core_schema.typed_dict_field(core_schema.str_schema())})
        return core_schema.no_info_plain_validator_function(
            lambda given: _of(given, kind),
            json_schema_input_schema=named,
            serialization=core_schema.plain_serializer_function_ser_schema(_named, when_used="json"),
        )


def _texts_in(value: object) -> Iterator[str]:
    """Yield the texts and numbers in what was read from a secret."""
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    elif isinstance(value, BaseModel):
        value = list(vars(value).values())
    if isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _texts_in(part)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _named(secret: Secret[Any]) -> dict[str, str]:
    return {_KEY: secret.name}


def _of(given: object, kind: Any) -> Secret[Any]:
    """Return the secret that is meant: by an object, or by {"$secret": name} as clients have it that send JSON."""
    if isinstance(given, Secret):
        return Secret(given.name, kind)
    if isinstance(given, Mapping) and set(given) == {_KEY}:
        try:
            return Secret(given[_KEY], kind)
        except InvalidInput as error:
            raise ValueError(error.problem) from error
    raise ValueError('a secret is wanted: podium.Secret("name"), or {"$secret": "name"}')


def _load(about: Mapping[str, Any], _data: object) -> Secret[Any]:
    return Secret(about["name"])


register(Codec("podium.Secret", Secret, lambda secret: ({"name": secret.name}, None), _load))
