"""The contract of blob stores, over each of them."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import zlib
from concurrent.futures import wait
from dataclasses import replace
from functools import partial

import pytest

from podium.cluster.blobs.cached import CachedBlobs
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.hashing import Hashing
from podium.cluster.blobs.memory import BlobDisk, MemoryBlobs
from podium.cluster.blobs.objects import ObjectBlobs
from podium.cluster.blobs.patient import PatientBlobs
from podium.cluster.blobs.place import read_place
from podium.cluster.blobs.postgres import PostgresBlobs
from podium.protocols.errors import BlobCorrupt, BlobMissing, BlobsAway, InvalidInput
from podium.protocols.stored import BlobKey
from tests.support import object_server, postgres

NOW = 1_800_000_000.0
MIB = 1024 * 1024


def in_memory() -> MemoryBlobs:
    return MemoryBlobs(BlobDisk(), lambda: NOW)


@pytest.fixture(params=["folder", "memory", "postgres", "objects"])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        yield FolderBlobs(tmp_path / "blobs")
    elif request.param == "memory":
        yield in_memory()
    elif request.param == "objects":
        place = read_place(f"{object_server.new_bucket(monkeypatch)}/some/path")
        yield CachedBlobs(ObjectBlobs(place, "here"), tmp_path / "cache", 64 * MIB)
    else:
        database = postgres.new_database(timeout_s=5)
        yield CachedBlobs(PostgresBlobs(database), tmp_path / "cache", 64 * MIB)
        postgres.drop(database)


def damage(store, key: BlobKey, content: bytes | None) -> None:
    """Change what is stored under a key behind the store's back; None deletes it."""
    if isinstance(store, CachedBlobs):
        damage(store.cache, key, None)
        forget(store.remote, key)
        if content is not None:
            (store.cache.folder / "bad").write_bytes(content)
            store.remote.upload(key.name, store.cache.folder / "bad")
    elif isinstance(store, FolderBlobs):
        path = store.path(key.name)
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    elif content is None:
        del store._disk.blobs[key.name]
    else:
        store._disk.blobs[key.name] = content, NOW


def digest_of(content: bytes) -> bytes:
    """BLAKE2b of the content; of a content of over 4 MiB, that of the digests of its pieces of 4 MiB."""
    pieces = [blake(content[at : at + 4 * MIB]).digest() for at in range(0, len(content), 4 * MIB)]
    return blake(b"".join(pieces), person=b"podium pieces").digest() if len(pieces) > 1 else blake(content).digest()


blake = partial(hashlib.blake2b, digest_size=32)


@pytest.mark.parametrize(
    "cuts", [[], [1], [5_000_000], [1, 2, 9_000_000], [4 * MIB - 1], [4 * MIB, 8 * MIB], [12 * MIB]]
)
def test_a_key_does_not_depend_on_how_the_content_was_cut(cuts):
    content, hashing, written = bytes(range(256)) * 50_000, Hashing(), []
    for begin, end in itertools.pairwise([0, *cuts, len(content)]):
        hashing.see_written(lambda piece: written.append(bytes(piece)) or written[-1], content[begin:end])
    assert hashing.key() == BlobKey(digest_of(content), len(content), zlib.crc32(content))
    assert b"".join(written) == content


def forget(remote, key: BlobKey) -> None:
    if isinstance(remote, PostgresBlobs):
        with remote._connected() as db:
            db.execute(f"DELETE FROM {remote._contents}")
    else:
        remote.doom(key.name, NOW)
        remote.delete(key.name, NOW)


@pytest.mark.parametrize("pieces", [[b""], [b"a"], [b"ab", memoryview(b"c")], [b"x" * (9 * MIB), b"y"]])
def test_what_is_put_comes_back_under_the_key_of_its_content(store, pieces):
    whole = b"".join(pieces)
    key = store.put(pieces)
    assert key == BlobKey(digest_of(whole), len(whole), zlib.crc32(whole))
    assert bytes(store.get(key)) == whole
    assert store.size_of(key.name) == len(whole)
    assert b"".join(store.read(key.name)) == whole
    with store.open(key) as stream:
        assert stream.read(2) + stream.read() == whole


