"""A program that has used Ray ends as it would have without: no words of Ray's, and its own handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from podium.cluster.on_ray.shutdown import _HiddenCore
from podium.cluster.signals import keeping_sigterm
from tests.support import ROOT


class Core:
    def get_current_job_id(self):
        return "job"


def reach(name, attribute):
    """What a thread of this name meets that looks for something of a core that another hides."""
    core, met = _HiddenCore(Core()), []
    assert core.get_current_job_id() == "job"

    def look():
        try:
            met.append(getattr(core, attribute))
        except Exception as error:
            met.append(error)

    thread = threading.Thread(target=look, name=name)
    thread.start()
    thread.join()
    return met


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # their end is what is tested
@pytest.mark.parametrize("name", ["ray_listen_error_messages", "ray_print_logs"])
@pytest.mark.parametrize("attribute", ["get_current_job_id", "current_job_id", "drain_and_exit_task_threads"])
def test_threads_of_ray_end_in_silence_while_it_is_left(name, attribute, capfd):
    assert reach(name, attribute) == []
    assert capfd.readouterr() == ("", "")


def test_other_threads_are_told(capfd):
    (error,) = reach("my own", "get_current_job_id")
    assert isinstance(error, AttributeError) and "Ray is being left" in str(error)
    (nothing,) = reach("ray_print_logs", "remove_object_ref_reference")
    assert nothing("x") is None


@pytest.mark.parametrize(
    "handler", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None], ids=["default", "ignored", "own"]
)
def test_sigterm_does_what_it_did_also_when_work_fails(handler):
    before = signal.signal(signal.SIGTERM, handler)
    code = "import ctypes, signal; ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(1))"  # as Ray does it, in C
    try:
        thread = threading.Thread(target=lambda: keeping_sigterm(lambda: exec(code)))
        thread.start()
        thread.join()
        assert _disposition() == _disposition_of(handler)
        with pytest.raises(ZeroDivisionError):
            keeping_sigterm(lambda: exec(code + "; 1 / 0"))
        assert _disposition() == _disposition_of(handler)
    finally:
        signal.signal(signal.SIGTERM, before)


def _disposition():
    """Of SIGTERM in this process, as the kernel has it: ignored, caught or default."""
    facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    bit = 1 << (signal.SIGTERM - 1)
    return "ignored" if int(facts["SigIgn"], 16) & bit else "caught" if int(facts["SigCgt"], 16) & bit else "default"


def _disposition_of(handler):
    return {signal.SIG_DFL: "default", signal.SIG_IGN: "ignored"}.get(handler, "caught")


DRIVER = """
import os, signal, sys, time
import podium

@podium.protocol
def sleep(n: int):
    time.sleep(n)

def ended(*_):
    print("handled", flush=True)
    sys.exit(3)

if __name__ == "__main__":
    if sys.argv[1] == "own":
        signal.signal(signal.SIGTERM, ended)
    with podium.connect(data="data", num_cpus=1) as engine:
        engine.submit(podium.Workflow("w", sleep), 30)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
"""


@pytest.mark.ray
@pytest.mark.parametrize(("whose", "code", "out"), [("default", -signal.SIGTERM, ""), ("own", 3, "handled\n")])
def test_a_driver_that_is_terminated_prints_nothing_of_ray(tmp_path, whose, code, out):
    (tmp_path / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, "driver.py", whose],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, out, "")
