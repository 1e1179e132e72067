"""What runs is what was given: code has an identity, versions run beside each other, open tasks keep theirs."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest

import podium
from podium import Hierarchy, Parallel, Sequence, Step, Workflow
from podium.cluster.client.definition import definition_of
from podium.errors import FixTheCall, InvalidDefinition, TaskFailed
from podium.protocols.fingerprint import code_fingerprint
from podium.supervisors.messages.client import Deploy, Deployed
from podium.supervisors.tasks.plan import Plan
from podium.testing import Faults, Simulation, simulate
from tests.support.cells import cell_flow, last, lead, redefined

# one name, several protocols


def scale(factor):
    @podium.protocol
    async def scaled(x):
        return x * factor

    return scaled


def decorated(function):
    async def wrapper(x):
        return function(x)

    return podium.protocol(wrapper)


class Adder:
    def __init__(self, n):
        self.n = n

    async def add(self, x):
        return x + self.n


def protocol_class(n):
    class Adds(podium.Protocol):
        async def run(self, ctx, x):
            return x + n

    return Adds


def in_a_loop():
    made = []
    for n in (1, 10):

        async def plus(x, *, n=n):
            return x + n

        made.append(podium.protocol(plus))
    return made


@pytest.mark.parametrize(
    "protocols, result",
    [
        ([scale(2), scale(10), scale(3)], 60),
        ([decorated(lambda x: x + 1), decorated(lambda x: x * 10)], 20),
        ([podium.protocol(lambda x: x + 1), podium.protocol(lambda x: x * 10)], 20),
        ([podium.protocol(Adder(1).add), podium.protocol(Adder(10).add)], 12),
        ([protocol_class(1), protocol_class(10)], 12),
        (in_a_loop(), 12),
    ],
    ids=["factory", "decorator", "lambdas", "bound methods", "classes of a factory", "loop in a function"],
)
def test_protocols_of_one_name_do_each_their_own(protocols, result):
    assert simulate(Workflow("w", Sequence(*protocols)), [1]) == [result]
    assert simulate(Workflow("w", Sequence(*reversed(protocols))), [0]) is not None


def test_a_workflow_made_before_another_of_the_name_keeps_its_own():
    first = Workflow("first", Sequence(scale(7)))
    second = Workflow("second", Sequence(scale(8)))
    assert (simulate(first, [1]), simulate(second, [1])) == ([7], [8])


def test_the_same_code_again_is_the_same_protocol():
    assert repr(scale(2)) == repr(scale(2))
    assert Workflow("w", Sequence(scale(5))).hash == Workflow("w", Sequence(scale(5))).hash


def test_a_protocol_that_lost_its_name_in_the_module_is_refused_with_both_places():
    first = podium.protocol(_named("x + 1"))
    podium.protocol(_named("x * 10"))
    with pytest.raises(InvalidDefinition, match="another protocol has been defined under the name") as refused:
        Workflow("w", Sequence(first))
    assert str(refused.value).count("line 1 of ") == 2


def _named(does):
    space = {"__name__": __name__}
    exec(f"async def lost(x): return {does}", space)  # as a cell of a notebook does
    return space["lost"]


def test_functions_of_one_name_in_two_modules_run_both(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    made = [module(tmp_path, name, does) for name, does in (("north", "x + 1"), ("south", "x * 10"))]

    async def work(engine):
        flow = Workflow("w", Sequence(*(each.load for each in made)))
        result = await (await engine.submit(flow, 1)).result()
        pools = (await engine.status()).workflows["w"].pools
        return result, [pool.protocol for pool in pools]

    assert Simulation().run(work) == (20, ["north:load", "south:load"])


def module(folder, name, does, also=""):
    (folder / f"{name}.py").write_text(
        f"import podium\n{also}\n@podium.protocol\nasync def load(x):\n    return {does}\n"
    )
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
    return importlib.import_module(name)


# fingerprints


def versions_of(folder, name="flowing", also=""):
    made = importlib.import_module(name)
    return definition_of(Workflow("w", Sequence(made.load)))["hash"]


def test_the_fingerprint_follows_the_users_own_imports_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "deep.py").write_text("from . import deeper\n")
    (tmp_path / "pack" / "deeper.py").write_text("N = 1\n")
    (tmp_path / "other.py").write_text("N = 1\n")
    module(tmp_path, "flowing", "x", also="import json, pack.deep")
    seen = [versions_of(tmp_path)]
    (tmp_path / "other.py").write_text("N = 2000\n")
    assert versions_of(tmp_path) == seen[0], "nothing imports it"
    (tmp_path / "pack" / "deeper.py").write_text("N = 2000\n")
    seen.append(versions_of(tmp_path))
    (tmp_path / "flowing.py").write_text((tmp_path / "flowing.py").read_text() + "# more\n")
    seen.append(versions_of(tmp_path))
    assert len(set(seen)) == 3


def test_what_a_protocol_declares_is_part_of_the_version_and_defaults_are_not():
    def made(**settings):
        @podium.protocol(**settings)
        async def declared(x):
            return x

        return definition_of(Workflow("w", Sequence(declared)))

    one, two = made(), made(concurrency=2)
    assert one["tree"] == two["tree"]
    assert one["hash"] != two["hash"]
    assert made(concurrency=1)["hash"] == one["hash"]


@pytest.mark.parametrize("exactly", [True, False])
def test_code_is_told_apart_by_content(exactly):
    def closed(value):
        return lambda: value

    same = [closed([1, {"a": "b"}]), closed([1, {"a": "b"}])]
    other = [closed([1, {"a": "c"}]), closed(None), closed(2**80), lambda: 1, lambda: 2, len, Adder]
    prints = [code_fingerprint(each, exactly) for each in (*same, *other)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1


def test_what_cannot_be_compared_counts_by_itself_only_where_that_is_asked_for():
    def closed(value):
        return lambda: value

    one, two = closed(open("/dev/null")), closed(open("/dev/null"))  # noqa: SIM115
    assert code_fingerprint(one) == code_fingerprint(two)
    assert code_fingerprint(one, exactly=True) != code_fingerprint(two, exactly=True)


def test_fingerprints_end_in_rings_and_depths():
    ring = []
    ring.append(ring)
    deep = []
    for _ in range(5_000):
        deep = [deep]
    assert code_fingerprint(lambda: ring)
    assert code_fingerprint([ring, deep, list(range(100_000))])


# versions beside each other

GATE = asyncio.Event


def test_new_tasks_get_new_code_and_open_ones_keep_theirs():
    async def work(engine):
        old = await engine.submit(cell_flow("return ['old', x]"), 1)
        await asyncio.sleep(1)
        new = await engine.submit(cell_flow("return ['new', x]"), 2)
        found = (await old.result(), await new.result())
        await asyncio.sleep(30)
        status = (await engine.status()).workflows["w"]
        return found, status

    found, status = Simulation().run(work)
    assert found == (["old", 1], ["new", 2])
    assert [version.in_force for version in status.versions] == [False, True]
    assert len({version.code["tests.support.cells:cell"] for version in status.versions}) == 2
    assert [pool.protocol.partition(":")[2] for pool in status.pools] == ["last", "cell"], "the old one has ended"


def test_a_setting_that_changed_strands_no_open_task():
    async def work(engine):
        flow = cell_flow("return x", concurrency=1)
        tasks = await engine.submit_many(flow, [1, 2, 3])
        await asyncio.sleep(4)
        more = await engine.submit(cell_flow("return x", concurrency=2), 4)
        assert await more.result() == 4
        return [await task.result() for task in tasks]

    assert Simulation().run(work) == [1, 2, 3]


def test_the_same_version_with_another_folder_or_more_fields_strands_no_open_task():
    async def work(engine):
        flow = cell_flow("return x")
        tasks = await engine.submit_many(flow, [1, 2, 3])
        await asyncio.sleep(1)
        definition = {**definition_of(flow), "search_path": ["/elsewhere"], "of_a_later_podium": True}
        await engine._core.ask_coordinator(Deploy(definition, {}), Deployed)
        return [await task.result(timeout_s=60) for task in tasks]

    assert Simulation().run(work) == [1, 2, 3]


def test_a_version_of_a_podium_that_knew_no_fingerprints_goes_on_beside_a_new_one():
    async def work(engine):
        flow = cell_flow("return x")
        new = definition_of(flow)
        old = {key: value for key, value in new.items() if key not in ("tree", "code")} | {"hash": flow.hash}
        await engine._core.ask_coordinator(Deploy(old, {}), Deployed)
        task = await engine.submit_to(old, 1, user="ada")
        await asyncio.sleep(1)
        other = await engine.submit(flow, 2)
        return await task.result(timeout_s=60), await other.result(timeout_s=60)

    assert Simulation().run(work) == (1, 2)


@pytest.mark.parametrize("kill", [False, True])
def test_versions_survive_their_supervisor(kill):
    async def work(engine, simulation):
        old = await engine.submit(cell_flow("return x", concurrency=1), 1)
        new = await engine.submit(cell_flow("return x", concurrency=2), 2)
        await asyncio.sleep(1)
        simulation.kill("supervisor/w")
        return await old.result(timeout_s=60), await new.result(timeout_s=60)

    simulation = Simulation()
    assert simulation.run(lambda engine: work(engine, simulation)) == (1, 2)


def test_what_is_driven_again_runs_the_newest_code():
    async def work(engine):
        task = await engine.submit(cell_flow("raise ConnectionError('down')"), 1)
        with pytest.raises(TaskFailed):
            await task.result()
        await engine.deploy(cell_flow("return ['mended', x]"))
        (again,) = await engine.redrive([task.id])
        return await again.result(timeout_s=60)

    assert Simulation().run(work) == ["mended", 1]


@pytest.mark.parametrize("kill", [False, True])
def test_what_was_parked_runs_the_newest_code_when_it_is_driven_again(kill):
    simulation = Simulation()

    async def work(engine):
        parks = {"on_error": {"dependency": ["park"]}}
        task = await engine.submit(cell_flow("raise ConnectionError('down')", **parks), 1)
        await asyncio.sleep(10)
        assert await task.read_status() == "parked"
        await engine.deploy(cell_flow("return ['mended', x]", **parks))
        await engine.redrive([task.id])
        if kill:
            await asyncio.sleep(1)
            simulation.kill("supervisor/w")
        return await task.result(timeout_s=60)

    assert simulation.run(work) == ["mended", 1]


def test_a_nested_hierarchy_has_versions_too():
    def flow(does):
        return Workflow("w", Sequence(Step(last), Hierarchy(lead, team={"m": redefined(does)}, name="h")))

    async def work(engine):
        old = await engine.submit(flow("return ['old', x]"), 1)
        await asyncio.sleep(1)
        new = await engine.submit(flow("return ['new', x]"), 2)
        return await old.result(timeout_s=60), await new.result(timeout_s=60)

    assert Simulation().run(work) == (["old", 1], ["new", 2])


def test_one_hash_with_two_trees_is_refused():
    async def work(engine):
        flow = cell_flow("return x")
        task = await engine.submit(flow, 1)
        other = definition_of(Workflow("w", Parallel({"a": last})))
        false = {**other, "hash": definition_of(flow)["hash"], "tree": flow.hash}
        with pytest.raises(FixTheCall, match="is not that of what it holds"):
            await engine._core.ask_coordinator(Deploy(false, {}), Deployed)
        return await task.result(timeout_s=60)

    assert Simulation().run(work) == 1


# at the coordinator's door

SOUND = definition_of(Workflow("w", Sequence(last)))


@pytest.mark.parametrize(
    "changes",
    [
        {"root": None},
        {"root": {"step": "x"}},
        {"root": {"sequence": []}},
        {"name": "coordinator"},
        {"name": "../../etc"},
        {"name": 7},
        {"protocols": {}},
        {"protocols": {"tests.support.cells:last": {"ref": "x"}}},
        {"shards": 0},
        {"shards": 2**70},
        {"supervision": "none"},
        {"timeout_s": "soon"},
    ],
    ids=repr,
)
def test_what_is_no_definition_ends_its_own_deployment_and_nothing_else(changes):
    async def work(engine):
        with pytest.raises(FixTheCall):
            message = Deploy({**SOUND, **changes}, {})
            await engine._core.ask_coordinator(message, Deployed)
        return await (await engine.submit(Workflow("w", Sequence(last)), 1)).result(timeout_s=60)

    assert Simulation().run(work) == 1


@pytest.mark.parametrize("code", [None, [], {"a": "text"}, {1: b"x"}])
def test_code_that_is_none_is_refused(code):
    async def work(engine):
        with pytest.raises(FixTheCall):
            await engine._core.ask_coordinator(Deploy(SOUND, code), Deployed)

    Simulation().run(work)


def test_plans_of_one_tree_share_its_nodes():
    first = Plan(SOUND)
    assert (
        Plan({**SOUND, "hash": "other"}, first.root).settings(first.root.sequence[0]).ref == "tests.support.cells:last"
    )


def test_a_client_that_goes_on_with_an_older_version_has_its_hosts_made_anew():
    async def work(engine):
        old = cell_flow("return ['old', x]")
        definition = definition_of(old)
        assert await (await engine.submit(old, 1)).result() == ["old", 1]
        assert await (await engine.submit(cell_flow("return ['new', x]"), 2)).result() == ["new", 2]
        await asyncio.sleep(60)
        pools = (await engine.status()).workflows["w"].pools
        assert len(pools) == 2, "those of the old version are gone"
        task = await engine.submit_to(definition, 3, user="ada")
        assert (await task.result(timeout_s=60))[1] == 3
        await asyncio.sleep(60)
        return len((await engine.status()).workflows["w"].pools)

    assert Simulation().run(work) == 2


@pytest.mark.parametrize("seed", range(20))
def test_versions_that_come_and_go_in_quick_turns_lose_nothing(seed):
    faults = Faults(delay_s=0.2, commit_s=0.1, kills=2, kill_within_s=40)
    simulation = Simulation(seed, faults=faults, restart_intensity=1000, top_restart_intensity=1000)

    async def work(engine):
        tasks = []
        for n in range(8):
            tasks.append(await engine.submit(cell_flow(f"return [{n % 3}, x]"), n))
            await asyncio.sleep(simulation.rng.uniform(0, 10))
        return [(await task.result(timeout_s=1_000))[1] for task in tasks]

    assert simulation.run(work) == list(range(8)), "of whatever code: a host that starts again has the newest only"


def holding(thing):
    @podium.protocol
    async def held(x):
        return [x, thing.n]

    return held


def test_products_with_alike_contents_are_told_apart_by_counting():
    class Connection:
        def __init__(self, n):
            self.n = n
            self.lock = asyncio.Lock.__new__  # nothing that could be pickled

        def __reduce__(self):
            raise TypeError("never")

    one, two, three = (holding(Connection(n)) for n in (1, 2, 3))
    assert [repr(each).partition("held")[2] for each in (one, two, three)] == [">", "~2>", "~3>"]
    assert simulate(Workflow("w", Parallel({"a": one, "b": two, "c": three})), [0]) == [
        {"a": [0, 1], "b": [0, 2], "c": [0, 3]}
    ]
