"""`podium doctor` and the blob store: what is missing, damaged, or named by nobody."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from rich.console import Console

import podium
from podium import Workflow
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.stores import blobs_of
from podium.cluster.doctor.blobs import BlobCheck
from podium.cluster.doctor.checks import examine
from podium.cluster.doctor.database import examine_database
from podium.cluster.doctor.findings import Finding
from podium.cluster.doctor.repair import repair
from podium.cluster.gateways.cli.doctor import findings_table
from podium.cluster.store.address import StoreAddress
from podium.cluster.store.contract import BlobUse
from podium.cluster.store.records import Records
from podium.cluster.store.sqlite.schema import shard_path
from podium.protocols.errors import BlobsAway
from tests.support import postgres
from tests.support.typed import passes_anything

DAY_S = 86_400.0
FLOW = Workflow("w", passes_anything)
TEXT = "t" * 5_000


class Installation:
    """An installation whose two tasks name one blob, which is the input and output of both."""

    def __init__(self, folder, **settings) -> None:
        self.folder, self._settings = folder, {"data": folder, "cluster": "inprocess", "inline_bytes": 1024, **settings}
        with self.engine() as engine:
            tasks = [engine.submit(FLOW, TEXT) for _ in range(2)]
            for task in tasks:
                task.result(timeout_s=30)
            self.ids = [task.id for task in tasks]
            self.place = engine.settings.store
        self.store = blobs_of(self.place)
        (self.name,) = [blob.name for blob in self.store.listing()]

    def engine(self):
        return podium.connect(**self._settings)

    def examined(self, *, in_s=0.0, reads=False, grace_s=DAY_S):
        """Return the findings about blobs that are not ok, and what those that are ok say."""
        check = BlobCheck(self.place, grace_s, time.time() + in_s, reads)
        found = examine_database(self.place, check) if self.place.url else examine(self.folder, blobs=check)
        blobs = [each for each in found if each.check == "blob"]
        fine = [each.what for each in blobs if each.level == "ok"]
        return [each for each in blobs if each.level != "ok"], fine

    def damage(self, content: bytes | None) -> None:
        """Change the content of the blob behind everybody's back; None deletes it."""
        if self.place.url:
            remote = self.store.remote
            with remote._connected() as db:
                db.execute(f"DELETE FROM {remote._contents}" if content is None else f"DELETE FROM {remote._pieces}")
                if content is not None:
                    db.execute(f"INSERT INTO {remote._pieces} VALUES (%s, 0, %s)", (self.name, content))
        elif content is None:
            self.store.path(self.name).unlink()
        else:
            self.store.path(self.name).write_bytes(content)


@pytest.fixture(params=["folder", "elsewhere", "database"])
def installation(request, tmp_path):
    if request.param == "folder":
        yield Installation(tmp_path / "data")
    elif request.param == "elsewhere":
        yield Installation(tmp_path / "data", blobs=f"file://{tmp_path}/elsewhere")
    else:
        database = postgres.new_database()
        yield Installation(tmp_path / "data", database=database.url, database_schema=database.schema)
        postgres.drop(database)


@pytest.fixture
def folder(tmp_path):
    return Installation(tmp_path / "data")


def test_what_is_named_and_there_is_counted(installation):
    assert installation.examined() == ([], ["1 blob, 5.0 kB, named by 2 tasks"])
    large = "l" * 9_000_000  # several pieces
    with installation.engine() as engine:
        engine.submit(FLOW, large).result(timeout_s=30)
    told = ["2 blobs, 9.0 MB, named by 3 tasks, each read and as it was put"]
    assert installation.examined(reads=True) == ([], told)


def test_contents_are_read_if_that_is_wanted(installation):
    assert installation.examined(reads=True)[1] == ["1 blob, 5.0 kB, named by 2 tasks, each read and as it was put"]


def test_a_missing_blob_is_a_problem_with_the_tasks_that_name_it(installation):
    installation.damage(None)
    ((finding,), _) = installation.examined(reads=True)
    assert (finding.level, finding.place) == ("problem", installation.name)
    assert finding.what.startswith("missing; named by tasks ")
    assert all(id in finding.what for id in installation.ids)
    assert finding.remedy.startswith(f"put it back from a backup of {installation.store.place}: ")
    assert finding.remedy.endswith("tasks that need it fail as `blob_missing`")


