"""Binds a protocol to a live object with validated input and output. Hosts call it; clients check inputs early."""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from functools import lru_cache
from io import IOBase
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel, PydanticInvalidForJsonSchema, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError

from .advice import advice_on, name_of
from .context import Context
from .errors import InvalidDefinition, InvalidInput
from .protocol import FunctionProtocol, Protocol, ProtocolLike, inputs_of, reference
from .values import Value
from .verdicts import Goto, as_goto
from .wording import place, problem_of

_ANYTHING = (Any, inspect.Parameter.empty, object, Value)
_ITERATORS = (abc.Iterator, abc.Iterable, abc.Generator, abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)


class InvalidOutput(Exception):
    """Raised when the value that `run` returned does not fit its return type hint."""


class Binding:
    """One live object of a protocol. Creating a Binding calls the class's `__init__`, and no other code of the user."""

    def __init__(self, target: ProtocolLike) -> None:
        self.ref = reference(target)
        self.live = target() if not isinstance(target, FunctionProtocol) else target
        self.run = self.live.run if isinstance(self.live, Protocol) else self.live.function
        self.is_async = inspect.iscoroutinefunction(self.run) or inspect.isasyncgenfunction(self.run)
        edges = _Edges(self.run, self.ref)
        self.takes_ctx = edges.takes_ctx
        self.call = edges.caller(self.run)
        self.read_input, self.plain_output = edges.read_input, edges.plain_output


def check_input(target: ProtocolLike, value: Value) -> None:
    """Raise InvalidInput if `value` does not fit the input type of `target.run`. Makes no object of the protocol."""
    _edges_of(target).read_input(value)  # type: ignore[arg-type]  # mypy takes neither for hashable; both are


def input_hint_of(target: ProtocolLike) -> object:
    """Return the type hint of the input of `run`; Any if it has none, or if `run` takes no input."""
    return _edges_of(target).input_hint  # type: ignore[arg-type]  # as above


def schemas_of(target: ProtocolLike) -> tuple[dict[str, object], dict[str, object]]:
    """Return the JSON Schemas of input and output by the type hints of `run`; {} where no schema can express a hint."""
    edges = _edges_of(target)  # type: ignore[arg-type]  # as above
    return _schema(edges.input, "validation"), _schema(edges.output, "serialization")


def _schema(adapter: TypeAdapter[object] | None, mode: Literal["validation", "serialization"]) -> dict[str, object]:
    try:
        return {} if adapter is None else adapter.json_schema(mode=mode)
    except PydanticInvalidForJsonSchema:
        return {}


@lru_cache(maxsize=1024)
def _edges_of(target: ProtocolLike) -> _Edges:
    run = target.function if isinstance(target, FunctionProtocol) else target.run
    return _Edges(run, reference(target), bound=isinstance(target, FunctionProtocol))


class _Edges:
    """The type hints of one `run`, turned into validators."""

    def __init__(self, run: Callable[..., object], ref: str, bound: bool = True) -> None:
        self.takes_ctx, name = inputs_of(run, ref, skip=0 if bound else 1)
        self.takes_input = name is not None
        self.input_name = name or "input"
        hints = _hints(run, ref, {self.input_name, "return"})
        self.input_hint = hints.get(self.input_name, Any) if self.takes_input else Any
        self.input = _adapter(hints.get(self.input_name, Any), f"{ref}, input")
        self.output_hint = _of_items(hints.get("return", Any))
        self.output = _adapter(self.output_hint, f"{ref}, return")

    def caller(self, run: Callable[..., object]) -> Callable[[Context, object], Any]:
        """Return `run` as a function of (ctx, input), whatever it takes. A generator gives the list of its items."""
        if inspect.isasyncgenfunction(run):
            run = _collected_later(run)
        elif inspect.isgeneratorfunction(run):
            run = _collected(run)
        match self.takes_ctx, self.takes_input:
            case True, True:
                return run
            case True, False:
                return lambda ctx, _input: run(ctx)
            case False, True:
                return lambda _ctx, input: run(input)
            case _:
                return lambda _ctx, _input: run()

    def read_input(self, value: Value) -> Any:
        """Return `value` as the input type of `run`. Raises InvalidInput with the path of the field."""
        if self.input is None:
            return value
        try:
            return self.input.validator.validate_python(value)
        except ValidationError as error:
            raise InvalidInput(problem=_problems(error, self.input_name, self.input_hint)) from error

    def plain_output(self, output: object) -> Value:
        """Return the checked output of `run` as plain data; an iterator as a list of items. Raises InvalidOutput."""
        if isinstance(output, Iterator) and not isinstance(output, IOBase):
            output = list(output)
        if isinstance(output, Goto):
            return output.plain()
        if self.output is None:
            return output.model_dump(mode="python") if isinstance(output, BaseModel) else output
        if as_goto(output):
            return output
        try:
            return self.output.serializer.to_python(self.output.validator.validate_python(output))
        except ValidationError as error:
            raise InvalidOutput(_problems(error, "output", self.output_hint)) from error
        except PydanticSerializationError as error:
            raise InvalidOutput(f"output: {error}") from error


