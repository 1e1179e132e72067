"""Listing what is deployed, and taking it back."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from typer.testing import CliRunner

import podium
from podium import Hierarchy, Parallel, Sequence, Workflow
from podium.cluster.gateways.cli.main import app
from podium.errors import FixTheCall, NotFound
from podium.testing import Faults, Simulation
from tests import sample


@podium.protocol(concurrency=10)
async def slow(input):
    await asyncio.sleep(5)
    return input


def flow(name="w", *nodes, **settings):
    return Workflow(name, Sequence(*(nodes or (sample.echo,))), **settings)


async def names(engine):
    return [each.name for each in await engine.workflows()]


def test_what_is_deployed_is_listed_with_its_definition():
    async def work(engine):
        tree = flow("b", sample.echo, version="7", description="Says it again.", quotas={"llm": 1}, timeout_s=9.0)
        await engine.deploy(tree)
        await engine.submit_many(flow("a", slow, shards=2), range(3))
        await asyncio.sleep(1)
        first, second = await engine.workflows()
        assert (first.name, first.open, second.open) == ("a", 3, 0)
        assert (second.version, second.description, second.workflow) == ("7", "Says it again.", tree)
        assert second.to_json()["workflow"] == tree.to_dict() and json.dumps(second.to_json())
        await engine.deploy(flow("b", sample.echo, version="8"))
        assert [each.version for each in await engine.workflows()] == ["1", "8"]

    Simulation().run(work)


def test_a_workflow_that_is_taken_back_ends_is_not_listed_and_comes_back_when_it_is_deployed():
    async def work(engine):
        team = Hierarchy(sample.lead, team={"x": sample.echo})
        workflow = flow("w", Parallel({"a": team, "b": sample.echo}), shards=2)
        done = await engine.submit(workflow, 1)
        result = await done.result()
        await engine.deploy(flow("other"))
        await engine.undeploy("w")
        assert [each["name"] for each in await engine.definitions()] == ["other"], "what MCP publishes"
        assert await names(engine) == ["other"] and list((await engine.status()).workflows) == ["other"]
        assert not [address for address in simulation.cluster.addresses() if address.startswith("supervisor/w")]
        assert await (await engine.task(done.id)).read_status() == "completed"
        with pytest.raises(NotFound, match=r"no workflow 'w'; it was undeployed; deploy it again"):
            await engine.undeploy("w")
        again = await engine.submit(workflow, 1)
        assert await again.result() == result and await names(engine) == ["other", "w"]

    simulation = Simulation()
    simulation.run(work)


def test_one_that_nobody_knows_is_not_found():
    async def work(engine):
        await engine.deploy(flow("a"))
        with pytest.raises(NotFound, match="no workflow 'b'; deployed: a"):
            await engine.undeploy("b")

    Simulation().run(work)


def test_open_tasks_keep_it_unless_they_are_to_be_left_and_then_they_wait():
    async def work(engine):
        task = await engine.submit(flow("w", slow, slow), 3)
        await asyncio.sleep(6)
        with pytest.raises(FixTheCall, match="not undeployed: 1 task is open"):
            await engine.undeploy("w")
        assert await names(engine) == ["w"]
        await engine.undeploy("w", leave_open=True)
        await asyncio.sleep(100)
        assert await names(engine) == [] and await (await engine.task(task.id)).read_status() == "running"
        await engine.deploy(flow("w", slow, slow))
        assert await (await engine.task(task.id)).result() == 3

    Simulation().run(work)


def test_it_stays_taken_back_over_deaths_of_the_coordinator_with_its_open_tasks():
    async def work(engine):
        task = await engine.submit(flow("w", slow), 3)
        await asyncio.sleep(1)
        await engine.undeploy("w", leave_open=True)
        simulation.kill_all()
        await asyncio.sleep(60)
        assert list((await engine.status()).workflows) == [] and await names(engine) == []
        assert not [address for address in simulation.cluster.addresses() if address.startswith("supervisor/w")]
        await engine.deploy(flow("w", slow))
        assert await (await engine.task(task.id)).result() == 3

    simulation = Simulation()
    simulation.run(work)


@pytest.mark.parametrize("seed", range(20))
def test_a_task_that_comes_in_at_that_moment_is_run_or_refused_and_never_lost(seed):
    async def work(engine):
        workflow = flow("w")
        await (await engine.submit(workflow, 0)).result()
        taking_back = asyncio.ensure_future(engine.undeploy("w"))
        await asyncio.sleep(simulation.rng.uniform(0, 0.3))
        try:
            task = await engine.submit(workflow, 1)
        except NotFound:
            await taking_back
        else:
            try:
                await taking_back
            except FixTheCall:
                assert await names(engine) == ["w"]
            await engine.deploy(workflow)
            assert await (await engine.task(task.id)).result() == 1
        await engine.deploy(workflow)
        assert await (await engine.submit(workflow, 2)).result() == 2

    simulation = Simulation(seed, faults=Faults(delay_s=0.05, commit_s=0.05))
    simulation.run(work)


def test_its_quotas_hold_up_no_other_workflow():
    needs_b, needs_a = (podium.protocol(quotas={quota: 1})(function) for quota, function in (("b", _one), ("a", _two)))

    async def work(engine):
        await engine.deploy(Workflow("one", Sequence(needs_b), quotas={"a": 1}))
        await engine.undeploy("one")
        await engine.deploy(Workflow("two", Sequence(needs_a), quotas={"b": 1}))

    Simulation(limits={"a": 1, "b": 1}).run(work)


async def _one(input):
    return input


async def _two(input):
    return input


# on the command line


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PODIUM_CLUSTER", "inprocess")
    with podium.connect(data=tmp_path / ".podium", cluster="inprocess") as engine:
        for name in ("one", "two"):
            assert engine.submit(flow(name, description="Says \x1b[31mit."), 1).result() == 1
        assert [each.name for each in engine.workflows()] == ["one", "two"]
    return lambda *words: CliRunner().invoke(app, list(words))


def test_workflows_are_listed_shown_and_taken_back_on_the_command_line(cli):
    listed = cli("workflows")
    assert listed.exit_code == 0 and "\x1b" not in listed.stdout
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["workflow", "one", "two"]
    assert yaml.safe_load(cli("workflows", "two").stdout.replace("\\x1b", "\x1b"))["name"] == "two"
    assert [each["name"] for each in json.loads(cli("workflows", "-o", "json").stdout)] == ["one", "two"]
    assert cli("undeploy", "one").exit_code == 0
    assert [line.split()[0] for line in cli("workflows").stdout.splitlines()] == ["workflow", "two"]
    with pytest.raises(NotFound, match="no workflow 'one'; deployed: two"):
        raise cli("workflows", "one").exception


def test_without_a_data_directory_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["workflows"])
    assert (result.exit_code, result.stdout) == (0, "")
