"""Protocols: the units of work that users write, and their settings.

A protocol is a class with a `run` method, or a function under `@protocol`; either may be async or plain. One
object of the class lives in each actor of the protocol (a host), so attributes of `self` last as long as the actor.
A plain `run` is called in a thread, an async one on the actor's event loop. Input and output are validated by the
type hints of `run`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, ParamSpec, TypeAlias, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .conditions import check_expression
from .context import Context
from .environment import RuntimeEnv
from .errors import InvalidDefinition, PodiumError
from .fingerprint import code_fingerprint
from .policy import Breaker, Retry, RetryPolicy
from .quantities import Count, Quantity, Replicas, Seconds
from .recovery import OnError
from .typed_nodes import A, B, In, Out, TypedClass
from .values import Value
from .wording import first_problem, named

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_KNOWN: dict[str, ProtocolLike] = {}
"""Every protocol defined in this process by its reference, so that `__main__` and notebooks work too."""
_AT_IMPORT = '; put what is to run only as a program under `if __name__ == "__main__":`'
_FROM_A_SCRIPT = ": it is of a script or notebook, which only that can bring: start the script again"


class Declaration(BaseModel):
    """The settings of a protocol, as data. The engine works by them, and never imports user code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ref: str
    """The protocol's identity, `module:name`."""
    name: str
    """The name that hosts, steps, logs and metrics show. By default it is the name of the function or class."""
    version: str = "1"
    """A label for people. Podium itself tells versions apart by the code (docs/versions.md)."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 1
    """The number of runs that one host (one process of the protocol) has at the same time."""
    replicas: Replicas = 1
    """The number of hosts of the protocol for each deployed workflow, 1 to 1000. A host is a process of about 90 MB. A
    pair `(min, max)` makes the number follow the steps that wait (docs/cluster.md)."""
    quotas: Mapping[str, Count] = {}
    """Permits that each run holds while it runs, by the name of the quota: `{"llm": 1}`. For a rate, the amount that
    a run is expected to use. Limits for them are in the setting `limits`."""
    limit_key: str | None = None
    """A CEL expression over `input`, such as `input.model`. Limits "per key" and breakers count apart for each of its
    values."""
    timeout_s: Seconds | None = None
    """The longest time of one attempt, in seconds, from the moment it begins to run."""
    idle_timeout_s: Seconds | None = None
    """The longest silence of an attempt, in seconds. `ctx.emit`, `ctx.log` and `ctx.heartbeat` end a silence."""
    retry: RetryPolicy | None = None
    """When a failed attempt is repeated: a `Retry`, a number of attempts, or a preset's name (docs/workflows.md)."""
    on_error: OnError = {}
    """The actions that follow a failure, by category of the failure: `{"dependency": ["retry", "park"]}`. Categories
    that are not named keep their usual actions (docs/workflows.md)."""
    at_most_once: bool = False
    """If true, a run is never repeated by Podium. If nobody knows what a run has done, it fails as `uncertain`, and the
    step is parked until a person decides."""
    breaker: Breaker | None = None
    """The circuit breaker of the protocol: when calls are refused because too many failed or were slow."""
    num_cpus: Quantity = 0
    """CPUs that Ray reserves for each host."""
    num_gpus: Quantity = 0
    """GPUs that Ray reserves for each host."""
    resources: Mapping[str, Annotated[Quantity, Field(gt=0)]] = {}
    """Custom Ray resources that each host reserves, by name."""
    spread: bool = False
    """If true, Ray spreads the hosts over the machines of the cluster, instead of filling one after the other."""
    runtime_env: RuntimeEnv | None = None
    """The environment of each host, as Ray takes it: a mapping with `pip`, `uv`, `env_vars`, `working_dir` or
    `py_modules` (docs/cluster.md). It is prepared before a host starts, and is part of the version."""

    @property
    def least_hosts(self) -> int:
        """The number of hosts that there always are once they are needed."""
        return self.replicas if isinstance(self.replicas, int) else self.replicas[0]

    @property
    def most_hosts(self) -> int:
        return self.replicas if isinstance(self.replicas, int) else self.replicas[1]

    @field_validator("limit_key")
    @classmethod
    def _compiles(cls, source: str | None) -> str | None:
        if source is not None:
            check_expression(source, "key")
        return source

    @field_validator("runtime_env")
    @classmethod
    def _is_given(cls, environment: RuntimeEnv | None) -> RuntimeEnv | None:
        return environment if environment != RuntimeEnv() else None


