"""Says where an installation keeps its tasks: in a data directory, or in a PostgreSQL database."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

SCHEMES = ("postgresql://", "postgres://")


class StoreAddress(NamedTuple):
    """The place of the tasks, in a form that one process can tell another."""

    folder: str
    """The data directory. With a database it holds only what belongs to this machine: sockets, locks and logs. Then it
    may begin with `~`, so that it is in the home of whoever runs Podium on a machine."""
    url: str = ""
    """The database; "" if the tasks are in the data directory."""
    schema: str = "podium"
    timeout_s: float = 30.0
    lease_s: float = 5.0
    blobs: str = ""
    """The blob store, if it is not beside the tasks."""
    blob_cache_mb: float = 1024.0
    installation: str = ""
    """Name of the installation in a blob store that several have, once it is known."""
    node: str = ""
    """Ray's id of the machine that has the data directory, if the tasks are there and Ray may have other machines."""

    @property
    def place(self) -> str:
        """Name of the place for messages. It has no password."""
        return place_of(self.url) if self.url else self.folder

    @property
    def path(self) -> Path:
        return Path(self.folder).expanduser()


def is_url(text: str) -> bool:
    return text.startswith(SCHEMES)


def portable(folder: Path) -> str:
    """Return the name of a folder that other machines have, too: below the home of their own user if it is so here."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def folder_name(url: str, schema: str) -> str:
    """Return the name of an installation's folder on this machine. The same database gives the same name to anybody."""
    parts = urlsplit(url)
    facts = (parts.hostname, parts.port, parts.path, sorted(parse_qsl(parts.query)), schema)
    return f"postgres-{sha256(repr(facts).encode()).hexdigest()[:12]}"


def place_of(url: str) -> str:
    """Return the URL of a database without user, password and parameters."""
    parts = urlsplit(url)
    at = f"{parts.hostname or 'localhost'}{'' if parts.port is None else f':{parts.port}'}"
    return f"postgresql://{at}{parts.path}"
