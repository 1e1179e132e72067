"""Names an installation among others that have their blobs in the same bucket or folder.

Each sweeps what its own tasks do not name. So two installations must never have the same name: whoever copies a data
directory, and uses both, removes the file `installation` from one of them before it has blobs of its own.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from ...protocols.errors import InvalidSetting
from ..cluster_file import using
from ..store.address import StoreAddress
from .folder import sync

FILE = "installation"
_NAME = re.compile(r"data-[0-9a-f]{24}")


def installation_of(address: StoreAddress) -> str:
    """Return the name of an installation; makes it at the first use. It blocks, if the address does not have the name.

    Raises InvalidSetting; or JournalFailed, if the database that has the name is away.
    """
    if address.installation:
        return address.installation
    if address.url:
        from ..store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
        from ..store.postgres.tables import installation_in  # noqa: PLC0415

        return installation_in(Database(address.url, address.schema, address.timeout_s))
    with using(address.path):
        return _kept_in(address.path)


def has_name(address: StoreAddress) -> bool:
    """Whether the installation has its name, so that there may be blobs below it. Makes nothing.

    Raises JournalFailed, if the database that has the name is away.
    """
    if address.installation or not address.url:
        return bool(address.installation) or (address.path / FILE).exists()
    from ..store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
    from ..store.postgres.tables import has_tables  # noqa: PLC0415

    return has_tables(Database(address.url, address.schema, address.timeout_s))


def named(address: StoreAddress) -> StoreAddress:
    """Return an address with the name of its installation, if the blob store needs it. It blocks."""
    return address._replace(installation=installation_of(address)) if address.blobs else address


def _kept_in(data: Path) -> str:
    path = data / FILE
    with suppress(FileNotFoundError):
        return _checked(path)
    data.mkdir(parents=True, exist_ok=True)
    draft = data / f"{FILE}.{secrets.token_hex(8)}.draft"
    _write_durably(draft, f"data-{secrets.token_hex(12)}\n")
    try:
        with suppress(FileExistsError):  # another process was first: its name holds
            os.link(draft, path)
    finally:
        draft.unlink()
    sync(data)
    return _checked(path)


def _write_durably(path: Path, text: str) -> None:
    """Write a new file that only its owner can read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(handle)


def _checked(path: Path) -> str:
    name = path.read_text(errors="replace").strip()
    if not _NAME.fullmatch(name):  # never go on with another name: the blobs of this one would be lost
        problem = f"the file '{FILE}' is damaged, and says below which name the blobs are: restore it"
        raise InvalidSetting(name="data", source=str(path.parent), problem=problem)
    return name
