"""What steps log and print, and where it is to be found (docs/logs.md)."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

import podium
from podium import Workflow
from podium.cluster.doctor.checks import examine
from podium.cluster.log_file import LogFile
from podium.errors import TaskFailed
from tests.support import ROOT

LINE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 "


@podium.protocol
def talks(ctx, n: int):
    ctx.log.debug("deep %s", n)
    ctx.log.info("n is %d", n)
    ctx.log.warning("two\nlines \x1b[31m")
    ctx.log.info("does not fit %d %d", n)
    return n


@podium.protocol(name="told/otherwise")
async def fails(ctx, n: int):
    try:
        raise ValueError("inner")
    except ValueError:
        ctx.log.exception("it failed")
        raise


def run(data, workflow, **settings):
    with podium.connect(cluster="inprocess", data=data, **settings) as engine:
        task = engine.submit(workflow, 1)
        with suppress(TaskFailed):
            task.result(timeout_s=30)
        return task.id


def test_what_a_step_logs_is_kept_at_every_level_with_task_and_step(tmp_path, caplog):
    id = run(tmp_path, Workflow("w", talks))
    path = tmp_path / "logs" / "talks.log"
    lines = path.read_text().splitlines()
    assert [re.sub(LINE, "", line) for line in lines] == [
        f"debug {id} talks: deep 1",
        f"info {id} talks: n is 1",
        f"warning {id} talks: two",
        "    lines \\x1b[31m",
        f"info {id} talks: 'does not fit %d %d' (1,)",
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [record.levelname for record in caplog.records if record.name == "podium.protocol.talks"] == ["WARNING"]
    assert not [each for each in examine(tmp_path) if each.check == "directory" and each.level != "ok"]


def test_a_traceback_goes_below_its_line_and_a_name_is_no_path(tmp_path):
    id = run(tmp_path, Workflow("w", fails))
    text = (tmp_path / "logs" / "told%2Fotherwise.log").read_text()
    assert re.match(rf"{LINE}error {id} fails: it failed\n    Traceback", text)
    assert text.rstrip().endswith("    ValueError: inner")


def test_no_logs_are_kept_if_none_are_wanted(tmp_path):
    run(tmp_path, Workflow("w", talks), log_mb=0)
    assert not (tmp_path / "logs").exists()


def test_a_full_log_is_turned_over_and_only_so_many_are_kept(tmp_path):
    log = LogFile(tmp_path, "p", most_bytes=200, kept=2)
    for number in range(20):
        log.write(f"{number:02} {'x' * 80}")
    log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["p.log", "p.log.1", "p.log.2"]
    kept = [number for name in reversed(names) for number in re.findall(r" (\d\d) x", (tmp_path / name).read_text())]
    assert kept == [f"{number:02}" for number in range(20 - len(kept), 20)]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in tmp_path.iterdir())


def test_without_kept_logs_it_begins_anew(tmp_path):
    log = LogFile(tmp_path, "p", most_bytes=50, kept=0)
    for _ in range(5):
        log.write("x" * 60)
    assert [path.name for path in tmp_path.iterdir()] == ["p.log"]


def write_many(folder, who):
    write_to(LogFile(folder, "p", most_bytes=20_000, kept=100), who)


def write_to(log, who):
    for number in range(500):
        log.write(f"{who} {number} {'x' * 50}")


def test_processes_and_threads_that_share_a_log_lose_no_line_and_tear_none(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=write_many, args=(tmp_path, f"p{n}")) for n in range(3)]
    for process in processes:
        process.start()
    shared = LogFile(tmp_path, "p", most_bytes=20_000, kept=100)
    threads = [threading.Thread(target=write_to, args=(shared, "t")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for each in [*threads, *processes]:
        each.join()
    lines = [line for path in tmp_path.glob("p.log*") for line in path.read_text().splitlines()]
    assert all(re.fullmatch(rf"{LINE}\w+ \d+ x{{50}}", line) for line in lines)
    assert len(lines) == 3 * 500 + 2 * 500


def test_a_log_that_is_taken_away_begins_anew(tmp_path):
    log = LogFile(tmp_path, "p", most_bytes=1000, kept=1)
    log.write("first")
    (tmp_path / "p.log").unlink()
    log.write("second")
    assert (tmp_path / "p.log").read_text().endswith(" second\n")


@pytest.mark.parametrize("obstacle", ["folder", "link", "file in place of the folder"])
def test_a_log_that_cannot_be_written_is_told_once_and_fails_nothing(tmp_path, caplog, obstacle):
    folder = tmp_path / "logs"
    if obstacle == "file in place of the folder":
        folder.write_text("")
    else:
        folder.mkdir()
        place = folder / "talks.log"
        place.mkdir() if obstacle == "folder" else place.symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING, logger="podium"):
        run(tmp_path, Workflow("w", talks))
    told = [record for record in caplog.records if "talks.log cannot be written" in record.getMessage()]
    assert len(told) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_the_page_is_true(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/logs.md").read_text(), re.DOTALL)
    (tmp_path / "page.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@podium.protocol
def prints(ctx, n: int):
    print("printed by a step", flush=True)
    ctx.log.info("logged by a step")
    return n


@pytest.mark.ray
def test_on_ray_what_is_printed_is_where_the_page_says_and_what_is_logged_stays(tmp_path):
    with podium.connect(data=tmp_path / "data", num_cpus=1) as engine:
        engine.submit(Workflow("w", prints), 1).result(timeout_s=60)
        folder = Path((tmp_path / "data" / "ray.folder").read_text())
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        logs = list((folder / "r" / "session_latest" / "logs").glob("worker-*.out"))
        assert any("printed by a step" in path.read_text() for path in logs)
    assert not folder.exists()
    assert "prints: logged by a step" in (tmp_path / "data" / "logs" / "prints.log").read_text()
