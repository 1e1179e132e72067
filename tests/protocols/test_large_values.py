"""Large parts of values travel by reference, and come out equal and of the same type, wherever a value may go."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

import podium
from podium import Hierarchy, Parallel, Retry, Sequence, Step, Workflow, verdict
from podium.errors import BlobMissing, BlobsAway, FixTheCall, InvalidInput, KeyConflict, TaskFailed
from podium.protocols.codecs.registry import decoded
from podium.protocols.json_forms import json_form
from podium.protocols.large import LargeParts
from podium.protocols.stored import BlobKey, Stored, keys_in
from podium.protocols.values import check_value, digest, pack, unpack
from podium.testing import Faults, Simulation
from tests.support.typed import FREE, HINTED, SAMPLE, Sample, passing, same

ARRAY = np.arange(100_000.0)
TEXT = "t" * 300_000
BYTES = b"\xff" * 300_000


def run(tree, value, simulation=None, **settings):
    """Return the result of one task."""

    async def work(engine):
        task = await engine.submit(Workflow("w", tree), value)
        return await task.result()

    return (simulation or Simulation(**settings)).run(work)


def played(work, **settings):
    """Run `work(engine)`; returns what it returns, and the simulation."""
    simulation = Simulation(**settings)
    return simulation.run(work), simulation


def blobs(simulation):
    return simulation.disk.blobs.blobs


TABLE = [*HINTED.values(), *((Any, value) for value in FREE.values())]
NAMES = [*(f"hinted {name}" for name in HINTED), *(f"free {name}" for name in FREE)]


@pytest.mark.parametrize(("hint", "value"), TABLE, ids=NAMES)
def test_with_every_part_in_the_blob_store_a_value_comes_out_the_same(hint, value):
    step = passing(hint)
    assert same(run(Sequence(step, step), value, inline_bytes=1), value)


@podium.protocol(retry=2)
def at_the_second_attempt(ctx, value: Sample) -> Sample:
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return value


@podium.protocol
def failing(value: Sample) -> Sample:
    raise RuntimeError("never")


@podium.protocol
def twice(array: np.ndarray) -> np.ndarray:
    return array * 2


@podium.protocol
def total(array: np.ndarray) -> float:
    return float(array.sum())


GIVEN = []


@podium.protocol
def given(value: Sample) -> Sample:
    GIVEN.append(value)
    return value


@podium.protocol
def lead(brief: dict):
    outcomes = brief["outcomes"]
    return verdict.accept(outcomes["one"]["output"]) if outcomes else verdict.assign({"one": brief["input"]})


@pytest.mark.parametrize(
    "tree",
    [
        Sequence(at_the_second_attempt, given),
        Step(failing, fallback=[given]),
        Hierarchy(lead, team={"one": Step(given)}, name="team"),
        Parallel({"a": given, "b": Sequence(given, given)}),
        Sequence(Step(given, name="first"), Step(given, with_="outputs.first")),
    ],
    ids=["retry", "fallback", "hierarchy", "parallel", "expression"],
)
def test_parts_go_through_every_kind_of_node(tree):
    GIVEN.clear()
    run(tree, SAMPLE, inline_bytes=64)
    assert GIVEN and all(same(value, SAMPLE) for value in GIVEN)


def test_an_undo_and_a_redrive_get_the_parts():
    seen, is_mended = [], []

    @podium.protocol
    def made(array: np.ndarray) -> np.ndarray:
        return array + 1

    @podium.protocol
    def taken_back(both: dict):
        seen.append(both)

    @podium.protocol
    def breaks(array: np.ndarray) -> float:
        if not is_mended:
            raise RuntimeError("not yet")
        return float(array.sum())

    async def work(engine):
        flow = Workflow("w", Sequence(Step(made, undo=Step(taken_back)), breaks))
        task = await engine.submit(flow, ARRAY)
        with pytest.raises(TaskFailed):
            await task.result()
        is_mended.append(True)
        kept = Workflow("kept", Sequence(made, breaks))
        is_mended.clear()
        task = await engine.submit(kept, ARRAY)
        with pytest.raises(TaskFailed):
            await task.result()
        is_mended.append(True)
        (again,) = await engine.redrive([task.id])
        return await again.result()

    total, _ = played(work)
    assert total == ARRAY.sum() + len(ARRAY)
    assert same(seen[0], {"input": ARRAY, "output": ARRAY + 1})


@podium.protocol
async def emits(ctx, n: int) -> int:
    for k in range(n):
        ctx.emit({"k": k, "array": ARRAY * k})
        ctx.emit(k)
    return n


def test_chunks_with_large_parts_come_in_order_and_before_the_result():
    async def work(engine):
        task = await engine.submit(Workflow("w", emits), 3)
        events = [event async for event in task.events()]
        return [(event.kind, decoded(event.value)) for event in events], task

    (events, _), simulation = played(work)
    chunks = [value for kind, value in events if kind == "chunk"]
    assert same(chunks, [value for k in range(3) for value in ({"k": k, "array": ARRAY * k}, k)])
    assert [kind for kind, _ in events][-2:] == ["finished", "completed"]
    assert len(blobs(simulation)) == 3


def test_a_chunk_is_what_it_was_when_it_was_emitted():
    @podium.protocol
    async def writes_on(ctx, n: int) -> int:
        array = np.zeros(100_000)
        ctx.emit(array)
        array[:] = 7
        return n

    async def work(engine):
        task = await engine.submit(Workflow("w", writes_on), 1)
        return [decoded(event.value) async for event in task.events() if event.kind == "chunk"]

    (chunk,), _ = played(work)
    assert chunk.sum() == 0


def test_what_passes_through_unchanged_is_stored_once_and_the_journal_is_small():
    step = passing(Any)

    async def work(engine):
        inputs = [{"n": n, "data": bytes([n]) * 1_000_000} for n in range(20)]
        tasks = await engine.submit_many(Workflow("w", Sequence(step, step, step)), inputs)
        results = [await task.result() for task in tasks]
        return same(results, inputs)

    is_same, simulation = played(work)
    assert is_same and len(blobs(simulation)) == 20
    shard = simulation.disk.shard("w")
    written = sum(len(body) for entries in shard.entries.values() for _, body in entries)
    written += sum(len(pack([found.record.input, found.record.result])) for found in shard.tasks.values())
    assert written < 20 * 1_500


def test_supervisors_hold_nothing_of_a_large_value(monkeypatch):
    """No frame between actors, and no entry, has a large part in it."""
    longest = []
    from podium.cluster.simulation.cluster import SimulatedCluster

    carried = SimulatedCluster.carry

    async def carry(cluster, cell, frame):
        answer = await carried(cluster, cell, frame)
        longest.append(max(len(frame), len(answer)))
        return answer

    monkeypatch.setattr(SimulatedCluster, "carry", carry)
    run(Sequence(passing(Any), passing(Any)), {"array": ARRAY, "text": TEXT, "bytes": [BYTES]})
    assert max(longest) < 5_000


def test_the_shards_list_what_they_name_and_forget_it_with_the_task():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(twice, passing(Any))), ARRAY)
        await task.result()
        listed = dict(engine.core._session._scene.disk.shard("w").blobs)
        await asyncio.sleep(200)
        return task.id, listed

    (id, listed), simulation = played(work, keep_finished_s=50.0)
    assert set(listed) == {id} and set(listed[id]) == set(blobs(simulation)) and len(listed[id]) == 2
    assert simulation.disk.shard("w").blobs == {}


def test_what_no_task_names_any_more_is_swept_after_the_grace_and_the_rest_stays():
    async def work(engine):
        first = await engine.submit(Workflow("w", passing(Any)), ARRAY)
        await first.result()
        await asyncio.sleep(300)  # it is forgotten by then, and its blob is doomed
        left = len(blobs(engine.core._session._scene))
        second = await engine.submit(Workflow("w", passing(Any)), ARRAY)
        await second.result()
        other = await engine.submit(Workflow("w2", passing(Any)), TEXT)
        await other.result()
        await asyncio.sleep(20)
        return left

    left, simulation = played(work, keep_finished_s=50.0, blob_grace_s=100.0)
    assert left == 0
    assert len(blobs(simulation)) == 2


def test_a_result_that_is_submitted_again_is_made_sure_of():
    """A driver may keep a handle for longer than the task that it is from."""

    async def work(engine):
        take = Workflow("w", passing(podium.Lazy[np.ndarray]))
        lazy = await (await engine.submit(take, ARRAY)).result()
        await asyncio.sleep(170)  # the task is forgotten, and the blob is doomed
        again = await (await engine.submit(take, lazy)).result()
        total = again.get().sum()
        await asyncio.sleep(400)
        with pytest.raises(BlobMissing, match="is not in memory: it is lost"):
            await engine.submit(take, lazy)
        return total

    total, _ = played(work, keep_finished_s=30.0, blob_grace_s=100.0)
    assert total == ARRAY.sum()


# the store is away


def test_a_step_and_a_client_wait_for_a_store_that_is_away():
    async def work(engine):
        scene = engine.core._session._scene
        scene.blobs_back_at = scene.loop.time() + 20
        task = await engine.submit(Workflow("w", Sequence(passing(Any), passing(Any))), ARRAY)
        assert scene.loop.time() >= 20
        scene.blobs_back_at = scene.loop.time() + 20
        return same(await task.result(), ARRAY), scene.loop.time()

    (is_same, now), _ = played(work)
    assert is_same and now >= 40


def test_a_store_that_stays_away_fails_the_submission_and_the_step_with_the_reason():
    @podium.protocol
    async def slow(n: int) -> np.ndarray:
        await asyncio.sleep(5)
        return ARRAY

    async def work(engine):
        scene = engine.core._session._scene
        task = await engine.submit(Workflow("w", slow), 1)
        scene.blobs_back_at = 1e9
        with pytest.raises(BlobsAway, match="the blob store memory cannot be used: it is out of reach"):
            await engine.submit(Workflow("w2", passing(Any)), ARRAY)
        with pytest.raises(TaskFailed, match="BlobsAway: the blob store memory cannot be used") as failed:
            await task.result()
        return failed.value.cause_code

    code, _ = played(work, blobs_timeout_s=10.0)
    assert code == "blobs_away"


def test_a_lost_blob_fails_the_step_that_needs_it_and_says_what_to_do():
    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(passing(podium.Lazy[np.ndarray]), total)), ARRAY)
        blobs(engine.core._session._scene).clear()
        lost = r"blob [0-9a-f]{64} is not in memory: it is lost, or was put elsewhere; what is lost: podium doctor"
        with pytest.raises(TaskFailed, match=lost) as failed:
            await task.result()
        return failed.value.step, failed.value.cause_code

    assert played(work)[0] == ("total", "blob_missing")


def test_the_same_key_and_the_same_large_input_give_the_same_task():
    async def work(engine):
        flow = Workflow("w", passing(Any))
        one = await engine.submit(flow, {"a": ARRAY}, key="k")
        two = await engine.submit(flow, {"a": ARRAY.copy()}, key="k")
        with pytest.raises(KeyConflict):
            await engine.submit(flow, {"a": ARRAY + 1}, key="k")
        return one.id == two.id

    assert played(work)[0]


def test_a_storm_of_faults_leaves_nothing_dangling():
    """Here only that it ends well; thousands of seeds are in tests/support/large_storm.py."""
    faults = Faults(lose_request=0.1, lose_reply=0.1, repeat=0.1, delay_s=0.05, commit_s=0.05, kills=3, blob_stops=2)
    step = passing(Any)
    for seed in range(5):
        assert same(run(Sequence(step, step, step), [ARRAY, TEXT], Simulation(seed, faults=faults)), [ARRAY, TEXT])


# what is refused, and what is shown


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": [ARRAY]}, r"input\.a\[0\]: a numpy\.ndarray of 800128 bytes"),
        ({"t": TEXT}, "input: a str of 300000 bytes"),
        (BYTES, "input: a bytes of 300000 bytes"),
    ],
)
def test_a_part_that_is_too_large_is_refused(value, problem):
    with pytest.raises(InvalidInput, match=f"workflow 'w': {problem}, the limit is 290000"):
        run(passing(Any), value, max_blob_bytes=290_000)


def test_what_stays_inline_has_the_limit_of_before():
    with pytest.raises(InvalidInput, match=r"bytes packed, the limit is 2048"):
        run(passing(Any), {"big": BYTES, "list": list(range(5_000))}, max_value_bytes=2_048)
    assert run(passing(Any), {"big": BYTES}, max_value_bytes=2_048) == {"big": BYTES}


def test_expressions_see_a_description_and_pass_the_part_on():
    take = passing(Any)
    tree = Sequence(
        Step(take, name="first"),
        Step(
            take, with_={"rows": "outputs.first.a.shape[0]", "chars": "outputs.first.t.chars", "a": "outputs.first.a"}
        ),
    )
    out = run(tree, {"a": ARRAY, "t": TEXT})
    assert (out["rows"], out["chars"]) == (100_000, 300_000) and same(out["a"], ARRAY)


@pytest.mark.parametrize(
    "expression",
    [
        "size(outputs.first.t) > 5",
        'outputs.first.t.contains("x")',
        '"x" in outputs.first.t',
        'outputs.first.t == "x"',
        'outputs.first["t"] != "x"',
        'outputs.first.t + "x"',
        "string(outputs.first.t)",
        "outputs.first.a == outputs.first.a",
        "size(outputs.first.small)",
        "[outputs.first.t] == [1]",
        "outputs.first.rows.filter(r, size(r) > 3)",
        'outputs.first.rows.exists(r, r.startsWith("x"))',
        'outputs.first.rows[0] == "x"',
    ],
)
def test_an_expression_that_would_look_into_a_part_fails_with_the_reason(expression):
    """It would have got an answer about the description, without an error, as soon as a text is long."""
    take = passing(Any)
    value = {"a": ARRAY, "small": np.zeros(3), "t": TEXT, "rows": [TEXT, TEXT]}
    reason = r"is a (text|numpy.ndarray) of \d+ bytes, of which an expression sees only a description"
    with pytest.raises(TaskFailed, match=reason) as failed:
        run(Sequence(Step(take, name="first"), Step(take, with_={"x": expression})), value)
    assert "outputs.first." in str(failed.value)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("outputs.first.t", TEXT),
        ("[outputs.first.t, 1]", [TEXT, 1]),
        ("true ? outputs.first.t : outputs.first.a", TEXT),
        ("outputs.first.rows.map(r, r)", [TEXT, "s"]),
        ("outputs.first.rows.map(r, {'r': r})", [{"r": TEXT}, {"r": "s"}]),
        ("outputs.first.rows.filter(r, true)", [TEXT, "s"]),
        ("has(outputs.first.t) && outputs.first.t.chars > 5", True),
        ("size(outputs.first.rows)", 2),
        ("size(outputs.first)", 3),
        ("outputs.first.a.shape[0] + 1", 100_001),
        ("outputs.first['t']['$type']", "str"),
    ],
)
def test_what_passes_parts_on_or_reads_their_descriptions_works(expression, wanted):
    take = passing(Any)
    value = {"a": ARRAY, "t": TEXT, "rows": [TEXT, "s"]}
    out = run(Sequence(Step(take, name="first"), Step(take, with_={"x": expression})), value)
    assert same(out, {"x": wanted})


def test_records_and_events_describe_a_part_and_read_it_when_asked():
    async def work(engine):
        task = await engine.submit(Workflow("w", passing(Any)), {"a": ARRAY, "t": TEXT, "b": BYTES})
        plain = await task.plain_result()
        record = await task.read_record()
        assert same(decoded(plain), decoded(record.result)) and same(decoded(plain), await task.result())
        return plain

    plain, _ = played(work)
    assert json_form(plain) == {
        "a": {
            "$type": "numpy.ndarray",
            "bytes": 800_128,
            "dtype": "float64",
            "shape": [100_000],
            "first": [0, 1, 2, 3],
        },
        "t": {"$type": "str", "bytes": 300_000, "chars": 300_000, "preview": "t" * 80},
        "b": {"$type": "bytes", "bytes": 300_000},
    }
    assert repr(plain["b"]) == "<bytes, 300000 bytes, stored>"


K = b"k" * 32
PLACES = [0, 5, "x", None, [True, K, 1, 2], [True, b"short", 1, 2, 0], [1, K, 1, 2, 0], [True, K, 2**63, 2, 0]]
PLACES += [[True, K, 1, 2**32, 0], [True, K, 1, 2, 2**31], [True, K, -1, 2, 0], [True, K, 1.0, 2, 0]]


@pytest.mark.parametrize("place", PLACES)
def test_a_part_that_a_foreign_client_made_up_is_in_no_store(place):
    part = Stored.at("numpy.ndarray", {}, place)
    assert part.described()["bytes"] == 0 and not keys_in(part)
    with pytest.raises(InvalidInput, match=r"a numpy.ndarray that is in no blob store"):
        run(passing(Any), unpack(pack(part)))
    with pytest.raises(InvalidInput, match=r"a numpy.ndarray that is in no blob store"):
        decoded(part)


def test_a_digest_does_not_depend_on_the_generation():
    one, two = (Stored.under(BlobKey(b"k" * 32, 1, 2, n), "str", {}, False) for n in (0, 1))
    assert one != two and digest([one]) == digest([two])


def test_a_value_without_large_parts_stays_as_it_is():
    with LargeParts() as large:
        assert large.lifted(check_value({"a": 1}, "x"), "x", 100) == {"a": 1} and not large.parts


# Lazy


class Query(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    now: np.ndarray
    later: podium.Lazy[np.ndarray]
    maybe: podium.Lazy[str] | None = None
    many: dict[str, podium.Lazy[list[int]]] = {}


def reads(simulation, monkeypatch):
    """Return a list that gets the codec of each part that is read."""
    from podium.cluster.blobs.memory import MemoryBlobs

    read, get = [], MemoryBlobs.get
    monkeypatch.setattr(MemoryBlobs, "get", lambda store, key: (read.append(key.size), get(store, key))[1])
    return read


def test_what_is_lazy_is_read_only_when_it_is_used(monkeypatch):
    seen = []

    @podium.protocol
    def look(query: Query) -> Query:
        seen.append((float(query.now.sum()), len(read)))
        if query.name == "use":
            seen.append((query.later.get().sum(), query.maybe.get()[:1], query.many["a"].get()[-1], len(read)))
        return query

    query = {"now": ARRAY, "later": podium.Lazy(ARRAY * 2), "maybe": podium.Lazy(TEXT)}
    query = Query(name="pass", many={"a": podium.Lazy(list(range(200_000)))}, **query)
    simulation = Simulation()
    read = reads(simulation, monkeypatch)

    async def work(engine):
        flow = Workflow("w", Sequence(look, look))
        result = await (await engine.submit(flow, query)).result()
        assert len(read) == 3  # `now`, by two steps and by the client
        await (await engine.submit(flow, query.model_copy(update={"name": "use"}))).result()
        return result

    result = simulation.run(work)
    assert seen[:2] == [(ARRAY.sum(), 1), (ARRAY.sum(), 2)]
    assert seen[3][:3] == (2 * ARRAY.sum(), "t", 199_999)
    assert same(result.later.get(), ARRAY * 2) and result.maybe.get() == TEXT
    assert len(blobs(simulation)) == 4, "passing on costs nothing"


def test_a_lazy_value_that_is_small_or_has_another_type_works_the_same():
    @podium.protocol
    def take(value: podium.Lazy[int]) -> podium.Lazy[int]:
        return podium.Lazy(value.get() + 1)

    assert run(Sequence(take, take), 1).get() == 3
    with pytest.raises(TaskFailed, match="value: Input should be a valid integer"):
        run(take, "x")


def test_a_list_goes_to_the_store_as_a_whole_if_it_is_lazy():
    @podium.protocol
    def rows(n: int) -> podium.Lazy[list[dict[str, Any]]]:
        return podium.Lazy([{"n": k, "array": ARRAY[:2]} for k in range(n)])

    @podium.protocol
    def count(rows: list[dict[str, Any]]) -> int:
        return len(rows) + int(rows[1]["array"][1])

    simulation = Simulation()
    assert run(Sequence(rows, count), 5_000, simulation) == 5_001
    assert len(blobs(simulation)) == 1


# files


@podium.protocol
def shorten(ctx: podium.Context, log: podium.File) -> podium.File:
    with log.open("r") as lines, ctx.new_file("short.log") as short:
        for line in lines:
            if "ERROR" in line:
                short.write(line.encode())
    return short.file


def test_a_file_goes_up_through_steps_and_comes_out(tmp_path):
    path = tmp_path / "app.log"
    path.write_text("fine\nERROR one\nfine\nERROR two\n" * 1000)
    step = passing(podium.File)
    file = run(Sequence(step, shorten, step), podium.File(path))
    assert file.name == "short.log" and file.size_bytes == 20_000
    assert file.read_text() == file.open("r").read() == "ERROR one\nERROR two\n" * 1000
    file.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes() == file.open().read()
    with pytest.raises(FileExistsError):
        file.save(tmp_path / "copy")
    with pytest.raises(FixTheCall, match=r"a podium.File is only read"):
        file.open("w")


def test_a_step_may_return_a_file_of_its_machine(tmp_path):
    @podium.protocol
    def writes(n: int) -> dict[str, podium.File]:
        (tmp_path / "out.bin").write_bytes(b"x" * n)
        return {"out": podium.File(tmp_path / "out.bin", name="renamed")}

    out = run(writes, 10)["out"]
    assert (out.name, out.read_bytes()) == ("renamed", b"x" * 10)


def test_a_file_that_is_not_there_is_refused_when_it_is_submitted(tmp_path):
    with pytest.raises(InvalidInput, match=r"the file '.*none' cannot be read on this machine: No such file"):
        run(passing(podium.File), podium.File(tmp_path / "none"))


def test_many_large_inputs_keep_their_order_and_a_bad_one_lets_none_in(tmp_path):
    arrays = [np.full(50_000, float(n)) for n in range(70)]

    async def work(engine):
        flow = Workflow("w", total)
        tasks = await engine.submit_many(flow, arrays, keys=[f"k{n}" for n in range(70)])
        again = await engine.submit_many(flow, arrays, keys=[f"k{n}" for n in range(70)])
        with pytest.raises(InvalidInput, match="cannot be read on this machine"):
            await engine.submit_many(Workflow("w2", passing(Any)), [*arrays, podium.File(tmp_path / "none")])
        return (
            [await task.result() for task in tasks],
            [t.id for t in tasks] == [t.id for t in again],
            await engine.tasks(),
        )

    (results, are_same, tasks), _ = played(work)
    assert results == [array.sum() for array in arrays] and are_same
    assert {task.workflow for task in tasks} == {"w"}


def test_a_file_that_is_in_no_store_says_what_to_do_instead():
    file = podium.File("/tmp/x.csv")
    assert repr(file) == "File('/tmp/x.csv')" and file.name == "x.csv"
    for use in (file.open, file.read_bytes, lambda: file.size_bytes):
        with pytest.raises(FixTheCall, match="stands for a file of this machine; use its path here"):
            use()
    with pytest.raises(InvalidInput, match="a file that is in no blob store: submit it, or return it from a step"):
        check_value([file], "x")


def test_a_new_file_that_an_exception_leaves_is_not_kept():
    left = []

    @podium.protocol(retry=Retry(attempts=1))
    def breaks(ctx: podium.Context, n: int) -> int:
        with ctx.new_file("half") as file:
            left.append(file)
            file.write(b"half")
            raise RuntimeError("never")

    simulation = Simulation()
    with pytest.raises(TaskFailed):
        run(breaks, 1, simulation)
    assert not blobs(simulation)
    with pytest.raises(FixTheCall, match="file 'half' is not closed yet, or was given up"):
        _ = left[0].file
    with pytest.raises(ValueError, match="file 'half' is closed"):
        left[0].write(b"more")


def test_an_open_new_file_is_no_output():
    @podium.protocol
    def forgets(ctx: podium.Context, n: int):
        return ctx.new_file("a")

    with pytest.raises(TaskFailed, match=r"give its `.file`, after it is closed"):
        run(forgets, 1)


def test_a_context_made_by_hand_has_no_blob_store():
    with pytest.raises(InvalidInput, match="a context made by hand has no blob store"):
        podium.Context().new_file("a")


# secrets


def test_a_secret_does_not_leave_in_a_large_part(monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2-hunter2")

    @podium.protocol
    def leaks(n: int) -> Any:
        token = podium.Secret("t").reveal()
        return {"text": "x" * 300_000 + token}

    @podium.protocol
    def leaks_in_an_array(n: int) -> np.ndarray:
        token = podium.Secret("t").reveal()
        return np.frombuffer((token * 50_000).encode(), np.uint8)

    for step in (leaks, leaks_in_an_array):
        simulation = Simulation(secrets={"t": "env:TOKEN"})
        with pytest.raises(TaskFailed, match="the secret 't' stands in it; pass the secret on by name"):
            run(step, 1, simulation)
        assert not blobs(simulation)


# found by a reviewer


class Tagged:
    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tagged) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


podium.codec(Tagged, name="tests.tagged", dump=lambda each: each.text.encode(), load=lambda data: Tagged(data.decode()))


def test_a_codec_of_the_user_gets_the_bytes_that_it_gave():
    assert run(Sequence(passing(Any), passing(Any)), Tagged("t" * 5_000_000)) == Tagged("t" * 5_000_000)


def test_a_lazy_value_with_parts_that_are_stored_keeps_them_on_the_list_of_its_task():
    @podium.protocol
    def wraps(ctx: podium.Context, file: podium.File) -> podium.Lazy[dict[str, Any]]:
        return podium.Lazy({"file": file, "rows": ["x" * 100] * 5_000})

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(text_file, wraps)), 1)
        result = (await task.result()).get()
        listed = engine.core._session._scene.disk.shard("w").blobs[task.id]
        return result["file"].read_text(), len(listed)

    assert played(work)[0] == ("text 1", 1)


@podium.protocol
def text_file(ctx: podium.Context, n: int) -> podium.File:
    with ctx.new_file("a.txt") as file:
        file.write(f"text {n}".encode())
    return file.file


def test_a_lazy_list_may_be_longer_than_a_value():
    @podium.protocol
    def rows(n: int) -> podium.Lazy[list[int]]:
        return podium.Lazy(list(range(n)))

    assert len(run(rows, 5_000, max_value_bytes=2_048, inline_bytes=1_024).get()) == 5_000
    with pytest.raises(TaskFailed, match=r"output.value: .* bytes packed, the limit is 4096"):
        run(rows, 5_000, max_value_bytes=2_048, inline_bytes=1_024, max_blob_bytes=4_096)


def test_two_readings_of_a_result_share_nothing():
    async def work(engine):
        task = await engine.submit(Workflow("w", passing(np.ndarray)), ARRAY)
        first = await task.result()
        first[:] = 7
        return await task.result()

    assert same(played(work)[0], ARRAY)


def test_what_is_stored_already_may_be_submitted_to_any_step():
    async def work(engine):
        flow = Workflow("w", total)
        lazy = await (await engine.submit(Workflow("l", passing(podium.Lazy[np.ndarray])), ARRAY)).result()
        plain = await (await engine.submit(Workflow("p", passing(np.ndarray)), ARRAY)).plain_result()
        return [await (await engine.submit(flow, value)).result() for value in (lazy, plain)]

    assert played(work)[0] == [ARRAY.sum()] * 2


def test_a_host_that_keeps_a_file_passes_it_on_only_as_long_as_it_is_there():
    kept = []

    @podium.protocol(retry=Retry(attempts=1))
    def gives(ctx: podium.Context, n: int) -> podium.File:
        if not kept:
            with ctx.new_file("kept") as file:
                file.write(b"kept")
            kept.append(file.file)
        return kept[0]

    async def work(engine):
        flow = Workflow("w", gives)
        assert (await (await engine.submit(flow, 1)).result()).read_bytes() == b"kept"
        await asyncio.sleep(170)  # the task is forgotten, and the blob is doomed
        second = await (await engine.submit(flow, 2)).result()
        await asyncio.sleep(20)
        assert second.read_bytes() == b"kept"
        await asyncio.sleep(400)
        with pytest.raises(TaskFailed, match="BlobMissing"):
            await (await engine.submit(flow, 3)).result()

    played(work, keep_finished_s=30.0, blob_grace_s=100.0)


def test_files_have_the_limit_of_blobs(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * 5_000)
    with pytest.raises(InvalidInput, match="has more than 4096 bytes, which is the limit"):
        run(passing(podium.File), podium.File(tmp_path / "large"), max_blob_bytes=4_096)

    @podium.protocol
    def writes(ctx: podium.Context, n: int) -> podium.File:
        with ctx.new_file("large") as file:
            file.write(b"x" * n)
        return file.file

    assert run(writes, 4_096, max_blob_bytes=4_096).size_bytes == 4_096
    with pytest.raises(TaskFailed, match=r"file 'large' has more than 4096 bytes.*`max_blob_bytes`"):
        run(writes, 4_097, max_blob_bytes=4_096)


def test_a_name_of_a_file_has_no_folders():
    @podium.protocol
    def names(ctx: podium.Context, n: int) -> podium.File:
        with ctx.new_file("../../etc/passwd") as file:
            file.write(b"x")
        return file.file

    assert run(names, 1).name == "passwd" and podium.File("/a/b", name="../c").name == "c"
    foreign = Stored.under(BlobKey(b"k" * 32, 1, 2), "podium.File", {"name": "../../x"}, is_packed=False)
    assert decoded(foreign).name == "x"
    with pytest.raises(TaskFailed, match="new_file wants a name"):
        run(podium.protocol(lambda ctx, n: ctx.new_file("")), 1)


@pytest.mark.parametrize("array", [np.arange(3, dtype=np.longdouble), np.arange(3, dtype=np.float16), np.zeros((2, 0))])
def test_arrays_of_odd_numbers_pass(array):
    assert same(run(Sequence(passing(Any), passing(np.ndarray)), array), array)


class Inner(BaseModel):
    n: int


class Outer(BaseModel):
    inner: podium.Lazy[Inner]


def test_a_model_may_be_given_where_a_lazy_one_is_hinted():
    @podium.protocol
    def takes(outer: Outer) -> Outer:
        assert outer.inner.get() == Inner(n=1)
        return outer

    assert run(Sequence(takes, takes), Outer(inner=Inner(n=1))).inner.get() == Inner(n=1)


def test_a_part_of_a_model_is_stored_once(monkeypatch):
    from podium.cluster.blobs.memory import MemoryBlobs

    puts, put = [], MemoryBlobs.put
    monkeypatch.setattr(MemoryBlobs, "put", lambda store, pieces: (puts.append(1), put(store, pieces))[1])
    query = Query(name="pass", now=ARRAY, later=podium.Lazy(ARRAY + 1))
    run(passing(Query), query)
    assert len(puts) == 2 * 1 + 1, "two parts of the input, and `now` of the output"


def test_a_damaged_blob_is_replaced_by_whoever_has_the_content_again():
    async def work(engine):
        stored = blobs(engine.core._session._scene)
        await (await engine.submit(Workflow("w", passing(Any)), ARRAY)).result()
        (name,) = stored
        stored[name] = b"damaged", 0.0
        return await (await engine.submit(Workflow("w", passing(Any)), ARRAY)).result()

    assert same(played(work)[0], ARRAY)


def test_a_step_that_waits_for_the_store_at_its_time_limit_does_not_hold_its_host_up():
    @podium.protocol(retry=Retry(attempts=1), timeout_s=5)
    def gives(n: int) -> np.ndarray:
        return ARRAY

    async def work(engine):
        scene = engine.core._session._scene
        await engine.deploy(Workflow("w", gives))
        scene.blobs_back_at = scene.loop.time() + 60
        with pytest.raises(TaskFailed, match="ran out of time: 5 s allowed"):
            await (await engine.submit(Workflow("w", gives), 1)).result()
        return [line for _, line in scene.logged if "stuck" in line]

    assert played(work, blobs_timeout_s=120.0)[0] == []


def test_content_that_is_not_what_its_part_says_is_an_error_of_the_value():
    part = Stored.under(BlobKey(b"k" * 32, 1, 2), "str", {}, is_packed=False)
    part.content = b"\xff"
    with pytest.raises(InvalidInput, match="the content of a str cannot be read"):
        decoded(part)
