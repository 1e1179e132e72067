"""Faults of whole machines under load, class by class, each on three machines with the database on a fourth.

    python -m tests.support.machines.chaos --rounds 20 [--only killed]

Prints a line for each round and a table, and ends with 1 if a promise was broken. Takes about 40 s for each round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.reading import PostgresReader
from tests.support import machines, postgres
from tests.support.machines import NET, Machines
from tests.support.machines.checking import Seen, seen
from tests.support.machines.witnessed import SLOTS

PODIUM = [sys.executable, "-m", "podium"]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
DRIVER = [sys.executable, "-c", "import sys; from tests.support.machines import witnessed as w; w.main(*sys.argv[1:])"]
WITNESS = machines.STATE / "witness"
LEASE_S, GRACE_S = 5.0, 1.0
STOPPED_LATE_S = 0.5
"""Time that a killed process, and the next sign of life of its successor, may take beyond the lease and its grace."""
RUN_S = 400.0


@dataclass
class Bed:
    """Three machines with a lasting cluster, whose coordinator is on machine 2."""

    three: Machines
    server: postgres.Server
    database: Database

    def podium(self, machine: int, *words: str) -> str:
        command = self.three.command(machine, [*PODIUM, *words], self.environment)
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PODIUM_DATABASE": self.database.url,
            "PODIUM_DATABASE_SCHEMA": self.database.schema,
            "PODIUM_LIMITS": f"slots={SLOTS}",
        }

    def drive(self, machine: int, count: int) -> subprocess.Popen[str]:
        """Start a load on a machine, and return its driver when all tasks are acknowledged."""
        WITNESS.unlink(missing_ok=True)
        words = [*DRIVER, self.database.url, "", str(count), str(WITNESS)]
        command = self.three.command(machine, words, self.environment)
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        if driver.stdout.readline() != "submitted\n":
            raise AssertionError(driver.communicate()[1][-3000:])
        return driver


def told(driver: subprocess.Popen[str]) -> dict[str, float]:
    out, err = driver.communicate(timeout=RUN_S)
    assert driver.returncode == 0, err[-3000:]
    facts: dict[str, float] = json.loads(out.splitlines()[-1])
    return facts


def finished(bed: Bed, count: int, since: float) -> dict[str, float]:
    """Wait until all tasks have ended, for a load whose driver has died with its Ray."""
    reader, give_up_at, tasks = PostgresReader(bed.database), time.monotonic() + RUN_S, []
    while not tasks or any(task.finished_at is None for task in tasks):
        assert time.monotonic() < give_up_at, "tasks do not end"
        time.sleep(0.1)
        tasks = [task for task in reader.list_tasks(limit=100_000) if "/" not in task.task_id]
    ends = sorted(task.finished_at for task in tasks if task.finished_at is not None)
    gap_s = max(later - earlier for earlier, later in pairwise(ends))
    took_s = time.monotonic() - since
    return {"missing": count + 1 - len(tasks), "gap_s": round(gap_s, 2), "took_s": round(took_s, 2)}


@contextmanager
def bed() -> Iterator[Bed]:
    server = postgres.stoppable()
    with machines.machines(3) as three, server.listening(f"{NET}.254", f"{NET}.0/24") as url:
        made = Bed(three, server, Database(url, postgres.new_database().schema))
        made.podium(2, "up", "--address", three.address)
        yield made


def killed(bed: Bed) -> None:
    bed.three.kill(3)


def drained(bed: Bed, within_s: int = 15, machine: int = 3) -> None:
    """A machine is to be taken away, and its Ray ends then; a second later it loses its power."""
    words = ["drain-node", "--address", bed.three.address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message", "a test", "--deadline-remaining-seconds", str(within_s)]
    subprocess.run(bed.three.command(machine, [*RAY, *words], {}), check=True, stdout=subprocess.DEVNULL)
    time.sleep(within_s + 1)
    bed.three.kill(machine)


def drained_coordinator(bed: Bed) -> None:
    drained(bed, machine=2)


def killed_coordinator(bed: Bed) -> None:
    bed.three.kill(2)


def cut(seconds: float) -> Callable[[Bed], None]:
    def cut_off(bed: Bed) -> None:
        bed.three.cut(3)
        time.sleep(seconds)
        bed.three.heal(3)

    return cut_off


def cut_coordinator(bed: Bed) -> None:
    bed.three.cut(2)
    time.sleep(10)
    bed.three.heal(2)


def slow(bed: Bed) -> None:
    bed.three.slow(3, 200, 5)
    time.sleep(20)
    bed.three.slow(3, 0, 0)


def database(bed: Bed) -> None:
    bed.server.stop("immediate")
    time.sleep(2)
    bed.server.start()


def head(bed: Bed) -> None:
    """The head dies, and with it Ray: somebody starts another Ray cluster, and `podium up` in it."""
    bed.three.kill(1)
    bed.three.restart_ray()
    bed.podium(2, "up", "--address", bed.three.address)


FAULTS: dict[str, Callable[[Bed], None]] = {
    "killed": killed,
    "drained": drained,
    "drained coordinator": drained_coordinator,
    "killed coordinator": killed_coordinator,
    "head": head,
    "cut 10": cut(10),
    "cut coordinator": cut_coordinator,
    "cut 60": cut(60),
    "cut 120": cut(120),
    "slow": slow,
    "database": database,
}


def round_of(name: str, count: int = 300) -> tuple[dict[str, float], list[str]]:
    """Run a load with a fault in its middle; returns its figures, and the promises that were broken."""
    with bed() as made:
        driver = made.drive(3 if name == "head" else 1, count)
        time.sleep(1.0)
        at = time.monotonic()
        FAULTS[name](made)
        facts = finished(made, count, at) if name == "head" else told(driver)
        driver.kill()
        found = seen(WITNESS, made.database)
    return facts, broken(facts, found, at)


def broken(facts: dict[str, float], found: Seen, fault_at: float) -> list[str]:
    """Return the promises that a load has not kept."""
    allowed_until = fault_at + LEASE_S + GRACE_S + STOPPED_LATE_S
    times = found.above("limited", SLOTS)
    late = [f"for {until - since:.2f} s" for since, until in times if until > allowed_until]
    return [
        *(["tasks are missing"] if facts["missing"] else []),
        *([f"{found.unfinished} tasks are not finished"] if found.unfinished else []),
        *[f"two outcomes: {place}" for place in found.double],
        *[f"ran again: {place}" for place in found.again],
        *[f"more than {SLOTS} runs: {each}" for each in late],
    ]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--only", choices=list(FAULTS))
    given = options.parse_args()
    bad, table = 0, []
    for name in [given.only] if given.only else FAULTS:
        gaps = []
        for number in range(given.rounds):
            try:
                facts, wrong = round_of(name)
            except Exception as error:
                facts, wrong = {"gap_s": float("nan")}, [f"{type(error).__name__}: {error}"]
            gaps.append(facts["gap_s"])
            bad += bool(wrong)
            print(json.dumps({"class": name, "round": number, **facts, "wrong": wrong}), flush=True)
        table.append((name, sorted(gaps)))
    for name, gaps in table:
        print(f"{name:<20} {len(gaps):>3} rounds, went on after {gaps[len(gaps) // 2]:.1f} s, at most {gaps[-1]:.1f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
