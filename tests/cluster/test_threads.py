"""Threads for plain steps: as many as there is work, and a program can leave them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time

import pytest

from podium.cluster import threads
from podium.cluster.threads import Threads


def test_work_runs_at_once_up_to_the_most_and_the_rest_waits():
    pool, gate = Threads("t", most=3), threading.Barrier(3)
    together = [pool.submit(lambda: gate.wait(10)) for _ in range(3)]
    assert sorted(each.result(10) for each in together) == [0, 1, 2]
    assert [each.result(10) for each in [pool.submit(lambda n=n: n) for n in range(100)]] == list(range(100))
    pool.close()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), StopIteration(1)], ids=repr)
def test_whatever_is_raised_comes_out_and_the_thread_goes_on(error):
    pool = Threads("t", most=1)

    def raises():
        raise error

    with pytest.raises(type(error)):
        pool.submit(raises).result(10)
    assert pool.submit(lambda: 1).result(10) == 1
    pool.close()


def test_threads_end_when_they_are_not_needed(monkeypatch):
    monkeypatch.setattr(threads, "IDLE_S", 0.05)
    pool = Threads("short-lived")
    assert pool.submit(lambda: 1).result(10) == 1
    give_up_at = time.monotonic() + 10
    while any(thread.name == "short-lived" for thread in threading.enumerate()):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    assert pool.submit(lambda: 2).result(10) == 2


NEVER = textwrap.dedent(
    """
    import sys, threading, podium
    from podium import Sequence, Workflow

    @podium.protocol(timeout_s=0.2)
    def never(input):
        threading.Event().wait()

    with podium.connect(data=sys.argv[1], cluster="inprocess", grace_s=0.2) as engine:
        try:
            engine.submit(Workflow("w", Sequence(never)), 1).result(timeout_s=30)
        except podium.errors.TaskFailed as failed:
            print(failed.cause_code)
    """
)


def test_a_plain_step_that_never_returns_keeps_no_program(tmp_path):
    done = subprocess.run([sys.executable, "-c", NEVER, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("timeout\n", 0), done.stderr


class Slow:
    """A lock at which threads of the pool wait, so that one has taken work and has not said so yet."""

    def __init__(self, lock):
        self.lock, self.main, self.may_go = lock, threading.current_thread(), threading.Event()

    def __enter__(self):
        if threading.current_thread() is not self.main:
            self.may_go.wait(10)
        self.lock.acquire()

    def __exit__(self, *_):
        self.lock.release()


def test_work_never_waits_behind_a_thread_that_has_just_taken_other_work():
    pool, over = Threads("t"), threading.Event()
    pool.submit(lambda: None).result(10)
    time.sleep(0.1)  # its thread waits for more
    lock = pool._lock = Slow(pool._lock)
    first = pool.submit(lambda: over.wait(10))
    time.sleep(0.1)  # it has taken this
    pool.submit(over.set)
    lock.may_go.set()
    assert first.result(20), "the second ran beside the first"
    pool.close()
