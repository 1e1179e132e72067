"""The sandbox: what each level of it claims to deny is denied, and nothing of a tool is left when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from pydantic import ValidationError

from podium.protocols.errors import InvalidInput
from podium.protocols.library import sandbox
from podium.protocols.library.sandbox import LEVELS, Box, SandboxTooWeak, ToolFailed, ToolNotStarted, run_boxed
from podium.protocols.library.sandbox_walls import landlock_abi
from tests.support.boxes import WALLED, at, boxed, python

LIMITED = ("limits", "landlock", "bubblewrap")
_serial = itertools.count()


@pytest.fixture
def mark():
    """A word for the command line by which a tool's processes are known; those left by a failed test are killed."""
    word = f"mark-{os.getpid()}-{next(_serial)}"
    yield word
    for process in marked(word):
        process.kill()


def marked(word):
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or ()
        if any(word in part for part in line) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.fixture
def outside(tmp_path):
    """A folder that no box was given, with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1); print('connected')"


def test_levels_are_ordered_and_the_weakest_always_holds():
    found = sandbox.levels()
    assert found[0] == "process"
    assert list(found) == [level for level in LEVELS if level in found]


@at(*LEVELS)
def test_a_tool_gets_its_stdin_and_its_streams_and_exit_code_come_back(level):
    source = "import sys; print(sys.stdin.read()); print('warning', file=sys.stderr); sys.exit(7)"
    ran = python(source, level=level, stdin=b"order")
    assert (ran.stdout, ran.stderr, ran.exit_code, ran.signal) == ("order\n", "warning\n", 7, None)
    assert (ran.level, ran.truncated, ran.timed_out, ran.exceeded) == (level, False, False, None)


@at(*LEVELS)
def test_without_stdin_a_tool_reads_nothing(level):
    assert boxed(["cat"], level=level).exit_code == 0


@at(*LEVELS)
def test_a_signal_that_ended_the_tool_is_named(level):
    ran = python("import os; os.kill(os.getpid(), 11)", level=level)
    assert (ran.exit_code, ran.signal) == (None, signal.SIGSEGV)


@at(*LEVELS)
def test_undecodable_output_is_replaced(level):
    assert python("import os; os.write(1, b'a\\xff')", level=level).stdout == "a\ufffd"


@at(*LEVELS)
def test_the_environment_is_clean(level, monkeypatch):
    monkeypatch.setenv("API_KEY", "hidden")
    lines = dict(line.split("=", 1) for line in boxed(["env"], level=level).stdout.splitlines())
    lines.pop("PWD", None)  # Bubblewrap's own.
    assert set(lines) == {"PATH", "LANG", "HOME", "TMPDIR"}
    assert lines["LANG"] == "C.UTF-8"
    assert lines["HOME"] == lines["TMPDIR"]


@at(*LEVELS)
def test_no_descriptor_but_the_streams_is_handed_down(level):
    with open("/etc/passwd", "rb") as held:
        os.set_inheritable(held.fileno(), True)
        source = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        assert python(source, level=level).stdout == "[0, 1, 2]\n"


@at(*LEVELS)
def test_the_working_directory_is_a_fresh_folder_that_is_deleted_afterwards(level):
    source = "import os; os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a', 0); print(os.getcwd())"
    ran = python(source, level=level)
    assert ran.exit_code == 0, ran.stderr
    assert "podium-box-" in ran.stdout
    assert not os.path.exists(ran.stdout.strip())


@at(*WALLED)
def test_a_file_outside_cannot_be_read(level, outside):
    ran = python("import sys; print(open(sys.argv[1]).read())", outside / "secret", level=level)
    assert ran.exit_code == 1
    assert "secret\n" not in ran.stdout


def test_at_the_weakest_level_the_same_attempts_succeed(outside, listener):
    source = "import sys; print(open(sys.argv[1]).read()); open(sys.argv[1], 'w'); bytearray(1 << 30)"
    assert python(source, outside / "secret", level="process").stdout == "secret\n"
    assert python(CONNECT, listener, level="process").stdout == "connected\n"


@at(*WALLED)
def test_a_folder_outside_cannot_be_listed(level, outside):
    assert python("import os, sys; os.listdir(sys.argv[1])", outside, level=level).exit_code == 1


@at(*WALLED)
@pytest.mark.parametrize(
    "attempt",
    [
        "open(secret, 'w')",
        "open(secret, 'a')",
        "open(secret + '.new', 'w')",
        "os.truncate(secret, 0)",
        "os.unlink(secret)",
        "os.rename(secret, secret + '.new')",
        "os.mkdir(secret + '.new')",
        "os.symlink('/etc', secret + '.new')",
        "os.link(secret, 'here')",
        "os.rename(secret, 'here')",
    ],
)
def test_nothing_outside_can_be_written(level, outside, attempt):
    ran = python(f"import os, sys; secret = sys.argv[1]; {attempt}", outside / "secret", level=level)
    assert ran.exit_code == 1
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"


@at(*WALLED)
def test_the_system_is_read_only(level):
    for place in ("/usr/podium-was-here", "/etc/podium-was-here", "/tmp/podium-was-here", "/dev/shm/podium-was-here"):
        assert python("import sys; open(sys.argv[1], 'w')", place, level=level).exit_code == 1
        assert not os.path.exists(place)


@at("bubblewrap")
def test_the_mode_of_a_file_outside_cannot_be_changed(level, outside):
    box = Box(read=(str(outside),))
    source = "import os, sys; os.chmod(sys.argv[1], 0o777)"
    assert python(source, outside / "secret", box=box, level=level).exit_code == 1


@at(*WALLED)
def test_a_symbolic_link_does_not_lead_outside(level, outside):
    source = "import os, sys; os.symlink(sys.argv[1], 'link'); print(open('link').read())"
    assert python(source, outside / "secret", level=level).exit_code == 1


@at(*LEVELS)
def test_a_folder_given_for_reading_can_be_read(level, outside):
    box = Box(read=(str(outside), "/no/such/folder"))
    assert (
        python("import sys; print(open(sys.argv[1]).read())", outside / "secret", box=box, level=level).exit_code == 0
    )


@at(*WALLED)
def test_a_folder_given_for_reading_cannot_be_written(level, outside):
    box = Box(read=(str(outside),))
    for mode in ("a", "w"):
        source = "import sys; open(sys.argv[1], sys.argv[2])"
        assert python(source, outside / "secret", mode, box=box, level=level).exit_code == 1
    assert (outside / "secret").read_text() == "secret"


@at(*LEVELS)
def test_a_folder_given_for_writing_can_be_written(level, outside):
    box = Box(write=(str(outside),))
    ran = python("import sys; open(sys.argv[1], 'w').write('new')", outside / "made", box=box, level=level)
    assert ran.exit_code == 0, ran.stderr
    assert (outside / "made").read_text() == "new"


@at(*WALLED)
def test_a_loopback_listener_cannot_be_reached(level, listener):
    ran = python(CONNECT, listener, level=level)
    assert ran.exit_code == 1
    assert "connected" not in ran.stdout


@at(*LEVELS)
def test_with_network_a_loopback_listener_is_reached(level, listener):
    assert python(CONNECT, listener, box=Box(network=True), level=level).stdout == "connected\n"


@at(*WALLED)
def test_neither_unix_nor_datagram_sockets_can_be_opened_but_pairs_can(level):
    source = """
