"""What steps emit: recorded, read from any offset, late or again, without loss or repetition, whatever dies."""

from __future__ import annotations

import asyncio

import pytest

import podium
from podium import Retry, Sequence, Step, Workflow
from podium.cluster.client import event_reader as stream
from podium.supervisors.watching import watchers
from podium.testing import Faults, Simulation
from tests import sample

WORDS = [f"w{n}" for n in range(40)]


@podium.protocol(concurrency=10)
async def speak(ctx: podium.Context, input: dict) -> str:
    for word in input["words"] * input.get("times", 1):
        ctx.emit(word)
        if input.get("pause_s"):
            await asyncio.sleep(input["pause_s"])
    return " ".join(input["words"])


@podium.protocol(retry=Retry(attempts=3, initial_delay_s=0.1))
async def stammer(ctx: podium.Context, input: dict) -> str:
    ctx.emit(f"try {ctx.attempt}")
    if ctx.attempt < 3:
        raise ConnectionError("again")
    return "said"


SPEECH = Workflow("speech", Sequence(speak, sample.echo))


def deep(member):
    """A workflow in which `member` works for a Hierarchy in a Hierarchy, each with a supervisor of its own."""
    inner = podium.Hierarchy(sample.lead, team={"member": member}, name="inner")
    return Workflow("deep", Sequence(podium.Hierarchy(sample.lead, team={"inner": inner}, name="outer"), sample.echo))


DEEP = "outer/inner/member"


def words_of(events):
    """What counts of the chunks: those of the last run of each step."""
    said = {}
    for event in events:
        if event.kind in ("retrying", "lost"):
            said[event.step] = []
        elif event.kind == "chunk":
            said.setdefault(event.step, []).append(event.value)
    return said


async def read(task, since=0, most=None):
    found = []
    async for event in task.events(from_offset=since):
        found.append(event)
        if most is not None and len([each for each in found if each.offset is not None]) >= most:
            break
    return found


def stormy(seed):
    faults = Faults(lose_reply=0.05, lose_request=0.05, repeat=0.05, kills=6)
    return Simulation(seed=seed, faults=faults, top_restart_intensity=100, restart_intensity=100)


async def read_in_parts(task, rng):
    """As a reader that goes away and comes again at random."""
    story = []
    while not story or not story[-1].is_last:
        since = 1 + max((event.offset for event in story if event.offset is not None), default=-1)
        story += await read(task, since, most=rng.randrange(1, 12))
    return story


def recorded(events):
    return [
        (event.offset, event.kind, event.step, event.attempt, event.value)
        for event in events
        if event.offset is not None
    ]


def test_chunks_are_on_record_and_offsets_count_what_is_recorded():
    async def work(engine):
        task = await engine.submit(SPEECH, {"words": WORDS, "pause_s": 0.01})
        live = await read(task)
        return live, await read(task)

    live, late = Simulation().run(work)
    assert recorded(live) == recorded(late)
    assert [event.offset for event in late] == list(range(len(late)))
    assert late[0].kind == "accepted" and late[-1].kind == "completed"
    assert words_of(live) == {"speak": WORDS}


def test_a_reader_goes_on_from_any_offset():
    async def work(engine):
        task = await engine.submit(SPEECH, {"words": WORDS})
        whole = recorded(await read(task))
        for since in range(len(whole) + 2):
            assert recorded(await read(task, since)) == whole[since:]

    Simulation().run(work)


def test_many_chunks_take_few_entries_of_the_journal():
    async def work(engine):
        task = await engine.submit(SPEECH, {"words": ["x"] * 5_000})
        await task.result()
        return engine._core.reader.find_task(task.id).bodies

    assert len(Simulation().run(work)) < 20


