"""How does the throughput of what is durable depend on the disk?

W1 of Podium and of the fastest of its durable peers, in turns, on the disk that is here and on ones that take longer to
sync: `slow_disk.c`, built with `cc` and preloaded, sleeps before each fsync and fdatasync. Whoever commits for one task
after another waits for each; Podium commits together whatever is under way.

    python benchmarks/peers/disks.py [--slower-us 0,100,400,1000] [--rounds 3] [--peers podium,burr]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from run import BUILD, CANDIDATES, HERE, ROOT, Candidate, figures_of

W1_ALONE = ["--singles", "20", "--fans", "1"]
SYNC = "import sys; sys.path.insert(0, sys.argv[1]); from harness import machine; print(machine()['fdatasync_ms'])"
WITHIN_S = 300.0
OURS_AND_BURR = ("podium_sharded", "podium", "podium_in_process", "burr")


def preload() -> Path:
    built = BUILD / "slow_disk.so"
    built.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", built, HERE / "slow_disk.c", "-ldl"], check=True)
    return built


def fdatasync_ms() -> float:
    """As a process finds it that is started now."""
    return float(subprocess.check_output([sys.executable, "-c", SYNC, str(ROOT / "benchmarks")], text=True))


def rates(candidates: list[Candidate], rounds: int) -> dict[str, float]:
    """Tasks per second by name, medians."""
    found: dict[str, list[float]] = {each.name: [] for each in candidates}
    for _ in range(rounds):
        for each in candidates:
            figures = figures_of(each, W1_ALONE, WITHIN_S)
            if not figures:
                sys.exit(1)  # it has been said why
            found[each.name].append(figures["w1"])
    return {name: median(values) for name, values in found.items()}


def table(rows: list[dict[str, float]]) -> str:
    """Tasks per second, and those of the others over the last one's."""
    _, *others, last = rows[0]
    heads = ["fdatasync ms", *others, last, *(f"{name} over {last}" for name in others)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [f"{row['fdatasync_ms']:.2f}", *(f"{row[name]:,.0f}" for name in (*others, last))]
        lines.append(f"| {' | '.join([*cells, *(f'{row[name] / row[last]:.1f}' for name in others)])} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--slower-us", default="0,100,400,1000")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--peers", default=",".join(OURS_AND_BURR), help="they are set against the last")
    given = options.parse_args()
    by_name = {each.name: each for each in CANDIDATES}
    names = given.peers.split(",")
    if unknown := set(names) - set(by_name):
        options.error(f"no such peer: {', '.join(sorted(unknown))}; there are {list(by_name)}")
    candidates = [by_name[name] for name in names]
    os.environ |= {"LD_PRELOAD": str(preload()), "RAY_LD_PRELOAD_ON_WORKERS": "1"}
    rows = []
    for us in given.slower_us.split(","):
        os.environ["SLOWER_US"] = us
        rows.append({"fdatasync_ms": fdatasync_ms(), **rates(candidates, given.rounds)})
        print(rows[-1], flush=True)
    print(f"\n{table(rows)}")
    print(json.dumps({"benchmark": "disks", "rows": rows}))


if __name__ == "__main__":
    main()