def _collected(run: Callable[..., Iterable[object]]) -> Callable[..., list[object]]:
    return lambda *given: list(run(*given))


def _collected_later(run: Callable[..., AsyncIterable[object]]) -> Callable[..., object]:
    async def collect(*given: object) -> list[object]:
        return [item async for item in run(*given)]

    return collect


def settle_hints(target: ProtocolLike) -> None:
    """Replace hints that are source text by their types: a pickle does not bring the names that only hints use."""
    run = target.function if isinstance(target, FunctionProtocol) else target.run
    _, name = inputs_of(run, reference(target), skip=0 if isinstance(target, FunctionProtocol) else 1)
    run.__annotations__ = {**run.__annotations__, **_hints(run, reference(target), {name, "return"})}


def _hints(run: Callable[..., object], ref: str, names: set[str | None]) -> dict[str, object]:
    """Return the resolved hints of `names` only: the type of `ctx` may be known to type checkers alone."""
    asked = {name: hint for name, hint in run.__annotations__.items() if name in names}
    scope = inspect.unwrap(run).__globals__
    try:
        hints = typing.get_type_hints(SimpleNamespace(__annotations__=asked), scope, include_extras=True)
        for hint in hints.values():
            _complete(hint)
        return hints
    except NameError as error:
        raise InvalidDefinition(
            problem=f"a type hint of run cannot be resolved: {error}; define the type at module level",
            path=f"protocol {ref}",
        ) from error


def _complete(hint: object) -> None:
    """Rebuild the models in a hint, as they may name types that were defined after them."""
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        hint.model_rebuild()
    for part in typing.get_args(hint):
        _complete(part)


def _adapter(hint: Any, place: str) -> TypeAdapter[object] | None:
    """Return the validator of a hint, None for Any. Raises InvalidDefinition for a hint that pydantic cannot read."""
    if any(hint is anything for anything in _ANYTHING):
        return None
    try:
        return TypeAdapter(type(None) if hint is None else hint)
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". Set ")[0].rstrip(".")
        problem = f"its type hint {_name(hint)} cannot be used: {reason}; {_way_out(hint)}"
        raise InvalidDefinition(problem=problem, path=f"protocol {place}") from error


def _way_out(hint: object) -> str:
    advice = advice_on(hint) if inspect.isclass(hint) else None
    if advice is None:
        return "take a hint that pydantic reads, or Any"
    return f"such a value does not travel: give {advice}, and say so in the hint"


def _name(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _of_items(hint: object) -> object:
    """Return the hint of a list for that of an iterator: the items are collected before they are validated."""
    if typing.get_origin(hint) not in _ITERATORS and hint not in _ITERATORS:
        return hint
    items = typing.get_args(hint)
    return list[items[0]] if items else list  # type: ignore[valid-type]


def _problem(row: ErrorDetails, hint: object) -> str:
    advice = advice_on(type(row["input"]))
    more = f"; this is a {name_of(type(row['input']))}, give {advice}" if advice else ""
    return problem_of(row, hint) + more


def _problems(error: ValidationError, root: str, hint: object) -> str:
    """Return at most three problems in one line, and how many more: `input.files[3].name: Field required; …`."""
    rows = [f"{place(root, row['loc'])}: {_problem(row, hint)}" for row in error.errors(include_url=False)]
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    return "; ".join(rows[:3]) + more
