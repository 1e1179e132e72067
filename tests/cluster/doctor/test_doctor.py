"""`podium doctor`: what it finds, what it repairs, what it never does unasked."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest
from rich.console import Console

from podium.cluster.cluster_file import ClusterFile
from podium.cluster.doctor import checks as doctor
from podium.cluster.doctor.checks import examine
from podium.cluster.doctor.repair import repair
from podium.cluster.gateways.cli.doctor import findings_table
from podium.cluster.store.sqlite.mark import read_mark
from podium.cluster.store.sqlite.schema import mark_path, shard_path, wal_path
from podium.protocols.errors import DataInUse, NotFound
from podium.supervisors.ports.journal import Entry, NewTask, Note
from tests.support.damaged import IDS, another_process, copy_of, flip, look, opened, wipe
from tests.support.format_1 import write_format_1
from tests.support.journals import durable, ended, record

REPAIRS = 40
"""Damaged copies repaired per test."""
NOW = 1_800_000_000.0
STAMP = "20270115T080000Z"


@pytest.fixture
def data(tmp_path):
    """A healthy data directory: an open task with three entries, two finished ones."""

    async def work():
        journal = await opened(tmp_path / "data")
        definition = Note("definition:h", {"hash": "h"})
        await durable(journal, definition, *[NewTask(record(id, key=f"k-{id}"), "d") for id in ("t-1", "t-2", "t-3")])
        await durable(journal, *[Entry("t-1", n, b"e%d" % n) for n in (1, 2, 3)])
        await durable(journal, ended("t-2", 105.0, result=2), ended("t-3", 106.0, result=3))
        await journal.close()

    asyncio.run(work())
    (tmp_path / "data").chmod(0o755)
    return tmp_path / "data"


def sql(data, *statements, shard="w"):
    with closing(sqlite3.connect(shard_path(data, shard), isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def bad(findings):
    """What is not ok, as (level, check, place within the directory, what)."""
    return [(f.level, f.check, f.place.split("/data/")[-1], f.what) for f in findings if f.level != "ok"]


def done(findings):
    return [f.what for f in findings if f.repaired]


def tasks(data):
    """Id, status, entries of each task, as the journal gives them."""

    async def work():
        journal = await opened(data)
        answer = asyncio.get_running_loop().create_future()
        journal.find(["t-1", "t-2", "t-3"], [], answer.set_result)
        rows = []
        for each in await answer:
            bodies = asyncio.get_running_loop().create_future()
            journal.entries(each.record.task_id, bodies.set_result)
            rows.append((each.record.task_id, each.record.status, await bodies))
        await journal.close()
        return rows

    return asyncio.run(work())


SOUND = [("t-1", "pending", [b"e1", b"e2", b"e3"]), ("t-2", "completed", [b"e"]), ("t-3", "completed", [b"e"])]


# what is found


def test_a_healthy_directory_has_nothing_but_ok(data):
    findings = examine(data)
    assert bad(findings) == []
    assert {f.check for f in findings} == {"sqlite", "directory", "space", "disk", "sync", "cluster", "shard"}
    (summary,) = [f.what for f in findings if f.check == "shard"]
    assert summary.startswith("format 4, epoch 1, 1 open and 2 finished tasks, ")
    assert summary.endswith("held by nobody")


def test_a_directory_that_is_not_there_is_a_warning_with_what_to_do(tmp_path):
    finding = examine(tmp_path / "none")[-1]
    assert (finding.level, finding.what) == ("warning", "no data directory here")
    assert "podium up" in finding.remedy
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("version", "level", "what"),
    [((3, 36, 0), "problem", "strict tables"), ((3, 40, 1), "ok", "WAL-reset"), ((3, 51, 3), "ok", "new enough")],
)
def test_the_version_of_sqlite(version, level, what):
    finding = doctor.sqlite_version(version)
    assert finding.level == level
    assert what in finding.what


def test_little_space_is_a_warning_and_none_a_problem(tmp_path):
    levels = [doctor.space(tmp_path, free).level for free in (2**30, 2**30 - 1, 2**26, 2**26 - 1)]
    assert levels == ["ok", "warning", "warning", "problem"]


@pytest.mark.parametrize(
    ("kind", "level"), [("ext4", "ok"), ("nfs4", "problem"), ("cifs", "problem"), ("fuse.sshfs", "problem")]
)
def test_a_network_file_system_is_a_problem(tmp_path, kind, level):
    folder = tmp_path / "with space"
    folder.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / xfs rw 0 0\nhost:/x {str(folder).replace(' ', chr(92) + '040')} {kind} rw 0 0\n")
    assert doctor.file_system(folder, mounts).level == level
    assert doctor.file_system(tmp_path, mounts).level == "ok"


def test_a_slow_disk_is_a_warning(tmp_path):
    ticks = iter(n * 0.025 for n in range(100))
    finding = doctor.sync_latency(tmp_path, lambda: next(ticks))
    assert (finding.level, finding.what) == ("warning", "fdatasync takes 25 ms")
    assert list(tmp_path.iterdir()) == []


def test_files_that_others_may_use_are_named_and_the_token_is_a_problem(data):
    (data / "ray.token").write_text("secret")
    (data / "ray.token").chmod(0o644)
    shard_path(data, "w").chmod(0o640)
    data.chmod(0o777)
    expected = [
        ("warning", "directory", str(data), "others may write here (mode 777)"),
        ("problem", "token", "ray.token", "others may use it (mode 644)"),
        ("warning", "directory", "shards/w.db", "others may use it (mode 640)"),
    ]
    assert bad(examine(data)) == expected
    assert {"mode 644 is now 600", "mode 640 is now 600", "mode 777 is now 755"} == set(done(repair(data, [], NOW)))
    assert bad(examine(data)) == []


def test_what_a_gone_cluster_left_is_named_and_removed(data):
    (data / "cluster.json").write_text("{}")
    (data / "cluster.json").chmod(0o600)
    (data / "shards" / "w.db.draft").touch(0o600)
    assert [what for _, _, _, what in bad(examine(data))] == ["of a cluster that is gone", "half-written, of no use"]
    assert done(repair(data, [], NOW)) == ["removed: its cluster is gone", "removed: it was half-written"]
    assert bad(examine(data)) == []


@pytest.mark.parametrize(
    ("harm", "place", "what"),
    [
        ("UPDATE entries SET body = x'00' WHERE n = 2", "w: task t-1, entry 2", "the checksum does not match"),
        ("DELETE FROM entries WHERE n = 2", "w: task t-1, entry 2", "missing; the next is 3"),
        ("DELETE FROM tasks WHERE id = 't-2'", "w: task t-2", "there are entries, but no task"),
        ("UPDATE tasks SET user = 'v' WHERE id = 't-3'", "w: task t-3", "the checksum does not match"),
        ("UPDATE notes SET value = x'00'", "w: note definition:h", "the checksum does not match"),
        ("DELETE FROM notes", "w", "version h is not in the shard, and 1 open tasks need it"),
        ("UPDATE shard SET epoch = 0", "w: the shard's own row", "the checksum does not match"),
    ],
)
def test_a_damaged_record_is_a_problem_with_its_place(data, harm, place, what):
    sql(data, harm)
    assert ("problem", "record", place, what) in bad(examine(data))


def test_epochs_that_fall_within_a_task_are_found(data):
    from podium.cluster.store.rows import entry_row

    row = entry_row(Entry("t-1", 2, b"e2"), 9)
    sql(data, "DELETE FROM entries WHERE task_id = 't-1' AND n = 2")
    with closing(sqlite3.connect(shard_path(data, "w"), isolation_level=None)) as db:
        db.execute("INSERT INTO entries VALUES (?,?,?,?,?)", row)
    assert [what for _, _, _, what in bad(examine(data))] == [
        "written in epoch 9, but the shard is at epoch 1",
        "written in epoch 1, behind one of epoch 9",
    ]


def test_a_held_shard_is_told_with_its_holder(data):
    with another_process(data) as child:
        findings = examine(data)
        assert bad(findings) == [("warning", "shard", "w", f"held by process {child.pid}, though no cluster runs")]
        assert any(f"held by process {child.pid}" in f.what for f in findings if f.level == "ok")
        assert f"left alone: held by process {child.pid}" in [f.what for f in repair(data, [], NOW)]
        assert child.poll() is None


def test_a_shard_of_format_1_is_no_problem(tmp_path):
    write_format_1(tmp_path).chmod(0o600)
    findings = examine(tmp_path)
    assert [level for level, *_ in bad(findings)] == []
    assert "brought to format 4 when the next cluster opens it" in findings[-1].what


def test_a_newer_format_is_a_problem_and_is_left_alone(data):
    sql(data, "DROP INDEX task_keys", "PRAGMA user_version=5")
    (finding,) = bad(examine(data))
    assert "format 5, this Podium reads formats 1 to 4: use the newer Podium" in finding[3]
    before = shard_path(data, "w").read_bytes()
    assert any("left alone: of format 5" in f.what for f in repair(data, ["w"], NOW))
    assert shard_path(data, "w").read_bytes() == before


# what is repaired


def test_repair_needs_that_no_cluster_runs(data):
    file = ClusterFile(data)
    assert file.take()
    file.write({"kind": "ray"})
    try:
        with pytest.raises(DataInUse, match=rf"is in use by a cluster \(process {os.getpid()}\): podium down"):
            repair(data, [], NOW)
        assert (data / "cluster.json").exists()
    finally:
        file.release()


def test_a_missing_mark_is_made_again(data):
    mark_path(shard_path(data, "w")).unlink()
    assert bad(examine(data))[0][3] == "no mark: lost commits would not be noticed"
    assert done(repair(data, [], NOW)) == ["its mark made anew"]
    assert read_mark(mark_path(shard_path(data, "w"))).commits == 4
    assert bad(examine(data)) == []


def test_the_log_of_a_shard_that_nobody_holds_is_folded_in(crashed):
    before = look(copy_of(crashed, crashed.with_name("other")))
    assert done(repair(crashed, [], NOW)) == ["its log folded into the file"]
    assert wal_path(shard_path(crashed, "w")).stat().st_size == 0
    assert look(crashed) == before


def test_an_index_that_disagrees_is_made_again(data):
    sql(
        data,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'key IS NOT NULL', '0') WHERE name = 'task_keys'",
    )
    sql(data, "REINDEX task_keys")
    sql(
        data,
        "PRAGMA writable_schema=ON",
        "UPDATE sqlite_master SET sql = replace(sql, 'WHERE 0', 'WHERE key IS NOT NULL') WHERE name = 'task_keys'",
    )
    (finding,) = bad(examine(data))
    assert finding[3].startswith("an index disagrees: ")
    assert done(repair(data, [], NOW)) == ["index task_keys made anew"]
    assert tasks(data) == SOUND


def test_unasked_repair_loses_nothing_and_leaves_damage_as_it_is(data):
    sql(data, "UPDATE entries SET body = x'00' WHERE n = 2")
    before = shard_path(data, "w").read_bytes()
    assert done(repair(data, [], NOW)) == []
    assert shard_path(data, "w").read_bytes() == before


def test_a_shard_behind_its_mark_goes_on_when_the_loss_is_accepted(crashed):
    path = shard_path(crashed, "w")
    os.truncate(wal_path(path), wal_path(path).stat().st_size - 100)
    marked, log = read_mark(mark_path(path)), wal_path(path).read_bytes()
    findings = repair(crashed, ["w"], NOW)
    copy = path.parent / f"w.damaged-{STAMP}"
    assert done(findings)[:2] == [
        f"its files copied to {copy}",
        "loss accepted: it is 1 commit behind what was acknowledged",
    ]
    assert (copy / "w.db-wal").read_bytes() == log
    assert sorted(file.name for file in copy.iterdir()) == ["w.db", "w.db-wal", "w.mark"]
    again = look(crashed)
    assert len(again[0]) == 21, "the last end was lost with its commit; all else is there"
    assert read_mark(mark_path(path)).commits == marked.commits + 1
    assert [finding for finding in bad(examine(crashed)) if finding[1] == "shard"] == []


@pytest.mark.parametrize(
    ("harm", "lost", "left"),
    [
        (
            "UPDATE entries SET body = x'00' WHERE n = 2",
            "lost: task t-1 from entry 2 on (the checksum does not match)",
            [("t-1", "pending", [b"e1"]), *SOUND[1:]],
        ),
        (
            "DELETE FROM entries WHERE n = 1 AND task_id = 't-1'",
            "lost: task t-1 from entry 1 on (missing; the next is 2)",
            [("t-1", "pending", []), *SOUND[1:]],
        ),
        (
            "UPDATE tasks SET result = x'00' WHERE id = 't-2'",
            "lost: the end of task t-2, which is open again (the checksum does not match)",
            [SOUND[0], ("t-2", "running", [b"e"]), SOUND[2]],
        ),
        (
            "UPDATE tasks SET input = x'00' WHERE id = 't-1'",
            "lost: task t-1, forgotten: its acceptance cannot be trusted (the checksum does not match)",
            SOUND[1:],
        ),
        ("DELETE FROM tasks WHERE id = 't-2'", "lost: 1 entries of task t-2, which is not there", SOUND[::2]),
        ("UPDATE shard SET epoch = 0", "lost: the shard's own row, made anew (the checksum does not match)", SOUND),
        ("UPDATE notes SET value = x'00'", "lost: note definition:h (the checksum does not match)", SOUND),
    ],
)
def test_what_is_sound_of_a_damaged_shard_is_kept_and_each_loss_named(data, harm, lost, left):
    sql(data, harm)
    assert lost in done(repair(data, ["w"], NOW))
    assert tasks(data) == left
    assert (data / "shards" / f"w.damaged-{STAMP}" / "w.db").exists()
    assert [finding for finding in bad(examine(data)) if "not in the shard" not in finding[3]] == []


def test_epochs_go_on_rising_whatever_was_lost(data):
    for _ in range(3):
        tasks(data)
    shard_path(data, "w").write_bytes(b"no database at all" * 1000)
    assert any("damaged pages" in what or "not a database" in what for *_, what in bad(examine(data)))
    repair(data, ["w"], NOW)

    async def epoch():
        journal = await opened(data)
        await journal.close()
        return journal.epoch

    assert asyncio.run(epoch()) == 5


def test_of_a_file_with_an_unreadable_page_both_sides_are_kept(tmp_path):
    async def work():
        journal = await opened(tmp_path)
        await durable(journal, *[NewTask(record(id, input="x" * 600), "d") for id in IDS])
        await journal.close()

    asyncio.run(work())
    whole = {record.record.task_id for record in look(tmp_path)[2]}
    path = shard_path(tmp_path, "w")
    body = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()
    children = (body[(root - 1) * 4096 + 3] << 8) + body[(root - 1) * 4096 + 4]
    assert children >= 2, "the tasks need several pages for this test"
    cell = int.from_bytes(body[(root - 1) * 4096 + 12 + 2 : (root - 1) * 4096 + 12 + 4], "big")
    page = int.from_bytes(body[(root - 1) * 4096 + cell : (root - 1) * 4096 + cell + 4], "big")
    body[(page - 1) * 4096 : page * 4096] = bytes(4096)
    path.write_bytes(body)
    repair(tmp_path, ["w"], NOW)
    left = {record.record.task_id for record in look(tmp_path)[2]}
    assert left < whole
    assert min(left) == min(whole)
    assert max(left) == max(whole)


@pytest.mark.parametrize("harm", [flip, wipe])
def test_whatever_breaks_an_accepted_loss_leaves_a_sound_shard_and_nothing_invented(crashed, tmp_path, harm):
    records = {each.record.task_id: each.record for each in look(copy_of(crashed, tmp_path / "whole"))[2]}
    for seed in range(REPAIRS):
        rng = random.Random(seed)
        copy = copy_of(crashed, tmp_path / f"seed-{seed}")
        path = shard_path(copy, "w")
        where = harm(
            rng.choice([path, wal_path(path), mark_path(path)] if harm is flip else [path, wal_path(path)]), rng
        )
        findings = repair(copy, ["w"], NOW)
        wrong = [
            finding for finding in bad(findings) if finding[0] == "problem" and "not in the shard" not in finding[3]
        ]
        assert not wrong, f"seed {seed}: {where}"
        for each in look(copy)[2]:
            was = records[each.record.task_id]
            assert each.record == was or each.record.finished_at is None, f"seed {seed}: {where}"
        shutil.rmtree(copy)


def test_a_shard_that_is_sound_has_nothing_to_accept_and_one_that_is_not_there_is_refused(data):
    before = shard_path(data, "w").read_bytes()
    assert "nothing is lost here: nothing to accept" in [f.what for f in repair(data, ["w"], NOW)]
    assert shard_path(data, "w").read_bytes() == before
    with pytest.raises(NotFound, match="no shard 'v'; there are w"):
        repair(data, ["v"], NOW)


def test_a_rebuild_that_runs_out_of_space_leaves_the_old_file(data, monkeypatch):
    from podium.cluster.store.sqlite import rebuild as module
    from podium.protocols.errors import JournalFailed

    def full(*_args):
        raise sqlite3.OperationalError("database or disk is full")

    sql(data, "UPDATE entries SET body = x'00' WHERE n = 2")
    before = shard_path(data, "w").read_bytes()
    monkeypatch.setattr(module, "_salvage_notes", full)
    with pytest.raises(JournalFailed, match="database or disk is full"):
        repair(data, ["w"], NOW)
    assert shard_path(data, "w").read_bytes() == before


# in the terminal


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_has_the_worst_first_with_its_remedy(data, width):
    sql(data, "UPDATE entries SET body = x'00' WHERE task_id = 't-1'", "UPDATE tasks SET user = 'v' WHERE id <> 't-1'")
    (data / "cluster.json").write_text("{}")
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(findings_table(examine(data), data))
    lines = console.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    text = " ".join(" ".join(lines).split())
    assert text.startswith("✗ problem record w: task t-2: the checksum does not match")
    assert text.count("--accept-loss w") == 1, "one remedy for what is alike"
    assert text.endswith("problems, 2 warnings.")
    assert text.index("✗ problem") < text.index("! warning") < text.index("✓ ok")


def test_many_records_alike_are_counted(data):
    many = [doctor.Finding("record", "problem", f"w: task t-{n}", "odd", "mend") for n in range(20)]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(findings_table(many, data))
    text = console.export_text()
    assert text.count("odd") == 5
    assert "(and 15 more like it: -o json)" in text
    assert "20 problems." in text


def test_the_command_gives_json_and_exits_with_1_for_a_problem(cli):
    cli("run", "flow.yaml", "-i", "n=1", "-q")
    code, out, _ = cli("doctor", "-o", "json")
    assert code == 0
    assert {"check", "level", "place", "what", "remedy", "repaired"} == set(json.loads(out)[0])
    data = cli.folder / ".podium"
    sql(data, "UPDATE tasks SET user = 'v'", shard="flow")
    code, out, _ = cli("doctor", "-o", "json")
    assert (code, [f["level"] for f in json.loads(out)].count("problem")) == (1, 1)
    assert cli("show", json.loads(cli("ps", "-o", "json")[1] or "[{}]")[0].get("task_id", "t-x"))[0] in (1, 3)
    code, out, _ = cli("doctor", "--repair", "--accept-loss", "flow")
    assert code == 0
    assert "forgotten" in " ".join(out.split())


def test_accepting_a_loss_needs_repair(cli):
    code, _, err = cli("doctor", "--accept-loss", "w")
    assert code == 2
    assert "needs --repair" in " ".join(err.split())


def test_the_command_that_an_error_names_exists(cli):
    cli("run", "flow.yaml", "-i", "n=1", "-q")
    sql(cli.folder / ".podium", "UPDATE tasks SET user = 'v'", shard="flow")
    code, _, err = cli("ps")
    assert code == 1
    assert err.strip().endswith("what to do: podium doctor")
    assert cli("doctor")[0] == 1
