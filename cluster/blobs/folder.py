"""The blob store in a folder: one file for each content, which readers map into their memory.

A mapped file is the shared memory of the machine: the pages of a file that was just written are still there, and a
reader gets them without a copy. What it writes into them is its own. Files never change, so a map stays good also when
its file is deleted.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from ...protocols.errors import BlobCorrupt, BlobMissing, BlobsAway
from ...protocols.probes import hit
from ...protocols.stored import BlobKey, Buffer
from ...supervisors.ports.blobs import Blob
from .drafts import committed, filled
from .hashing import PIECE_BYTES, SLICE_BYTES, Hashing, aside, bounded, check_name, crc_of

MAPPED_BYTES = 4 * 1024 * 1024
"""Size from which on a content is mapped. A map holds a file descriptor for as long as it is used, and there are some
thousand of these at most, so smaller contents are copied."""
SYNC_BYTES = 16 * 1024 * 1024
"""Number of bytes after which the disk is made to begin with a large content."""
_NUMBERS = itertools.count(1)


class FolderBlobs:
    """Implements `BlobStore` in a folder, which is made at the first use.

    A blob is at `ab/<name>`, where `ab` are the first two characters of its name. Drafts are in `drafts/`. A doomed
    blob has an entry in `doomed/`, with the time in it.
    """

    def __init__(self, folder: Path, is_durable: bool = True) -> None:
        """`is_durable`: whether to wait for the disk; a cache need not."""
        self.folder, self.is_durable = folder, is_durable
        self._synced: set[str] = set()
        """Folders of blobs whose names are known to be durable."""

    @property
    def place(self) -> str:
        return str(self.folder)

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def doomed_path(self, name: str) -> Path:
        return self.folder / "doomed" / name

    def new_draft(self) -> FolderDraft:
        with self.faults():
            return FolderDraft(self)

    def put(self, pieces: Iterable[Buffer]) -> BlobKey:
        return committed(self.new_draft(), pieces)

    def put_file(self, path: str, most_bytes: int) -> BlobKey:
        return self.put(bounded(path, most_bytes))

    def get(self, key: BlobKey) -> Buffer:
        with self._opened(key) as file:
            content = _mapped(file) if key.size >= MAPPED_BYTES else _read(file, key.size)
        if crc_of(content) != key.crc:
            raise BlobCorrupt(name=key.name, place=self.place, problem="the checksum does not match")
        return content

    def open(self, key: BlobKey) -> BinaryIO:
        self.get(key)  # checks it
        with self.faults(key):
            return self.path(key.name).open("rb")

    def save(self, key: BlobKey, path: str) -> None:
        with self.open(key) as source, Path(path).open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)

    @contextmanager
    def _opened(self, key: BlobKey) -> Iterator[BinaryIO]:
        with self.faults(key), self.path(key.name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != key.size:
                problem = f"it has {size} bytes, and had {key.size}"
                raise BlobCorrupt(name=key.name, place=self.place, problem=problem)
            yield file

    def renewed(self, key: BlobKey) -> BlobKey:
        with self._opened(key):
            is_doomed = self.doomed_path(key.name).exists()
        return self.put([self.get(key)]) if is_doomed else key

    def read(self, name: str) -> Iterator[Buffer]:
        at = 0
        while piece := self.read_at(name, at, SLICE_BYTES):
            yield piece
            at += len(piece)

    def read_at(self, name: str, at: int, most: int) -> bytes:
        """Return a piece of a content, unchecked; b"" at its end. Raises BlobMissing."""
        try:
            with self.faults(), self.path(name).open("rb") as file:
                file.seek(at)
                return file.read(most)
        except FileNotFoundError as error:
            raise BlobMissing(name=name, place=self.place) from error

    def draft_path(self) -> Path:
        """Return a path for a draft that no other has, and make its folder. Raises OSError."""
        _make(self.folder / "drafts")
        return self.folder / "drafts" / f"{os.getpid()}-{next(_NUMBERS)}-{time.time_ns()}"

    def new_plain_draft(self) -> Path:
        """Make an empty file among the drafts, for somebody who opens it anew for each piece. Raises OSError."""
        path = self.draft_path()
        path.touch(0o600, exist_ok=False)
        return path

    def adopt(self, name: str, pieces: Iterable[Buffer]) -> None:
        with filled(self.new_draft(), pieces) as draft:
            check_name(draft.key(), name, self.place)
            with self.faults():
                draft.move_to(self.path(name))
                self.sync_folder_of(name)

    def size_of(self, name: str) -> int | None:
        try:
            with self.faults():
                return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def listing(self) -> Iterator[Blob]:
        with self.faults():
            doomed = self._doomed()
            for folder in sorted(self.folder.glob("??")):
                for path in _files(folder):
                    with suppress(FileNotFoundError):
                        facts = path.stat()
                        yield Blob(path.name, facts.st_size, facts.st_mtime, doomed.pop(path.name, None))
            for name in doomed:  # left by a crash between the two steps of a deletion
                self.doomed_path(name).unlink(missing_ok=True)

    def _doomed(self) -> dict[str, float]:
        """Return since when each blob is doomed. A sweeper may change that meanwhile."""
        found = {}
        for path in _files(self.folder / "doomed"):
            with suppress(FileNotFoundError):
                found[path.name] = _time_in(path)
        return found

    def doom(self, name: str, at: float) -> None:
        with self.faults():
            _make(self.folder / "doomed")
            draft = self.folder / "drafts" / f"doom-{name}-{os.getpid()}"
            _make(draft.parent)
            draft.touch(mode=0o600)
            draft.write_text(f"{at:.3f}")
            draft.rename(self.doomed_path(name))
            sync(self.folder / "doomed")

    def spare(self, name: str) -> None:
        with self.faults():
            self.doomed_path(name).unlink(missing_ok=True)

    def delete(self, name: str, doomed_at: float) -> None:
        with self.faults():
            if self._doomed().get(name) != doomed_at:
                return
            self.path(name).unlink(missing_ok=True)
            sync(self.path(name).parent)
            self.doomed_path(name).unlink(missing_ok=True)  # last: as long as it is doomed, nobody is given its key

    def has_sound(self, key: BlobKey) -> bool:
        """Whether a content is there as it was. One that is damaged is replaced by whoever has it again."""
        try:
            self.get(key)
        except (BlobMissing, BlobCorrupt):
            return False
        return True

    def sync_folder_of(self, name: str) -> None:
        """Make a name durable: in its folder, and at the first time the folder in the store. Raises OSError."""
        if not self.is_durable:
            return
        folder = self.path(name).parent
        sync(folder)
        if folder.name not in self._synced:
            sync(self.folder)
            self._synced.add(folder.name)

    def drop_drafts(self, before: float) -> int:
        count = 0
        with self.faults():
            for path in _files(self.folder / "drafts"):
                with suppress(FileNotFoundError):  # it was committed meanwhile
                    if path.stat().st_mtime < before:
                        path.unlink()
                        count += 1
        return count

    @contextmanager
    def faults(self, key: BlobKey | None = None) -> Iterator[None]:
        """Raise faults of the file system as ours. With a key, a file that is not there is a missing blob."""
        try:
            yield
        except FileNotFoundError as error:
            if key is None:
                raise
            raise BlobMissing(name=key.name, place=self.place) from error
        except FileExistsError:
            raise
        except OSError as error:
            raise BlobsAway(place=self.place, reason=_said(error)) from error


class FolderDraft:
    """Implements `Draft`."""

    def __init__(self, store: FolderBlobs) -> None:
        self._store, self._hashing = store, Hashing()
        self.is_broken = False
        """Whether a fault has left it unknown what is in the file. Then it can only be abandoned."""
        self._size = self._unsynced = 0
        self._syncing: Future[object] | None = None
        self.path = store.draft_path()
        self._file: int | None = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def write(self, piece: Buffer) -> None:
        with self._usable():
            self._hashing.see_written(self._write, piece)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Work with the file, unless it is broken. A fault breaks it."""
        if self.is_broken:
            raise BlobsAway(place=self._store.place, reason="a draft could not be written, and is of no use")
        self.is_broken = True
        try:
            with self._store.faults():
                yield
        except FileNotFoundError as error:
            raise BlobsAway(place=self._store.place, reason="a draft was deleted while it was written") from error
        self.is_broken = False

    def _write(self, piece: memoryview) -> Buffer:
        """Write a piece; returns what is in the file now."""
        assert self._file is not None
        begin, at = self._size, 0
        while at < len(piece):
            at += os.write(self._file, piece[at:])
        self._size += at
        self._unsynced += at
        if self._store.is_durable and self._unsynced >= SYNC_BYTES:
            self._sync_aside()
        if isinstance(piece.obj, bytes):
            return piece
        if at < PIECE_BYTES or begin % mmap.ALLOCATIONGRANULARITY:
            return os.pread(self._file, at, begin)
        return cast(Buffer, mmap.mmap(self._file, at, mmap.MAP_SHARED, mmap.PROT_READ, offset=begin))

    def _sync_aside(self) -> None:
        """Let the disk begin, while more is digested and written. That all is on the disk is seen to at the end."""
        assert self._file is not None
        if self._syncing is None or self._syncing.done():
            self._check_sync()
            self._unsynced = 0
            self._syncing = aside(os.getpid()).submit(partial(os.fdatasync, self._file))

    def _check_sync(self) -> None:
        """Wait for the thread that uses the file. Raises its error: the kernel tells of an error only once."""
        if self._syncing is not None:
            self._syncing.result()

    def commit(self) -> BlobKey:
        with self._usable():
            key = self._free(self.key())
            if not self._store.has_sound(key):
                self.move_to(self._store.path(key.name))
            self._store.sync_folder_of(key.name)  # also if another process moved it there a moment ago
        self.abandon()
        return key

    def key(self) -> BlobKey:
        """Return the key of what was written so far, in its first generation."""
        return self._hashing.key()

    def _free(self, key: BlobKey) -> BlobKey:
        """Return the key in the first generation that is not doomed."""
        while self._store.doomed_path(key.name).exists():
            hit("blob stored under another generation")
            key = key._replace(generation=key.generation + 1)
        return key

    def move_to(self, target: Path) -> None:
        """Move the file to its place, in place of any other there. Raises OSError."""
        assert self._file is not None
        if self._store.is_durable:
            self._check_sync()
            os.fsync(self._file)
        _make(target.parent)
        self.path.rename(target)

    def abandon(self) -> None:
        if self._file is not None:
            if self._syncing is not None:
                self._syncing.exception()
            os.close(self._file)
            self._file = None
            with suppress(OSError):
                self.path.unlink()


def _mapped(file: BinaryIO) -> Buffer:
    return cast(Buffer, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _read(file: BinaryIO, size: int) -> Buffer:
    content = bytearray(size)
    file.readinto(content)  # type: ignore[attr-defined]  # every file has it
    return content


def _make(folder: Path) -> None:
    """Make a folder of the store, and the store's own, for us alone."""
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _time_in(path: Path) -> float:
    """Return the time in a file of `doomed/`; that of the file itself if a crash has left it empty."""
    try:
        return float(path.read_text())
    except ValueError:
        return path.stat().st_mtime


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _said(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full: free space there, nothing acknowledged is lost"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open here: raise `ulimit -n`, or keep fewer large values at the same time"
    return f"{error.strerror or error}"
