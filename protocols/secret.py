"""Secrets: values that travel by name, and are looked up in the host when the code reveals them.

The setting `secrets` says where each secret is: in a variable of the environment, or in a file. Both are those of the
machine of the host. What a host has revealed is kept out of all that leaves it (actors/secrecy.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Generic, TypeVar, get_args

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from .codecs.registry import Codec, register
from .errors import FixTheCall, InvalidInput

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z_][\w.-]{0,63}")
SOURCE = re.compile(r"env:[A-Za-z_]\w*|file:/.+")
"""The place of a secret: `env:VARIABLE`, or `file:` and an absolute path."""
_KEY = "$secret"

RESOLVER: ContextVar[Callable[[str], str]] = ContextVar("resolver")
"""Returns the text of a secret by name. It is set where the code of a protocol runs."""


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
        try:
            resolve = RESOLVER.get()
        except LookupError as error:
            raise FixTheCall(f"secret '{self.name}': only the code of a protocol reveals secrets") from error
        revealed: T = self._read(resolve(self.name))
        return revealed

    def _read(self, text: str) -> Any:
        if self._kind is str:
            return text
        if self._kind is bytes:
            return text.encode()
        adapter: TypeAdapter[Any] = TypeAdapter(self._kind)
        try:
            return adapter.validate_strings(text) if self._kind in (int, float, bool) else adapter.validate_json(text)
        except ValidationError:  # its message has the text
            raise FixTheCall(f"secret '{self.name}' cannot be read as {self._kind}") from None

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