import socket
socket.socketpair()
for family, kind in ((socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)):
    try:
        socket.socket(family, kind)
    except OSError:
        print("denied")
"""
    assert python(source, level=level).stdout == "denied\ndenied\n"


@at(*WALLED)
def test_memory_that_no_limit_counts_cannot_be_had(level):
    source = """
import os
try:
    os.memfd_create("hoard")
except OSError as error:
    print(type(error).__name__)
"""
    assert python(source, level=level).stdout == "OSError\n"


@at(*LIMITED)
def test_a_gigabyte_cannot_be_allocated(level):
    ran = python("bytearray(1 << 30)", level=level)
    assert ran.exit_code == 1
    assert "MemoryError" in ran.stderr


@at(*LIMITED)
def test_many_processes_together_cannot_use_more_memory_than_one(level, mark):
    source = f"""  # {mark}
import os, time
for _ in range(6):
    if os.fork() == 0:
        break
held = bytearray(b"x") * (30 << 20)
time.sleep(20)
"""
    ran = python(source.strip(), box=Box(memory_bytes=100 << 20), level=level)
    assert (ran.exceeded, ran.signal) == ("memory", signal.SIGKILL)
    assert not marked(mark)


@at(*LIMITED)
def test_shared_memory_counts_once(level):
    source = """
import os, time
held = bytearray(b"x") * (60 << 20)
for _ in range(5):
    if os.fork() == 0:
        time.sleep(0.1)
        os._exit(0)
for _ in range(5):
    os.wait()
