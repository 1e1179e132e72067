"""What docs/values.md says of values, and the errors of those that are none."""

from __future__ import annotations

import re
import typing
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from pydantic import AfterValidator, BaseModel, SecretStr
from typing_extensions import TypedDict

import podium
from podium import Workflow
from podium.errors import InvalidDefinition, InvalidInput, TaskFailed
from podium.protocols.advice import advice_on
from podium.protocols.type_hints import TypeHint
from podium.protocols.values import check_value
from podium.testing import Simulation, simulate
from tests.support import ROOT

PAGE = (ROOT / "docs/values.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: object
    y: object


class Pair(typing.NamedTuple):
    left: int
    right: int


class Model(BaseModel):
    at: Point


NAMES = {
    each.__name__: each
    for each in (Color, Point, Pair, Model, deque, date, datetime, time, timedelta, timezone, Decimal, Fraction)
} | {"UTC": UTC, "Path": Path, "UUID": UUID}


class Base(BaseModel):
    n: int = 1


class Derived(Base):
    m: int = 2


NAMES |= {
    "Base": Base,
    "Derived": Derived,
    "OrderedDict": OrderedDict,
    "SecretStr": SecretStr,
    "Literal": typing.Literal,
}


class Row(TypedDict):
    n: int


NAMES |= {"Row": Row, "Annotated": typing.Annotated, "AfterValidator": AfterValidator}
NAMES |= {"Any": typing.Any}


def test_the_examples_of_the_page_run():
    """All of them in one module, one after another, with the names that they leave to the reader."""
    blocks = [block for block in BLOCKS if "app.log" not in block]

    async def work(engine):
        names = {"podium": podium, "Decimal": Decimal, "BaseModel": BaseModel, "ask_database": lambda *_: [], "np": np}
        names |= {"Molecule": Molecule, "workflow": Workflow("look", passed_on)}
        names |= {"engine": engine, "__name__": "page"}
        for block in blocks:
            exec(block, names)
        return await (await names["task"]).result()

    assert Simulation().run(work) == Decimal("1.50")


def test_the_example_of_a_file_runs(tmp_path, capsys):
    (tmp_path / "app.log").write_text("fine\nERROR one\n")
    definition = next(block for block in BLOCKS if "def shorten" in block)
    use = next(block for block in BLOCKS if "app.log" in block).replace("/var/log", str(tmp_path))
    with podium.connect(data=tmp_path / "data", cluster="inprocess") as engine:
        exec(definition + use, {"podium": podium, "engine": engine, "__name__": "page"})
    assert capsys.readouterr().out == "short.log 10 ERROR one\n\n"


class Molecule:
    @classmethod
    def from_bytes(cls, data):
        return cls()

    def to_bytes(self):
        return b""


@podium.protocol
def passed_on(input):
    return input


def rows(head):
    table = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0]
    return [
        tuple(cell.strip().replace(r"\|", "|") for cell in re.split(r" (?<!\\)\| ", line.strip("| ")))
        for line in table.splitlines()[2:]
    ]


def source(cell):
    return eval(cell.strip("`"), NAMES)


def foreign(name, *bases, **methods):
    """A type as if it were of another package."""
    package, _, own = name.partition(".")
    return type(own, bases or (object,), {"__module__": f"{package}.core", **methods})


@pytest.mark.parametrize(("given", "comes"), rows("you give | the next step gets"))
def test_what_the_page_says_comes_out(given, comes):
    edge, value = TypeHint(typing.Any, "output", "a test"), source(given)
    if comes.startswith("refused: "):
        with pytest.raises(InvalidInput, match=re.escape(comes.removeprefix("refused: "))):
            edge.plain(value)
    else:
        plain, wanted = edge.plain(value), source(comes)
        assert (plain, type(plain)) == (wanted, type(wanted))


@pytest.mark.parametrize(("hint", "given", "plain"), rows("type hint | you give | plain form"))
def test_by_its_hint_a_value_comes_out_equal_and_of_the_same_type(hint, given, plain):
    edge, value = TypeHint(source(hint), "output", "a test"), source(given)
    assert edge.plain(value) == source(plain)
    back = edge.read(edge.plain(value))
    assert (back, type(back)) == (value, type(value))


@pytest.mark.parametrize(("hint", "given", "refused"), rows("type hint | you give | refused"))
def test_what_a_hint_does_not_cover_is_refused(hint, given, refused):
    with pytest.raises(InvalidInput, match=re.escape(refused)):
        TypeHint(source(hint), "output", "a test").plain(source(given))


@pytest.mark.parametrize(("kind", "give"), rows("a value of | give"))
def test_a_value_of_another_library_says_what_to_give(kind, give):
    value = foreign(kind.strip("`"))()
    with pytest.raises(
        InvalidInput, match=re.escape(f"output.rows[1]: {kind.strip('`')} is not plain data: give {give}")
    ):
        check_value({"rows": [1, value]}, "output")


@pytest.mark.parametrize(
    ("kind", "give"),
    [
        ("pandas.Interval", "its `.tolist()`"),
        ("pandas.NAType", "None"),
        ("jaxlib.ArrayImpl", "its `.tolist()`"),
        ("ray.ActorHandle", "what its calls return"),
    ],
)
def test_others_of_their_kind(kind, give):
    assert advice_on(foreign(kind)) == give


def test_what_is_derived_from_one_of_them_says_the_same():
    assert advice_on(type("Mine", (np.ndarray,), {"__module__": "mine"})) == advice_on(np.ndarray)
    assert advice_on(int) is None and advice_on(Point) is None


def protocol_of(value, **hints):
    def gives(n):
        return value

    gives.__annotations__ = hints
    return podium.protocol(gives)


def test_an_output_that_fits_no_hint_says_what_to_give():
    with pytest.raises(
        TaskFailed, match=r"output: Input should be a valid string; this is a numpy.int64, give its `\.item\(\)`"
    ):
        simulate(Workflow("w", protocol_of(np.int64(1), **{"return": str})), [1])
    with pytest.raises(TaskFailed, match=r"output\.a: jax.Array is not plain data: give its `\.tolist\(\)`"):
        simulate(Workflow("w", protocol_of({"a": foreign("jax.Array")()}, **{"return": dict})), [1])


class Odd:
    pass


class Typed(typing.TypedDict):
    x: int


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        (Odd, r"its type hint Odd cannot be used: .*; take a hint that pydantic reads, give the type a codec"),
        (dict[str, list[Odd]], r"its type hint dict\[str, list\[.*Odd\]\] cannot be used"),
        (
            foreign("jax.Array"),
            r"its type hint Array cannot be used: .*give its `\.tolist\(\)`.* and say so in the hint",
        ),
        (pd.Index, r"its type hint Index cannot be used: .*give its `\.tolist\(\)`"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["input", "return"])
def test_a_hint_that_cannot_be_read_names_the_protocol(hint, says, place):
    name = "n" if place == "input" else place
    with pytest.raises(InvalidDefinition, match=rf"^protocol .*gives.*, {place}: {says}"):
        simulate(Workflow("w", protocol_of(1, **{name: hint})), [1])


def test_a_typed_dict_is_read_or_refused_in_a_sentence():
    workflow = Workflow("w", protocol_of({"x": 1}, **{"return": Typed}))
    try:
        assert simulate(workflow, [1]) == [{"x": 1}]
    except InvalidDefinition as error:  # Python before 3.12
        assert "its type hint Typed cannot be used: Please use `typing_extensions.TypedDict`" in str(error)