class Protocol(TypedClass[In, Out]):
    """The base class of protocols written as classes. Override `run`, and `start` and `stop` if you need them.

        class Search(podium.Protocol):
            concurrency = 4

            async def start(self):
                self.index = await open_index()

            async def run(self, ctx: podium.Context, query: str) -> list[str]:
                return await self.index.find(query)

    One object of the class lives in each host, so attributes of `self` last as long as the host. Podium makes the
    object without arguments. Settings are class attributes; their meanings are in the table of `protocol`.

    Type checkers know the input and output of `podium.Protocol[str, list[str]]`. Of a plain `podium.Protocol` they
    take anything.
    """

    name: ClassVar[str | None] = None
    version: ClassVar[str] = "1"
    concurrency: ClassVar[int] = 1
    replicas: ClassVar[int | tuple[int, int]] = 1
    quotas: ClassVar[Mapping[str, int]] = {}
    limit_key: ClassVar[str | None] = None
    timeout_s: ClassVar[float | None] = None
    idle_timeout_s: ClassVar[float | None] = None
    retry: ClassVar[Retry | str | int | None] = None
    breaker: ClassVar[Breaker | None] = None
    on_error: ClassVar[Mapping[str, object]] = {}
    at_most_once: ClassVar[bool] = False
    num_cpus: ClassVar[float] = 0
    num_gpus: ClassVar[float] = 0
    resources: ClassVar[Mapping[str, float]] = {}
    spread: ClassVar[bool] = False
    runtime_env: ClassVar[Mapping[str, object] | None] = None
    _mark: ClassVar[str] = ""
    """The end of the reference of a protocol that shares its name with others; else ""."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls._mark = _told_apart(cls)
        inputs_of(cls.run, reference(cls), skip=1)
        _KNOWN[reference(cls)] = cls

    async def start(self) -> None:
        """Open what `run` needs. Podium calls it once in each host, on the host's event loop, before the first `run`.

        If it raises, the host is started again, with growing delays. On Ray, Python's garbage collector leaves alone
        every object that exists when this returns; cycles among these objects are never freed.
        """

    async def stop(self) -> None:
        """Close what `start` opened. Podium calls it after the last `run`, but not if the process is killed.

        If it raises, the error is logged.
        """

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work on one input, and return the output: `run(self, ctx, input)`, without `ctx`, `input` or both if
        you do not need them. May be `async def`. Here it takes anything, so that type checkers accept each of these.

        A plain `run` is called in a thread, an `async` one on the host's event loop. Input and output are checked by
        the type hints. Any exception fails the attempt.
        """
        raise NotImplementedError(f"{type(self).__qualname__}.run is not written")


class FunctionProtocol(Generic[P, R_co]):
    """A protocol that `@protocol` made of a function. Calling it calls the function.

    `P` has all parameters of the function, a context too: whoever calls it, as in a test, gives one.
    """

    def __init__(self, function: Callable[P, R_co], settings: Mapping[str, Any]) -> None:
        self.function, self.settings = function, dict(settings)
        known_as: Any = function
        self.__doc__, self.__name__ = known_as.__doc__, known_as.__name__
        self.__module__, self.__qualname__ = known_as.__module__, known_as.__qualname__
        self.__wrapped__ = function
        self._mark = ""
        self._mark = _told_apart(self)
        inputs_of(function, reference(self))
        known = _KNOWN.get(reference(self))
        if isinstance(known, FunctionProtocol) and known.function is function and known.settings != self.settings:
            problem = "its function is a protocol with other settings already; give each a function of its own"
            raise InvalidDefinition(problem=problem, path=f"protocol {reference(self)}")
        declaration_of(self)
        _KNOWN[reference(self)] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<protocol {reference(self)}>"

    if TYPE_CHECKING:  # see typed_nodes.py: the input and output of the function, whatever it takes

        @overload
        def _runs(self: Callable[[Context], Coroutine[Any, Any, B]], value: Any, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[Context], AsyncIterator[B] | Iterator[B]], value: Any, /) -> list[B]: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[Context], B], value: Any, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[Context, A], Coroutine[Any, Any, B]], value: A, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[Context, A], AsyncIterator[B] | Iterator[B]], value: A, /) -> list[B]: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[Context, A], B], value: A, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[A], Coroutine[Any, Any, B]], value: A, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[A], AsyncIterator[B] | Iterator[B]], value: A, /) -> list[B]: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[A], B], value: A, /) -> B: ...
        @overload
        def _runs(self: Callable[[], Coroutine[Any, Any, B]], value: Any, /) -> B: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[], AsyncIterator[B] | Iterator[B]], value: Any, /) -> list[B]: ...  # type: ignore[misc]
        @overload
        def _runs(self: Callable[[], B], value: Any, /) -> B: ...
        def _runs(self, value: Any, /) -> Any: ...