def test_the_same_content_is_there_once(store):
    keys = {store.put([b"same"]), store.put([b"sa", b"me"]), store.put([b"other"])}
    assert sorted(blob.name for blob in store.listing()) == sorted(key.name for key in keys) and len(keys) == 2


def test_what_a_reader_writes_is_its_own(store):
    key = store.put([b"content"])
    content = store.get(key)
    content[0:3] = b"CON"
    assert bytes(content) == b"CONtent" and bytes(store.get(key)) == b"content"


def test_what_is_not_there_or_not_as_it_was_says_so(store):
    key = store.put([b"content"])
    damage(store, key, b"contemt")
    assert b"".join(store.read(key.name)) == b"contemt", "it is for whoever checks it"
    for read in (store.get, store.open):
        with pytest.raises(BlobCorrupt, match=rf"blob {key.name} in .*: the c(hecksum|ontent)"):
            read(key)
    damage(store, key, b"cont")
    with pytest.raises(BlobCorrupt):
        store.get(key)
    damage(store, key, None)
    for read in (store.get, store.open, store.renewed, lambda key: list(store.read(key.name))):
        with pytest.raises(BlobMissing, match=f"blob {key.name} is not in "):
            read(key)
    assert store.size_of(key.name) is None


def test_a_draft_is_written_in_pieces_that_may_change_afterwards_and_is_given_up_without_a_trace(store):
    draft = store.new_draft()
    piece = bytearray(b"ab")
    draft.write(piece)
    piece[:] = b"cd"
    draft.write(piece)
    key = draft.commit()
    draft.abandon()
    assert bytes(store.get(key)) == b"abcd"
    other = store.new_draft()
    other.write(b"never")
    other.abandon()
    other.abandon()
    assert [blob.name for blob in store.listing()] == [key.name]


