"""A cable between this process and a PostgreSQL server, which tests pull out, or whose server they switch off."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import psycopg

PORT = 7


class Cable:
    """Passes bytes between a socket in a folder and the server of a URL, as long as it is whole."""

    def __init__(self, folder: Path, url: str) -> None:
        facts = psycopg.conninfo.conninfo_to_dict(url)
        self._server = f"{facts['host']}/.s.PGSQL.{facts.get('port') or 5432}"
        self._path = folder / f".s.PGSQL.{PORT}"
        self.url = f"postgresql://{facts.get('user') or 'postgres'}@/{facts['dbname']}?host={folder}&port={PORT}"
        self._is_cut = threading.Event()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def pull(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        self._is_cut.set()

    def switch_off(self) -> None:
        """Close all connections, and refuse new ones, as a machine does whose server is not running."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut.clear()
        if self._listener is None:
            self._path.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
            self._listener.listen(16)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._server)
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if self._is_cut.is_set():
                    return  # the connection stays open, and nothing comes
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)
