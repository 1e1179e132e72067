"""Which failures are worth another attempt, and when."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

import podium
from podium import Retry, Sequence, Step, Workflow, read_workflow
from podium.errors import InvalidDefinition, TaskFailed
from podium.protocols.policy import PRESETS
from podium.testing import Simulation


class Busy(Exception):
    def __init__(self, text="", **said):
        super().__init__(text)
        vars(self).update(said)


def attempts_of(error, retry, attempts=None):
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
    assert len(attempts_of(ConnectionRefusedError("no"), retry)[0]) == 3
    assert len(attempts_of(ValueError("no"), retry)[0]) == 1


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
    began, _ = attempts_of(error, Retry(attempts=3, initial_delay_s=0.1, max_delay_s=0.1))
    assert began == pytest.approx([0, 20, 40], abs=0.5)


def test_a_service_that_wants_too_long_a_wait_fails_the_step_at_once():
    retry = Retry(attempts=3, max_retry_after_s=60)
    began, failed = attempts_of(Busy("tomorrow", retry_after_s=86_400), retry)
    assert began == [0] and "tomorrow" in str(failed)


@pytest.mark.parametrize("said", ["Wed, 21 Oct 2026 07:28:00 GMT", -1, float("nan"), object()])
def test_what_is_no_number_of_seconds_is_not_heeded(said):
    began, _ = attempts_of(Busy("later", retry_after=said), Retry(attempts=2, initial_delay_s=0, max_delay_s=0))
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
    assert len(attempts_of(TimeoutError("slow"), "llm")[0]) == 3
    assert len(attempts_of(ConnectionResetError("gone"), "storage")[0]) == 5
    assert len(attempts_of(ValueError("bad"), "tool")[0]) == 1
    with pytest.raises(InvalidDefinition, match="retry: 'lmm' is no preset; there are llm, tool, storage"):
        Workflow("w", Sequence(Step("tests.sample:fail", retry="lmm")))