"""
    assert python(source, box=Box(memory_bytes=150 << 20), level=level).exit_code == 0


@at(*LIMITED)
@pytest.mark.parametrize("line", ["os.fork()", "os.fork() or os.setsid()"], ids=["in its group", "detached"])
def test_a_fork_bomb_is_ended_as_a_whole(level, mark, line):
    source = f"import os, time  # {mark}\nfor _ in range(7):\n    {line}\ntime.sleep(20)"
    ran = python(source, box=Box(processes=16), level=level)
    assert (ran.exceeded, ran.signal) == ("processes", signal.SIGKILL)
    assert ran.seconds < 5
    assert not marked(mark)


@at(*LIMITED)
def test_a_bomb_of_threads_is_ended(level):
    source = """
import threading, time
threading.stack_size(32768)
for _ in range(100):
    threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
time.sleep(20)
"""
    ran = python(source, box=Box(processes=2), level=level)
    assert ran.exceeded == "processes" or "can't start new thread" in ran.stderr  # The kernel's limit came first.


@at(*LEVELS)
def test_as_many_processes_as_allowed_may_run(level):
    source = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        break\ntime.sleep(0.1)"
    assert python(source, box=Box(processes=4), level=level).exit_code == 0


@at(*LEVELS)
def test_an_endless_loop_ends_at_the_wall_clock_limit(level):
    ran = python("while True: pass", box=Box(wall_s=0.3), level=level)
    assert (ran.timed_out, ran.exit_code, ran.signal) == (True, None, signal.SIGKILL)
    assert 0.3 <= ran.seconds < 5


@at(*LIMITED)
def test_an_endless_loop_ends_at_the_limit_of_processor_time(level):
    ran = python("while True: pass", box=Box(cpu_s=1), level=level)
    assert (ran.timed_out, ran.signal) == (False, signal.SIGXCPU)


@at(*LEVELS)
def test_a_tool_that_ignores_every_signal_it_can_is_killed(level, mark):
    source = f"""  # {mark}
