"""One storm, told: `python -m tests.support.seed 17`, or `make seed SEED=17`; with `--trace`, each thing that happens.

Without `--trace` it prints the faults that struck and how it ended; with it, everything in virtual time as it
happens: who started and died, each frame and whether it was lost, each commit, each run of a step, and what Podium
logged. A seed is one run: the same again and again, and the same as in pytest and in the soak.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator

from podium.cluster.simulation.trace import Trace
from podium.cluster.simulation.virtual_loop import PROCESS
from tests.support.storm import Storm


class _Logged(logging.Handler):
    """What is logged, by whom, as lines of a trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.DEBUG)
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "podium"):
            return  # the simulation has noted it
        process = PROCESS.get()
        self._trace.note(process.name if process else "-", f"logs {record.levelname}", record.getMessage())


@contextlib.contextmanager
def logged_to(trace: Trace) -> Iterator[None]:
    """Everything that Podium logs goes to the trace, and nowhere else, also where logging is off."""
    log, handler, disabled = logging.getLogger("podium"), _Logged(trace), logging.root.manager.disable
    level, propagate = log.level, log.propagate
    logging.disable(logging.NOTSET)
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
        logging.disable(disabled)


def run_traced(seed: int, trace: Trace) -> BaseException | None:
    """The storm of that seed, told to the trace; returns what it raised."""
    storm = Storm(seed)
    storm.simulation.trace = trace
    with logged_to(trace), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of processes that died are never awaited
        try:
            storm.run()
        except (Exception, SystemExit) as error:
            return error
    return None


def last_lines(seed: int) -> str:
    """For the report of a seed that failed: what happened last, from a second run with a trace."""
    trace = Trace()
    error = run_traced(seed, trace)
    ending = "and then it did NOT fail" if error is None else f"and then {type(error).__name__}: {error}"
    title = f"What happened before, in virtual seconds (`make seed SEED={seed} TRACE=1` prints all of it):"
    return f"{title}\n{trace}\n{ending}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("seed", type=int)
    options.add_argument("--trace", action="store_true", help="print everything that happens, as it happens")
    given = options.parse_args()
    storm = Storm(given.seed)
    print(f"seed {given.seed}: {storm.count} tasks, limits {dict(storm.simulation.settings.limits)}, {storm.faults}")
    trace = Trace(_print_all if given.trace else _print_strokes)
    error = run_traced(given.seed, trace)
    print(f"{trace.count:,} things happened, the last at {trace.lines[-1].split()[0]} s")
    if error is None:
        print("every invariant holds")
        return 0
    traceback.print_exception(error)
    return 1


def _print_all(_event: str, line: str) -> None:
    print(line)


def _print_strokes(event: str, line: str) -> None:
    if event.isupper() or event in ("starts", "is dead", "goes on") or event.startswith("logs"):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
