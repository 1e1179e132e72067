"""The place of an installation, as processes on several machines tell it each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from podium.cluster.store.address import StoreAddress, portable


@pytest.mark.parametrize(
    ("folder", "there"),
    [
        ("/home/ada/.podium/postgres-1", "/root/.podium/postgres-1"),
        ("/home/ada", "/root"),
        ("/home/adam/x", "/home/adam/x"),
        ("/srv/podium", "/srv/podium"),
    ],
)
def test_a_folder_in_the_home_of_one_user_is_in_the_home_of_the_other(monkeypatch, folder, there):
    monkeypatch.setenv("HOME", "/home/ada")
    told = StoreAddress(portable(Path(folder)), "postgresql://db/work")
    assert told.path == Path(folder)
    monkeypatch.setenv("HOME", "/root")
    assert told.path == Path(there)