import signal, time
for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(20)
"""
    assert python(source.strip(), box=Box(wall_s=0.3), level=level).timed_out
    assert not marked(mark)


@at(*LEVELS)
def test_endless_output_is_cut_and_does_not_block(level):
    ran = boxed(["yes"], Box(wall_s=2.0, output_bytes=1000), level)
    assert (ran.stdout, ran.truncated, ran.timed_out) == ("y\n" * 500, True, True)


@at(*LEVELS)
def test_output_over_the_limit_does_not_hinder_the_tool(level):
    source = "import os\nfor _ in range(50):\n    os.write(1, b'o' * 65536)\n    os.write(2, b'e' * 65536)"
    ran = python(source, box=Box(output_bytes=10), level=level)
    assert (ran.exit_code, ran.stdout, ran.stderr, ran.truncated) == (0, "o" * 10, "e" * 10, True)


@at(*LIMITED)
def test_a_file_over_the_limit_cannot_be_written(level):
    ran = python("open('big', 'wb').write(bytes(2 << 20))", box=Box(file_bytes=1 << 20), level=level)
    assert ran.exit_code == 1
    assert "File too large" in ran.stderr


@at(*LIMITED)
def test_no_capability_is_left(level):
    lines = python("print(open('/proc/self/status').read())", level=level).stdout.splitlines()
    found = {line.split()[0]: int(line.split()[1], 16) for line in lines if line.startswith(("CapEff", "CapPrm"))}
    assert found == {"CapEff:": 0, "CapPrm:": 0}


@at(*LEVELS)
def test_a_detached_grandchild_does_not_outlive_the_tool(level, mark):
    ran = boxed(["sh", "-c", f"setsid sh -c 'sleep 20; : {mark}' & echo started"], level=level)
    assert (ran.exit_code, ran.stdout) == (0, "started\n")
    assert ran.seconds < 5
    assert not marked(mark)


@at(*LEVELS)
def test_a_detached_grandchild_does_not_outlive_the_wall_clock_limit(level, mark):
    line = f"setsid sh -c 'setsid sh -c \"sleep 20; : {mark}\" & sleep 20' & sleep 20"
    assert boxed(["sh", "-c", line], Box(wall_s=0.3), level).timed_out
    assert not marked(mark)


async def until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.005)


@at(*LEVELS)
def test_cancelling_whoever_waits_kills_all(level, mark, outside):
    async def scene():
        line = f"setsid sh -c 'pwd > {outside}/place; sleep 20; : {mark}' & sleep 20"
        running = asyncio.create_task(run_boxed(["sh", "-c", line], Box(write=(str(outside),)), level=level))
        place = outside / "place"
        await until(lambda: place.exists() and place.read_text().endswith("\n"))
        assert marked(mark)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not marked(mark)

    asyncio.run(scene())
    assert not os.path.exists((outside / "place").read_text().strip())


@at(*LEVELS)
def test_a_cancellation_at_any_moment_of_the_start_leaves_nothing(level, mark):
    async def scene():
        for delay_s in (0, 0.0005, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05):
            running = asyncio.create_task(run_boxed(["sh", "-c", f"sleep 20; : {mark}"], level=level))
            await asyncio.sleep(delay_s)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not marked(mark)

    asyncio.run(scene())


@pytest.fixture
def in_the_background():
    """Signals are ignored as in a command that a shell runs with `nohup … &`."""
    numbers = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@at(*LEVELS)
def test_a_cancellation_takes_effect_at_once_where_a_shell_ignores_signals(level, mark, in_the_background):
    async def scene():
        for delay_s in (0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02):
            running = asyncio.create_task(run_boxed(["sh", "-c", f"sleep 20; : {mark}"], level=level))
            await asyncio.sleep(delay_s)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, 30)
            assert not marked(mark)

    asyncio.run(scene())


@at(*LEVELS)
def test_a_tool_ignores_no_signal_that_podium_ignores(level, in_the_background):
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        ran = asyncio.run(run_boxed(["sh", "-c", f"kill -{number:d} $$; echo it is alive"], level=level))
        assert (ran.signal, ran.stdout) == (number, "")


def test_a_second_cancellation_does_not_cut_the_killing_short(mark, outside):
    async def scene():
        line = f"touch {outside}/ready; sleep 20; : {mark}"
        running = asyncio.create_task(run_boxed(["sh", "-c", line], Box(write=(str(outside),))))
        await until((outside / "ready").exists)
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not marked(mark)

    asyncio.run(scene())


PARENT = """
import asyncio, sys
from podium.protocols.library.sandbox import Box, run_boxed
line, folder, level = sys.argv[1:]
asyncio.run(run_boxed(["sh", "-c", line], Box(write=(folder,), wall_s=60), level=level))
"""


@at(*LEVELS)
def test_when_podium_is_killed_its_tools_die_and_their_folders_go(level, mark, outside):
    place = outside / "place"
    line = f"setsid sh -c 'pwd > {place}; sleep 50; : {mark}' & sleep 50"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, line, str(outside), level])
    try:
        asyncio.run(until(lambda: place.exists() and place.read_text().endswith("\n")))
    finally:
        parent.kill()
        parent.wait()
    asyncio.run(until(lambda: not marked(mark) and not os.path.exists(place.read_text().strip())))


@at("process", "limits")
def test_a_tool_that_kills_its_keeper_is_found_all_the_same(level, mark):
    ran = boxed(["sh", "-c", f"setsid sh -c 'sleep 20; : {mark}' & sleep 0.05; kill -9 $PPID; sleep 20"], level=level)
    assert ran.signal == signal.SIGKILL
    assert not marked(mark)


@at(*WALLED)
def test_a_tool_cannot_signal_processes_outside(level):
    if level == "landlock" and landlock_abi() < 6:
        pytest.skip("this kernel's Landlock does not cover signals")
    victim = subprocess.Popen(["sleep", "20"])
    try:
        python("import os, sys; os.kill(int(sys.argv[1]), 9)", victim.pid, level=level)
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(0.1)
        assert victim.returncode is None
    finally:
        victim.kill()
        victim.wait()


@at(*WALLED)
def test_a_tool_cannot_read_the_environment_of_podium(level):
    assert python("import sys; open(f'/proc/{sys.argv[1]}/environ').read()", os.getpid(), level=level).exit_code == 1


def test_without_a_level_the_strongest_available_is_taken():
    assert boxed(["true"]).level == sandbox.levels()[-1]


def test_a_tool_that_demands_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "levels", lambda: ("process", "limits"))
    with pytest.raises(SandboxTooWeak, match="'bubblewrap' is demanded, the strongest available is 'limits'"):
        boxed(["true"], Box(minimum="bubblewrap"))


def test_a_level_that_is_not_available_is_refused(monkeypatch):
    monkeypatch.setattr(sandbox, "levels", lambda: ("process",))
    with pytest.raises(SandboxTooWeak, match="'limits' is demanded, the strongest available is 'process'"):
        boxed(["true"], level="limits")


def test_a_level_below_what_the_tool_demands_is_refused():
    with pytest.raises(SandboxTooWeak, match="'limits' is demanded, the strongest available is 'process'"):
        boxed(["true"], Box(minimum="limits"), level="process")


@pytest.mark.parametrize(
    "error",
    [
        SandboxTooWeak(demanded="bubblewrap", available=None),
        ToolNotStarted(program="p", problem="q"),
        ToolFailed(message="m", kind="k", traceback="t"),
    ],
)
def test_errors_survive_pickling_with_their_fields(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


@at(*LEVELS)
def test_a_program_that_does_not_exist_is_said_to(level):
    with pytest.raises(ToolNotStarted, match="cannot run 'no-such-program'"):
        boxed(["no-such-program"], level=level)


@at("landlock")
def test_a_program_outside_cannot_be_executed(level, outside):
    program = outside / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    with pytest.raises(ToolNotStarted, match="Permission denied"):
        boxed([str(program)], level=level)


def test_a_relative_folder_is_refused():
    with pytest.raises(ValidationError, match="not an absolute path"):
        Box(read=("etc",))


FUNCTIONS = """
import os, time

