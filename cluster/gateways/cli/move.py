"""`podium move`: carries the tasks of an installation to another store."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ....protocols.errors import FixTheCall
from ...blobs.stores import blobs_of
from ...config import load_settings
from ...store.address import StoreAddress
from ...store.moving import Place, carry_over
from ...store.sqlite.moving import Directory
from ...store.stores import store_of
from .alone import alone
from .options import Data
from .terminal import Terminal

_LASTING = ("protocols", "tokens.json", "tokens.key")
"""Parts of a data directory that belong to the installation, and not to this machine."""

To = Annotated[str, typer.Option("--to", help="The new place: a directory, or a URL postgresql://…")]
Schema = Annotated[str | None, typer.Option("--to-schema", help="Schema of the new database (default: podium).")]


def move(to: To, data: Data = None, to_schema: Schema = None) -> None:
    """Move all tasks, open ones too, to another directory or database. No cluster may run on either."""
    source = load_settings(data=data, source="cli")
    target = load_settings(data=to, database_schema=to_schema, source="cli")
    if source.store[:3] == target.store[:3]:
        raise typer.BadParameter("that is where the tasks are", param_hint="--to")
    with ExitStack() as owned:
        owned.enter_context(alone(source))
        owned.enter_context(alone(target))
        old, new = _end(source.store), _end(target.store)
        if old.is_empty():
            raise FixTheCall(f"there is nothing to move in {old.place}")
        if not new.is_empty():
            raise FixTheCall(f"{new.place} has tasks already: name an empty place")
        blobs = _carry_blobs(source.store, target.store)
        moved = carry_over(old, new)
        _copy_lasting(source.data, target.data)
        aside = old.put_aside(time.strftime("%Y%m%d%H%M%S"))
    tasks = "1 task" if moved.tasks == 1 else f"{moved.tasks:,} tasks"
    stored = "1 blob" if blobs == 1 else f"{blobs:,} blobs"
    text = f"Moved {tasks}, with {moved.entries:,} entries of the journal and {stored}, to {new.place}."
    Terminal().print(f"{text} The old ones are in {aside}: delete that when all is well.", markup=False)


def _carry_blobs(source: StoreAddress, target: StoreAddress) -> int:
    """Carry the named blobs over, before the tasks that name them; returns how many. The old ones stay where they are.

    Raises BlobMissing or BlobCorrupt; then nothing was moved.
    """
    old, new = blobs_of(source), blobs_of(target)
    names = {use.name for use in store_of(source).reader.blob_uses()}
    if old.place != new.place:
        for name in sorted(names):
            new.adopt(name, old.read(name))
    return len(names)


def _end(place: StoreAddress) -> Place:
    if not place.url:
        return Directory(place.path)
    store_of(place)  # says so if the driver is missing
    from ...store.postgres.connecting import Database  # noqa: PLC0415  (psycopg is an extra)
    from ...store.postgres.moving import Installation  # noqa: PLC0415
    from ...store.postgres.store import shards_folder  # noqa: PLC0415

    return Installation(Database(place.url, place.schema, place.timeout_s), shards_folder(place.path))


def _copy_lasting(source: Path, target: Path) -> None:
    for name in _LASTING:
        old, new = source / name, target / name
        if old.is_dir() and not new.exists():
            shutil.copytree(old, new)
        elif old.is_file() and not new.exists():
            shutil.copy2(old, new)
