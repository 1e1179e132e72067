"""`podium` as a process of its own, quickly: forked from one that has imported it already.

A command takes half a second to import what it needs, and some tests run ten. What they see is the same: exit code and
both streams of another process, in a folder and an environment of its own. How a process really starts, is interrupted
and ends is for tests that start one by its name (`test_cli.py` has some).
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import podium
from podium import Workflow

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["podium.cluster.gateways.cli.main", "tests.support.sweep"])
"""What all that is forked from has imported; there is one such process beside each that runs tests."""
PATIENCE_S = 60.0


def run_command(
    words: tuple[str, ...], folder: Path, environment: Mapping[str, str], stdin: str | None = None
) -> tuple[int, bytes, bytes]:
    """`podium WORDS` in `folder` with that environment alone; returns (exit code, standard output, standard error)."""
    with tempfile.TemporaryDirectory(prefix="command-") as name:
        streams = Path(name)
        (streams / "0").write_text(stdin or "")
        process = FORKS.Process(target=_become, args=(words, str(folder), dict(environment), name), daemon=False)
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"podium {' '.join(words)}: still running after {PATIENCE_S:g} s")
        return process.exitcode, (streams / "1").read_bytes(), (streams / "2").read_bytes()


class Shown:
    """A task that has run in process; a call is `podium show ID WORDS`."""

    def __init__(self, workflow: Workflow, input: Any, folder: Path) -> None:
        self._folder = folder
        with podium.connect(data=folder / "data", cluster="inprocess") as engine:
            task = engine.submit(workflow, input)
            task.result(timeout_s=60)
        self.task_id = task.id

    def __call__(self, *words: str, run: str = "") -> tuple[int, str, str]:
        """Return the exit code, standard output and standard error; `run` is the path of a nested Hierarchy's run."""
        words = ("show", self.task_id + run, "--data", str(self._folder / "data"), *words)
        code, out, err = run_command(words, self._folder, {**os.environ, "COLUMNS": "120"})
        return code, out.decode(), err.decode()


def _become(words: tuple[str, ...], folder: str, environment: dict[str, str], streams: str) -> None:
    """In the new process: what `python -m podium WORDS` would find."""
    modes = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    for number, mode in enumerate(modes):
        os.dup2(os.open(Path(streams, str(number)), mode), number)
    sys.stdin, sys.stdout, sys.stderr = _text(0, "r"), _text(1, "w"), _text(2, "w")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:] = [folder, *environment.get("PYTHONPATH", "").split(os.pathsep), *sys.path]
    sys.argv = ["podium", *words]
    random.seed()
    from podium.cluster.gateways.cli.main import main

    main()


def _text(number: int, mode: str) -> Any:
    errors = "backslashreplace" if number == 2 else "strict"
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)
