"""Which failures are worth another attempt, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import get_args

import pytest

import podium
from podium import Retry, Sequence, Step, Workflow, read_workflow
from podium.errors import InvalidDefinition, TaskFailed
from podium.protocols.policy import PRESETS, Preset, attempts_of
from podium.supervisors.running.retries import PERIOD_S, Budget
from podium.testing import Simulation
from tests.support import ROOT


class Busy(Exception):
    def __init__(self, text="", **said):
        super().__init__(text)
        vars(self).update(said)


def began_by(error, retry, attempts=None):
    """When each attempt began, in seconds after the first, of a step that always fails like that."""
    began = []

    @podium.protocol(retry=retry)
    async def always(ctx, _input):
        began.append(asyncio.get_running_loop().time())
        if attempts is None or ctx.attempt < attempts:
            raise error

    async def work(engine):
        try:
            await (await engine.submit(Workflow("w", Sequence(always)), None)).result()
        except TaskFailed as failed:
            return failed
        return None

    failed = Simulation().run(work)
    return [round(at - began[0], 1) for at in began], failed


def test_a_class_stands_for_its_subclasses():
    retry = Retry(attempts=3, initial_delay_s=0, max_delay_s=0, only=("ConnectionError",))
    assert len(began_by(ConnectionRefusedError("no"), retry)[0]) == 3
    assert len(began_by(ValueError("no"), retry)[0]) == 1


@pytest.mark.parametrize(
    "error",
    [
        Busy("later", retry_after_s=20),
        Busy("later", retry_after="20"),
        Busy("later", response=SimpleNamespace(headers={"retry-after": "20"})),
    ],
    ids=["ours", "as an attribute", "in the response"],
)
def test_a_service_that_says_when_to_come_back_is_heeded(error):
    began, _ = began_by(error, Retry(attempts=3, initial_delay_s=0.1, max_delay_s=0.1))
    assert began == pytest.approx([0, 20, 40], abs=0.5)


def test_a_service_that_wants_too_long_a_wait_fails_the_step_at_once():
    retry = Retry(attempts=3, max_retry_after_s=60)
    began, failed = began_by(Busy("tomorrow", retry_after_s=86_400), retry)
    assert began == [0] and "tomorrow" in str(failed)


@pytest.mark.parametrize("said", ["soon", -1, float("nan"), float("inf"), True, object()])
def test_what_says_no_time_is_not_heeded(said):
    began, _ = began_by(Busy("later", retry_after=said), Retry(attempts=2, initial_delay_s=0, max_delay_s=0))
    assert began == pytest.approx([0, 0], abs=0.5)


def test_a_wait_that_a_service_asked_for_survives_a_crash():
    began = []
    simulation = Simulation(1)

    @podium.protocol(retry=Retry(attempts=2, initial_delay_s=0, max_delay_s=0))
    async def busy(ctx, _input):
        began.append(asyncio.get_running_loop().time())
        if ctx.attempt == 1:
            raise Busy("later", retry_after_s=100)

    async def work(engine):
        task = await engine.submit(Workflow("w", Sequence(busy)), None)
        await asyncio.sleep(20)
        simulation.kill("supervisor/w")
        await task.result()

    simulation.run(work)
    assert began[1] - began[0] == pytest.approx(100, abs=1)


def test_presets_are_named_by_kind_of_operation():
    by_name = Workflow("w", Sequence(Step("tests.sample:fail", retry="llm")))
    assert by_name == Workflow("w", Sequence(Step("tests.sample:fail", retry=PRESETS["llm"])))
    assert by_name == read_workflow("{name: w, root: {sequence: [{step: 'tests.sample:fail', retry: llm}]}}")
    assert len(began_by(TimeoutError("slow"), "llm")[0]) == 3
    assert len(began_by(ConnectionResetError("gone"), "storage")[0]) == 5
    assert len(began_by(ValueError("bad"), "tool")[0]) == 1
    with pytest.raises(InvalidDefinition, match="retry: 'lmm' is no preset; there are llm, tool, storage"):
        Workflow("w", Sequence(Step("tests.sample:fail", retry="lmm")))


def test_every_preset_is_in_the_schema_and_in_the_docs():
    assert get_args(Preset) == tuple(PRESETS), "`Preset` in protocols/policy.py names those of `PRESETS`"
    page = (ROOT / "docs/workflows.md").read_text()
    assert [name for name in PRESETS if f'| `retry="{name}"` |' not in page] == [], (
        "docs/workflows.md has no row for it"
    )


def test_under_pressure_there_are_fewer_attempts_and_for_priority_more():
    llm, own = PRESETS["llm"], Retry(attempts=3)
    assert [attempts_of(llm, 0, pressed) for pressed in (False, True)] == [3, 1]
    assert [attempts_of(llm, 1, pressed) for pressed in (False, True)] == [5, 5]
    assert [attempts_of(own, priority, pressed) for priority in (0, 1) for pressed in (False, True)] == [3] * 4
    assert attempts_of(Retry(attempts=1, for_priority=5), 1, pressed=False) == 1


def test_a_step_that_pressure_keeps_from_another_attempt_says_so():
    async def work(engine):
        workflow = Workflow("w", Sequence(Step("tests.sample:fail", retry=Retry(attempts=3, under_pressure=1))))
        simulation.cpu_used = 1.0
        with pytest.raises(TaskFailed, match=r"not tried again: the machine is under pressure"):
            await (await engine.submit(workflow, 1)).result()

    simulation = Simulation()
    simulation.run(work)


# the budget


def storm(count, fails, **options):
    """What became of as many tasks, and how often their step ran in all; `fails`: in how many attempts each fails."""
    runs = Counter()

    @podium.protocol(retry=Retry(attempts=4, initial_delay_s=1), concurrency=100)
    async def call(ctx, n):
        runs[n] += 1
        if ctx.attempt <= fails:
            raise ConnectionError("down")

    async def work(engine):
        ended = Counter()
        for task in await engine.submit_many(Workflow("w", Sequence(call)), list(range(count))):
            try:
                await task.result()
                ended["completed"] += 1
            except TaskFailed as failed:
                ended["budget" if "retry budget" in str(failed) else "failed"] += 1
        return ended, (await engine.status()).workflows["w"].counts.steps

    ended, counts = Simulation(**options).run(work)
    return ended, sum(runs.values()), counts


def test_when_everything_fails_retries_are_a_small_share_of_the_calls():
    ended, calls, counts = storm(1000, fails=4)
    assert ended.total() == 1000 and ended["budget"] > 900
    assert calls <= 1150
    assert counts["not_retried"] == ended["budget"]


def test_retries_that_help_are_not_held_back():
    ended, calls, _ = storm(300, fails=1, retry_reserve=300)
    assert ended == {"completed": 300} and calls == 600


def test_a_budget_is_a_share_beside_a_reserve_that_comes_back():
    budget = Budget(2, now=0)
    assert [budget.spend(0) for _ in range(3)] == [True, True, False]
    budget.add(1.0, 0)
    assert [budget.spend(0), budget.spend(0)] == [True, False]
    assert budget.left(PERIOD_S) == pytest.approx(2 * 0.632, abs=0.01)
    budget.add(100, PERIOD_S)
    assert budget.left(20 * PERIOD_S) == pytest.approx(2, abs=0.01)


def test_a_policy_without_a_budget_has_no_bound():
    began, _ = began_by(ValueError("no"), Retry(attempts=50, initial_delay_s=0, max_delay_s=0, budget=None))
    assert len(began) == 50
    began, failed = began_by(ValueError("no"), Retry(attempts=50, initial_delay_s=0, max_delay_s=0))
    assert len(began) == 31 and "retry budget of" in str(failed)
