"""Does a cluster under load lose or repeat anything when its processes are killed, and how soon does it recover?

One workflow that uses everything (sequence, parallel, nested Hierarchy, a quota, retries, submission keys) is kept
under way by a driver while processes are killed at random moments, one at a time, by class: protocol hosts,
supervisors, the resource actor, the coordinator, each also stopped instead of killed; Ray's raylet and control store,
all of Ray at once, everything with the driver; and again during recovery. A witness file, written by the protocols
themselves, and the journal must agree afterwards. Recovery: see testbed/kills.py.

    python -m benchmarks.chaos [--kills 200] [--seed N] [--lanes 8] [--keep DIRECTORY]

Exit code 1 if anything is wrong; every finding is printed in full.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from random import Random

from .harness import machine, percentile
from .testbed.kills import Kill, drawn
from .testbed.storm import Findings, keep, storm


def by_class(kills: list[Kill]) -> dict[str, list[float]]:
    """Recovery times by class, signal and number, in seconds."""
    times: dict[str, list[float]] = defaultdict(list)
    for kill in kills:
        if kill.recovery_s is not None:
            times[str(kill.order)].append(kill.recovery_s)
    return dict(sorted(times.items()))


def table(found: Findings) -> None:
    print(f"\n{'killed':<24}{'times':>6}{'median s':>10}{'p90 s':>8}{'max s':>8}")
    for name, times in by_class(found.kills).items():
        row = f"{statistics.median(times):>10.2f}{percentile(times, 0.9):>8.2f}{max(times):>8.2f}"
        print(f"{name:<24}{len(times):>6}{row}")
    print(f"\n{len(found.kills)} kills, {found.tasks} tasks and runs of tiers, {found.runs} runs of steps,", end=" ")
    print(f"{found.repeated} of them repeated; at most {found.most_in_use} permits in use.")
    print(f"A probe takes {found.probe_s:.2f} s when nothing is wrong.")
    if found.ended_by_ray:
        print(f"{found.ended_by_ray} drivers were ended by Ray, whose raylet was killed as they registered with it.")
    if not found.problems:
        rate = 3 / max(1, len(found.kills))
        print(f"0 violations: with 95 % confidence fewer than {rate:.1%} of such kills lead to one (3/n).")


def facts(found: Findings, seed: int) -> dict:
    recovery = {
        name: {
            "times": len(times),
            "median_s": round(statistics.median(times), 2),
            "p90_s": round(percentile(times, 0.9), 2),
            "max_s": round(max(times), 2),
        }
        for name, times in by_class(found.kills).items()
    }
    counts = {"tasks": found.tasks, "runs": found.runs, "repeated": found.repeated, "violations": len(found.problems)}
    counts["drivers_ended_by_ray"] = found.ended_by_ray
    return {"benchmark": "chaos", "seed": seed, "kills": len(found.kills), **counts, "recovery": recovery}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    options.add_argument("--lanes", type=int, default=8, help="tasks always in flight")
    options.add_argument("--keep", type=Path, help="where to copy journal and witness if something is wrong")
    given = options.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        orders = drawn(Random(given.seed), given.kills)
        found = storm(Path(name), given.seed, orders, given.lanes, lambda line: print(line, flush=True))
        if found.problems and given.keep:
            keep(Path(name), given.keep)
    table(found)
    for problem in found.problems:
        print(f"VIOLATION  {problem}")
    print(json.dumps({**facts(found, given.seed), "machine": machine()}))
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
