"""Decides which of the five types a request has, and says why.

The first of these decides: the type that the request names; a rule; a complexity over the limit; the scorer; and if
the scorer is undecided, the cheapest type that can still answer. Rules are CEL conditions and are data: the user's
come before the shipped ones, which are few and never guess. A route always says in one sentence what decided.

Routing changes nothing and waits for nothing. A rule that cannot be evaluated for a request (`tools[0]` without
tools) does not hold, and the route says so; only a scorer of the user's own can make `route` raise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, TypeAlias, runtime_checkable

from cel_expr_python import cel
from pydantic import BaseModel, ConfigDict, Field

from ..conditions import MAX_SOURCE_BYTES
from ..errors import InvalidDefinition, InvalidInput, InvalidSetting
from .complexity import Signs, complexity_of, main_signs, signs_of
from .request import REQUEST_TYPES, Request, RequestType
from .scorer import Scorer, shipped_scorer

DecidedBy: TypeAlias = Literal["explicit", "rule", "complexity", "scorer", "fallback"]
_Decision: TypeAlias = tuple[RequestType, DecidedBy, str]

COMPLEXITY_LIMIT = 0.8
MIN_MARGIN = 0.1
"""Least margin of a decision. Below, the scorer is right in about half the cases (cross-validated; 3 % of examples)."""

_VARIABLES = {
    "text": cel.Type.STRING,
    "words": cel.Type.INT,
    "attachments": cel.Type.INT,
    "tools": cel.Type.List(cel.Type.STRING),
    "source": cel.Type.STRING,
    "stream": cel.Type.BOOL,
    "session": cel.Type.STRING,
    "root": cel.Type.STRING,
    "user": cel.Type.STRING,
}
_ENVIRONMENT = cel.NewEnv(variables=_VARIABLES)


class Rule(BaseModel):
    """A condition under which a request is of a type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str
    """CEL over text, words (separated by spaces), attachments (how many), tools (names), source, stream, session,
    root and user; a session or root that is not there is the empty text."""
    type: RequestType
    name: Annotated[str, Field(min_length=1, max_length=128)]


SHIPPED_RULES = (
    Rule(name="asked to stream", when="stream", type="streaming"),
    Rule(name="tools named", when="size(tools) > 0", type="tool_execution"),
    Rule(name="short text with attachments", when="attachments > 0 && words <= 12", type="context_query"),
)


