"""Blobs in a bucket: what goes wrong there, and several installations in one bucket.

The contract that all blob stores keep is tested in test_blobs.py.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager

import numpy
import obstore
import pytest

import podium
from podium.cluster.blobs.object_faults import reason_of
from podium.cluster.blobs.objects import ObjectBlobs
from podium.cluster.blobs.place import read_place
from podium.protocols.errors import BlobMissing, BlobsAway
from tests.support import object_server

MIB = 1024 * 1024
NOW = 1_800_000_000.0


@pytest.fixture
def url(monkeypatch):
    return object_server.new_bucket(monkeypatch)


@pytest.fixture
def store(url):
    return ObjectBlobs(read_place(f"{url}/path"), "here")


@pytest.fixture
def put(tmp_path):
    """Put a content under a name that is none of a content."""

    def put(store, name, content=b"content"):
        (tmp_path / "content").write_bytes(content)
        store.upload(name, tmp_path / "content")

    return put


def names(store):
    return sorted(blob.name for blob in store.listing())


def objects_of(store):
    return sorted(each["path"] for some in obstore.list(store._opened().quick) for each in some)


@contextmanager
def silent_server():
    """Yield the URL of a server that takes connections and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


def everything(store):
    """Each call to a store, as a function."""
    return [
        lambda: store.size_of("a"),
        lambda: store.is_doomed("a"),
        lambda: list(store.download("a")),
        lambda: list(store.listing()),
        lambda: store.doom("a", NOW),
        lambda: store.spare("a"),
        lambda: store.delete("a", NOW),
    ]


def test_installations_that_share_a_bucket_do_not_see_each_others_blobs(url, put):
    first, second = ObjectBlobs(read_place(url), "first"), ObjectBlobs(read_place(url), "second")
    put(first, "both", b"1")
    put(second, "both", b"22")
    put(second, "other")
    first.doom("both", NOW)
    assert names(first) == ["both"] and names(second) == ["both", "other"]
    assert not second.is_doomed("both") and first.size_of("other") is None
    first.delete("both", NOW)
    assert b"".join(second.download("both")) == b"22"


def test_objects_lie_below_the_path_and_the_installation(store, put):
    put(store, "abcd")
    store.doom("abcd", NOW)
    assert objects_of(store) == ["blobs/ab/abcd", "doomed/abcd"]
    assert store.place.endswith("/path/here") and store.place.startswith("s3://bucket-")


def test_a_large_content_is_sent_and_fetched_in_pieces(store, put):
    content = bytes(range(256)) * 4096 * 20  # 20 MiB
    put(store, "large", content)
    pieces = list(store.download("large"))
    assert b"".join(pieces) == content and len(pieces) > 3
    assert store.size_of("large") == len(content)


def test_an_object_is_deleted_before_its_mark_of_doom(store, put, monkeypatch):
    put(store, "abcd")
    store.doom("abcd", NOW)
    deleted = []
    monkeypatch.setattr(store, "_delete", deleted.append)
    store.delete("abcd", NOW)
    assert deleted == ["blobs/ab/abcd", "doomed/abcd"]


class TestMarks:
    def test_a_mark_without_its_blob_goes_with_the_next_listing(self, store):
        store.doom("gone", NOW)
        assert list(store.listing()) == []
        assert not store.is_doomed("gone")

    def test_a_mark_that_cannot_be_read_counts_from_the_time_at_which_it_was_put(self, store, put):
        put(store, "abcd")
        store._put("doomed/abcd", b"tomorrow")
        (blob,) = store.listing()
        assert blob.doomed_at == pytest.approx(time.time(), abs=60)

    def test_a_mark_is_read_once_as_long_as_it_stays_the_same(self, store, put, monkeypatch):
        for name in ("aa", "bb"):
            put(store, name)
            store.doom(name, NOW)
        read = []
        time_in = store._time_in
        monkeypatch.setattr(store, "_time_in", lambda mark: (read.append(mark["path"]), time_in(mark))[1])
        assert [blob.doomed_at for blob in store.listing()] == [NOW, NOW]
        store.doom("bb", NOW + 1)
        assert sorted(read) == ["doomed/aa", "doomed/bb"]
        assert {blob.name: blob.doomed_at for blob in store.listing()} == {"aa": NOW, "bb": NOW + 1}
        assert sorted(read) == ["doomed/aa", "doomed/bb", "doomed/bb"]
        store.spare("aa")
        assert {blob.name: blob.doomed_at for blob in store.listing()} == {"aa": None, "bb": NOW + 1}

    def test_many_are_listed_in_pages(self, store):
        bucket = store._opened().quick
        for n in range(1_010):
            obstore.put(bucket, f"blobs/ab/{n}", b"x")
        assert len(names(store)) == 1_010


