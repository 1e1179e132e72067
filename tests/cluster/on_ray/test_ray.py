"""On a real local Ray cluster, with real kills. One cluster serves all tests but those that kill it whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

import podium
from podium import Hierarchy, Sequence, Step, Workflow
from podium.cluster.store.sqlite.reading import FileReader
from podium.errors import InvalidInput, SpawnFailed, TaskFailed
from podium.supervisors.tasks.events import unpack_events
from tests import sample
from tests.support import ROOT, typed
from tests.support.processes import has_ended, pid_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with podium.connect(data=tmp_path_factory.mktemp("ray"), limits={"llm": 2}, num_cpus=2) as engine:
        yield engine


def kill(engine, address):
    pid = pid_of(engine, address)
    os.kill(pid, signal.SIGKILL)
    return pid


def listening():
    """Addresses on which this process's children listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = set()
    for process in family:
        try:
            found |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_a_workflow_of_all_kinds_of_protocols(engine):
    @podium.protocol
    async def local(input):
        return {"n": input["n"] * 10}

    workflow = Workflow("kinds", Sequence(sample.add, sample.plain, local, sample.greet_number, sample.Tally))
    assert engine.submit(workflow, {"n": 1}).result(timeout_s=60) == 1


def test_a_hierarchy_has_a_supervisor_of_its_own(engine):
    workflow = Workflow("tiered", Sequence(Hierarchy(sample.lead, team={"x": sample.add}, name="h")))
    assert engine.submit(workflow, {"n": 1}).result(timeout_s=60) == {"x": {"n": 2}}
    assert pid_of(engine, "supervisor/tiered") != pid_of(engine, "supervisor/tiered/h")


def test_values_of_every_type_go_through(engine):
    typed.goes_through(engine)


def test_references_of_ray_are_taken_in_by_whoever_submits(engine):
    import ray

    array = np.arange(3)
    given = {"image": ray.put(array), "list": [ray.put(1), (ray.put({"a": 2}),)]}
    out = engine.submit(podium.Workflow("taken", typed.passes_anything), given).result(timeout_s=60)
    assert typed.same(out, {"image": array, "list": [1, [{"a": 2}]]})

    @ray.remote
    def fails():
        raise ValueError("no such object")

    with pytest.raises(InvalidInput, match=r"an object of Ray's cannot be taken in: .*no such object"):
        engine.submit(podium.Workflow("taken", typed.passes_anything), fails.remote())


def test_everything_listens_on_loopback_only(engine):
    assert listening() <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_no_process_of_ray_runs_that_nothing_uses(engine):
    lines = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            lines.append(" ".join(child.cmdline()))
    assert any("gcs_server" in line for line in lines)
    for unused in ("monitor.py", "dashboard/dashboard.py"):
        assert not any(unused in line for line in lines)


def test_hosts_start_with_podium_imported_and_with_nothing_of_that_for_the_collector(engine):
    facts = engine.submit(Workflow("facts", Sequence(sample.about_its_process)), None).result(timeout_s=60)
    assert facts["preloaded"] == "podium.cluster.on_ray.actors"
    assert facts["frozen"] > 10_000


def test_many_tasks(engine):
    workflow = Workflow("many", Sequence(sample.add, sample.add, sample.add))
    tasks = engine.submit_many(workflow, [{"n": n} for n in range(500)])
    assert [task.result(timeout_s=60)["n"] for task in tasks] == [n + 3 for n in range(500)]


def test_where_no_socket_can_be_the_same_goes_by_calls_of_ray(engine):
    folder = engine.settings.data.resolve() / "sockets"
    aside = folder.rename(folder.with_name("aside"))
    folder.touch()
    try:
        tasks = engine.submit_many(Workflow("called", Sequence(sample.add, sample.add)), [{"n": n} for n in range(50)])
        assert [task.result(timeout_s=60)["n"] for task in tasks] == [n + 2 for n in range(50)]
        kill(engine, "supervisor/called")
        assert engine.submit(Workflow("called", Sequence(sample.add, sample.add)), {"n": 1}).result(60) == {"n": 3}
    finally:
        folder.unlink()
        aside.rename(folder)


def test_a_failure_brings_the_traceback_across(engine):
    with pytest.raises(TaskFailed, match="ValueError: cannot do 3") as caught:
        engine.submit(Workflow("bad", Sequence(sample.fail)), 3).result(timeout_s=60)
    assert "sample.py" in caught.value.cause_traceback


