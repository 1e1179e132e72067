"""Rules over the figures of the cluster: who is told, when, and what of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import psutil
import pytest

from podium import Sequence, Workflow
from podium.cluster import world
from podium.cluster.config import load_settings
from podium.cluster.world import run_command
from podium.errors import InvalidSetting
from podium.protocols.errors import HookFailed
from podium.supervisors.figures.alerts import Alerts
from podium.testing import Simulation
from tests import sample

STATUS = {"workflows": {"w": {"state": "up", "open": 3}}, "quotas": {}, "load": {"cpu": 0.5}, "throttle": {}}


def test_a_rule_is_told_when_it_begins_and_when_it_is_over():
    alerts = Alerts({"open": "workflows.w.open > 2", "down": 'workflows.exists(n, workflows[n].state == "down")'})
    (begun,) = alerts.look(STATUS, 10.0)
    assert (begun.name, begun.firing, begun.at) == ("open", True, 10.0)
    assert alerts.look(STATUS, 20.0) == [] and alerts.firing == [begun]
    (over,) = alerts.look({**STATUS, "workflows": {"w": {"state": "up", "open": 0}}}, 30.0)
    assert (over.name, over.firing, over.at) == ("open", False, 30.0)
    assert alerts.firing == []


def test_a_rule_over_what_is_not_there_yet_does_not_hold():
    assert Alerts({"later": "quotas.llm.waiting > 2"}).look(STATUS, 0.0) == []


def test_a_rule_that_does_not_compile_is_refused_with_its_name():
    with pytest.raises(InvalidSetting, match=r"'alerts' .*'busy': `cpu > 1`: .*known names: workflows, quotas, load"):
        load_settings(alerts={"busy": "cpu > 1"})
    with pytest.raises(InvalidSetting, match="a condition must give bool"):
        load_settings(alerts={"busy": "'yes'"})
    for command, problem in ((" ", "no command"), ("an 'open quote", "No closing quotation")):
        with pytest.raises(InvalidSetting, match=f"'on_alert' .*{problem}"):
            load_settings(on_alert=command)


def test_the_hook_gets_each_change():
    simulation = Simulation(
        limits={"llm": 1}, alerts={"queue": "quotas.llm.waiting > 3"}, alert_every_s=1.0, on_alert="tell ops"
    )

    async def work(engine):
        tasks = await engine.submit_many(Workflow("w", Sequence(sample.model)), [{"n": 1}] * 300)
        await asyncio.sleep(2)
        assert [each.name for each in (await engine.status()).alerts] == ["queue"]
        for task in tasks:
            await task.result()
        await asyncio.sleep(2)
        assert (await engine.status()).alerts == ()

    simulation.run(work)
    assert [command for command, _ in simulation.told] == ["tell ops", "tell ops"]
    assert [json.loads(text)["firing"] for _, text in simulation.told] == [True, False]


def test_a_command_gets_the_text_and_its_failure_is_told(tmp_path):
    there = tmp_path / "got it"
    take = f"import sys; open({str(there)!r}, 'w').write(sys.stdin.read())"
    asyncio.run(run_command(f'{sys.executable} -c "{take}"', "alert"))
    assert there.read_text() == "alert"
    with pytest.raises(HookFailed, match="ended with 3: no"):
        asyncio.run(run_command(f"{sys.executable} -c \"import sys; sys.stderr.write('no'); sys.exit(3)\"", ""))
    for wrong in ("/nowhere/hook", "an 'open quote"):
        with pytest.raises(HookFailed, match=f"`{wrong}`: "):
            asyncio.run(run_command(wrong, ""))


@pytest.mark.alone
def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "HOOK_S", 0.5)
    there = tmp_path / "pid"
    start = "child = subprocess.Popen(['sleep', '600'])"
    hang = f"import subprocess; {start}; open({str(there)!r}, 'w').write(str(child.pid)); child.wait()"
    with pytest.raises(HookFailed, match=r"still running after 0\.5 s, and ended"):
        asyncio.run(run_command(f'{sys.executable} -c "{hang}"', ""))
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(there.read_text())).wait(10)
