"""How fast are durable tasks on three machines, against one, over SQLite and PostgreSQL, plain Ray and DBOS?

W1 (tasks of 3 steps, submitted at once) and W2 (one at a time), as in throughput.py. The machines are test machines on
this one (tests/support/machines): they share its processors, so three are not faster than one here. The database is on
none of them, with fsync and synchronous_commit on. Each system runs in a process of its own on machine 1, in turns.
Needs root. DBOS is run from the environment that `benchmarks/peers/run.py` makes, or one that is made here.

    python benchmarks/machines.py [--tasks 1000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Chain, Row, latencies_ms, machine, over, percentile, report, throughput

ROOT = Path(__file__).parents[1]
DBOS = "dbos==3.4.0"
DBOS_FOLDER = ROOT / "build" / "peers" / "dbos"
WARM_UP, ONE_BY_ONE = 100, 30


def measured(chain: Chain, tasks: int) -> dict[str, float]:
    throughput(chain, WARM_UP)
    return {"w1": throughput(chain, tasks), "w2": percentile(latencies_ms(chain, ONE_BY_ONE), 0.5)}


def podium(tasks: int, shards: int = 1, **where: Any) -> dict[str, float]:
    from throughput import SHARDED, WORKFLOW, podium_chain

    import podium

    with podium.connect(**where) as engine:
        return measured(podium_chain(engine, SHARDED if shards == 2 else WORKFLOW), tasks)


def plain_ray(tasks: int, address: str) -> dict[str, float]:
    import ray
    from throughput import ray_chains

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    return measured(ray_chains()[0], tasks)


def dbos(tasks: int, url: str) -> dict[str, float]:
    """The chain of the peers' benchmark, in DBOS on PostgreSQL."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    import dbos_peer

    dbos_peer.launch(url)
    try:
        return measured(dbos_peer.many, tasks)
    finally:
        dbos_peer.DBOS.destroy()


class Bed:
    """Three machines with Ray, and the systems that run on machine 1."""

    def __init__(self, three: Any, url: str, tasks: int) -> None:
        self._three, self._url, self._tasks = three, url, tasks
        self._count = 0
        self.systems: dict[str, Callable[[], dict[str, float]]] = {
            "SQLite, one machine": lambda: self._podium(data=self._folder()),
            "PostgreSQL, one machine": lambda: self._podium(**self._database()),
            "SQLite, three machines": lambda: self._podium(data=self._folder(), address=three.address),
            "PostgreSQL, three machines": lambda: self._podium(**self._database(), address=three.address),
            "PostgreSQL, three machines, two shards": lambda: self._podium(
                **self._database(), address=three.address, shards=2
            ),
            "plain Ray, three machines": lambda: self._run("plain_ray", address=three.address),
            "DBOS, PostgreSQL": lambda: self._run("dbos", python=dbos_python(), url=self._new_database()),
        }

    def _podium(self, **where: Any) -> dict[str, float]:
        return self._run("podium", **where)

    def _folder(self) -> str:
        self._count += 1
        return f"/tmp/bench{self._count}"

    def _database(self) -> dict[str, str]:
        self._count += 1
        return {"data": self._folder(), "database": self._url, "database_schema": f"bench{self._count}"}

    def _new_database(self) -> str:
        self._count += 1
        return f"{self._url.rpartition('/')[0]}/dbos{self._count}"

    def _run(self, system: str, python: str = sys.executable, **arguments: Any) -> dict[str, float]:
        words = [python, str(Path(__file__).resolve()), "--run", json.dumps([system, self._tasks, arguments])]
        done = subprocess.run(self._three.command(1, words, {}), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{system}: {done.stderr[-3000:]}")
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def dbos_python() -> str:
    python = DBOS_FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(DBOS_FOLDER)], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", DBOS, "psycopg[binary]"], check=True)
    return str(python)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tasks", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--run", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.run is not None:
        system, tasks, arguments = json.loads(given.run)
        print(json.dumps({"podium": podium, "plain_ray": plain_ray, "dbos": dbos}[system](tasks, **arguments)))
        return
    sys.path.insert(0, str(ROOT))
    from tests.support import machines, postgres  # a system that is run by this file has not all that they need

    server = postgres.own_server()
    with machines.machines(3) as three, server.listening(f"{machines.NET}.254", f"{machines.NET}.0/24") as url:
        bed = Bed(three, url, given.tasks)
        w1 = {name: Row(name, f"W1, {given.tasks} tasks", "tasks/s") for name in bed.systems}
        w2 = {name: Row(name, "W2, p50", "ms") for name in bed.systems}
        for _ in range(given.repeats):
            for name, run in bed.systems.items():
                figures = run()
                w1[name].values.append(figures["w1"])
                w2[name].values.append(figures["w2"])
    three_machines, two_shards = "PostgreSQL, three machines", "PostgreSQL, three machines, two shards"
    ratios = {
        "W1 over PostgreSQL against SQLite, one machine (>= 0.6)": over(
            w1["PostgreSQL, one machine"], w1["SQLite, one machine"]
        ),
        "W1 over PostgreSQL, one machine, against DBOS on PostgreSQL (>= 30)": over(
            w1["PostgreSQL, one machine"], w1["DBOS, PostgreSQL"]
        ),
        "W1, three machines against one, PostgreSQL": over(w1[three_machines], w1["PostgreSQL, one machine"]),
        "W1 against plain Ray, three machines": over(w1[three_machines], w1["plain Ray, three machines"]),
        "W1, two supervisors on two machines against one (>= 1.5 where cores allow)": over(
            w1[two_shards], w1[three_machines]
        ),
        "W2 p50, three machines against one, PostgreSQL": over(w2[three_machines], w2["PostgreSQL, one machine"]),
    }
    report("machines", [*w1.values(), *w2.values()], ratios, machine())


if __name__ == "__main__":
    main()