ProtocolClass: TypeAlias = type[Protocol]
ProtocolLike: TypeAlias = ProtocolClass | FunctionProtocol[..., object]


@overload
def protocol(function: Callable[P, R], /) -> FunctionProtocol[P, R]: ...
@overload
def protocol(
    *,
    name: str | None = None,
    version: str = "1",
    concurrency: int = 1,
    replicas: int | tuple[int, int] = 1,
    quotas: Mapping[str, int] | None = None,
    limit_key: str | None = None,
    timeout_s: float | None = None,
    idle_timeout_s: float | None = None,
    retry: Retry | str | int | None = None,
    breaker: Breaker | None = None,
    on_error: Mapping[str, object] | None = None,
    at_most_once: bool = False,
    num_cpus: float = 0,
    num_gpus: float = 0,
    resources: Mapping[str, float] | None = None,
    spread: bool = False,
    runtime_env: Mapping[str, object] | None = None,
) -> Callable[[Callable[P, R]], FunctionProtocol[P, R]]: ...
def protocol(function: Callable[..., object] | None = None, /, **settings: object) -> object:
    """Make a protocol of a function `f(input)` or `f(ctx, input)`, async or plain.

        @podium.protocol(concurrency=10, retry=3)
        async def fetch(url: str) -> str: ...

    The parameter `ctx` is the one of that name, or with the type hint `podium.Context`. The protocol can still be
    called as a function.

    Raises:
        InvalidDefinition: The function takes more than one input, or a setting does not fit.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if function is not None:
        return _made(function, given)
    return lambda function: _made(function, given)


def _made(function: Any, settings: Mapping[str, Any]) -> FunctionProtocol[..., object]:
    if callable(function) and hasattr(function, "__qualname__") and not inspect.isclass(function):
        return FunctionProtocol(function, settings)
    if is_protocol(function):
        problem = f"'{function.__qualname__}' is a protocol as it is"
    elif inspect.isclass(function):
        problem = f"'{function.__qualname__}' is a class: derive it from podium.Protocol instead"
    elif callable(function):
        problem = f"{named(function)} has no name: put @podium.protocol above a function that calls it"
    else:
        problem = f"it stands above a function, not {named(function)}; settings have names: @podium.protocol(name=…)"
    raise InvalidDefinition(problem=problem, path="@podium.protocol")


def inputs_of(run: Callable[..., object], ref: str, skip: int = 0) -> tuple[bool, str | None]:
    """Whether `run` takes a context first, and the name of the one input it takes after that, or None.

    Args:
        skip: leading parameters that are not counted (`self` of an unbound method).

    Raises:
        InvalidDefinition: it takes more than one input.
    """
    parameters = list(inspect.signature(run).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][skip:]
    first = inspect.signature(run).parameters[names[0]].annotation if names else None
    takes_ctx = bool(names) and (names[0] == "ctx" or first in (Context, "Context", "podium.Context"))
    inputs = names[1:] if takes_ctx else names
    if len(inputs) > 1:
        how = "`ctx` comes first" if "ctx" in inputs else "put them in one dict or model"
        problem = f"run takes one input, not {len(inputs)} ({', '.join(inputs)}); {how}"
        raise InvalidDefinition(problem=problem, path=f"protocol {ref}")
    return takes_ctx, inputs[0] if inputs else None


def has_own_name(target: ProtocolLike) -> bool:
    """Whether the protocol's name is its own. One that is made in a function, of a lambda or of a method has none."""
    return "<" not in target.__qualname__ and not inspect.ismethod(getattr(target, "function", None))


def _told_apart(target: ProtocolLike) -> str:
    """Return the mark that ends the reference of a protocol without a name of its own, such as a product of a factory.

    The first protocol of a name has the mark "". One with other code, or bound to other values, has a mark made of its
    content, so that the next run of the program makes the same mark. Where contents are alike, as with two
    connections, the mark is a number.
    """
    base = f"{target.__module__}:{target.__qualname__}"
    first = _KNOWN.get(base)
    if first is None or has_own_name(target) or _exactly(first) == _exactly(target):
        return ""
    content = code_fingerprint(target)
    stem = "" if content == code_fingerprint(first) else f"~{content[:8]}"
    marks = (stem if n == 1 else f"{stem}~{n}" for n in itertools.count(1 if stem else 2))
    return next(m for m in marks if (base + m) not in _KNOWN or _exactly(_KNOWN[base + m]) == _exactly(target))