class TestAway:
    def test_a_bucket_that_does_not_exist_says_so(self, url, put):
        store = ObjectBlobs(read_place("s3://nowhere/path"), "here")
        for work in [*everything(store), lambda: put(store, "a")]:
            with pytest.raises(BlobsAway, match="there is no bucket 'nowhere': make it, or correct the setting"):
                work()

    def test_a_bucket_that_is_deleted_later_is_no_missing_blob(self, store, url, put):
        assert store.size_of("a") is None
        with pytest.raises(BlobMissing, match=r"blob a is not in s3://bucket-\d+/path/here"):
            list(store.download("a"))
        object_server.server().ask("DELETE", f"/{read_place(url).bucket}")
        for work in (lambda: put(store, "a"), lambda: list(store.download("a")), lambda: list(store.listing())):
            with pytest.raises(BlobsAway, match="there is no bucket"):
                work()

    def test_credentials_that_are_refused_say_so_and_are_not_shown(self, store, put):
        store.size_of("a")
        with object_server.refusing():
            for work in [*everything(store), lambda: put(store, "a")]:
                with pytest.raises(BlobsAway, match="the credentials are refused, or lack the right") as away:
                    work()
                assert "see AWS_ACCESS_KEY_ID" in away.value.reason and "hunter2" not in str(away.value)
                assert "\n" not in away.value.reason and away.value.__suppress_context__
        assert store.size_of("a") is None

    def test_a_server_that_is_down_says_so(self, url, monkeypatch, put):
        object_server.use(monkeypatch, "http://ada:hunter2@127.0.0.1:1")
        store = ObjectBlobs(read_place(url), "here")
        for work in [*everything(store), lambda: put(store, "a")]:
            with pytest.raises(BlobsAway) as away:
                work()
            expected = "the connection to 127.0.0.1:1 was refused: is it the right AWS_ENDPOINT_URL?"
            assert away.value.reason == expected and away.value.place == f"{url}/here"

    @pytest.mark.alone
    def test_a_server_that_does_not_answer_is_given_up_within_ten_seconds(self, url, monkeypatch):
        with silent_server() as endpoint:
            object_server.use(monkeypatch, endpoint)
            began = time.monotonic()
            with pytest.raises(BlobsAway, match=r"127\.0\.0\.1:\d+ did not answer in time"):
                ObjectBlobs(read_place(url), "here").size_of("a")
            assert time.monotonic() - began < 10

    @pytest.mark.alone
    def test_a_server_that_is_down_is_noticed_within_five_seconds(self, url, monkeypatch):
        object_server.use(monkeypatch, "http://127.0.0.1:1")
        began = time.monotonic()
        with pytest.raises(BlobsAway):
            ObjectBlobs(read_place(url), "here").size_of("a")
        assert time.monotonic() - began < 5

    def test_a_store_that_was_away_is_used_when_it_is_back(self, url, monkeypatch, put):
        object_server.use(monkeypatch, "http://127.0.0.1:1")
        store = ObjectBlobs(read_place(url), "here")
        with pytest.raises(BlobsAway):
            store.size_of("a")
        object_server.use(monkeypatch)
        put(store, "a")
        assert store.size_of("a") == 7

    def test_an_endpoint_that_is_no_url_says_so(self, url, monkeypatch):
        object_server.use(monkeypatch, "minio:9000")
        with pytest.raises(BlobsAway, match="AWS_ENDPOINT_URL is no URL: it begins with https://"):
            ObjectBlobs(read_place(url), "here").size_of("a")

    def test_without_credentials_it_says_where_they_belong(self, url, monkeypatch):
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")  # the role of the machine, if it had one
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(BlobsAway, match="the credentials are not complete: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACC"):
            ObjectBlobs(read_place(url), "here").size_of("a")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(BlobsAway, match=r"no credentials were found: set AWS_ACCESS_KEY_ID.*, or give the machine"):
            ObjectBlobs(read_place(url), "here").size_of("a")

    def test_the_other_clouds_name_their_own_variables(self, monkeypatch):
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
        with pytest.raises(BlobsAway, match=r"az://box/path/here .*set AZURE_STORAGE_ACCOUNT_NAME"):
            ObjectBlobs(read_place("az://box/path"), "here").size_of("a")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
        with pytest.raises(BlobsAway, match=r"gs://box/here .*service account file from /nowhere/key\.json"):
            ObjectBlobs(read_place("gs://box"), "here").size_of("a")


def test_a_cause_that_is_not_known_is_told_in_one_line_without_secrets():
    said = (
        "Generic S3 error: GET https://ada:hunter2@host/x?sig=hunter2 - status 500: <Token-0>hunter2</Token-0>\nhunter2"
    )
    reason = reason_of(ValueError(said), read_place("s3://bucket"))
    assert reason == "Generic S3 error: GET https://host/x - status 500"


def test_clouds_and_folders_need_no_request_to_be_made():
    for url in ("s3://bucket", "gs://bucket/path", "az://box/path"):
        assert ObjectBlobs(read_place(url), "here").place == f"{url}/here"


@podium.protocol
async def made(n: int) -> numpy.ndarray:
    return numpy.arange(n, dtype=numpy.float64)


@podium.protocol
async def summed(values: numpy.ndarray) -> float:
    return float(values.sum())


def test_an_array_goes_from_step_to_step_through_the_bucket(tmp_path, url):
    data, workflow = tmp_path / "data", podium.Workflow("arrays", podium.Sequence(made, summed))
    with podium.connect(data=data, cluster="inprocess", blobs=f"{url}/podium") as engine:
        task = engine.submit(workflow, 250_000)
        assert task.result(timeout_s=60) == 250_000 * 249_999 / 2
    (installation,) = (data / "installation").read_text().split()
    (blob,) = ObjectBlobs(read_place(f"{url}/podium"), installation).listing()
    assert blob.size >= 2_000_000
    assert not (data / "blobs").exists() and list((data / "blob-cache").glob(f"??/{blob.name}"))
