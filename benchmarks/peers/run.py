"""How fast is Podium against systems that do the same work, in the same run?

W1 to W5 of each peer, written as its own documentation advises, each in an environment of its own under
build/peers (made at the first run). In each round every peer runs once, in a process of its own, in turns, so that the
machine's drift hits all. What each makes durable, and when, is in the table: Podium commits every step's output with
synchronous=FULL before the next one starts.

    python benchmarks/peers/run.py [--rounds 3] [--tasks 1000] [--killed 500] [--only dbos,podium] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "peers"
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(HERE.parent))

from harness import machine  # noqa: E402
from work import family  # noqa: E402

FIGURES = {
    "w1": "W1 tasks/s",
    "w2_p50": "W2 p50 ms",
    "w2_p99": "p99 ms",
    "w3": "W3 ms",
    "w3_sleep": "W3 50 ms each",
    "first_s": "first result s",
    "memory_mb": "memory MB",
}
W4 = "W4 s · twice · lost"
ENDS_WITHIN_S = 20.0
"""A peer that is told to end."""
BEGIN, END = "<!-- made by benchmarks/peers/run.py -->", "<!-- end of peers -->"
DEBIAN = ("redis-server", "redis-tools", "libjemalloc2", "liblua5.1-0", "lua-bitop", "lua-cjson", "liblzf1")


@dataclass
class Candidate:
    name: str
    packages: list[str] = field(default_factory=list)
    """With their versions; none for the project's own environment."""
    in_process: bool = False
    across: bool = True
    """Whether it belongs among those across processes."""
    npm: str = ""
    debian: tuple[str, ...] = ()
    results: list[dict[str, Any]] = field(default_factory=list)
    killed: list[dict[str, Any]] = field(default_factory=list)
    """Results of W4."""
    problems: list[str] = field(default_factory=list)
    """One for each run without a result."""

    @property
    def folder(self) -> Path:
        return BUILD / self.name

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python") if self.packages else sys.executable


CANDIDATES = [
    Candidate("podium"),
    Candidate("podium_sharded"),
    Candidate("ray"),
    Candidate(
        "restate", ["restate-sdk==1.3.0", "granian==2.8.7", "uvloop==0.23.0"], npm="@restatedev/restate-server@1.7.12"
    ),
    Candidate("celery", ["celery[redis]==5.7.0"], debian=DEBIAN),
    Candidate("dask", ["distributed==2026.8.0"]),
    Candidate("podium_in_process", in_process=True, across=False),
    Candidate("burr", ["apache-burr==0.42.0"], in_process=True),
    Candidate("langgraph", ["langgraph==1.2.24", "langgraph-checkpoint-sqlite==3.1.2"], in_process=True, across=False),
    Candidate("dbos", ["dbos==3.4.0"], in_process=True),
    Candidate("pydantic_graph", ["pydantic-graph==2.68.0"], in_process=True, across=False),
]


def install(candidate: Candidate) -> None:
    """Make its environment, if it is not there. Raises CalledProcessError."""
    done = candidate.folder / "installed.txt"
    wanted = "\n".join([*candidate.packages, candidate.npm, *candidate.debian])
    if not candidate.packages or (done.exists() and done.read_text() == wanted):
        return
    print(f"installing {candidate.name} …", flush=True)
    call([sys.executable, "-m", "venv", str(candidate.folder)])
    call([candidate.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *candidate.packages])
    if candidate.npm:
        call(["npm", "install", "--silent", "--no-save", candidate.npm], cwd=candidate.folder)
    if candidate.debian:
        call(["apt-get", "download", *candidate.debian], cwd=candidate.folder)
        for package in candidate.folder.glob("*.deb"):
            call(["dpkg", "-x", str(package), str(candidate.folder / "debian")])
    done.write_text(wanted)


def call(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, capture_output=True, text=True)


