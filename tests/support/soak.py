"""Many storms, on all cores: `python -m tests.support.soak --seeds 20000`, or `make soak SEEDS=20000`.

Prints each seed that fails, with what happened last in it, and how often each edge was taken, and ends with 1 if a seed
failed or an edge was missed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from tests.support import edges
from tests.support.seed import last_lines
from tests.support.storm import Storm, run_storm

CHUNK = 100
"""Seeds per piece of work."""
ENOUGH = 2_000
"""Seeds after which an edge that was never taken is a defect of the test bed."""


def storms(first: int, end: int, on_machines: bool) -> tuple[int, list[tuple[int, str]], Counter[str]]:
    """How many seeds were run, those that failed, with why, and what the storms counted."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of processes that died are never awaited
    edges.install()
    edges.COUNTS.clear()
    seeds = [seed for seed in range(first, end) if not on_machines or Storm(seed).simulation.machines > 1]
    failed = []
    for seed in seeds:
        try:
            run_storm(seed)
        except BaseException as error:
            failed.append((seed, f"{type(error).__name__}: {error}\n{last_lines(seed)}"))
    return len(seeds), failed, edges.COUNTS


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=20_000)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--machines", action="store_true", help="only those seeds in which there are several machines")
    given = options.parse_args()
    end = given.first + given.seeds
    began, ran, bad = time.monotonic(), 0, 0
    edges.install()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        starts = range(given.first, end, CHUNK)
        ends = [min(start + CHUNK, end) for start in starts]
        for count, failed, counts in pool.map(storms, starts, ends, [given.machines] * len(ends)):
            edges.COUNTS.update(counts)
            ran += count
            bad += len(failed)
            for seed, why in failed:
                print(f"seed {seed}: {why}", flush=True)
    missed = edges.missed(given.machines) if ran >= ENOUGH else []
    print(edges.table())
    print(f"{ran} seeds, {bad} failed, {len(missed)} edges missed {missed or ''}")
    print(f"no failure in {ran} seeds bounds the rate at {3 / ran:.1e}" if not bad else "")
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"soak": ran, "first": given.first, "failed": bad, "missed": missed, "seconds": seconds}))
    return int(bool(bad or missed))


if __name__ == "__main__":
    sys.exit(main())
