"""Binds a protocol to a live object with validated input and output. Hosts call it; clients check inputs early."""

from __future__ import annotations

import inspect
import types
import typing
from collections import abc
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from functools import lru_cache
from io import IOBase
from types import SimpleNamespace
from typing import Any

from .asking import Ask
from .context import Context
from .errors import InvalidDefinition, InvalidInput
from .fingerprint import keep_hints
from .protocol import FunctionProtocol, Protocol, ProtocolLike, inputs_of, reference
from .type_hints import TypeHint, complete
from .values import MAX_VALUE_BYTES, Value, check_value
from .verdicts import Goto, as_goto

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
        self.input = edges.input
        self.read_input, self.plain_output = edges.input.read, edges.plain_output


def check_input(target: ProtocolLike, value: Value) -> None:
    """Raise InvalidInput if `value` does not fit the input type of `target.run`. Makes no object of the protocol."""
    _edges_of(target).input.read(value)  # type: ignore[arg-type]  # mypy takes neither for hashable; both are


def input_of(target: ProtocolLike) -> TypeHint:
    """Return the type hint of the input of `run`: that of Any if it has none, or if `run` takes no input."""
    return _edges_of(target).input  # type: ignore[arg-type]  # as above


def output_of(target: ProtocolLike) -> TypeHint:
    """Return the type hint of the output of `run`; that of Any if it has none."""
    return _edges_of(target).output  # type: ignore[arg-type]  # as above


def schemas_of(target: ProtocolLike) -> tuple[dict[str, object], dict[str, object]]:
    """Return the JSON Schemas of input and output by the type hints of `run`; {} where no schema can express a hint."""
    edges = _edges_of(target)  # type: ignore[arg-type]  # as above
    return edges.input.schema("validation"), edges.output.schema("serialization")


@lru_cache(maxsize=1024)
def _edges_of(target: ProtocolLike) -> _Edges:
    run = target.function if isinstance(target, FunctionProtocol) else target.run
    return _Edges(run, reference(target), bound=isinstance(target, FunctionProtocol))


class _Edges:
    """The type hints of one `run`, turned into validators."""

    def __init__(self, run: Callable[..., object], ref: str, bound: bool = True) -> None:
        self.takes_ctx, name = inputs_of(run, ref, skip=0 if bound else 1)
        self.takes_input = name is not None
        input_name = name or "input"
        hints = _hints(run, ref, {input_name, "return"})
        self.input = TypeHint(_of_list(hints.get(input_name, Any)), input_name, f"{ref}, input")
        self.output = TypeHint(_of_items(_without_ask(hints.get("return", Any))), "output", f"{ref}, return")

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

    def plain_output(self, output: object, max_bytes: int = MAX_VALUE_BYTES) -> Value:
        """Return the checked output of `run` as plain data; an iterator as a list of items. Raises InvalidOutput."""
        if isinstance(output, Iterator) and not isinstance(output, IOBase):
            output = list(output)
        if isinstance(output, Goto):
            output = output.plain()
        try:
            if as_goto(output):
                return check_value(output, "output", max_bytes)
            return self.output.plain(output, max_bytes)
        except InvalidInput as error:
            raise InvalidOutput(str(error)) from error


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
    keep_hints(inspect.unwrap(run))
    run.__annotations__ = {**run.__annotations__, **_hints(run, reference(target), {name, "return"})}


def _hints(run: Callable[..., object], ref: str, names: set[str | None]) -> dict[str, object]:
    """Return the resolved hints of `names` only: the type of `ctx` may be known to type checkers alone."""
    asked = {name: hint for name, hint in run.__annotations__.items() if name in names}
    scope = inspect.unwrap(run).__globals__
    try:
        hints = typing.get_type_hints(SimpleNamespace(__annotations__=asked), scope, include_extras=True)
        for hint in hints.values():
            complete(hint)
        return hints
    except NameError as error:
        raise InvalidDefinition(
            problem=f"a type hint of run cannot be resolved: {error}; define the type at module level",
            path=f"protocol {ref}",
        ) from error


def _of_list(hint: object) -> object:
    """Return the hint of a list for that of an Iterable, which pydantic would read only as it is used up."""
    is_iterable = hint is abc.Iterable or typing.get_origin(hint) is abc.Iterable
    return _of_items(hint) if is_iterable else hint


def _of_items(hint: object) -> object:
    """Return the hint of a list for that of an iterator: the items are collected before they are validated."""
    if typing.get_origin(hint) not in _ITERATORS and hint not in _ITERATORS:
        return hint
    items = typing.get_args(hint)
    return list[items[0]] if items else list  # type: ignore[valid-type]


def _without_ask(hint: object) -> object:
    """Return the hint of the output proper: `int` for `int | Ask`."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return Any if hint is Ask else hint
    kept = tuple(each for each in typing.get_args(hint) if each is not Ask)
    return typing.Union[kept] if len(kept) < len(typing.get_args(hint)) else hint  # noqa: UP007
