"""Values of every type go in and out of steps, equal and of the same type, with hints and without."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import struct
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

import podium
from podium import Hierarchy, Parallel, Sequence, Step, Workflow, verdict
from podium.errors import InvalidDefinition, InvalidInput, TaskFailed
from podium.protocols.codecs.arrow_values import stream_of
from podium.protocols.codecs.registry import codec_named
from podium.protocols.encoded import Encoded
from podium.protocols.json_forms import json_form, to_json
from podium.protocols.values import check_value, pack, unpack
from podium.testing import Simulation, simulate
from tests.support.typed import FREE, HINTED, SAMPLE, Molecule, Person, Point, Sample, passing, same

TABLE = [*HINTED.values(), *((Any, value) for value in FREE.values())]
NAMES = [*(f"hinted {name}" for name in HINTED), *(f"free {name}" for name in FREE)]


@pytest.mark.parametrize(("hint", "value"), TABLE, ids=NAMES)
def test_a_value_comes_out_equal_and_of_the_same_type(hint, value):
    step = passing(hint)
    (out,) = simulate(Workflow("w", Sequence(step, step)), [value])
    assert same(out, value)


@pytest.mark.parametrize("name", [name for name, (_, value) in HINTED.items() if not name.startswith("none")])
def test_what_needs_its_hint_is_refused_without_it(name):
    hint, value = HINTED[name]
    try:
        plain = check_value(value, "output", by_hint=True)
    except InvalidInput as error:
        assert "passes only by a type hint, such as" in str(error)
    else:
        (out,) = simulate(Workflow("w", passing(Any)), [value])
        assert same(out, value) or isinstance(value, tuple), (hint, plain)


# wherever a value may go


@podium.protocol(retry=2)
def at_the_second_attempt(ctx, value: Sample) -> Sample:
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return value


@podium.protocol
def failing(value: Sample) -> Sample:
    raise RuntimeError("never")


GIVEN = []


@podium.protocol
def given(value: Sample) -> Sample:
    GIVEN.append(value)
    return value


@podium.protocol
def lead(brief: dict):
    outcomes = brief["outcomes"]
    return verdict.accept(outcomes["one"]["output"]) if outcomes else verdict.assign({"one": brief["input"]})


def result_of(root):
    GIVEN.clear()
    (out,) = simulate(Workflow("w", root), [SAMPLE])
    return out


def test_a_value_goes_through_retries_fallbacks_and_a_hierarchy():
    assert same(result_of(Sequence(at_the_second_attempt, given)), SAMPLE)
    assert same(result_of(Step(failing, fallback=[given])), SAMPLE)
    plain = result_of(Hierarchy(lead, team={"one": Step(given)}, name="team"))
    assert same(GIVEN, [SAMPLE]), "the member"
    assert same(Sample.model_validate(plain), SAMPLE), "no hint describes what a lead accepts"


def test_a_result_has_the_types_of_its_branches_and_items():
    step = passing(Person)
    person = HINTED["model"][1]
    (out,) = simulate(Workflow("w", Parallel({"a": step, "b": passing(Any)})), [person])
    assert same(out["a"], person) and out["b"]["name"] == "Ada"
    (out,) = simulate(Workflow("w", Parallel(each="input", do=step)), [[person.model_dump(mode="json")] * 2])
    assert same(out, [person, person])
    settled = Parallel({"a": step}, join="settled")
    assert simulate(Workflow("w", settled), [person])[0]["a"]["output"]["name"] == "Ada"


def test_a_value_goes_through_undo_and_a_redrive():
    seen = []

    @podium.protocol
    def undone(value: dict):
        seen.append(value)

    def fails_first(value: Sample) -> Sample:
        seen.append(value)
        if len(seen) < 3:
            raise RuntimeError("not yet")
        return value

    workflow = Workflow("w", Sequence(Step(given, undo=Step(undone)), podium.protocol(fails_first)))

    async def work(engine):
        task = await engine.submit(workflow, SAMPLE)
        with pytest.raises(TaskFailed):
            await task.result()
        (again,) = await engine.redrive([task.id])
        return await again.result()

    plain = Simulation().run(work)
    assert same(Sample.model_validate(plain), SAMPLE), "a task that was looked up knows no hints"
    first, undo, second = seen
    assert same([first, second], [SAMPLE, SAMPLE])
    assert same(undo["input"]["pixels"], SAMPLE.pixels) and undo["input"]["point"] == {"x": 1, "y": "1.50"}


def test_expressions_see_what_describes_an_array_and_pass_the_array_on():
    array = np.arange(6.0).reshape(2, 3)
    take = passing(Any)
    steps = [
        Step(take, name="first"),
        Step(take, name="whole", with_="outputs.first"),
        Step(take, name="part", with_={"rows": "outputs.first.shape[0]", "image": "outputs.first"}),
        Step(take, name="built", with_='{"rows": outputs.part.rows + 1, "list": [outputs.part.image, outputs.whole]}'),
    ]
    (out,) = simulate(Workflow("w", Sequence(*steps)), [array])
    assert out["rows"] == 3 and all(same(each, array) for each in out["list"])


def test_events_and_json_describe_an_array_and_have_nothing_of_it():
    async def work(engine):
        task = await engine.submit(Workflow("w", passing(Any)), {"image": np.zeros((100, 100))})
        await task.result()
        return await task.plain_result(), await task.read_record()

    plain, record = Simulation().run(work)
    described = {"$type": "numpy.ndarray", "dtype": "float64", "shape": [100, 100], "first": [0.0] * 4, "bytes": 80_188}
    assert json_form(plain)["image"] == json_form(record.result)["image"]
    assert json_form(plain)["image"] | {"bytes": 80_188} == described
    assert len(to_json(plain)) < 200
    assert repr(plain["image"]).startswith("<numpy.ndarray dtype=float64 shape=[100, 100] first=")
    assert same(podium.decoded(plain["image"]), np.zeros((100, 100)))


def test_chunks_carry_arrays():
    @podium.protocol
    async def streams(ctx, n):
        ctx.emit({"part": np.ones(n)})
        return n

    async def work(engine):
        task = await engine.submit(Workflow("w", streams), 3)
        return [event.value async for event in task.events() if event.kind == "chunk"]

    (chunk,) = Simulation().run(work)
    assert same(podium.decoded(chunk)["part"], np.ones(3))


# codecs


def test_a_codec_has_a_name_of_its_own():
    for name in ("", "a b", "numpy.mine", "1.x"):
        with pytest.raises(InvalidDefinition, match="is no name for a codec of yours"):
            podium.codec(Person, name=name, dump=str, load=Person)
    with pytest.raises(InvalidDefinition, match=r"the name 'tests.molecule' is taken by tests.support.typed.Molecule"):
        podium.codec(Person, name="tests.molecule", dump=str, load=Person)
    with pytest.raises(InvalidDefinition, match="is no type"):
        podium.codec("Molecule", name="tests.other", dump=str, load=str)
    podium.codec(Molecule, name="tests.molecule", dump=lambda each: each.formula, load=Molecule)


class Broken:
    pass


def test_a_codec_that_fails_names_the_place():
    podium.codec(Broken, name="tests.broken", dump=lambda _: 1 / 0, load=lambda _: 1 / 0)
    with pytest.raises(InvalidInput, match=r"^output\.a\[1\]: codec 'tests.broken' cannot dump it: ZeroDivisionError"):
        check_value({"a": [1, Broken()]}, "output")
    podium.codec(Broken, name="tests.broken", dump=lambda _: {1, 2}, load=lambda _: 1 / 0)
    with pytest.raises(InvalidInput, match=r"cannot dump it: InvalidInput: \[2\]: a set is not plain data"):
        check_value(Broken(), "output")
    podium.codec(Broken, name="tests.broken", dump=lambda _: 1, load=lambda _: 1 / 0)
    with pytest.raises(InvalidInput, match=r"codec 'tests.broken' cannot load a value: ZeroDivisionError"):
        podium.decoded(check_value(Broken(), "output"))


def test_what_no_codec_is_for_here_says_so():
    with pytest.raises(InvalidInput, match=r"import the module that calls podium.codec\(…, name='chem.gone'\)"):
        podium.decoded(Encoded(pack(["chem.gone", {}, b""])))
    with pytest.raises(InvalidInput, match=r"a value is a torch.Tensor, and torch cannot be imported here"):
        codec_named("torch.Tensor")


@pytest.mark.parametrize("packed", [b"", b"\xc1", pack(1), pack([1, 2]), pack(["x", [], 1]), pack("abc")])
def test_what_is_no_encoded_value_is_damaged_and_harms_nobody(packed):
    value = Encoded(packed)
    assert json_form(value)["$type"] in ("damaged", "a", "x")
    with pytest.raises(InvalidInput):
        podium.decoded(value)


def test_arrays_of_objects_are_refused_by_name():
    with pytest.raises(InvalidInput, match=r"^output\.a: an array of objects cannot be encoded without pickle"):
        check_value({"a": np.array([object()])}, "output")
    with pytest.raises(InvalidInput, match=r"its column .a. would change a set into a ndarray"):
        check_value(pd.DataFrame({"a": [{1}, {2}]}), "output")


def test_an_encoded_value_survives_the_wire_and_equals_itself():
    value = check_value([np.arange(3), Molecule("H2O")], "output")
    assert unpack(pack(value)) == value
    assert len({value[0], unpack(pack(value))[0]}) == 1
    assert value[0] != value[1]


def test_the_first_hint_that_fits_takes_the_input():
    step = Parallel({"a": passing(Any), "b": passing(Point), "c": passing(dict)})
    (out,) = simulate(Workflow("w", step), [Point(1, Decimal("2.0"))])
    assert out == {"a": {"x": 1, "y": "2.0"}, "b": Point(1, Decimal("2.0")), "c": {"x": 1, "y": "2.0"}}
    with pytest.raises(InvalidInput, match=r"input: a Point passes only by a type hint, such as `Point`"):
        simulate(Workflow("w", passing(Any)), [Point(1, Decimal(1))])
    with pytest.raises(InvalidInput, match=r"value.x: Input should be a valid integer"):
        simulate(Workflow("w", passing(Point)), [Point("a", Decimal(1))])


def test_a_result_that_fits_no_more_says_so():
    flow = Workflow("w", passing(Person))

    async def work(engine):
        task = await engine.submit(flow, HINTED["model"][1])
        task._read = Workflow("v", passing(int)).reader
        await task.result()

    with pytest.raises(
        InvalidInput, match=r"workflow 'w': the result of .* does not fit: output: Input should be a valid"
    ):
        Simulation().run(work)


def test_the_plain_form_is_what_the_journal_has():
    async def work(engine):
        task = await engine.submit(Workflow("w", passing(Point)), Point(1, Decimal("1.50")))
        assert same(await task.result(), Point(1, Decimal("1.50")))
        found, _ = await asyncio.gather(task.plain_result(), asyncio.sleep(0))
        return found

    assert json.loads(to_json(Simulation().run(work))) == {"x": 1, "y": "1.50"}


# found by a reviewer


def nested(levels, inside):
    packed = msgpack.packb(["numpy.ndarray", {}, None])
    for _ in range(levels):
        packed = msgpack.packb(inside(msgpack.ExtType(1, packed)))
    return Encoded(packed)


@pytest.mark.parametrize(
    "inside",
    [
        lambda inner: ["numpy.ndarray", {"a": inner}, None],
        lambda inner: [inner, {}, None],
        lambda inner: ["x", inner, None],
        lambda _inner: ["x", {"a": list(range(65))}, None],
        lambda _inner: ["x", {"a": {"b": 1}}, None],
        lambda _inner: ["x", {str(n): n for n in range(65)}, None],
    ],
)
def test_a_description_is_small_or_the_value_is_damaged(inside):
    """A supervisor that evaluated an expression over one of 200 levels died of a fault of segmentation."""
    value = nested(700, inside)
    assert (value.codec, value.described()["$type"]) == ("damaged", "damaged")
    assert repr(value).startswith("<damaged") and len(to_json([value])) < 100
    take = Step(passing(Any), with_={"a": "input.a", "kind": 'input.a["$type"]'})
    with pytest.raises(TaskFailed, match="no codec is named 'damaged'"):
        simulate(Workflow("w", take), [{"a": value}])


def test_data_of_another_size_than_it_says_is_refused():
    stream = bytearray(stream_of(pa.table({"a": ["abc", "def"]})).joined())
    at = stream.find(struct.pack("<iii", 0, 3, 6))
    stream[at : at + 12] = struct.pack("<iii", 0, 2**30, 2**31 - 1)
    with pytest.raises(InvalidInput, match=r"codec 'pyarrow.Table' cannot load a value: ArrowInvalid"):
        podium.decoded(Encoded(pack(["pyarrow.Table", {}, bytes(stream)])))
    data = {"pixels": b"", "palette": None, "transparency": None}
    with pytest.raises(InvalidInput, match="the pixels are too few"):
        podium.decoded(Encoded(pack(["PIL.Image", {"mode": "RGB", "size": [30_000, 30_000]}, data])))


class Exact(BaseModel):
    model_config = ConfigDict(strict=True)

    at: date
    tags: tuple[str, ...]


class Cached(BaseModel):
    price: Decimal

    @functools.cached_property
    def double(self):
        return 2 * self.price


def test_strict_models_cached_properties_and_iterables_pass():
    for hint, value in [(Exact, Exact(at=date(2026, 1, 2), tags=("a",))), (Cached, Cached(price=Decimal("1.5")))]:
        assert getattr(value, "double", None) in (None, Decimal("3.0"))
        (out,) = simulate(Workflow("w", passing(hint)), [value])
        assert out == value
    (out,) = simulate(Workflow("w", passing(Iterable[Decimal])), [[Decimal("1.50")]])
    assert out == [Decimal("1.50")]


def test_a_result_of_which_a_fallback_may_be_the_source_is_read_if_their_hints_agree():
    @podium.protocol
    def number(value) -> int:
        raise RuntimeError("no")

    @podium.protocol
    def text(value) -> str:
        return "3"

    @podium.protocol
    def other(value) -> int:
        return 4

    assert simulate(Workflow("w", Step(number, fallback=[text])), [1]) == ["3"]
    assert simulate(Workflow("w", Step(number, otherwise={"value": "3"})), [1]) == ["3"]
    assert simulate(Workflow("w", Step(number, fallback=[other])), [1]) == [4]


def test_frames_keep_their_indexes_and_texts_of_numpy_are_texts():
    frame = pd.DataFrame({"a": [1.0, 2.0]}, index=pd.date_range("2026-01-01", periods=2, freq="D"))
    for value in (pd.DataFrame({"a": [1, 2]}), pd.Series([1, 2]), frame, frame["a"]):
        (out,) = simulate(Workflow("w", passing(Any)), [value])
        assert type(out.index) is type(value.index) and getattr(out.index, "freq", 0) == getattr(value.index, "freq", 0)
    assert simulate(Workflow("w", passing(Any)), [[np.str_("a\0"), np.str_(""), np.bytes_(b"")]]) == [["a\0", "", b""]]


def test_images_keep_what_is_transparent_and_films_are_refused():
    image = Image.new("RGB", (2, 2))
    image.info["transparency"] = (1, 2, 3)
    (out,) = simulate(Workflow("w", passing(Any)), [image])
    assert out.info["transparency"] == (1, 2, 3)
    film = io.BytesIO()
    image.save(film, "GIF", save_all=True, append_images=[Image.new("RGB", (2, 2), (9, 9, 9))])
    with pytest.raises(InvalidInput, match="an image of several frames cannot be encoded"):
        check_value(Image.open(film), "output")
    with pytest.raises(InvalidInput, match="arrays of no items"):
        check_value(pl.DataFrame({"a": [[]]}, schema={"a": pl.Array(pl.Int8, 0)}), "output")
