"""Ids of tasks: they rise with the time, and nobody can guess one."""

from __future__ import annotations

from functools import lru_cache

from .world import LoopWorld

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]


def new_task_id(world: LoopWorld) -> str:
    """Time-ordered and unguessable: 48 bits of milliseconds, 80 random bits (the layout of a ULID)."""
    return f"t-{_time_in(int(world.now() * 1000))}{_digits(world.secret_bits(80), 16)}"


@lru_cache(maxsize=1)
def _time_in(milliseconds: int) -> str:
    return _digits(milliseconds, 10)


def _digits(number: int, count: int) -> str:
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * count - 10, -1, -10)])
