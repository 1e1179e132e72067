"""Have the four hot paths become more expensive? Counts Python's own instructions, which do not depend on the machine.

Exchange: a message there and back. Fold: a task of three steps. Ledger: a request asked for, granted and released.
Journal: an entry as a sealed row and back. Each is run some hundred times under a tracer that counts bytecode
instructions, in this process, without clocks or sockets; C code within is not counted. `--check` compares with
guard.json beside this and fails beyond the tolerance; `--store` writes it. Counts are kept for one version of Python.

    python benchmarks/guard.py [--check | --store]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import podium
from podium.actors.exchange import ExchangeClient
from podium.actors.exchange_server import ExchangeServer
from podium.cluster.store.rows import entry_row, seal
from podium.protocols.outcomes import TaskRecord
from podium.supervisors.limits.ledger import Ledger
from podium.supervisors.limits.permit_queue import Holder, Request, Who
from podium.supervisors.messages.door import message
from podium.supervisors.ports.journal import Entry
from podium.supervisors.tasks.events import StepFinished, pack_events, unpack_events
from podium.supervisors.tasks.fold import apply, begin

BASELINE = Path(__file__).parent / "guard.json"
TOLERANCE = 0.05
TIMES = 200
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@podium.protocol
async def add(input: dict) -> dict:
    return {"n": input["n"] + 1}


@message()
class Said(NamedTuple):
    """A message that is answered with itself."""

    value: dict[str, int]


ROOT = podium.Workflow("chain", podium.Sequence(add, add, add)).root


def instructions(work: Callable[[], Any]) -> int:
    """Bytecode instructions that `work` takes, in all frames of this thread."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def fold() -> None:
    record = TaskRecord("t-1", "chain", "1", "hash", {"n": 1}, "ada", 0, None, "running", 0.0)
    task, _ = begin(record, ROOT)
    for n, path in enumerate(("add", "add_2", "add_3")):
        apply(task, StepFinished(path, {"n": n}, float(n)))
    assert task.outcome is not None


LEDGER = Ledger({"llm": 5, "llm per user": 2, "tool": 3}, age_s=30)


def ledger() -> None:
    LEDGER.add(Request("r-1", Holder("w", 1), {"llm": 1, "tool": 1}, who=Who("w", "add", "ada")))
    assert len(list(LEDGER.decide(0.0))) == 1
    LEDGER.remove("r-1")


def journal() -> None:
    body = pack_events([StepFinished("add", {"n": 1}, 1.0)])
    task_id, n, epoch, packed, sealed = entry_row(Entry("t-1", 1, body), 7)
    assert sealed == seal(task_id, n, epoch, packed)
    assert unpack_events(packed)[0].at == 1.0


def exchange(times: int) -> Callable[[], None]:
    """Messages that are answered at once, over a transport that is a call."""

    async def work() -> None:
        far = ExchangeServer(lambda ask: ask.reply(ask.payload), "far")
        near = ExchangeClient("far", lambda frame, then: far.take_in(frame, then), "near")
        for n in range(times):
            assert await near.ask(Said({"n": n}), Said) == Said({"n": n})
        near.close()

    def run() -> None:
        with asyncio.Runner() as runner:
            runner.run(work())

    return run


def measured() -> dict[str, float]:
    """Instructions per operation."""
    found = {}
    for name, operation in (("fold", fold), ("ledger", ledger), ("journal", journal)):
        operation()
        found[name] = instructions(lambda operation=operation: [operation() for _ in range(TIMES)]) / TIMES
    few, many = instructions(exchange(50)), instructions(exchange(50 + TIMES))
    return {**found, "exchange": (many - few) / TIMES}


def problems(counts: dict[str, float], stored: dict[str, float]) -> list[str]:
    """What has become more expensive than the tolerance allows, or is not stored."""
    found = []
    for name, count in counts.items():
        if name not in stored:
            found.append(f"{name}: nothing is stored; run --store")
        elif count > stored[name] * (1 + TOLERANCE):
            more = count / stored[name] - 1
            found.append(f"{name}: {count:.0f} instructions instead of {stored[name]:.0f}, {more:.0%} more")
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    options.add_argument("--store", action="store_true")
    given = options.parse_args()
    counts = measured()
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    stored = known.get(VERSION, {})
    for name, count in counts.items():
        print(f"{name:<10} {count:>8.0f} instructions   stored {stored.get(name, 0):>8.0f}")
    if given.store:
        BASELINE.write_text(
            json.dumps({**known, VERSION: {k: round(v, 1) for k, v in counts.items()}}, indent=1) + "\n"
        )
    if given.check and (wrong := problems(counts, stored)):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
