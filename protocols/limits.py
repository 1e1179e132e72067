"""Limits as data: permits at once, or an amount per time, for the cluster or for each workflow, protocol, user or key.

    {"llm": 5, "llm per user": 2, "tokens": "90000/min burst 20000"}

The name is that of a quota, and says for whom the limit counts apart. "per key" counts apart for each value of a
protocol's `limit_key`, such as the model or the host name of a service. The value is a number of permits, each held
while a step runs; or a rate, an amount per s, min, h or day that is used up. In any s (min, h, day) no more than the
amount and its burst are granted. The burst may be used in one go. By default it is the amount: "10/s" is "10/s burst
10".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .errors import InvalidInput
from .quantities import MAX_COUNT, shown

Scope: TypeAlias = Literal["cluster", "workflow", "protocol", "user", "key"]
Amount: TypeAlias = int | str
"""A limit as it is written: 5, or "90000/min burst 20000"."""
_PERIODS_S = {"s": 1.0, "min": 60.0, "h": 3_600.0, "day": 86_400.0}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|h|day)\s*(?:burst\s+(\d+))?\s*")
_MOST_DIGITS = 20
_NAME = re.compile(r"([A-Za-z_][\w.:-]{0,99})(?: per (workflow|protocol|user|key))?")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of one quota in one scope."""

    name: str
    """The name as it is written, such as "llm per user"."""
    quota: str
    """The name of the quota, such as "llm"."""
    scope: Scope
    """The scope: the whole cluster, or each workflow, protocol, user or key apart."""
    amount: float
    """The number of permits; for a rate, its burst."""
    interval_s: float | None = None
    """For a rate, the seconds until one more unit may be used; None for permits."""


def read_limits(written: Mapping[str, Amount]) -> dict[str, Limit]:
    """Read limits as they are written, by name. Raises InvalidInput; names the limit."""
    return {name: _read(name, amount) for name, amount in written.items()}


def _read(name: str, amount: Amount) -> Limit:
    named = _NAME.fullmatch(name) if isinstance(name, str) else None
    if named is None:
        scopes = ", ".join(f"'{scope}'" for scope in get_args(Scope)[1:])
        raise InvalidInput(
            problem=f"'{name}' is not 'quota' or 'quota per scope' with a scope of {scopes}", path="limits"
        )
    quota, scope = named[1], named[2] or "cluster"
    limit, interval_s = _rate(amount) or (_permits(amount), None)
    if limit is None:
        problem = f"a whole number, 0 or more, or a rate such as '10/s burst 30', not {shown(amount)}"
        raise InvalidInput(problem=problem, path=f"limits.{name}")
    return Limit(name, quota, scope, limit, interval_s)  # type: ignore[arg-type]


def _rate(amount: Amount) -> tuple[float, float] | None:
    """Burst, and seconds for one more; None if it is no rate."""
    rate = _RATE.fullmatch(amount) if isinstance(amount, str) else None
    if rate is None:
        return None
    count = float(rate[1])
    burst = float(rate[3] or max(1.0, count))
    return (burst, _PERIODS_S[rate[2]] / count) if 0 < count <= MAX_COUNT and 1 <= burst <= MAX_COUNT else None


def _permits(amount: Amount) -> int | None:
    if isinstance(amount, str) and amount.strip().isdecimal() and len(amount) <= _MOST_DIGITS:
        amount = int(amount)
    is_count = isinstance(amount, int) and not isinstance(amount, bool) and 0 <= amount <= MAX_COUNT
    return amount if is_count else None  # type: ignore[return-value]