def test_a_changed_content_is_found_when_contents_are_read(installation):
    installation.damage(b"T" + TEXT.encode()[1:])
    assert installation.examined()[0] == []
    ((finding,), _) = installation.examined(reads=True)
    assert (finding.level, finding.place) == ("problem", installation.name)
    assert finding.what.startswith("damaged: the content is not what its name says; named by tasks t-")
    assert finding.remedy.endswith("tasks that need it fail as `blob_corrupt`")


def test_another_size_is_found_without_reading(folder):
    folder.damage(b"short")
    ((finding,), _) = folder.examined(reads=True)
    assert finding.what.startswith("damaged: it has 5 bytes, and had 5,000; named by")


def test_of_many_tasks_that_name_a_blob_three_are_told(folder):
    folder.damage(None)
    check = BlobCheck(folder.place, DAY_S, time.time())
    check.see(Records(uses=[BlobUse("w", f"t-{n}", folder.name, 5_000) for n in range(1_003)]))
    (finding, _) = check.findings()
    assert finding.what == "missing; named by tasks t-0, t-1, t-2 and 1,000 more"


def test_a_second_generation_is_checked_against_the_same_digest(folder):
    folder.store.doom(folder.name, time.time())
    with folder.engine() as engine:
        engine.submit(FLOW, TEXT).result(timeout_s=30)
    folder.store.spare(folder.name)
    assert folder.examined(reads=True) == ([], ["2 blobs, 10 kB, named by 3 tasks, each read and as it was put"])


def test_what_nobody_names_is_a_warning_after_a_grace_and_a_sweep(installation):
    installation.store.put([b"o" * 3_000])
    assert installation.examined(in_s=DAY_S)[0] == [], "it is swept soon"
    ((finding,), fine) = installation.examined(in_s=DAY_S + 3_700)
    assert (finding.level, finding.what) == ("warning", "orphaned: 1 blob, 3.0 kB, that no task names")
    assert finding.remedy == "a running cluster sweeps them: podium up"
    assert fine == ["1 blob, 5.0 kB, named by 2 tasks"]


def test_what_was_doomed_has_another_grace(folder):
    key = folder.store.put([b"o" * 3_000])
    folder.store.doom(key.name, time.time() + 2 * DAY_S)
    assert folder.examined(in_s=3 * DAY_S)[0] == []
    assert [finding.level for finding in folder.examined(in_s=3 * DAY_S + 3_700)[0]] == ["warning"]


def test_a_cluster_that_runs_sweeps_what_nobody_names(folder):
    key = folder.store.put([b"o" * 3_000])
    with folder.engine():
        told = folder.examined(in_s=2 * DAY_S)
        assert told[0] == []
        assert told[1][0] == "1 blob, 3.0 kB, that no task names any more: the cluster sweeps them"
        folder.store.doom(key.name, time.time())
        ((finding,), _) = folder.examined(in_s=2 * DAY_S)
        assert "the cluster does not sweep them: its log says why" in finding.remedy


def test_what_was_named_after_the_shards_were_read_is_no_orphan(folder):
    check = BlobCheck(folder.place, DAY_S, time.time() + 2 * DAY_S)
    assert [finding.what for finding in check.findings()] == ["no task names a blob"]


def test_nothing_is_said_of_orphans_while_a_shard_cannot_be_read(folder):
    folder.store.put([b"o" * 3_000])
    with closing(sqlite3.connect(shard_path(folder.folder, "w"), isolation_level=None)) as db:
        db.execute("UPDATE blobs SET size = 7")
    assert folder.examined(in_s=2 * DAY_S) == ([], ["no task names a blob"])


def test_a_store_that_cannot_be_used_is_a_problem(folder, monkeypatch):
    def listing(store):
        raise BlobsAway(place=store.place, reason="Input/output error")

    monkeypatch.setattr(FolderBlobs, "listing", listing)
    ((finding,), fine) = folder.examined()
    assert (finding.level, finding.place, fine) == ("problem", str(folder.folder / "blobs"), [])
    assert finding.what == "cannot be used: Input/output error"


def test_a_blob_that_cannot_be_read_does_not_hide_the_others(folder, monkeypatch):
    def read(store, name):
        raise BlobsAway(place=store.place, reason="Input/output error")

    monkeypatch.setattr(FolderBlobs, "read", read)
    ((finding,), fine) = folder.examined(reads=True)
    assert finding.what.startswith("damaged: it cannot be read: Input/output error; named by")
    assert fine == ["1 blob, 5.0 kB, named by 2 tasks"]

    monkeypatch.setattr(FolderBlobs, "size_of", read)
    ((finding,), fine) = folder.examined(reads=True)
    assert (finding.what, fine) == ("cannot be used: Input/output error", [])


