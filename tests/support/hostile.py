"""Values, texts, expressions and exceptions that have broken something once, and their kin: drawn by property tests and
storms."""

from __future__ import annotations

import datetime as dt

from hypothesis import strategies as st

TEXTS = [
    "",
    "a",
    "a\x00b",
    "\x1b[31mred\x1b[0m",
    "\u202eevil",
    "ÿ\ud7ff\ue000",
    "🚀",
    "x" * 5_000,
    "__proto__",
    "null",
    "\r\n",
]
NUMBERS = [0, -1, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, float("inf"), float("-inf"), float("nan")]
BYTES = [b"", b"\x00", b"\x89PNG\x00\x01\x02", b"\xff" * 100]
DATES = [
    dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
]
LEAVES = [None, True, False, *TEXTS, *NUMBERS, *BYTES, *DATES]
KEYS = ["k", "items", "n", "a", "a\x00b", "", "key with spaces", "ключ"]


def nested(levels: int):
    """A list in a list in a list."""
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def values():
    """Plain data, as odd as it may be."""
    return st.recursive(
        st.sampled_from(LEAVES) | st.integers(1, 99).map(nested),
        lambda below: st.lists(below, max_size=4) | st.dictionaries(st.sampled_from(KEYS), below, max_size=4),
        max_leaves=12,
    )


EXPRESSIONS = [
    "input",
    "[input]",
    "{'x': input, 'y': [input]}",
    "{string(input.k): 1, 'a': 2}",
    "input.k",
    "input.items.map(x, [x, x])",
    "input.items.filter(x, x > 1)",
    "input.items.all(x, x != null)",
    "input == input",
    "input < input",
    "input + input",
    "size(input)",
    "type(input)",
    "string(input)",
    "int(input)",
    "dyn(input) == null ? [] : [input]",
    "has(input.k) && input.k > 1",
    "input.?k.orValue(input)",
    "input.?k",
    "input[0]",
    "input['a']",
    "input.matches('(a+)+$')",
    "input.split('').join(input)",
    "input.replace('', input)",
    "math.greatest(input)",
    "input.flatten().distinct().sort()",
    "base64.encode(input)",
    "timestamp(input)",
    "duration(input)",
    "cel.bind(x, [input, input], [x, x, x])",
    "input.format(input)",
]