def double(value):
    print("noise")
    return {"doubled": value["n"] * 2}

async def later(value):
    return value

def refuse(value):
    raise ValueError(f"no {value}")

def leave(value):
    raise SystemExit(3)

def vanish(value):
    os._exit(3)

def hang(value):
    time.sleep(20)

def hoard(value):
    return len(bytearray(1 << 30))

def chatter(value):
    return "x" * 100_000

def forge(value):
    os.write(3, b"[]")
    os._exit(0)

def strange(value):
    return object()

def read(value):
    return open(value).read()
"""


@pytest.fixture
def call(tmp_path):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "functions.py").write_text(FUNCTIONS)

    def call(name, value=None, box=None, level=None):
        ref = f"functions:{name}"
        return asyncio.run(sandbox.run_function(ref, value, box or Box(), (str(shelf),), level))

    return call


@at(*LEVELS)
def test_a_function_gets_its_value_and_its_answer_comes_back(level, call):
    assert call("double", {"n": 21}, level=level) == {"doubled": 42}


def test_an_async_function_is_awaited(call):
    assert call("later", ["ä", None, 1.5]) == ["ä", None, 1.5]


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("refuse", "ValueError", "no thing"),
        ("leave", "SystemExit", "3"),
        ("vanish", "ProcessDied", "exit code 3"),
        ("hang", "TimeoutError", r"ran out of time: 0\.5 s allowed"),
        ("chatter", "InvalidAnswer", "at most 65536 bytes"),
        ("strange", "InvalidAnswer", "not JSON"),
        ("forge", "InvalidAnswer", "an answer of its own"),
        ("absent", "AttributeError", "absent"),
    ],
)
def test_a_function_that_fails_says_how(call, name, kind, message):
    with pytest.raises(ToolFailed, match=message) as caught:
        call(name, "thing", Box(wall_s=0.5 if name == "hang" else 10))
    assert caught.value.kind == kind


def test_the_traceback_of_a_function_comes_along(call):
    with pytest.raises(ToolFailed) as caught:
        call("refuse", "thing")
    assert 'raise ValueError(f"no {value}")' in caught.value.traceback


@at(*LIMITED)
def test_a_function_cannot_allocate_a_gigabyte(level, call):
    with pytest.raises(ToolFailed) as caught:
        call("hoard", level=level)
    assert caught.value.kind == "MemoryError"


@at(*WALLED)
def test_a_function_cannot_read_outside(level, call, outside):
    with pytest.raises(ToolFailed) as caught:
        call("read", str(outside / "secret"), level=level)
    assert caught.value.kind in ("PermissionError", "FileNotFoundError")


def test_an_input_that_is_not_json_is_refused(call):
    with pytest.raises(InvalidInput, match="not JSON"):
        call("double", object())


def test_boxes_run_beside_each_other():
    async def scene():
        return await asyncio.gather(*(run_boxed(["sh", "-c", f"echo {number}"]) for number in range(8)))

    assert [ran.stdout for ran in asyncio.run(scene())] == [f"{number}\n" for number in range(8)]


def test_no_descriptor_is_lost():
    async def scene():
        for _ in range(3):
            await run_boxed(["true"])
            with pytest.raises(ToolNotStarted):
                await run_boxed(["no-such-program"])
            before.append(len(os.listdir("/proc/self/fd")))

    before: list[int] = []
    asyncio.run(scene())
    assert before[0] == before[2]


def test_it_runs_on_uvloop_too():
    uvloop = pytest.importorskip("uvloop")

    async def scene():
        cut = await run_boxed(["sh", "-c", "setsid sleep 20 & yes"], Box(wall_s=1.5, output_bytes=4))
        running = asyncio.create_task(run_boxed(["sleep", "20"]))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return cut, await run_boxed(["cat"], stdin=b"order")

    cut, ran = uvloop.run(scene())
    assert (cut.stdout, cut.timed_out) == ("y\ny\n", True)
    assert (ran.stdout, ran.exit_code) == ("order", 0)