def test_a_database_without_tables_gets_none(tmp_path):
    database = postgres.new_database()
    place = StoreAddress(str(tmp_path), database.url, database.schema)
    for _ in range(2):
        found = examine_database(place, BlobCheck(place, DAY_S, time.time()))
        assert [(each.check, each.level) for each in found] == [("database", "ok"), ("tables", "warning")]


@pytest.mark.parametrize("texts", [[], [TEXT]])
def test_where_the_installation_has_no_name_in_the_store_it_gets_none(tmp_path, texts):
    """It has had no blob yet; or the name is lost, and another one would hide the blobs for good."""
    folder = Installation(tmp_path / "data", blobs=f"file://{tmp_path}/elsewhere")
    place = folder.place._replace(installation="")
    (folder.folder / "installation").unlink()
    check = BlobCheck(place, DAY_S, time.time())
    check.see(Records(uses=[BlobUse("w", "t-1", folder.name, len(text)) for text in texts]))
    (finding,) = check.findings()
    assert finding.place == place.blobs and not (folder.folder / "installation").exists()
    assert check.drop_drafts() == []
    if texts:
        assert (finding.level, finding.what) == ("problem", "1 blob of 1 task cannot be found")
        assert finding.remedy.startswith("restore the file 'installation' of the data directory")
    else:
        assert (finding.level, finding.what) == ("ok", "no task names a blob")


def test_a_store_that_needs_more_than_is_installed_is_a_problem(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "podium.cluster.blobs.objects", None)
    check = BlobCheck(folder.place._replace(blobs="s3://bucket", installation="ours"), DAY_S, time.time())
    (finding,) = check.findings()
    assert (finding.level, finding.place) == ("problem", "s3://bucket")
    assert "install podium with the extra `objects`" in finding.what
    assert check.drop_drafts() == []


# repair


def test_repair_deletes_drafts_that_are_older_than_the_grace_and_no_blob(folder):
    draft = folder.store.new_draft()
    draft.write(b"half")
    old = folder.folder / "blobs" / "drafts" / "old"
    old.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))
    orphan = folder.store.put([b"o" * 3_000])
    os.utime(folder.store.path(orphan.name), (1.0, 1.0))
    folder.store.doom(orphan.name, 2.0)
    now = time.time()
    done = [each for each in repair(folder.folder, [], now, BlobCheck(folder.place, DAY_S, now)) if each.repaired]
    assert [each.what for each in done if each.check == "blob"] == ["1 half-written file removed"]
    assert sorted(blob.name for blob in folder.store.listing()) == sorted([folder.name, orphan.name])
    assert draft.commit().size == 4


def test_blobs_that_others_may_use_are_told_together_and_made_private(folder):
    folder.store.doom(folder.store.put([b"other"]).name, time.time())
    assert not [each for each in examine(folder.folder) if "others may use" in each.what]
    for path in (folder.folder / "blobs").glob("??/*"):
        path.chmod(0o644)
    (finding,) = [each for each in examine(folder.folder) if "others may use" in each.what]
    assert (finding.level, finding.place) == ("warning", str(folder.folder / "blobs"))
    assert finding.what == "others may use 2 of the files in it (mode 644)"
    done = [each.what for each in repair(folder.folder, [], time.time()) if each.repaired]
    assert "the mode of 2 of the files in it is now 600" in done
    assert not [each for each in examine(folder.folder) if "others may use" in each.what]


# the command


def test_the_command_reads_blobs_if_it_is_told_to(folder, cli):
    folder.damage(b"T" + TEXT.encode()[1:])
    assert cli("doctor", "--data", str(folder.folder))[0] == 0
    code, out, _ = cli("doctor", "--data", str(folder.folder), "--blobs", "-o", "json")
    (problem,) = [each for each in json.loads(out) if each["level"] == "problem"]
    assert (code, problem["check"], problem["place"]) == (1, "blob", folder.name)
    assert folder.name[:12] + "…: damaged" in " ".join(
        cli("doctor", "--data", str(folder.folder), "--blobs")[1].split()
    )
    assert cli("doctor", "--data", str(folder.folder), "--repair", "--blobs")[0] == 1
    assert folder.store.path(folder.name).exists()


def test_many_blobs_alike_are_counted():
    many = [Finding("blob", "problem", f"{n:064x}.1", "missing", "put it back") for n in range(20)]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(findings_table(many, "data"))
    text = console.export_text()
    assert text.count("missing") == 5 and "000000000000….1: missing" in text
    assert "(and 15 more like it: -o json)" in text
