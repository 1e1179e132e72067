"""`podium df`: what takes the space, by workflow."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

import podium
from podium import Hierarchy, Step, Workflow
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.stores import blobs_of
from podium.cluster.gateways.cli import df as command
from podium.cluster.space import Space, Unnamed, WorkflowSpace, bytes_in, space_of
from podium.cluster.store.address import StoreAddress
from podium.protocols.errors import BlobsAway
from tests.support import postgres
from tests.support.typed import passes_anything

SHARED, OWN = "s" * 5_000, "o" * 3_000


@podium.protocol
def lead(brief):
    return podium.verdict.accept("done") if brief["outcomes"] else podium.verdict.assign()


@podium.protocol
def writes(ctx, value):
    with open(f"{ctx.folder}/file", "wb") as file:
        file.write(b"f" * 700)
    return value


ONE = Workflow("one", passes_anything)
OTHER = Workflow("other", Step(writes))
NESTED = Workflow("nested", Hierarchy(lead, team={"m": passes_anything}, name="team", with_='{"n": 1}'))


def filled(folder, **database):
    """Return the address of an installation with tasks that name two blobs, one of which two workflows share."""
    with podium.connect(data=folder, cluster="inprocess", inline_bytes=1024, **database) as engine:
        tasks = [engine.submit(ONE, SHARED), engine.submit(ONE, OWN), engine.submit(OTHER, SHARED)]
        for task in [*tasks, engine.submit(NESTED, 1)]:
            task.result(timeout_s=30)
        return engine.settings.store


@pytest.fixture(params=["folder", "database"])
def place(request, tmp_path):
    if request.param == "folder":
        yield filled(tmp_path / "data")
    else:
        database = postgres.new_database()
        yield filled(tmp_path / "data", database=database.url, database_schema=database.schema)
        postgres.drop(database)


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path / "data")


def test_a_blob_counts_in_each_workflow_that_names_it_and_once_in_all(place):
    space = space_of(place)
    counted = {each.workflow: (each.tasks, len(each.blobs), each.blob_bytes) for each in space.workflows}
    assert counted == {"one": (2, 2, 8_000), "other": (1, 1, 5_000), "nested": (1, 0, 0)}
    assert (space.all.tasks, len(space.all.blobs), space.all.blob_bytes) == (4, 2, 8_000)
    assert all(each.journal_bytes > 100 for each in space.workflows) and space.notes_bytes > 0
    assert [each.total_bytes for each in space.workflows] == sorted(
        (each.total_bytes for each in space.workflows), reverse=True
    )
    assert space.folders["protocols"] == 700 and space.folders["logs"] > 0
    assert space.folders["cache"] == (8_000 if place.url else 0)
    assert space.total_bytes == sum(
        (space.all.journal_bytes, space.all.blob_bytes, space.notes_bytes, sum(space.folders.values()))
    )
    assert space.free_bytes > 0


def test_blobs_that_no_task_names_and_those_that_are_doomed_are_told_apart(place):
    store = blobs_of(place)
    store.put([b"u" * 40])
    store.doom(store.put([b"d" * 50]).name, time.time())
    space = space_of(place)
    assert (space.unnamed, space.doomed) == (Unnamed(1, 40), Unnamed(1, 50))


def test_it_is_the_same_while_a_cluster_runs(folder):
    before = space_of(folder)
    with podium.connect(data=folder.folder, cluster="inprocess"):
        now = space_of(folder)
    assert [each.to_json()["blobs"] for each in now.workflows] == [each.to_json()["blobs"] for each in before.workflows]
    assert now.all.tasks == before.all.tasks


def test_copies_drafts_and_logs_are_counted(folder):
    shards = folder.path / "shards"
    (shards / "one.db.format1").write_bytes(b"x" * 10)
    (shards / "one.damaged-20270101T000000Z").mkdir()
    (shards / "one.damaged-20270101T000000Z" / "one.db").write_bytes(b"x" * 200)
    (folder.path / "shards.moved-20270101000000").mkdir()
    (folder.path / "shards.moved-20270101000000" / "one.db").write_bytes(b"x" * 3_000)
    (folder.path / "daemon.log").write_bytes(b"x" * 40_000)
    draft = blobs_of(folder).new_draft()
    draft.write(b"half")
    space = space_of(folder)
    assert (space.folders["copies"], space.folders["drafts"]) == (3_210, 4)
    assert 40_000 < space.folders["logs"] < 60_000
    draft.abandon()


def test_a_size_does_not_change_by_looking(folder):
    assert space_of(folder).all.journal_bytes == space_of(folder).all.journal_bytes


def test_nothing_is_made_by_looking(tmp_path):
    assert space_of(StoreAddress(str(tmp_path / "none"))).total_bytes == 0
    assert not (tmp_path / "none").exists()
    database = postgres.new_database()
    for _ in range(2):
        space = space_of(StoreAddress(str(tmp_path / "none"), database.url, database.schema))
        assert (space.workflows, space.total_bytes) == ([], 0)
    assert bytes_in(tmp_path / "none") == 0
    assert space_of(StoreAddress(str(tmp_path), blobs="s3://bucket")).total_bytes == 0
    assert list(tmp_path.iterdir()) == []


def test_a_blob_store_that_is_away_hides_nothing_else(folder, monkeypatch, capsys):
    def listing(store):
        raise BlobsAway(place=store.place, reason="Input/output error")

    monkeypatch.setattr(FolderBlobs, "listing", listing)
    command.df(str(folder.path), "json")
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["unnamed"], facts["all"]["blob_bytes"]) == (None, 8_000)
    assert "Blobs that no task names are not counted: the blob store" in err and "Input/output error" in err


def test_the_command_prints_a_table_and_json(folder, cli):
    code, out, err = cli("df", "--data", folder.folder)
    lines = [line.split() for line in out.splitlines()]
    assert err == "A blob that several workflows name counts in each, and once in totals.\n"
    assert (code, lines[0]) == (0, ["workflow", "tasks", "journal", "blobs", "blob", "size", "total"])
    names = [line[0] for line in lines[1:] if line]
    assert sorted(names[:3]) == ["nested", "one", "other"] and names[3:5] == ["all", "notes"]
    assert names[-2:] == ["total", "free"]
    (row,) = [line for line in lines if line[:1] == ["one"]]
    assert row[1] == "2" and row[4:7] == ["2", "8.0", "kB"]
    facts = json.loads(cli("df", "--data", folder.folder, "-o", "json")[1])
    assert facts["all"] == {"tasks": 4, "blobs": 2, "blob_bytes": 8_000, "journal_bytes": facts["all"]["journal_bytes"]}
    assert {"workflow": "other", "tasks": 1, "blobs": 1, "blob_bytes": 5_000}.items() <= facts["workflows"][1].items()
    assert facts["free_bytes"] > facts["total_bytes"] > 8_000


def test_an_empty_folder_says_so_in_numbers(cli):
    code, out, err = cli("df", "--data", "none")
    assert (code, err) == (0, "") and out.splitlines()[1].split() == ["total", "0", "B"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal_and_only_names_are_cut(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    large = WorkflowSpace("w" * 64, 123_456_789, 999 * 10**9, {f"{n}": 999 * 10**6 for n in range(1_234)})
    space = Space(tmp_path, [large, replace(large, workflow="small", tasks=1)], 1, Unnamed(3, 10**9), Unnamed(), "")
    monkeypatch.setattr(command, "space_of", lambda _place: space)
    command.df(str(tmp_path), "table")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert len({len(line) for line in lines}) == 1, "columns stand below each other"
    assert ("…" in lines[1]) == (columns == 80)
    assert "123,456,789" in lines[1] and "1,234" in lines[1] and lines[1].rstrip().endswith("2.2 TB")