def environment(candidate: Candidate) -> dict[str, str]:
    folder = candidate.folder
    found = dict(os.environ)
    if candidate.npm:
        found["RESTATE_SERVER"] = str(next(folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server")))
    if candidate.debian:
        found["REDIS_SERVER"] = str(folder / "debian/usr/bin/redis-server")
        found["LD_LIBRARY_PATH"] = str(next(folder.glob("debian/usr/lib/*-linux-gnu")))
    return found


def run(candidate: Candidate, given: argparse.Namespace) -> None:
    """One run of each kind; what kept it from having a result is kept as a problem."""
    if figures := figures_of(candidate, ["--tasks", str(given.tasks)], given.within):
        candidate.results.append(figures)
        print(f"{candidate.name}: {figures['w1']:,.0f} tasks/s", flush=True)
    if figures and (killed := figures_of(candidate, ["--killed", str(given.killed)], given.within)):
        candidate.killed.append(killed)


def figures_of(candidate: Candidate, args: list[str], within_s: float) -> dict[str, Any]:
    """{} where there are none."""
    command = [candidate.python, str(HERE / f"{candidate.name}_peer.py"), *args]
    try:
        install(candidate)
        figures: dict[str, Any] = json.loads(output(command, environment(candidate), within_s).splitlines()[-1])
        return figures
    except subprocess.CalledProcessError as error:
        problem = last_error(error.stderr or error.stdout or "") or str(error)
    except subprocess.TimeoutExpired:
        problem = f"ran out of time: {within_s:.0f} s allowed (--within)"
    except (OSError, StopIteration, ValueError, IndexError) as error:
        problem = str(error) or type(error).__name__
    candidate.problems.append(problem)
    print(f"{candidate.name} failed: {problem}", flush=True)
    return {}


def output(command: list[str], env: dict[str, str], within_s: float) -> str:
    """What it prints. However this ends, nothing that the command has started goes on."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=within_s)
        finally:
            end(process)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    return out


def end(process: subprocess.Popen[str]) -> None:
    """In order, and then for certain."""
    if process.poll() is not None:
        return
    members = family(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=ENDS_WITHIN_S)
        return
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def last_error(text: str) -> str:
    """The last line that names an error of a traceback that mattered, not of one ignored while Python was ending."""
    lines = text.partition("Exception ignored in")[0].strip().splitlines()
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return (named or lines or [""])[-1]


def cell(candidate: Candidate, figure: str) -> str:
    values = [result[figure] for result in candidate.results if result[figure] is not None]
    if not values:
        return "–"
    digits = 0 if figure in ("w1", "memory_mb") else 2 if median(values) < 1 else 1
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def killed_cell(candidate: Candidate) -> str:
    """Medians."""
    if not candidate.killed or "w4_s" not in candidate.killed[0]:
        return "–"
    took_s, twice, lost = (median(each[key] for each in candidate.killed) for key in ("w4_s", "w4_twice", "w4_lost"))
    return f"{took_s:,.1f} · {twice:,.0f} · {lost:,.0f}"


def table(candidates: list[Candidate], ours: Candidate) -> str:
    """Of those that have results, with W1 of ours over theirs."""
    heads = ["system", "durable before the next step?", *FIGURES.values(), W4, "the fastest of ours over it, W1"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in candidates:
        if not each.results:
            lines.append(f"| {each.name} | failed: {each.problems[-1]} |" + " |" * (len(FIGURES) + 2))
            continue
        first = each.results[0]
        ratio = f"{w1(ours) / w1(each):.1f}" if ours.results else "–"
        cells = " | ".join([*(cell(each, figure) for figure in FIGURES), killed_cell(each)])
        failed = f" ({len(each.problems)} runs failed: {each.problems[-1]})" if each.problems else ""
        lines.append(f"| {first['peer']} {first['version']}{failed} | {first['durable']} | {cells} | {ratio} |")
    return "\n".join(lines)


def w1(candidate: Candidate) -> float:
    """0 without results."""
    return median([result["w1"] for result in candidate.results] or [0.0])


def report(candidates: list[Candidate], facts: dict[str, Any]) -> str:
    parts = []
    groups = {
        "Across processes": [each for each in candidates if each.across],
        "In one process": [each for each in candidates if each.in_process],
    }
    for title, group in groups.items():
        ours = [each for each in group if each.name.startswith("podium")]
        if group:
            fastest = max(ours or group[:1], key=w1)
            parts.append(f"{title}, medians (from–to):\n\n" + table(group, fastest))
    line = ", ".join(f"{key} {value}" for key, value in facts.items())
    return "\n\n".join([*parts, f"Machine: {line}."])


def write(text: str) -> None:
    old = PAGE.read_text()
    new = re.sub(f"(?s){re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{text}\n\n{END}", old)
    PAGE.write_text(new)


def has_place() -> bool:
    return re.search(f"(?s){re.escape(BEGIN)}.*{re.escape(END)}", PAGE.read_text()) is not None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tasks", type=int, default=1_000)
    options.add_argument("--killed", type=int, default=500, help="tasks of W4")
    options.add_argument("--only", help="names, with commas between")
    options.add_argument("--within", type=float, default=300.0, help="seconds for one run of one peer")
    options.add_argument("--write", action="store_true", help="into docs/performance.md")
    given = options.parse_args()
    names = given.only.split(",") if given.only else [each.name for each in CANDIDATES]
    candidates = [each for each in CANDIDATES if each.name in names]
    if unknown := set(names) - {each.name for each in CANDIDATES}:
        options.error(f"no such peer: {', '.join(sorted(unknown))}; there are {[each.name for each in CANDIDATES]}")
    if given.write and not has_place():
        options.error(f"{PAGE.name} has no place for it: {BEGIN} … {END}")
    for _ in range(given.rounds):
        for candidate in candidates:
            run(candidate, given)
    facts = machine()
    text = report(candidates, facts)
    print(text)
    results = [each for one in candidates for each in [*one.results, *one.killed]]
    problems = {each.name: each.problems for each in candidates if each.problems}
    print(json.dumps({"benchmark": "peers", "results": results, "problems": problems, "machine": facts}))
    if given.write:
        write(text)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