def test_events_and_cancel(engine):
    task = engine.submit(Workflow("slow", Sequence(sample.slow)), {"s": 60})
    for event in task.events():
        if event.kind == "started":
            assert task.cancel() == "cancelled"
    assert event.kind == "cancelled"


@pytest.mark.alone
def test_a_plain_step_that_will_not_stop_is_stopped_with_its_host(engine):
    @podium.protocol(concurrency=2)
    def stuck(input):
        time.sleep(input["s"])
        return os.getpid()

    workflow = Workflow("stuck", Sequence(Step(stuck, timeout_s=1)))
    engine.deploy(workflow)
    began = time.monotonic()
    bad, good = engine.submit_many(workflow, [{"s": 3600}, {"s": 0.9}])
    with pytest.raises(TaskFailed, match="ran out of time"):
        bad.result(timeout_s=30)
    assert time.monotonic() - began < 10
    good.result(timeout_s=30)
    engine.submit(workflow, {"s": 0}).result(timeout_s=30)


def test_a_protocol_that_cannot_start_says_why(engine):
    class Broken(podium.Protocol):
        async def start(self):
            raise OSError("no such device")

        async def run(self, ctx, input):
            return input

    with pytest.raises(SpawnFailed, match="no such device"):
        engine.submit(Workflow("broken", Sequence(Broken)))


@pytest.mark.parametrize("victim", ["supervisor/victims/wide-0", "supervisor/victims", "resources", "coordinator"])
def test_work_goes_on_after_kill_9(engine, victim):
    workflow = Workflow("victims", Sequence(sample.wide, Step(sample.wide, quotas={"llm": 1}), sample.wide))
    tasks = engine.submit_many(workflow, [{"n": n, "s": 0.3} for n in range(10)])
    for event in tasks[0].events():
        if event.kind == "finished":
            break
    pid = kill(engine, victim)
    assert [task.result(timeout_s=120)["n"] for task in tasks] == [n + 3 for n in range(10)]
    engine.status()  # the coordinator answers it: the tasks may have ended before Ray has started it again
    assert pid_of(engine, victim) != pid
    assert engine.submit(workflow, {"n": 1, "s": 0}).result(timeout_s=60) == {"n": 4}


def test_a_shard_goes_on_after_kill_9_and_the_other_never_stopped(engine):
    workflow = Workflow("halves", Sequence(sample.wide, sample.wide), shards=2)
    tasks = engine.submit_many(workflow, [{"n": n, "s": 0.3} for n in range(10)])
    pids = [pid_of(engine, address) for address in ("supervisor/halves", "supervisor/halves~1")]
    assert kill(engine, "supervisor/halves~1") == pids[1]
    assert [task.result(timeout_s=120)["n"] for task in tasks] == [n + 2 for n in range(10)]
    assert pid_of(engine, "supervisor/halves") == pids[0]
    assert pid_of(engine, "supervisor/halves~1") != pids[1]


def test_the_permits_of_a_dead_supervisor_are_soon_free_for_others(engine):
    """Measured 0.6 s, the most of it the start of the successor's process; a busy machine takes longer."""
    step = Step(sample.wide, quotas={"llm": 1})
    holder, waiter = (Workflow(name, Sequence(step)) for name in ("holder", "waiter"))
    engine.deploy(waiter)
    holding = engine.submit_many(holder, [{"n": n, "s": 20} for n in range(2)])
    while engine.status().quotas["llm"].held < 2:
        time.sleep(0.05)
    waiting = engine.submit(waiter, {"n": 1, "s": 0})
    kill(engine, "supervisor/holder")
    began = time.monotonic()
    assert waiting.result(timeout_s=15) == {"n": 2}
    took_s = time.monotonic() - began
    print(f"free for others after {took_s:.2f} s")
    assert took_s < 10
    for task in holding:
        task.cancel()


WITNESSED = textwrap.dedent(
    """
    import asyncio, os, podium

    @podium.protocol(concurrency=2000)
    async def step(ctx, input):
        note(ctx, "start")
        await asyncio.sleep(0.2)
        note(ctx, "end")
        return {"n": input["n"] + 1}

    def note(ctx, what):
        handle = os.open(os.environ["WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{what} {ctx.task_id} {ctx.step}\\n".encode())
        os.close(handle)

    workflow = podium.Workflow("witnessed", podium.Sequence(step, step, step))
    """
)
DRIVER = textwrap.dedent(
    """
    import sys, podium
    from witnessed import workflow

    engine = podium.connect(data="data", num_cpus=2)
    tasks = engine.submit_many(workflow, [{"n": n} for n in range(int(sys.argv[1]))])
    print("accepted", len(tasks), flush=True)
    sys.stdin.read()
    """
)


