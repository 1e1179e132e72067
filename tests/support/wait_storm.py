"""Waiting in a storm: a workflow beside the others that waits for answers and for time, and what must hold of it.

People answer it: before, during and after its waits, twice, though they may not, for what they saw before, and in the
moment in which a wait times out.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from functools import partial
from random import Random
from typing import NamedTuple

import podium
from podium import Hierarchy, Parallel, Sequence, Sleep, Step, Wait, Workflow
from podium.errors import AnswerRefused, InvalidInput, NotFound
from podium.supervisors.tasks.events import Answered, Event, TimedOut, Woke, unpack_events
from podium.supervisors.tasks.mail import decision
from podium.testing import Simulation
from tests.support.patient import at_last

MAY = ("ann", "ben", "cat")
ITEMS = 3
NAP_S = 3.0
LATE, REFUSED = "late", "refused"


@podium.protocol
async def clock(input):
    """Give the time of a clock that nobody sets."""
    return {"at": asyncio.get_running_loop().time(), "was": input}


@podium.protocol
async def asks(ctx: podium.Context, input):
    """Ask twice, and tell what came."""
    so_far = ctx.resume or []
    if ctx.answer is not None:
        so_far = [*so_far, [ctx.answer.value, ctx.answer.by]]
    return so_far if len(so_far) == 2 else podium.Ask("more", show=len(so_far), resume=so_far)


@podium.protocol
async def lead(brief):
    if not brief["outcomes"]:
        return podium.verdict.assign(dict.fromkeys(brief["team"], brief["input"]))
    return podium.verdict.accept({name: outcome["output"] for name, outcome in brief["outcomes"].items()})


class Sent(NamedTuple):
    """An answer as somebody has sent it, and what became of it."""

    id: str
    name: str
    value: object
    by: str
    receipt: podium.AnswerReceipt | None
    refused: str = ""
    """The reason if it was refused."""


def workflow(timeout_s: float) -> Workflow:
    agreed = {"need": 2, "who": MAY, "not_starter": True, "refusal": "answer == 'no'", "on_refusal": "go_on"}
    late = {"timeout_s": timeout_s, "on_timeout": {"value": LATE}}
    return Workflow(
        "waits",
        Sequence(
            Wait(
                "approval",
                schema={"enum": ["yes", "no"]},
                show="input",
                signed=True,
                otherwise={"value": REFUSED},
                **agreed,
                **late,
            ),
            Parallel({"go": Wait("go"), "nap": Sequence(Sleep(for_s=NAP_S), Wait("never", **late))}, join="any"),
            Step(clock, name="before"),
            Sleep(for_s=NAP_S),
            Step(clock, name="after"),
            Parallel(
                each=f"[{','.join(map(str, range(ITEMS)))}]", do=Wait("item", mailbox="each", show="input"), limit=2
            ),
            Hierarchy(lead, team={"below": Wait("below", **late), "asks": asks}, name="team"),
            Step(clock, name="last", with_="[outputs.approval, outputs.before, outputs.after, outputs.team]"),
        ),
    )


class WaitStorm:
    """The work that waits beside a storm, for some seeds."""

    def __init__(self, seed: int) -> None:
        self.random = rng = Random(f"{seed}, waits")
        self.is_there = rng.random() < 0.5
        self.count = rng.choice([1, 1, 3])
        self.timeout_s = rng.choice([3.0, 10.0, 60.0])
        self.delay_s = Random(f"{seed}, delay").choice([0.0, 0.0, 2.0, 15.0])
        self.submitted: dict[str, float] = {}
        """Time of a clock that nobody sets, before a task was submitted for the first time."""
        self.sent: dict[str, list[Sent]] = defaultdict(list)
        self.results: dict[str, object] = {}

    @property
    def settings(self) -> dict[str, float]:
        if not self.is_there:
            return {}
        rng = self.random
        return {"max_waiting_in_memory": rng.choice([0, 0, 1, 100]), "rest_after_s": rng.choice([0.0, 2.0, 900.0])}

    async def run(self, engine) -> None:
        if self.is_there:
            await asyncio.gather(*(self._one(engine, n) for n in range(self.count)))

    async def _one(self, engine, n: int) -> None:
        flow = workflow(self.timeout_s)
        began, more = asyncio.get_running_loop().time(), {"delay_s": self.delay_s, "user": "eve" if n else "ann"}
        task = await at_last(partial(engine.submit, flow, n, key=f"waits {n}", **more))
        self.submitted[task.id] = began
        crowd = asyncio.gather(*(self._answer(engine, task, n, who) for who in (*MAY, "eve")))
        helper = asyncio.ensure_future(self._items(engine, task))
        self.results[task.id] = await at_last(task.result)
        await asyncio.gather(crowd, helper)
        await self._send(engine, task, "item", "after the end", "ann")

    async def _answer(self, engine, task, n: int, who: str) -> None:
        """One person, who answers some times at some time."""
        rng = Random(f"{self.random.random()} {who}")
        for number in range(rng.choice([1, 2, 4])):
            await asyncio.sleep(rng.choice([0, 0, rng.uniform(0, 8), self.timeout_s]))
            digest = None
            if rng.random() < 0.4:
                seen = [wait for wait in await task.waits() if wait.name == "approval"]
                digest = seen[0].digest if seen else "0" * 64
                await asyncio.sleep(rng.choice([0, 3]))
            id = f"{task.id} {who} {number}"
            value = rng.choice(["yes", "yes", "no", "perhaps"])
            await self._send(engine, task, "approval", value, who, id, digest)
            if rng.random() < 0.4:
                await self._send(engine, task, "approval", value, who, id)  # the very same again
            if rng.random() < 0.2:
                await self._send(engine, task, rng.choice(["go", "never", "no such name"]), number, who)

    async def _items(self, engine, task) -> None:
        """Somebody who answers whatever asks for an item, by what was seen, sometimes too late and sometimes twice."""
        while task.id not in self.results:
            for wait in await task.waits():
                chance = {"more": 1.0, "below": 0.2}.get(wait.name, 0.0)
                if self.random.random() < chance:
                    await self._send(engine, task, wait.name, wait.shown, "bot", digest=wait.digest)
                if wait.name == "item":
                    await self._send(engine, task, "item", wait.shown, "bot", digest=wait.digest)
                    if wait.shown == 1:
                        await self._send(engine, task, "item", "again", "bot", digest=wait.digest)
            await asyncio.sleep(1)

    async def _send(self, engine, task, name, value, by, id=None, digest=None) -> None:
        id = id or f"{task.id} {by} {name} {len(self.sent[task.id])}"
        send = partial(engine.answer, task.id, name, value, by=by, id=id, digest=digest)
        try:
            receipt = await at_last(send)
        except (AnswerRefused, InvalidInput, NotFound) as error:
            self.sent[task.id].append(Sent(id, name, value, by, None, getattr(error, "reason", error.code)))
        else:
            self.sent[task.id].append(Sent(id, name, value, by, receipt))


def check_waits(simulation: Simulation, storm: WaitStorm) -> None:
    """I17: what was told of answers is what is on record, and a wait has exactly one outcome."""
    if not storm.is_there:
        return
    shard = simulation.disk.shard("waits")
    assert not shard.resting, "I17: tasks that have ended rest"
    assert not any(shard.waits.values()), "I17: waits are listed that are over"
    for task_id, sent in storm.sent.items():
        events = [event for _, body in shard.entries[task_id] for event in unpack_events(body)]
        answers = {event.id: event for event in events if isinstance(event, Answered)}
        _check_told(sent, answers, Counter(event.id for event in events if isinstance(event, Answered)))
        _check_outcome(storm.results[task_id], shard.tasks[task_id].record, sent, events)
        if simulation.machines == 1 or not simulation.faults.clock_jumps:  # no machine knows of another's clock
            _check_sleep(storm.results[task_id])
            _check_start(storm.results[task_id], storm.submitted[task_id] + storm.delay_s)
        _check_once(events)


def _check_told(sent: list[Sent], answers: dict[str, Answered], times: Counter[str]) -> None:
    assert all(count == 1 for count in times.values()), f"I17: recorded twice: {times.most_common(1)}"
    taken = {each.id for each in sent if each.receipt is not None}
    differ = set(answers) ^ taken
    assert not differ, f"I17: on record and told differ: {differ}, {[each for each in sent if each.id in differ]}"
    for each in sent:
        if each.receipt is not None:
            event = answers[each.id]
            assert event.at == each.receipt.at, "I17: a receipt has another time than the record"
            assert (event.name, event.by) == (each.name, each.by), "I17: recorded under another name"
    for event in answers.values():
        if event.name == "approval":
            assert event.by in MAY and event.value in ("yes", "no"), f"I17: {event} should have been refused"


def _check_outcome(result, record, sent: list[Sent], events: list[Event]) -> None:
    approval, _, _, team = result["was"]
    node = workflow(1).root.sequence[0]
    came = [event for event in events if isinstance(event, Answered) and event.name == "approval"]
    late = [n for n, event in enumerate(events) if isinstance(event, TimedOut) and event.path == "approval"]
    in_time = came if not late else [event for event in events[: late[0]] if event in came]
    made = decision(node, in_time)
    wanted = LATE if made is None else REFUSED if made.failure else made.output
    assert approval == wanted, f"I17: the approval is {approval}, and by the record {wanted}"
    assert len(late) <= 1 and len(came) == len(in_time), "I17: an answer was recorded after the wait was over"
    assert team["asks"] == [[0, "bot"], [1, "bot"]], f"I17: a step was told {team['asks']}"
    below = [each for each in events if getattr(each, "name", getattr(each, "path", "")) in ("below", "team/below")]
    first = [each.value if isinstance(each, Answered) else LATE for each in below]
    assert first[:1] == [team["below"]], f"I17: a wait below gave {team['below']}, and on record is {first}"
    is_over = {each.id for each in sent if each.name == "approval" and each.receipt and each.receipt.is_over}
    assert len(is_over) <= (made is not None), f"I17: {len(is_over)} senders were told that theirs was the last"
    assert all(answer["by"] != record.user for answer in (approval if isinstance(approval, list) else [])), (
        "I17: by its starter"
    )


def _check_sleep(result) -> None:
    _, before, after, _ = result["was"]
    slept_s = after["at"] - before["at"]
    assert slept_s >= NAP_S - 1e-4, f"I17: it slept {slept_s} s"


def _check_start(result, start: float) -> None:
    _, before, _, _ = result["was"]
    assert before["at"] >= start - 1e-4, f"I17: it started {start - before['at']} s too early"


def _check_once(events: list[Event]) -> None:
    woken = Counter(event.path for event in events if isinstance(event, Woke))
    assert all(count == 1 for count in woken.values()), f"I17: woken twice: {woken}"
