"""Where the coordinator and the supervisors may live: `placement`."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from podium.cluster.config import load_settings
from podium.cluster.on_ray import many_machines
from podium.cluster.on_ray.machine import Membership
from podium.cluster.on_ray.many_machines import ManyMachines, Place
from podium.cluster.on_ray.placement import check_home, suits
from podium.cluster.store.address import StoreAddress
from podium.errors import InvalidSetting
from podium.supervisors.ports.world import Needs
from podium.supervisors.upkeep.machine_lease import MachineLease, MachineState, Neighbour, News

URL = "postgresql://podium@db.example/work"


def node(id, labels=(), resources=(), alive=True):
    facts = {"NodeID": id, "Alive": alive, "NodeManagerHostname": f"host-{id}"}
    return facts | {"Labels": dict(labels), "Resources": {"CPU": 2.0, **dict(resources)}}


NODES = [
    node("a", {"tier": "control", "zone": "x"}),
    node("b", {"tier": "work"}, {"control": 1.0, "empty": 0.0}),
    node("c", {"tier": "control"}),
    node("d", {"tier": "control"}, {"control": 1.0}, alive=False),
]


@pytest.mark.parametrize(
    ("placement", "suited"),
    [
        ("", "abcd"),
        ("tier=control", "acd"),
        ("tier=work", "b"),
        ("zone=y", ""),
        ("control", "bd"),
        ("empty", ""),
        ("tier", ""),
    ],
)
def test_a_placement_is_a_label_or_a_resource(placement, suited):
    assert "".join(each["NodeID"] for each in NODES if suits(each, placement)) == suited


def test_the_coordinator_is_started_where_it_may_live_or_it_is_said_where_that_is():
    check_home(NODES, "c", "tier=control", "keyword placement")
    with pytest.raises(InvalidSetting, match=r"'tier=control': start Podium on one that has: host-a, host-c$"):
        check_home(NODES, "b", "tier=control", "keyword placement")
    with pytest.raises(InvalidSetting, match="no machine has; `ray start … --labels zone=z`"):
        check_home(NODES, "b", "zone=z", "keyword placement")
    with pytest.raises(InvalidSetting, match=r"""`ray start … --resources '\{"stable": 1\}'`"""):
        check_home(NODES, "a", "stable", "podium.toml: placement")


@pytest.fixture
def machines(monkeypatch, tmp_path):
    """Make the machines that an actor on machine `a` sees."""
    monkeypatch.setattr(many_machines.ray, "nodes", lambda: NODES)
    monkeypatch.setattr(many_machines, "on_node", lambda id: id)
    free = {each["NodeID"]: each["Resources"] for each in NODES if each["Alive"]}
    monkeypatch.setattr(many_machines, "available_resources_per_node", lambda: free)

    def make(placement, avoided=()):
        machine = SimpleNamespace(avoided=lambda: set(avoided), id="m-a", on_lost=None, mark_drained=lambda: None)
        return ManyMachines(
            machine, StoreAddress(str(tmp_path), URL), Membership(1, True, placement=placement), "a", "space"
        )

    return make


def places(machines, role, needs=Needs()):  # noqa: B008  (it is frozen)
    return {machines.options(role, needs).get("scheduling_strategy") for _ in range(40)}


@pytest.mark.parametrize("role", ["supervisor", "resources"])
def test_owners_of_tasks_are_spread_over_the_machines_of_the_placement(machines, role):
    assert places(machines(""), role) == {"a", "b", "c"}
    assert places(machines("tier=control"), role) == {"a", "c"}
    assert places(machines("tier=control", avoided="c"), role) == {"a"}
    assert places(machines("tier=control", avoided="ac"), role) == {"a"}, "where the level above lives"
    used = machines("tier=control")
    used.spawned("supervisor/w", Place("m-a", "a"))
    assert places(used, role) == {"c"}


def draining(machines, placement, nodes, monkeypatch):
    """Return who is told to leave when Ray drains these machines."""
    monkeypatch.setattr(many_machines, "draining_nodes", lambda: dict.fromkeys(nodes, many_machines.time.time() + 60))
    made = machines(placement)
    made.spawned("supervisor/w", Place("m-a", "a"))
    made.spawned("supervisor/v", Place("m-c", "c"))
    return set(asyncio.run(made.look_for_draining("coordinator")))


def test_who_is_on_a_drained_machine_leaves_if_another_suits(machines, monkeypatch):
    assert draining(machines, "", "a", monkeypatch) == {"supervisor/w", "coordinator"}
    assert draining(machines, "tier=control", "c", monkeypatch) == {"supervisor/v"}
    assert draining(machines, "tier=control", "ac", monkeypatch) == set()
    assert draining(machines, "", "ac", monkeypatch) == {"supervisor/w", "supervisor/v", "coordinator"}


def test_owners_avoid_drained_machines_and_ray_itself_keeps_hosts_from_them(machines):
    made = machines("")
    made.draining = {"b": 0.0}
    assert places(made, "supervisor") == {"a", "c"}
    assert places(made, "host", Needs(num_cpus=1)) == {None}


def test_the_place_of_an_actor_is_known_until_it_is_certainly_gone(machines, monkeypatch):
    """A second end of it returned at once, although the process might have lived."""
    made = machines("")
    made.spawned("supervisor/w/wide-0", Place("m-c", "c"))

    async def work():
        gone = asyncio.Event()

        async def ended(*_where):
            await gone.wait()

        monkeypatch.setattr(made, "_ended", ended)
        ends = [asyncio.ensure_future(made.end("supervisor/w/wide-0")) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(end.done() for end in ends)
        gone.set()
        assert await asyncio.gather(*ends) == [True, True]
        return await made.end("supervisor/w/wide-0")

    assert asyncio.run(work()) is False


def test_hosts_live_where_they_have_room_whatever_the_placement(machines):
    assert places(machines("tier=control"), "host") == {None}
    assert places(machines("tier=control", avoided="a"), "host", Needs(num_cpus=1)) == {"b", "c"}


@pytest.mark.parametrize("may_be_home", [True, False])
def test_only_a_machine_of_the_placement_tries_to_become_the_home(may_be_home):
    lease = MachineLease(MachineState("me", "host", "node", 3, 9.0), 5.0, True, 0.0, may_be_home)
    neighbours = [Neighbour("first", "host-a", "a", True, 0.0), Neighbour("me", "host", "node", False, 5.0)]
    assert lease.heard(1.0, News("first", neighbours)) is may_be_home
    assert lease.over == "", "it works on until another machine is the home"
    assert lease.heard(2.0, News("me", neighbours)) is False


@pytest.mark.parametrize("written", ["tier=", "=control", "a b", "", "tier=control=x"])
def test_what_is_no_placement_is_refused(written):
    with pytest.raises(InvalidSetting, match="expected a label of Ray, as tier=control, or the name of a custom"):
        load_settings(data=URL, placement=written)


def test_a_folder_takes_no_placement():
    assert load_settings(data=URL, placement="ray.io/zone=eu-1").placement == "ray.io/zone=eu-1"
    with pytest.raises(InvalidSetting, match="it needs a database: a folder belongs to one machine"):
        load_settings(data=".podium", placement="tier=control")