def test_a_task_that_emits_too_much_is_cut_and_goes_on():
    async def work(engine):
        task = await engine.submit(SPEECH, {"words": ["x" * 100] * 50, "pause_s": 0.05})
        live = await read(task)
        return live, await read(task)

    live, late = Simulation(max_emitted_bytes=1_000).run(work)
    assert [event.kind for event in late].count("chunk") == 6  # of 102 bytes, and 64 for keeping each
    assert [event.kind for event in late].count("cut") == 1
    assert [event.kind for event in live].count("chunk") == 50
    assert recorded(live) == recorded(late)


@podium.protocol
async def counting(ctx: podium.Context, _input) -> str:
    state = {"n": 0}
    for n in range(4):
        state["n"] = n
        ctx.emit(state)
    return "done"


def test_a_chunk_is_as_it_was_when_it_was_emitted():
    async def work(engine):
        return await read(await engine.submit(Workflow("counting", Sequence(counting)), 1))

    assert [event.value["n"] for event in Simulation().run(work) if event.kind == "chunk"] == [0, 1, 2, 3]


def test_chunks_say_which_attempt_they_are_of():
    async def work(engine):
        return await read(await engine.submit(Workflow("w", Step(stammer)), {}))

    events = Simulation().run(work)
    assert [(event.attempt, event.value) for event in events if event.kind == "chunk"] == [
        (1, "try 1"),
        (2, "try 2"),
        (3, "try 3"),
    ]
    assert words_of(events) == {"stammer": ["try 3"]}


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_or_told_twice_whatever_dies(seed):
    """A reader that goes away and comes again at random, while actors die and frames are lost."""

    async def work(engine):
        tasks = [await engine.submit(SPEECH, {"words": WORDS, "pause_s": 0.05}) for _ in range(3)]
        stories = []
        for task in tasks:
            story = await read_in_parts(task, sim.rng)
            stories.append((recorded(story), words_of(story), recorded(await read(task))))
        return stories

    sim = stormy(seed)
    for story, words, late in sim.run(work):
        assert [offset for offset, *_ in story] == list(range(len(story)))
        assert story == late
        assert words["speak"] == WORDS


@pytest.mark.parametrize("seed", range(60))
def test_of_nested_hierarchies_nothing_is_lost_or_told_twice_whatever_dies(seed):
    tree = deep(Step(speak, with_={"words": repr(WORDS), "pause_s": "0.05"}))

    async def work(engine):
        tasks = [await engine.submit(tree, {}) for _ in range(2)]
        stories = []
        for task in tasks:
            story = await read_in_parts(task, sim.rng)
            stories.append((recorded(story), await read(task)))
        return stories

    sim = stormy(seed)
    for story, late in sim.run(work):
        assert [offset for offset, *_ in story] == list(range(len(story)))
        assert story == recorded(late)
        assert words_of(late)[DEEP] == WORDS


def test_a_late_reader_of_nested_hierarchies_gets_what_a_live_one_got_in_the_same_order():
    tree = deep(Step(stammer))

    async def work(engine):
        task = await engine.submit(tree, {})
        return await read(task), await read(task)

    live, late = Simulation().run(work)
    assert recorded(live) == recorded(late)
    told = [(event.kind, event.attempt, event.value) for event in live if event.step == DEEP]
    assert [each[:2] for each in told if each[0] != "started"] == [
        ("chunk", 1),
        ("retrying", 1),
        ("chunk", 2),
        ("retrying", 2),
        ("chunk", 3),
        ("finished", 3),
    ]
    assert words_of(late) == {DEEP: ["try 3"]}


def test_a_time_that_is_up_is_told_with_the_attempt_it_met():
    @podium.protocol(retry=Retry(attempts=5, initial_delay_s=0.1))
    async def stalls(ctx: podium.Context, input: dict) -> str:
        if ctx.attempt < 3:
            raise ConnectionError("again")
        await asyncio.sleep(60)

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(Step(stalls, total_timeout_s=5))), {})
        return await read(task), await read(task)

    live, late = Simulation().run(work)
    assert recorded(live) == recorded(late)
    assert [event.attempt for event in live if event.kind == "timed_out"] == [3]