def family_of(pid):
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def test_kill_9_of_driver_and_every_ray_process_loses_nothing(tmp_path):
    count = 200
    (tmp_path / "witnessed.py").write_text(WITNESSED)
    (tmp_path / "driver.py").write_text(DRIVER)
    witness = tmp_path / "witness.txt"
    witness.touch()
    environment = {**os.environ, "WITNESS": str(witness)}
    driver = subprocess.Popen(
        [sys.executable, "driver.py", str(count)],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout.readline() == f"accepted {count}\n".encode()
    while witness.read_text().count("end") < count // 2:
        time.sleep(0.02)
    for process in family_of(driver.pid):
        process.kill()
    driver.wait()
    recorded = recorded_starts(tmp_path / "data")
    before = Counter(line for line in witness.read_text().splitlines() if line.startswith("start"))
    finish = textwrap.dedent(
        """
        import podium
        with podium.connect(data="data", num_cpus=2) as engine:
            tasks = engine.tasks(limit=10_000)
            print(sorted(task.result(timeout_s=120)["n"] for task in tasks))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", finish],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == f"{list(range(3, count + 3))}\n", done.stderr
    starts = Counter(line for line in witness.read_text().splitlines() if line.startswith("start"))
    assert len(starts) == 3 * count
    again = {line for line in starts if starts[line] > before[line] > 0}
    assert not again & recorded, "a step ran again after its finish was recorded"
    assert again <= set(before) - recorded, "only what was in flight may run twice"
    assert max(starts.values()) <= 2


def recorded_starts(data):
    """The witness lines of all steps whose finish is in the journal."""
    reader = FileReader(data)
    stored = [reader.find_task(record.task_id) for record in reader.list_tasks(limit=100_000)]
    return {
        f"start {task.record.task_id} {event.path}"
        for task in stored
        for body in task.bodies
        for event in unpack_events(body)
    }


@podium.protocol(concurrency=10)
def sleepy(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def cli(engine, *arguments):
    """What `podium …` prints, run by another process beside this driver."""
    command = [sys.executable, "-m", "podium", *arguments, "--data", str(engine.settings.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_breakers_and_dead_letters_from_the_command_line(engine):
    @podium.protocol(breaker=podium.Breaker(min_calls=1000))
    def shaky(input):
        if Path(input).exists():
            raise ConnectionError("down")
        return "up"

    switch = engine.settings.data / "down"
    switch.touch()
    task = engine.submit(Workflow("shaky", Sequence(shaky)), str(switch))
    with pytest.raises(TaskFailed, match="down"):
        task.result(timeout_s=60)
    switch.unlink()
    assert "forced-open" in cli(engine, "breakers", "open", "shaky")
    with pytest.raises(TaskFailed, match="the breaker of 'shaky' refuses calls: somebody opened it"):
        engine.submit(Workflow("shaky", Sequence(shaky)), str(switch)).result(timeout_s=60)
    assert "closed" in cli(engine, "breakers", "reset", "shaky")
    listed = cli(engine, "dead", "ls", "--workflow", "shaky", "--category", "dependency")
    assert task.id in listed and listed.count("dependency") == 2
    ids = cli(engine, "dead", "redrive", "--all", "--workflow", "shaky").split()
    assert [engine.task(id).result(timeout_s=60) for id in ids] == ["up", "up"]
    assert engine.dead_letters(workflow="shaky") == []


@pytest.mark.alone
def test_a_plain_step_that_sleeps_for_an_hour_is_stopped_in_time_and_its_neighbours_are_unharmed(engine):
    workflow = Workflow("hour", Sequence(Step(sleepy, timeout_s=2)))
    engine.deploy(workflow)
    neighbours = engine.submit_many(workflow, [1.5, 1.0, 0.5])
    began = time.monotonic()
    with pytest.raises(TaskFailed, match="ran out of time"):
        engine.submit(workflow, 3600).result(timeout_s=30)
    took_s = time.monotonic() - began
    print(f"stopped after {took_s:.2f} s of 2 allowed")
    assert [task.result(timeout_s=30) for task in neighbours] == [1.5, 1.0, 0.5]
    assert engine.submit(workflow, 0).result(timeout_s=30) == 0
    assert took_s < 2 + 2


# kill -9 in the middle of what follows a failure; every run notes itself in a file


def noted(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def wait_until(holds, within_s=60):
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, "it never was"
        time.sleep(0.05)


def note(path, what):
    with Path(path).open("a") as file:
        file.write(f"{what}\n")


@podium.protocol(retry=podium.Retry(attempts=2, initial_delay_s=6, max_delay_s=6, jitter=False))
def fails_once(ctx, path: str) -> str:
    note(path, f"attempt-{ctx.attempt}")
    if ctx.attempt == 1:
        raise ConnectionError("not yet")
    return "done"


@podium.protocol
def fails(path: str) -> str:
    note(path, "fails")
    raise ValueError("never")


@podium.protocol
def takes_long(path: str) -> str:
    note(path, "begins")
    time.sleep(4)
    note(path, "ends")
    return path


@podium.protocol
def takes_back_long(done: dict) -> None:
    note(done["output"], "begins")
    time.sleep(4)
    note(done["output"], "taken-back")


@podium.protocol(breaker=podium.Breaker(min_calls=1, open_s=1, probes=1), retry=None)
def recovers(path: str) -> str:
    note(path, "begins")
    if len(noted(path)) == 1:
        raise ConnectionError("down")
    time.sleep(4)
    return "up"


MIDDLES = {
    "wait": (Sequence(fails_once), "attempt-1", "done"),
    "fallback": (Sequence(Step(fails, fallback=takes_long)), "begins", None),
    "undo": (Sequence(Step(sample.echo, undo=takes_back_long), fails), "begins", "failed"),
    "probe": (Sequence(recovers), "begins", "up"),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_a_supervisor_killed_in_the_middle_of_what_follows_a_failure_goes_on_with_it(engine, tmp_path, middle):
    root, sign, result = MIDDLES[middle]
    witness = str(tmp_path / "witness")
    workflow = Workflow(f"middle-{middle}", root)
    if middle == "probe":
        with pytest.raises(TaskFailed):
            engine.submit(workflow, witness).result(timeout_s=60)
        time.sleep(1.2)
    began, before = time.monotonic(), noted(witness)
    task = engine.submit(workflow, witness)
    wait_until(lambda: sign in noted(witness)[len(before) :])
    time.sleep(0.5)
    kill(engine, f"supervisor/middle-{middle}")
    if result == "failed":
        with pytest.raises(TaskFailed, match="never"):
            task.result(timeout_s=60)
    else:
        assert task.result(timeout_s=60) == (result or witness)
    runs = noted(witness)
    if middle == "wait":
        assert runs == ["attempt-1", "attempt-2"] and time.monotonic() - began >= 6
    if middle in ("fallback", "undo"):
        assert runs.count("fails") == 1 and runs[-1] in ("ends", "taken-back")
    if middle == "probe":
        wait_until(lambda: engine.status().breakers["recovers"].state == "closed")


def test_ray_tells_which_processes_are_gone_also_where_nothing_can_be_started(engine):
    """Ray takes an actor for dead as soon as it is to be killed; a stopped process is there all the same."""
    import ray

    from podium.cluster.on_ray.exits import Exits

    class Sleeper:
        def pid(self):
            return os.getpid()

    namespace, node = "exits", ray.get_runtime_context().get_node_id()
    named = ray.remote(num_cpus=0)(Sleeper).options
    actors = [named(name=f"a/{n}", namespace=namespace).remote() for n in range(2)]
    gone, stopped = ray.get([actor.pid.remote() for actor in actors])
    os.kill(stopped, signal.SIGSTOP)
    one, all_there = Exits(node, namespace, "a/0", below=False), Exits(node, namespace, "a/", below=True)
    while not one.end_all():
        time.sleep(0.01)
    assert has_ended(gone)
    for _ in range(30):
        assert not all_there.end_all()
        time.sleep(0.05)
    os.kill(stopped, signal.SIGCONT)
    while not all_there.end_all():
        time.sleep(0.01)
    assert has_ended(stopped)
    assert Exits(node, namespace, "b/", below=True).end_all()
    assert Exits("another node", namespace, "a/", below=True).end_all()