class Route(BaseModel):
    """The type that a request is treated as, and the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: RequestType
    decided_by: DecidedBy
    why: str
    """One sentence for people; nothing depends on its wording."""
    complexity: float
    """The complexity of the text alone, 0.0 to 1.0."""
    scores: dict[str, float]
    """By type, summing to 1. The scorer is not asked if the request or a rule decides: then the type has 1."""


@runtime_checkable
class Explaining(Protocol):
    """A scorer that can explain its choice, as NaiveBayes can."""

    def explain(self, request: Request) -> list[tuple[str, float]]:
        """Return the features and what each adds to the winner, the most important first."""


class Router:
    """Routes requests. One router serves any number of requests."""

    def __init__(
        self,
        rules: tuple[Rule, ...] = (),
        scorer: Scorer | None = None,
        complexity_limit: float = COMPLEXITY_LIMIT,
        min_margin: float = MIN_MARGIN,
    ) -> None:
        """Make a router with the user's own rules before the shipped ones.

        Args:
            scorer: None is the shipped one, trained at the first router of a process.
            complexity_limit: a request with a higher complexity is a complex workflow; 1.0 turns this off.
            min_margin: by how much the highest score has to lead the second, 0.0 to 1.0; 0.0 turns falling back off.

        Raises:
            InvalidDefinition: a rule does not compile or gives no bool; the error names the rule.
            InvalidSetting: a limit or margin outside [0, 1].
        """
        for name, value in (("complexity_limit", complexity_limit), ("min_margin", min_margin)):
            if not 0.0 <= value <= 1.0:
                raise InvalidSetting(name=name, source="Router", problem=f"{value:g} is not between 0 and 1")
        self._rules = [(rule, _program(rule)) for rule in (*rules, *SHIPPED_RULES)]
        self._scorer: Scorer = scorer if scorer is not None else shipped_scorer()
        self._complexity_limit = complexity_limit
        self._min_margin = min_margin

    def route(self, request: Request) -> Route:
        """Return the type of a request, and why.

        Raises:
            InvalidInput: a scorer of one's own gave an unknown type, a negative number, or none at all.
        """
        if request.type is not None:
            return self._certain(request, request.type, "explicit", f"the request asks for {request.type} itself")
        rule, note = self._first_rule(request)
        if rule is not None:
            why = f"the rule '{rule.name}' says so (`{rule.when}`)"
            return self._certain(request, rule.type, "rule", why + note)
        return self._scored(request, note)

    def _certain(self, request: Request, kind: RequestType, decided_by: Literal["explicit", "rule"], why: str) -> Route:
        scores: dict[str, float] = {each: float(each == kind) for each in REQUEST_TYPES}
        complexity = complexity_of(signs_of(request.text))
        return Route(type=kind, decided_by=decided_by, why=why, complexity=complexity, scores=scores)

    def _first_rule(self, request: Request) -> tuple[Rule | None, str]:
        """Return the first rule that holds, and a remark on earlier rules that could not be evaluated."""
        names = _names(request)
        note = ""
        for rule, program in self._rules:
            result = program.eval(data=names)
            if result.type() == cel.Type.ERROR:
                note += f"; the rule '{rule.name}' could not be evaluated: {result.value()}"
            elif result.plain_value() is True:
                return rule, note
        return None, note

    def _scored(self, request: Request, note: str) -> Route:
        signs = signs_of(request.text)
        scores = _shares(self._scorer.scores(request))
        kind, decided_by, why = self._complex(signs) or self._unsure(request, scores) or self._sure(request, scores)
        return Route(
            type=kind,
            decided_by=decided_by,
            why=why + note,
            complexity=complexity_of(signs),
            scores={each: scores[each] for each in REQUEST_TYPES},
        )

    def _complex(self, signs: Signs) -> _Decision | None:
        complexity = complexity_of(signs)
        if complexity <= self._complexity_limit:
            return None
        why = f"complexity {complexity:.2f} is over {self._complexity_limit:.2f}, mostly for {main_signs(signs)}"
        return "complex_workflow", "complexity", why

    def _unsure(self, request: Request, scores: Mapping[RequestType, float]) -> _Decision | None:
        first, second = _leaders(scores)
        if scores[first] - scores[second] >= self._min_margin:
            return None
        known = "a root" if request.root is not None else "a session" if request.session is not None else ""
        return (
            "context_query" if known else "simple_query",
            "fallback",
            f"the scorer is of two minds ({first} {scores[first]:.2f}, {second} {scores[second]:.2f}; it takes "
            f"{self._min_margin:.2f} between them) and the request has {known or 'neither root nor session'}",
        )

    def _sure(self, request: Request, scores: Mapping[RequestType, float]) -> _Decision:
        first, second = _leaders(scores)
        why = f"the scorer gives {first} {scores[first]:.2f} and {second} {scores[second]:.2f}"
        if isinstance(self._scorer, Explaining):
            led = [repr(feature) for feature, amount in self._scorer.explain(request)[:6] if amount > 0][:3]
            why += f", mostly for {', '.join(led)}" if led else ""
        if first == "simple_query" and request.root is not None:
            return "context_query", "scorer", f"{why}; the request names a folder, so that is looked into"
        return first, "scorer", why


def _program(rule: Rule) -> Any:
    """Return the compiled condition. Its names are not those of workflows, so `conditions` cannot compile it."""
    path = f"rules.{rule.name}"
    if len(rule.when.encode()) > MAX_SOURCE_BYTES:
        problem = f"expression of {len(rule.when.encode())} bytes, the limit is {MAX_SOURCE_BYTES}"
        raise InvalidDefinition(problem=problem, path=path)
    try:
        program = _ENVIRONMENT.compile(rule.when)
    except RuntimeError as error:
        text = str(error).partition("\n")[0].removeprefix("INVALID_ARGUMENT: ERROR: <input>:")
        text = text.replace(" (in container '')", "")
        problem = f"`{rule.when}`: {text}; known names: {', '.join(_VARIABLES)}"
        raise InvalidDefinition(problem=problem, path=path) from error
    if program.return_type() != cel.Type.BOOL:
        problem = f"`{rule.when}` gives {program.return_type().name().lower()}, a rule must give bool"
        raise InvalidDefinition(problem=problem, path=path)
    return program


def _names(request: Request) -> dict[str, object]:
    return {
        "text": request.text,
        "words": len(request.text.split()),
        "attachments": len(request.attachments),
        "tools": list(request.tools),
        "source": request.source,
        "stream": request.stream,
        "session": request.session or "",
        "root": request.root or "",
        "user": request.user,
    }


def _shares(scores: Mapping[RequestType, float]) -> dict[RequestType, float]:
    """Return the scores scaled to a sum of 1. A type left out gets 0."""
    unknown = sorted(set(scores) - set(REQUEST_TYPES))
    if unknown:
        raise InvalidInput(problem=f"there is no type {', '.join(unknown)}", path="scores")
    for kind, score in scores.items():
        if not (math.isfinite(score) and score >= 0.0):
            raise InvalidInput(problem=f"{score:g} is no share, it takes 0.0 or more", path=f"scores.{kind}")
    highest = max(scores.values(), default=0.0)
    if highest == 0.0:
        raise InvalidInput(problem="no type has a share", path="scores")
    scaled = {kind: scores.get(kind, 0.0) / highest for kind in REQUEST_TYPES}
    whole = math.fsum(scaled.values())
    return {kind: share / whole for kind, share in scaled.items()}


def _leaders(scores: Mapping[RequestType, float]) -> tuple[RequestType, RequestType]:
    first, second, *_ = sorted(REQUEST_TYPES, key=lambda kind: -scores[kind])
    return first, second
