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
from tests.support.storm import run_storm

CHUNK = 100
"""Seeds per piece of work."""
ENOUGH = 2_000
"""Seeds after which an edge that was never taken is a defect of the test bed."""


def storms(first: int, end: int) -> tuple[list[tuple[int, str]], Counter[str]]:
    """The seeds that failed, with why, and what the storms counted."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of processes that died are never awaited
    edges.install()
    edges.COUNTS.clear()
    failed = []
    for seed in range(first, end):
        try:
            run_storm(seed)
        except BaseException as error:
            failed.append((seed, f"{type(error).__name__}: {error}\n{last_lines(seed)}"))
    return failed, edges.COUNTS


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=20_000)
    options.add_argument("--first", type=int, default=0)
    given = options.parse_args()
    end = given.first + given.seeds
    began, bad = time.monotonic(), 0
    edges.install()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        starts = range(given.first, end, CHUNK)
        for failed, counts in pool.map(storms, starts, [min(start + CHUNK, end) for start in starts]):
            edges.COUNTS.update(counts)
            bad += len(failed)
            for seed, why in failed:
                print(f"seed {seed}: {why}", flush=True)
    missed = edges.missed() if given.seeds >= ENOUGH else []
    print(edges.table())
    print(f"{given.seeds} seeds, {bad} failed, {len(missed)} edges missed {missed or ''}")
    print(f"no failure in {given.seeds} seeds bounds the rate at {3 / given.seeds:.1e}" if not bad else "")
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"soak": given.seeds, "first": given.first, "failed": bad, "missed": missed, "seconds": seconds}))
    return int(bool(bad or missed))


if __name__ == "__main__":
    sys.exit(main())
