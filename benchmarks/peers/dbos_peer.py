"""DBOS with SQLite, its default: the output of each step is committed before the next one starts.

Plain functions, which are the faster ones here; parallel steps are coroutines, as its documentation advises.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbos import DBOS, SetWorkflowID
from measuring import measure
from work import STEPS, Parts, Peer, add, rest, slow


@DBOS.step()
def step(input: dict) -> dict:
    return add(input)


@DBOS.workflow()
def chain(input: dict) -> dict:
    for _ in range(3):
        input = step(input)
    return input


@DBOS.step()
def slow_step(name: str, input: dict) -> dict:
    return slow(DBOS.workflow_id, name, input)


@DBOS.workflow()
def slow_chain(input: dict) -> dict:
    for name in STEPS:
        input = slow_step(name, input)
    return input


@DBOS.step()
async def part(number: int, sleep_s: float) -> int:
    if sleep_s:
        await asyncio.sleep(sleep_s)
    return number


@DBOS.workflow()
async def fan(count: int, sleep_s: float) -> int:
    return sum(await asyncio.gather(*(part(number, sleep_s) for number in range(count))))


def many(inputs: list[dict]) -> list[dict]:
    if len(inputs) == 1:
        return [chain(inputs[0])]
    return [handle.get_result() for handle in [DBOS.start_workflow(chain, input) for input in inputs]]


async def one_fan(count: int, sleep_s: float) -> int:
    return await (await DBOS.start_workflow_async(fan, count, sleep_s)).get_result()


def in_folder(folder: str | Path) -> str:
    return f"sqlite:///{folder}/dbos.sqlite"


def launch(url: str) -> None:
    DBOS(config={"name": "peer", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})
    DBOS.launch()


@contextmanager
def peer() -> Iterator[Peer]:
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        launch(in_folder(folder))
        try:
            yield Peer(many, lambda *of: runner.run(one_fan(*of)))
        finally:
            DBOS.destroy()


def submit(folder: Path, count: int) -> None:
    launch(in_folder(folder))
    for number in range(count):
        with SetWorkflowID(str(number)):
            DBOS.start_workflow(slow_chain, {"n": number})
    rest()


def finish(folder: Path, count: int) -> list[dict]:
    """What was open goes on when DBOS is launched; what had not been started yet is started."""
    launch(in_folder(folder))
    results = []
    for number in range(count):
        with SetWorkflowID(str(number)):  # the same workflow if it is there
            results.append(DBOS.start_workflow(slow_chain, {"n": number}))
    return [handle.get_result() for handle in results]


if __name__ == "__main__":
    measure("DBOS, SQLite", "dbos", "each step", peer, Parts(submit, finish))
