"""The name of an installation among others in the same bucket."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from podium.cluster.blobs.installation import has_name, installation_of, named
from podium.cluster.blobs.stores import blobs_of, blobs_there
from podium.cluster.store.address import StoreAddress
from podium.errors import InvalidSetting
from tests.support import postgres

DATABASE = "postgresql://ada:secret@db/work"


def test_a_data_directory_keeps_one_name_for_ever_which_only_its_owner_reads(tmp_path):
    address = StoreAddress(str(tmp_path / "data"))
    name = installation_of(address)
    assert installation_of(address) == name != installation_of(StoreAddress(str(tmp_path / "other")))
    assert (tmp_path / "data" / "installation").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["installation"]


def test_all_who_race_for_the_name_get_the_same(tmp_path):
    for n in range(20):
        address = StoreAddress(str(tmp_path / str(n)))
        with ThreadPoolExecutor(16) as threads:
            found = set(threads.map(lambda _, address=address: installation_of(address), range(16)))
        assert len(found) == 1
        assert [path.name for path in address.path.iterdir()] == ["installation"]


@pytest.mark.parametrize("content", [b"", b"data-", b"\xff", b"../../other"])
def test_a_damaged_name_is_an_error_and_never_another_name(tmp_path, content):
    (tmp_path / "installation").write_bytes(content)
    with pytest.raises(InvalidSetting, match="the file 'installation' is damaged"):
        installation_of(StoreAddress(str(tmp_path)))


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "installation").mkdir()
    with pytest.raises(InvalidSetting, match=r"cannot be used: Is a directory \(.*/installation\)"):
        installation_of(StoreAddress(str(tmp_path)))


def test_a_database_gives_its_name_whoever_asks_and_by_whatever_url(tmp_path):
    one, two = postgres.new_database(timeout_s=5), postgres.new_database(timeout_s=5)
    first = StoreAddress(str(tmp_path), one.url, one.schema)
    name = installation_of(first)
    assert re.fullmatch(r"database-[0-9a-f]{24}", name)
    by_another_url = StoreAddress("~", f"{one.url}&application_name=x", one.schema)
    assert installation_of(by_another_url) == name == named(first._replace(blobs="s3://b")).installation
    assert installation_of(first._replace(schema=two.schema)) != name
    for database in (one, two):
        postgres.drop(database)


def test_who_only_looks_gives_no_name(tmp_path):
    database = postgres.new_database(timeout_s=5)
    in_database = StoreAddress(str(tmp_path), database.url, database.schema, blobs=f"file://{tmp_path}/blobs")
    for address in (StoreAddress(str(tmp_path), blobs=f"file://{tmp_path}/blobs"), in_database):
        assert not has_name(address) and blobs_there(address) is None and not has_name(address)
        installation_of(address)
        assert has_name(address) and blobs_there(address).place == blobs_of(address).place
    assert blobs_there(StoreAddress(str(tmp_path / "none"))) is not None, "beside the journal it needs none"
    assert not (tmp_path / "none").exists()
    postgres.drop(database)


def test_a_name_that_is_known_is_not_asked_for(tmp_path):
    address = StoreAddress(str(tmp_path), DATABASE, installation="known", blobs="s3://b")
    assert installation_of(address) == "known" and named(address) == address
    assert named(StoreAddress(str(tmp_path))) == StoreAddress(str(tmp_path)), "beside the journal it needs none"
    assert list(tmp_path.iterdir()) == []