def _exactly(target: ProtocolLike) -> str:
    """Return the fingerprint that also tells objects of the same content apart. It is computed once."""
    known = vars(target).get("_exact")
    if known is None:
        known = code_fingerprint(target, exactly=True)
        target._exact = known  # type: ignore[union-attr]
    return str(known)


def is_protocol(target: object) -> bool:
    return isinstance(target, FunctionProtocol) or (
        inspect.isclass(target) and issubclass(target, Protocol) and target is not Protocol
    )


def reference(target: ProtocolLike) -> str:
    return f"{target.__module__}:{target.__qualname__}{target._mark}"


def current_reference(target: ProtocolLike) -> str:
    """Return the reference of a protocol, for a tree. Raises ValueError if another protocol has taken it since."""
    ref = reference(target)
    known = _KNOWN.get(ref)
    if known is not None and known is not target and code_fingerprint(known) != code_fingerprint(target):
        raise ValueError(
            f"another protocol has been defined under the name '{ref}' since ({_place(known)}), and would run in place "
            f"of this one ({_place(target)}): give each a name of its own"
        )
    return ref


def _place(target: ProtocolLike) -> str:
    code = getattr(getattr(target, "function", None), "__code__", None) or getattr(target, "run", None)
    code = getattr(code, "__code__", code)
    return f"line {getattr(code, 'co_firstlineno', '?')} of {getattr(code, 'co_filename', target.__module__)}"


def declaration_of(target: ProtocolLike) -> Declaration:
    """Return the settings of `target`, by default or as declared.

    Raises:
        InvalidDefinition: a declared setting is out of range; names the protocol and the setting.
    """
    ref = reference(target)
    if isinstance(target, FunctionProtocol):
        given = dict(target.settings)
    else:
        declared = Declaration.model_fields.keys() - {"ref", "name"}
        given = {name: getattr(target, name) for name in declared} | {"name": target.name}
    given["name"] = given.get("name") or plain_name(target.__name__)
    try:
        return Declaration(ref=ref, **given)
    except ValidationError as error:
        loc, problem = first_problem(error, Declaration)
        setting = ".".join(str(part) for part in loc)
        raise InvalidDefinition(problem=f"{setting}: {problem}", path=f"protocol {ref}") from error


def plain_name(name: str) -> str:
    """Return a name for hosts, steps and metrics, made of one that may be no identifier, such as `<lambda>`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "", name) or "protocol"


def resolve(ref: str) -> ProtocolLike:
    """Return the protocol with the reference `module:name`, imported if need be.

    Raises:
        LookupError: no such module, no such name in it, or not a protocol; says which, and what is close.
    """
    known = _KNOWN.get(ref)
    if known is not None:
        return known
    module_name, _, qualname = ref.partition(":")
    if not module_name or not qualname:
        raise LookupError(f"'{ref}' is not of the form module:name")
    target = _import(module_name)
    for part in qualname.split("."):
        if not hasattr(target, part):
            hint = _FROM_A_SCRIPT if module_name == "__main__" else _close(qualname, module_name)
            raise LookupError(f"module '{module_name}' has no '{qualname}'{hint}")
        target = getattr(target, part)
    if not is_protocol(target):
        hint = "; put @protocol above it" if inspect.isfunction(target) else ""
        raise LookupError(f"'{ref}' is not a protocol but {type(target).__name__}{hint}")
    return target  # type: ignore[no-any-return]


def _import(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise LookupError(f"no module '{module_name}' on the import path") from error
        raise LookupError(f"module '{module_name}' does not import: {error}") from error
    except PodiumError as error:
        raise LookupError(f"module '{module_name}' does not import: {error}") from error
    except (Exception, SystemExit) as error:
        hint = _AT_IMPORT if isinstance(error, RuntimeError) and "running event loop" in str(error) else ""
        raise LookupError(f"module '{module_name}' does not import: {type(error).__name__}: {error}{hint}") from error


def _close(name: str, module_name: str) -> str:
    names = [ref.partition(":")[2] for ref in _KNOWN if ref.startswith(module_name + ":")]
    matches = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


__all__ = [
    "Declaration",
    "FunctionProtocol",
    "Protocol",
    "ProtocolClass",
    "ProtocolLike",
    "Value",
    "current_reference",
    "declaration_of",
    "has_own_name",
    "is_protocol",
    "plain_name",
    "protocol",
    "reference",
    "resolve",
]
