"""The synchronous client and the in-process cluster, in real time on real files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import podium
from podium import Parallel, Sequence, Step, Workflow
from podium.cluster.gc_tuning import RARE, USUAL
from podium.errors import DataInUse, EngineClosed, InvalidSetting, TaskFailed, WaitTimedOut
from tests import sample
from tests.support import typed

THREE = Workflow("three", Sequence(sample.add, sample.plain, sample.add))


@pytest.fixture
def engine(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path / "data", limits={"llm": 2}) as engine:
        yield engine


def test_values_of_every_type_go_through(engine):
    typed.goes_through(engine)


def test_submit_and_result(engine):
    task = engine.submit(THREE, {"n": 1})
    assert task.result(timeout_s=10) == {"n": 4}
    assert task.read_status() == "completed"


def test_many_tasks_with_one_acknowledgement(engine):
    tasks = engine.submit_many(THREE, [{"n": n} for n in range(300)])
    assert [task.result(timeout_s=30)["n"] for task in tasks] == [n + 3 for n in range(300)]


def test_no_tasks_are_accepted_at_once(engine):
    assert engine.submit_many(THREE, []) == []


def test_the_collector_looks_rarely_while_an_engine_is_open(tmp_path):
    assert gc.get_threshold() == USUAL
    with podium.connect(cluster="inprocess", data=tmp_path):
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == USUAL


def test_the_collector_looks_rarely_until_the_last_engine_closes(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path / "one"):
        with podium.connect(cluster="inprocess", data=tmp_path / "two"):
            pass
        assert gc.get_threshold() == RARE
    assert gc.get_threshold() == USUAL


def test_thresholds_of_the_user_are_left_alone(tmp_path):
    gc.set_threshold(1_000, 5, 5)
    try:
        with podium.connect(cluster="inprocess", data=tmp_path):
            assert gc.get_threshold() == (1_000, 5, 5)
    finally:
        gc.set_threshold(*USUAL)


@pytest.mark.parametrize(
    "root",
    [
        Sequence(sample.add, sample.plain, sample.model),
        Parallel(*[Step(sample.echo, name=f"s{n}") for n in range(5)]),
        Sequence(sample.echo, sample.fail),
    ],
    ids=["sequence", "parallel", "failure"],
)
def test_what_has_run_leaves_nothing_to_the_collector(engine, root):
    """Its pauses would stop everything, and grow with the load."""
    workflow, inputs = Workflow("clean", root), [{"n": n} for n in range(20)]

    def run():
        for task in engine.submit_many(workflow, inputs):
            with contextlib.suppress(TaskFailed):
                task.result(timeout_s=30)

    run()
    gc.collect()
    gc.disable()
    try:
        run()
        assert gc.collect() < len(inputs)
    finally:
        gc.enable()


def test_events_are_live(engine):
    task = engine.submit(Workflow("w", Sequence(sample.echo, sample.slow)), {"s": 0.2})
    kinds = [event.kind for event in task.events()]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "completed"


@pytest.mark.alone
def test_plain_protocols_run_in_threads_and_beside_each_other(engine):
    workflow = Workflow("w", Parallel({"a": sample.blocking, "b": Step(sample.slow)}))
    began = time.monotonic()
    engine.submit(workflow, {"s": 0.5}).result(timeout_s=10)
    assert time.monotonic() - began < 0.95


def test_a_plain_protocol_that_heeds_the_flag_ends_at_its_time_out(engine):
    task = engine.submit(Workflow("w", Sequence(Step(sample.blocking, timeout_s=0.2))), {"s": 60})
    with pytest.raises(TaskFailed, match="ran out of time"):
        task.result(timeout_s=10)


def test_an_error_that_cannot_even_be_described_fails_its_step_and_no_other(engine):
    workflow = Workflow("odd", Sequence(sample.fail_unspeakably))
    with pytest.raises(TaskFailed, match="Unspeakable"):
        engine.submit(workflow, 1).result(timeout_s=10)
    assert engine.submit(workflow, 0).result(timeout_s=10) == 0


def test_a_wait_may_time_out(engine):
    task = engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 60})
    with pytest.raises(WaitTimedOut):
        task.result(timeout_s=0.05)
    assert task.cancel() == "cancelled"


def test_open_tasks_resume_when_the_engine_starts_again(tmp_path):
    workflow = Workflow("w", Sequence(sample.echo, sample.slow, sample.echo))
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        ids = [task.id for task in engine.submit_many(workflow, [{"s": 0.05}] * 5)]
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        assert [engine.task(id).result(timeout_s=10) for id in ids] == [{"s": 0.05}] * 5


def test_a_second_engine_on_the_same_data_is_told_who_has_it(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        assert not engine.joined
        with pytest.raises(DataInUse, match=f"in use by an in-process engine \\(process {os.getpid()}\\)"):
            podium.connect(cluster="inprocess", data=tmp_path)


def test_a_closed_engine_says_so(tmp_path):
    engine = podium.connect(cluster="inprocess", data=tmp_path)
    task = engine.submit(Workflow("w", Sequence(sample.slow)), {"s": 60})
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed):
        task.result(timeout_s=5)
    with pytest.raises(EngineClosed):
        engine.submit(THREE, {"n": 1})


def test_nothing_is_left_when_an_engine_closes(tmp_path):
    import threading

    before = {thread.name for thread in threading.enumerate()}
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        engine.submit(THREE, {"n": 1}).result(timeout_s=10)
    after = {t.name for t in threading.enumerate() if not t.name.startswith(("supervisor", "asyncio"))}
    assert after <= before | {"MainThread"}


def test_the_async_engine_works_in_a_running_loop(tmp_path):
    async def work():
        async with podium.connect_async(cluster="inprocess", data=tmp_path) as engine:
            task = await engine.submit(THREE, {"n": 1})
            kinds = [event.kind async for event in task.events()]
            assert kinds[-1] == "completed"
            return await task.result()

    assert asyncio.run(work()) == {"n": 4}


def test_connect_prints_nothing_and_leaves_logging_signals_and_cwd_alone(tmp_path, capfd):
    before = (logging.getLogger().handlers[:], logging.getLogger().level, os.getcwd())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        engine.submit(THREE, {"n": 1}).result(timeout_s=10)
    assert (logging.getLogger().handlers[:], logging.getLogger().level, os.getcwd()) == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")


def test_settings_come_from_keyword_over_variable_over_file(tmp_path, monkeypatch):
    from podium.cluster.config import load_settings

    monkeypatch.chdir(tmp_path)
    (tmp_path / "podium.toml").write_text('lease_s = 11\ngrace_s = 3\nuser = "file"\n[limits]\nllm = 7\n')
    monkeypatch.setenv("PODIUM_GRACE_S", "4")
    monkeypatch.setenv("PODIUM_USER", "variable")
    settings = load_settings(user="keyword", num_cpus=None)
    assert (settings.lease_s, settings.grace_s, settings.user) == (11, 4, "keyword")
    assert settings.limits == {
        "request": 50,
        "request per user": 10,
        "llm": 7,
        "tool": 10,
        "context": 20,
        "background": 20,
    }
    assert settings.sources["lease_s"] == "podium.toml: lease_s"
    assert settings.sources["grace_s"] == "PODIUM_GRACE_S"
    assert settings.sources["user"] == "keyword user"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lease": 3}, r"setting 'lease' \(keyword lease\): no such setting; did you mean 'lease_s'\?$"),
        (
            {"xyzzy": 3},
            r"setting 'xyzzy' \(keyword xyzzy\): no such setting; there are data, database, database_schema",
        ),
        ({"lease_s": "x"}, r"setting 'lease_s' \(keyword lease_s\): Input should be a valid number.*not 'x'"),
        ({"cluster": "moon"}, r"setting 'cluster' .*Input should be 'ray' or 'inprocess', not 'moon'"),
        ({"rates": {"cli": 5}}, r"setting 'rates' .*string"),
        ({"rates": {"fax": "5/s"}}, r"'fax': expected a rate such as '10/s burst 50' for driver, cli or mcp"),
        (
            {"limits": {"llm": -1}},
            r"setting 'limits' \(keyword limits\): limits.llm: a whole number, 0 or more, .*not -1$",
        ),
        ({"rates": {"cli": "often"}}, r"setting 'rates' \(keyword rates\): [^{]*'often'[^{]*$"),
        (
            {"weights": {"ada": 0}},
            r"setting 'weights' \(keyword weights\): ada: Input should be greater than 0, not 0$",
        ),
        (
            {"config": {"requests": {"modle": {}}}},
            r"config\): config.requests.modle: unknown key `modle`; did you mean `model`\?$",
        ),
    ],
)
def test_a_bad_setting_names_itself_and_its_source(keywords, message):
    with pytest.raises(InvalidSetting, match=message):
        podium.connect(**keywords)


def test_a_killed_in_process_driver_loses_nothing(tmp_path):
    """kill -9 of the whole process in the middle; the next engine finishes every accepted task."""
    script = textwrap.dedent(
        f"""
        import podium, sys
        from tests import sample
        workflow = podium.Workflow("w", podium.Sequence(sample.echo, sample.wide, sample.echo))
        engine = podium.connect(cluster="inprocess", data={str(tmp_path)!r})
        tasks = engine.submit_many(workflow, [{{"n": n, "s": 5}} for n in range(20)])
        print(len(tasks), flush=True)
        sys.stdin.read()
        """
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert driver.stdout.readline() == b"20\n"
    driver.kill()
    driver.wait()
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        tasks = engine.tasks(limit=100)
        assert len(tasks) == 20
        assert sorted(task.result(timeout_s=30)["n"] for task in tasks) == list(range(1, 21))


@pytest.mark.alone
def test_the_first_result_comes_within_a_second_of_connecting(tmp_path):
    began = time.monotonic()
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        engine.submit(THREE, {"n": 1}).result(timeout_s=10)
    assert time.monotonic() - began < 1.0


def test_what_is_stored_is_plain_data_and_private(tmp_path):
    with podium.connect(cluster="inprocess", data=tmp_path) as engine:
        engine.submit(THREE, {"n": 1}).result(timeout_s=10)
        assert json.loads((tmp_path / "cluster.json").read_text())["kind"] == "inprocess"
        assert (tmp_path / "shards" / "three.db").stat().st_mode & 0o077 == 0
    assert json.loads((tmp_path / "cluster.json").read_text())["kind"] == "closed"