def test_a_file_is_put_and_saved(store, tmp_path):
    (tmp_path / "given").write_bytes(b"z" * 5 * MIB)
    key = store.put_file(str(tmp_path / "given"), 6 * MIB)
    store.save(key, str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"z" * 5 * MIB
    with pytest.raises(FileExistsError):
        store.save(key, str(tmp_path / "saved"))
    with pytest.raises(InvalidInput, match=r"the file '.*none' cannot be read on this machine: No such file"):
        store.put_file(str(tmp_path / "none"), MIB)


def test_a_doomed_content_is_stored_under_another_generation(store):
    """So that whoever gets a key has the whole grace to have it named."""
    key = store.put([b"content"])
    store.doom(key.name, NOW)
    assert [(blob.name, blob.size, blob.doomed_at) for blob in store.listing()] == [(key.name, 7, NOW)]
    second = store.put([b"content"])
    assert second == key._replace(generation=1) and store.renewed(key) == second
    store.doom(second.name, NOW)
    third = store.renewed(second)
    assert third.generation == 2
    store.delete(key.name, NOW)
    assert [bytes(store.get(each)) for each in (second, third)] == [b"content"] * 2
    assert store.put([b"content"]) == key  # the first is free again
    store.spare(second.name)
    store.spare(second.name)
    assert store.renewed(second) == second


def test_a_content_is_carried_over_under_its_name_and_only_if_it_is_that(store):
    source = in_memory()
    first = source.put([b"content"])
    source.doom(first.name, NOW)
    second = source.put([b"content"])
    for key in (first, second):
        store.adopt(key.name, source.read(key.name))
        store.adopt(key.name, source.read(key.name))
        assert bytes(store.get(key)) == b"".join(store.read(key.name)) == b"content"
    with pytest.raises(BlobCorrupt, match="the content is not what its name says"):
        store.adopt(first.name, [b"another"])
    with pytest.raises(BlobMissing):
        list(store.read("0" * 64))
    assert bytes(store.get(first)) == b"content"


def test_deleting_what_is_gone_is_no_error(store):
    key = store.put([b"content"])
    store.doom(key.name, NOW)
    store.delete(key.name, NOW)
    store.delete(key.name, NOW)
    assert list(store.listing()) == []


def test_blobs_are_listed_with_the_time_at_which_they_were_put(store):
    key = store.put([b"content"])
    (blob,) = store.listing()
    assert (blob.name, blob.size, blob.doomed_at) == (key.name, 7, None) and abs(blob.put_at) > 1_700_000_000


class TestFolder:
    def test_drafts_that_a_crash_left_are_dropped_and_others_not(self, tmp_path):
        store = FolderBlobs(tmp_path)
        draft = store.new_draft()
        draft.write(b"half")
        assert store.drop_drafts(0.0) == 0
        assert store.drop_drafts(4_000_000_000.0) == 1
        assert list(store.listing()) == []

    def test_a_mark_of_doom_without_its_blob_goes_with_the_next_listing(self, tmp_path):
        store = FolderBlobs(tmp_path)
        key = store.put([b"content"])
        store.doom(key.name, NOW)
        store.path(key.name).unlink()
        assert list(store.listing()) == []
        assert store.put([b"content"]) == key

    def test_a_torn_mark_of_doom_counts_from_the_time_of_its_file(self, tmp_path):
        store = FolderBlobs(tmp_path)
        key = store.put([b"content"])
        store.doom(key.name, NOW)
        store.doomed_path(key.name).write_text("")
        (blob,) = store.listing()
        assert blob.doomed_at == pytest.approx(store.doomed_path(key.name).stat().st_mtime)

    def test_a_full_disk_says_so_and_leaves_nothing(self, tmp_path, monkeypatch):
        store = FolderBlobs(tmp_path)

        def full(_file, _piece):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.write", full)
        with pytest.raises(BlobsAway, match="the disk is full: free space there, nothing acknowledged is lost"):
            store.put([b"content"])
        monkeypatch.undo()
        assert list((tmp_path / "drafts").iterdir()) == []

    def test_others_cannot_read(self, tmp_path):
        store = FolderBlobs(tmp_path / "blobs")
        key = store.put([b"content"])
        assert store.folder.stat().st_mode & 0o077 == 0
        store.doom(key.name, NOW)
        assert [path.stat().st_mode & 0o077 for path in (store.path(key.name), store.doomed_path(key.name))] == [0, 0]

    def test_a_mark_of_doom_that_goes_while_it_is_read_is_no_fault(self, tmp_path, monkeypatch):
        store = FolderBlobs(tmp_path)
        key = store.put([b"content"])
        store.doom(key.name, NOW)

        def spared(_path):
            raise FileNotFoundError

        monkeypatch.setattr("pathlib.Path.read_text", spared)
        assert [blob.doomed_at for blob in store.listing()] == [None]

    @pytest.mark.parametrize("failing", [0, 1, 2, 3, 4])
    def test_an_error_of_the_disk_is_never_lost_and_never_tried_away(self, tmp_path, monkeypatch, failing):
        """The kernel tells of an error once. Five syncs: three aside, one at the end, one of the folder."""
        store, calls, real = FolderBlobs(tmp_path), [], {name: getattr(os, name) for name in ("fsync", "fdatasync")}

        def syncs(name, file):
            calls.append(name)
            if len(calls) - 1 == failing:
                raise OSError(5, "Input/output error")
            real[name](file)

        for name in real:
            monkeypatch.setattr(os, name, partial(syncs, name))
        draft = PatientBlobs(store, 1.0).new_draft()
        with pytest.raises(BlobsAway, match=r"Input/output error|could not be written"):
            for _ in range(3):
                draft.write(b"x" * 20 * MIB)
                wait([draft._draft._syncing])
            draft.commit()
        with pytest.raises(BlobsAway, match="could not be written"):
            draft.commit()
        draft.abandon()
        assert (list(store.listing()) == []) == (failing < 4)
        assert calls[-1] == "fsync" or failing < 3

    def test_a_content_that_changes_while_it_is_put_is_stored_as_some_consistent_content(self, tmp_path):
        store, array, done = FolderBlobs(tmp_path), bytearray(24 * MIB), threading.Event()

        def change():
            while not done.is_set():
                for at in range(0, len(array), MIB):
                    array[at] ^= 1

        writer = threading.Thread(target=change)
        writer.start()
        keys = [store.put([memoryview(array)]) for _ in range(5)]
        done.set()
        writer.join()
        for key in keys:
            assert digest_of(bytes(store.get(key))) == key.digest

    def test_a_draft_that_somebody_deleted_says_so(self, tmp_path):
        store = FolderBlobs(tmp_path)
        draft = store.new_draft()
        draft.write(b"half")
        store.drop_drafts(4_000_000_000.0)
        with pytest.raises(BlobsAway, match="a draft was deleted while it was written"):
            draft.commit()

    def test_only_what_is_still_doomed_is_deleted(self, tmp_path):
        """A sweeper that was stopped for long may go on with what it once knew."""
        for store in (FolderBlobs(tmp_path), in_memory()):
            key = store.put([b"content"])
            store.delete(key.name, NOW)
            store.doom(key.name, NOW)
            store.delete(key.name, NOW - 1)
            store.spare(key.name)
            store.delete(key.name, NOW)
            assert bytes(store.get(key)) == b"content"

    @pytest.mark.parametrize("size", [100, 5 * MIB])
    def test_what_a_reader_writes_is_its_own_whether_it_is_mapped_or_not(self, tmp_path, size):
        store = FolderBlobs(tmp_path)
        key = store.put([b"x" * size])
        content = store.get(key)
        content[0:3] = b"abc"
        assert bytes(content[:4]) == b"abcx" and bytes(store.get(key)[:4]) == b"xxxx"

    def test_a_forked_child_stores_large_contents(self, tmp_path):
        store, content = FolderBlobs(tmp_path), os.urandom(9 * MIB)
        parents = store.put([content[:-1]])
        child = os.fork()
        if child == 0:
            os._exit(0 if store.put([content]).size == len(content) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.size_of(parents.name) == len(content) - 1 and len(list(store.listing())) == 2

    def test_a_content_that_is_read_stays_when_its_file_is_deleted(self, tmp_path):
        store = FolderBlobs(tmp_path)
        key = store.put([b"content"])
        content = store.get(key)
        store.doom(key.name, NOW)
        store.delete(key.name, NOW)
        assert bytes(content) == b"content"


class TestCached:
    @pytest.fixture
    def store(self, tmp_path):
        database = postgres.new_database(timeout_s=5)
        yield CachedBlobs(PostgresBlobs(database), tmp_path / "cache", 4 * MIB)
        postgres.drop(database)

    def test_a_lost_or_damaged_cache_costs_time_and_no_data(self, store):
        key = store.put([b"content"])
        damage(store.cache, key, b"contemt")
        assert bytes(store.get(key)) == b"content"
        damage(store.cache, key, None)
        assert store.open(key).read() == b"content"

    def test_what_was_put_here_is_read_here_without_the_store(self, store, monkeypatch):
        key = store.put([b"content"])
        monkeypatch.setattr(store.remote, "download", None)
        assert bytes(store.get(key)) == b"content"

    def test_the_cache_drops_what_was_not_used_for_the_longest_time(self, store):
        keys = [store.put([bytes([n]) * MIB]) for n in range(12)]
        assert sum(blob.size for blob in store.cache.listing()) <= 5 * MIB
        assert [bytes(store.get(key)[:1]) for key in keys] == [bytes([n]) for n in range(12)]

    def test_a_database_that_is_away_says_so(self, store):
        key = store.put([b"content"])
        away = CachedBlobs(
            PostgresBlobs(replace(store.remote._database, url="postgresql://127.0.0.1:1/x")), store.cache.folder, MIB
        )
        assert bytes(away.get(key)) == b"content"  # it is in the cache
        with pytest.raises(BlobsAway, match=r"the blob store postgresql://127.0.0.1:1/x cannot be used: .*refused"):
            away.put([b"more"])
        assert list((store.cache.folder / "drafts").iterdir()) == []


def test_memory_is_out_of_reach_as_a_simulation_wants_it():
    there = [True]
    store = MemoryBlobs(BlobDisk(), lambda: NOW, lambda: there[0])
    key = store.put([b"content"])
    there[0] = False
    for work in (lambda: store.put([b"x"]), lambda: store.get(key), lambda: list(store.listing())):
        with pytest.raises(BlobsAway, match="out of reach"):
            work()
