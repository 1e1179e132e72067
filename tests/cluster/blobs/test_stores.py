"""Which blob store an installation has."""

from __future__ import annotations

import sys

import pytest

import podium
from podium.cluster.blobs.cached import CachedBlobs
from podium.cluster.blobs.folder import FolderBlobs
from podium.cluster.blobs.stores import blobs_of
from podium.cluster.store.address import StoreAddress
from podium.errors import InvalidSetting

DATABASE = "postgresql://ada:secret@db/work"


def test_blobs_are_beside_the_tasks_unless_a_url_says_where(tmp_path, monkeypatch):
    beside = blobs_of(StoreAddress(str(tmp_path)))
    assert isinstance(beside, FolderBlobs) and beside.place == str(tmp_path / "blobs")
    assert not (tmp_path / "installation").exists()
    elsewhere = blobs_of(StoreAddress(str(tmp_path), blobs="s3://bucket/path"))
    assert isinstance(elsewhere, CachedBlobs)
    assert elsewhere.place == f"s3://bucket/path/{(tmp_path / 'installation').read_text().strip()}"


def test_a_folder_at_a_url_is_durable_and_one_for_each_installation(tmp_path):
    first, second = (
        blobs_of(StoreAddress(str(tmp_path / name), blobs=f"file://{tmp_path}/both")) for name in ("a", "b")
    )
    assert isinstance(first, FolderBlobs) and first.is_durable
    key = first.put([b"content"])
    assert bytes(first.get(key)) == b"content" and list(second.listing()) == []
    assert first.folder.parent == second.folder.parent == tmp_path / "both"


def test_a_database_with_blobs_at_a_url_needs_no_driver_for_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "podium.cluster.blobs.postgres", None)
    store = blobs_of(StoreAddress(str(tmp_path), DATABASE, blobs="gs://bucket", installation="ours"))
    assert store.place == "gs://bucket/ours" and list(tmp_path.iterdir()) == []


def test_without_obstore_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "podium.cluster.blobs.objects", None)
    with pytest.raises(InvalidSetting, match=r"'blobs' \(s3://bucket\): .* install podium with the extra `objects`"):
        podium.connect(cluster="inprocess", data=tmp_path, blobs="s3://bucket")
