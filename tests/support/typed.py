"""Values of every type that docs/values.md names, and protocols that pass them on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict  # typing's own is read by pydantic from Python 3.12 on

import podium

T = TypeVar("T")


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int
    y: Decimal


class Pair(NamedTuple):
    left: int
    right: str


class Row(TypedDict):
    at: date
    tags: set[str]


class Box(BaseModel, Generic[T]):
    inside: T


class Person(BaseModel):
    name: str
    born: date
    color: Color = Color.RED
    friends: list[Person] = []


class Molecule:
    """A type of the user's own, with a codec."""

    def __init__(self, formula: str) -> None:
        self.formula = formula

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Molecule) and other.formula == self.formula

    __hash__ = None  # type: ignore[assignment]


podium.codec(Molecule, name="tests.molecule", dump=lambda each: each.formula, load=Molecule)


class Sample(BaseModel):
    """Parts of every kind in one value, an array inside a model among them."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    person: Person
    point: Point
    pair: Pair
    row: Row
    sizes: tuple[int, ...]
    price: Decimal
    either: int | None
    pixels: np.ndarray
    molecule: Molecule
    raw: bytes = b"\xff\x00"
    seen: dict[Color, timedelta] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sample) and same(vars(self), vars(other))


PERSON = Person(name="Ada", born=date(1815, 12, 10), friends=[Person(name="Charles", born=date(1791, 12, 26))])
SAMPLE = Sample(
    person=PERSON,
    point=Point(1, Decimal("1.50")),
    pair=Pair(1, "a"),
    row={"at": date(2026, 1, 2), "tags": {"a", "b"}},
    sizes=(1, 2, 3),
    price=Decimal("9.90"),
    either=None,
    pixels=np.arange(12, dtype=np.float32).reshape(3, 4),
    molecule=Molecule("H2O"),
    seen={Color.RED: timedelta(seconds=90)},
)
FRAME = pd.DataFrame({"n": [1, 2], "when": pd.to_datetime(["2026-01-01", "2026-01-02"]).tz_localize("Europe/Berlin")})

HINTED: dict[str, tuple[Any, Any]] = {
    "model": (Person, PERSON),
    "models": (list[Person], [PERSON, PERSON]),
    "generic": (Box[Decimal], Box[Decimal](inside=Decimal("1.50"))),
    "dataclass": (Point, Point(1, Decimal("1.50"))),
    "typed dict": (Row, {"at": date(2026, 1, 2), "tags": {"a"}}),
    "named tuple": (Pair, Pair(1, "a")),
    "enum": (Color, Color.RED),
    "int enum": (Level, Level.HIGH),
    "str enum": (Word, Word.YES),
    "enum keys": (dict[Color, int], {Color.RED: 1}),
    "uuid": (UUID, UUID(int=7)),
    "decimal": (Decimal, Decimal("1.50")),
    "fraction": (Fraction, Fraction(1, 3)),
    "complex": (complex, 1 + 2j),
    "aware": (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    "naive": (datetime, datetime(2026, 1, 2, 3, 4, 5, 6)),
    "date": (date, date(2026, 1, 2)),
    "time": (time, time(3, 4, 5)),
    "timedelta": (timedelta, timedelta(days=1, microseconds=3)),
    "path": (Path, Path("/a/b")),
    "set": (set[int], {1, 2}),
    "frozen set": (frozenset[str], frozenset(["a"])),
    "tuple": (tuple[int, str], (1, "a")),
    "long tuple": (tuple[int, ...], (1, 2, 3)),
    "deque": (deque[int], deque([1, 2])),
    "bytes": (bytes, b"\xff\x00"),
    "literal": (Literal["a", "b"], "a"),
    "union": (Person | Point | None, Point(1, Decimal(2))),
    "none": (None, None),
    "not a number": (float, float("nan")),
    "infinity": (float, float("-inf")),
    "array": (np.ndarray, np.arange(6.0).reshape(2, 3)),
    "arrays": (dict[str, np.ndarray], {"a": np.zeros(3, dtype=np.int8)}),
    "table": (pa.Table, pa.table({"n": [1, 2]})),
    "own codec": (Molecule | None, Molecule("H2O")),
    "everything": (Sample, SAMPLE),
}
"""Hints, and a value of each."""

FREE: dict[str, Any] = {
    "none": None,
    "bool": True,
    "int": 2**64 - 1,
    "float": 2.5,
    "text": "a \x00 é",
    "bytes": b"\xff",
    "moment": datetime(2026, 1, 2, tzinfo=UTC),
    "nested": {"a": [{"b": [1, None]}]},
    "int keys": {1: "one", "1": "text"},
    "array": np.arange(6, dtype=">i2").reshape(2, 3)[:, ::-1],
    "empty array": np.zeros((0, 3)),
    "array of no dimension": np.array(3.5),
    "structured array": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "scalars": [np.int64(3), np.float64(2.5), np.float32(1.5), np.bool_(True), np.datetime64("2026-01-01", "ns")],
    "table": pa.table({"n": [1, 2], "t": ["a", None]}),
    "batch": pa.record_batch({"n": [1, 2]}),
    "frame": FRAME,
    "frame with an index": FRAME.set_index("n"),
    "series": pd.Series([1.5, None], name="s", index=["a", "b"]),
    "polars frame": pl.DataFrame({"n": [1, 2], "d": [date(2026, 1, 1), None]}),
    "polars series": pl.Series("s", ["a", "b"]),
    "image": Image.new("RGBA", (3, 2), (1, 2, 3, 4)),
    "image with a palette": Image.new("RGB", (3, 2), (9, 8, 7)).convert("P"),
    "own codec": [{"deep": Molecule("CO2")}],
}
"""Values that pass without a hint."""


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal and of the same types, all through."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(ka, kb) and same(a[ka], b[kb]) for ka, kb in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, pd.DataFrame | pd.Series | pl.DataFrame | pl.Series | pa.Table | pa.RecordBatch):
        return bool(a.equals(b))
    if isinstance(a, Image.Image):
        return a.mode == b.mode and a.convert("RGBA").tobytes() == b.convert("RGBA").tobytes()
    return bool(a == b) or (a != a and b != b)


def passing(hint: Any) -> Any:
    """Make a protocol that takes and gives a value of the hint, and passes on what it gets."""

    def passed(value):
        return value

    passed.__annotations__ = {} if hint is Any else {"value": hint, "return": hint}
    return podium.protocol(passed)


@podium.protocol
def passes_sample(value: Sample) -> Sample:
    return value


@podium.protocol
def passes_anything(value):
    return value


def goes_through(engine: Any) -> None:
    """See that values of all types go through two steps of an engine, and their results come out the same."""
    hinted = podium.Workflow("hinted", podium.Sequence(passes_sample, passes_sample))
    free = podium.Workflow("free", podium.Sequence(passes_anything, passes_anything))
    assert same(engine.submit(hinted, SAMPLE).result(timeout_s=60), SAMPLE)
    assert same(engine.submit(free, FREE).result(timeout_s=60), FREE)
