"""Makes ids of tasks, which rise with time and cannot be guessed."""

from __future__ import annotations

from functools import lru_cache

from ..world import LoopWorld

_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
_DIGIT_OF_BYTE = bytes(_ALPHABET[byte % 32] for byte in range(256))


def new_task_id(world: LoopWorld) -> str:
    """Return a time-ordered, unguessable id: 48 bits of milliseconds, 80 random bits (the layout of a ULID)."""
    return f"t-{_time_in(int(world.now() * 1000))}{_digits(world.secret_bytes(16))}"


@lru_cache(maxsize=1)
def _time_in(milliseconds: int) -> str:
    return _digits(bytes((milliseconds >> shift) & 31 for shift in range(45, -1, -5)))


def _digits(numbers: bytes) -> str:
    """Return one digit for each byte, made of its lowest five bits."""
    return numbers.translate(_DIGIT_OF_BYTE).decode()