def test_a_task_is_cut_by_what_its_nested_hierarchies_emit():
    tree = deep(Step(speak, with_={"words": repr(["x" * 100]), "times": "50", "pause_s": "0.05"}))

    async def work(engine):
        task = await engine.submit(tree, {})
        return await read(task), await read(task)

    live, late = Simulation(max_emitted_bytes=1_000).run(work)
    assert [event.kind for event in late].count("chunk") == 6
    assert [event.kind for event in late].count("cut") == 1
    assert [event.kind for event in live].count("chunk") == 50
    assert recorded(live) == recorded(late)


def test_a_supervisor_that_falls_behind_its_tier_hears_all_of_it(monkeypatch):
    monkeypatch.setattr(watchers, "MAX_BACKLOG", 3)
    tree = deep(Step(speak, with_={"words": repr(WORDS), "times": "20"}))

    async def work(engine):
        return await read(await engine.submit(tree, {}))

    assert words_of(Simulation(faults=Faults(delay_s=0.3)).run(work)) == {DEEP: WORDS * 20}


def test_a_slow_reader_holds_up_nobody_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(stream, "MAX_BEHIND", 5)

    async def work(engine):
        task = await engine.submit(SPEECH, {"words": WORDS, "pause_s": 0.01})
        story, ended_at = [], None
        async for event in task.events():
            story.append(event)
            await asyncio.sleep(1.0)
            if ended_at is None and (await task.result()):
                ended_at = len(story)
        return story, ended_at, await read(task)

    story, ended_at, late = Simulation().run(work)
    assert ended_at < 10
    assert recorded(story) == recorded(late)


def test_a_reader_that_does_not_fetch_is_sent_away_and_comes_again(monkeypatch):
    monkeypatch.setattr(watchers, "MAX_BACKLOG", 3)

    async def work(engine):
        task = await engine.submit(SPEECH, {"words": WORDS * 20})
        return await read(task), await read(task)

    live, late = Simulation(faults=Faults(delay_s=0.3)).run(work)
    assert recorded(live) == recorded(late)
    assert words_of(late) == {"speak": WORDS * 20}


def test_what_a_failed_task_emitted_is_not_told_of_the_one_that_continues_it():
    @podium.protocol
    async def talk_and_fail(ctx: podium.Context, input: dict) -> str:
        ctx.emit("hello")
        if not input.get("ok") and not done:
            done.append(1)
            raise ValueError("no")
        return "bye"

    done = []

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(talk_and_fail)), {})
        await read(task)
        (again,) = await engine.redrive([task.id])
        return await read(again)

    events = Simulation().run(work)
    assert [event.value for event in events if event.kind == "chunk"] == ["hello"]


def test_a_late_reader_hears_of_the_start_before_what_was_emitted():
    async def work(engine):
        task = await engine.submit(SPEECH, {"words": ["a", "b", "c"], "pause_s": 1.0})
        await asyncio.sleep(1.5)
        return await read(task)

    kinds = [event.kind for event in Simulation().run(work)]
    assert kinds.index("started") < kinds.index("chunk")


def test_chunks_of_a_tier_are_told_once_to_each_of_several_readers():
    team = {"x": Step(sample.slow_speech, with_={"words": "30"})}
    tree = Workflow("tiered", Sequence(podium.Hierarchy(sample.lead, team=team, name="h")))

    async def work(engine):
        task = await engine.submit(tree, {"n": 1})
        readers = []
        for _ in range(3):
            await asyncio.sleep(0.5)
            readers.append(asyncio.create_task(read(task)))
        return await asyncio.gather(*readers)

    for story in Simulation().run(work):
        chunks = [event.value for event in story if event.kind == "chunk"]
        assert chunks[-1] == "w29"
        assert len(chunks) == len(set(chunks)), chunks
