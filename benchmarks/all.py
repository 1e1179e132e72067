"""Runs the benchmarks one after the other and says how far the targets are reached.

With `--write` the table and the picture of docs/performance.md are made anew from this run. Nothing else should run on
the machine meanwhile. `make bench` takes some five minutes.

    python benchmarks/all.py [--write] [--only throughput fanout …]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
DOC, PICTURE = HERE.parent / "docs/performance.md", HERE.parent / "docs/performance.svg"
BENCHMARKS: dict[str, list[str]] = {
    "throughput": [],
    "fanout": [],
    "footprint": ["--repeats", "3"],
    "policies": [],
    "contention": [],
    "asking": [],
    "flatness": ["--many", "10000"],
    "journal": ["--repeats", "3"],
    "stores": ["--repeats", "3"],
    "exchange": ["--repeats", "3"],
    "breakdown": ["--repeats", "4"],
    "waiting": ["--tasks", "20000"],
    "sleeping": ["--tasks", "100000", "--due", "2000"],
    "values": ["--sizes", "1", "10", "100", "--repeats", "5", "--tasks", "300"],
}
BEGIN, END = "<!-- made by benchmarks/all.py -->", "<!-- end -->"


def run(name: str, options: list[str]) -> dict[str, Any]:
    """The JSON line of one benchmark; what it prints for people goes through."""
    command = [sys.executable, f"{name}.py", *options]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    lines = done.stdout.splitlines()
    print("\n".join(line for line in lines if not line.startswith("{")), flush=True)
    found: dict[str, Any] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Medians with their spread, and ratios, as Markdown."""
    rows = ["| benchmark | system | figure | median | from to |", "|---|---|---|---|---|"]
    for result in results:
        for row in result["rows"]:
            values = sorted(row["values"])
            median, unit = values[len(values) // 2], row["unit"]
            spread = f"{values[0]:,.1f} to {values[-1]:,.1f}" if len(values) > 1 else ""
            rows.append(
                f"| {result['benchmark']} | {row['system']} | {row['figure']} | {median:,.1f} {unit} | {spread} |"
            )
    ratios = [f"| {text} | {ratio:.2f} |" for result in results for text, ratio in result["ratios"].items()]
    facts = ", ".join(f"{key} {value}" for key, value in results[0]["machine"].items())
    return "\n".join([*rows, "", "| ratio | |", "|---|---|", *ratios, "", f"Machine: {facts}."])


def picture(result: dict[str, Any]) -> str:
    """W1 and W2 of the systems in `throughput` as bars."""
    parts, y = [], 24
    for figure, title in (
        ("W1", "tasks of three steps per second (more is better)"),
        ("W2, p50", "one task, ms (less)"),
    ):
        rows = [row for row in result["rows"] if row["figure"].startswith(figure)]
        medians = {row["system"]: sorted(row["values"])[len(row["values"]) // 2] for row in rows}
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{escape(title)}</text>')
        for system, median in medians.items():
            y += 26
            width = 380 * median / max(medians.values())
            colour = "#1f6feb" if system.startswith("podium") else "#9aa4af"
            parts.append(f'<text x="10" y="{y + 4}">{escape(system)}</text>')
            parts.append(f'<rect x="150" y="{y - 10}" width="{width:.0f}" height="18" fill="{colour}"/>')
            parts.append(f'<text x="{156 + width:.0f}" y="{y + 4}">{median:,.1f}</text>')
        y += 40
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="620" height="{y}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def write(results: list[dict[str, Any]]) -> None:
    text = DOC.read_text()
    made = f"{BEGIN}\n\n{table(results)}\n\n{END}"
    DOC.write_text(re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: made, text, flags=re.DOTALL))
    for result in results:
        if result["benchmark"] == "throughput":
            PICTURE.write_text(picture(result))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true")
    options.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    given = options.parse_args()
    results = []
    for name in given.only:
        print(f"== {name}", flush=True)
        results.append(run(name, BENCHMARKS[name]))
    if given.write:
        write(results)


if __name__ == "__main__":
    main()
