"""The blob store in a bucket: of S3 and what speaks like it, of Google Cloud, or a container of Azure.

Credentials and endpoints come from the environment, where obstore finds them by itself, or from the machine's role.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from ...protocols.errors import BlobMissing, BlobsAway
from ...supervisors.ports.blobs import Blob
from ..threads import Threads
from .object_faults import NO_BUCKET, reason_of
from .place import BlobPlace

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

Bucket = S3Store | GCSStore | AzureStore

PIECE_BYTES = 4 * 1024 * 1024
"""Size of the pieces of a download."""
PART_BYTES = 8 * 1024 * 1024
"""Size of the parts of an upload, and of the largest content that is sent as a whole."""
MOST_PARTS = 10_000
"""Most parts that the clouds take for one object."""
PARTS_AT_ONCE = 4
LISTED_AT_ONCE = 1_000
CONNECT_S = 3.0
ANSWER_S = 8.0
"""Longest wait for an answer, or for the next bytes of a download, in seconds."""
TAKE_S = 60.0
"""Longest time in seconds to take a part of an upload: a slow line has to carry `PARTS_AT_ONCE` of them in it."""
RETRY_S = 5.0
"""Time after which nothing is tried again, in seconds. So a dead endpoint is noticed after `ANSWER_S` or a bit more."""
RETRIES = 3


class Ways(NamedTuple):
    """Two ways to the same bucket."""

    quick: Bucket
    patient: Bucket
    """For uploads: the answer comes when all is there."""


class Mark(NamedTuple):
    """A mark of doom, in one version."""

    name: str
    tag: str | None
    put_at: datetime


class ObjectBlobs:
    """Implements `Remote`.

    Below the path of an installation, a blob is at `blobs/ab/<name>`, where `ab` are the first two characters of its
    name. A doomed blob has an object `doomed/<name>`, with the time in it.
    """

    def __init__(self, place: BlobPlace, installation: str) -> None:
        self._at = place._replace(path=f"{place.path}/{installation}".strip("/"))
        self.place = str(self._at)
        self._ways: Ways | None = None
        self._times: dict[Mark, float] = {}
        """Times in the marks of doom that the last listing found."""

    @contextmanager
    def _reached(self) -> Iterator[Ways]:
        """Reach the bucket, and raise its faults as ours. An object that is not there is a FileNotFoundError."""
        try:
            yield self._opened()
        except FileNotFoundError as error:
            if NO_BUCKET.search(str(error)):
                raise self._away(error) from None
            raise
        except (BaseError, OSError, ValueError) as error:
            raise self._away(error) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # obstore's, at an endpoint that is no URL
                raise
            raise self._away(error) from None

    def _away(self, error: BaseException) -> BlobsAway:
        """Return an error as ours. It takes the place of obstore's, in which there may be secrets."""
        return BlobsAway(place=self.place, reason=reason_of(error, self._at))

    def _opened(self) -> Ways:
        """Return the ways to the bucket. The first use makes sure that it is there.

        Where there is no bucket, the answer to a question about an object is only that the object is not there.
        """
        if self._ways is None:
            ways = Ways(_new_bucket(self._at, ANSWER_S), _new_bucket(self._at, TAKE_S))
            next(obstore.list(ways.quick, "doomed"), None)
            self._ways = ways
        return self._ways

    def size_of(self, name: str) -> int | None:
        return self._size_at(_blob(name))

    def is_doomed(self, name: str) -> bool:
        return self._size_at(_mark(name)) is not None

    def _size_at(self, path: str) -> int | None:
        try:
            with self._reached() as ways:
                return obstore.head(ways.quick, path)["size"]
        except FileNotFoundError:
            return None

    def upload(self, name: str, path: Path) -> None:
        self._put(_blob(name), path, max(PART_BYTES, -(-path.stat().st_size // MOST_PARTS)))

    def _put(self, path: str, content: Path | bytes, part_bytes: int = PART_BYTES) -> None:
        try:
            with self._reached() as ways:
                obstore.put(ways.patient, path, content, chunk_size=part_bytes, max_concurrency=PARTS_AT_ONCE)
        except FileNotFoundError as error:
            raise self._away(error) from None

    def download(self, name: str) -> Iterator[bytes]:
        try:
            with self._reached() as ways:
                yield from obstore.get(ways.quick, _blob(name)).stream(PIECE_BYTES)
        except FileNotFoundError:
            raise BlobMissing(name=name, place=self.place) from None

    def listing(self) -> Iterator[Blob]:
        doomed = self._doomed()
        for each in self._objects("blobs"):
            name = _name(each)
            yield Blob(name, each["size"], each["last_modified"].timestamp(), doomed.pop(name, None))
        for name in doomed:  # left by a crash between the two steps of a deletion
            self.spare(name)

    def _objects(self, prefix: str) -> Iterator[ObjectMeta]:
        with self._reached() as ways:
            for some in obstore.list(ways.quick, prefix, chunk_size=LISTED_AT_ONCE):
                yield from some

    def _doomed(self) -> dict[str, float]:
        """Return the times in the marks of doom, by name. A mark that was read before is not read again."""
        found = {Mark(_name(each), each["e_tag"], each["last_modified"]): each for each in self._objects("doomed")}
        known = {mark: self._times[mark] for mark in found if mark in self._times}
        readings = {
            mark: _mark_readers(os.getpid()).submit(partial(self._time_in, found[mark]))
            for mark in found.keys() - known
        }
        try:
            read = {mark: cast("float | None", reading.result()) for mark, reading in readings.items()}
        finally:
            for reading in readings.values():  # if one failed, the others would only make the next listing wait
                reading.cancel()
        self._times = known | {mark: at for mark, at in read.items() if at is not None}
        return {mark.name: at for mark, at in self._times.items()}

    def _time_in(self, mark: ObjectMeta) -> float | None:
        """Return the time in a mark of doom; that of the mark itself if it cannot be read. None if it is gone."""
        try:
            with self._reached() as ways:
                content = bytes(obstore.get(ways.quick, mark["path"]).bytes())
        except FileNotFoundError:
            return None
        try:
            return float(content)
        except ValueError:
            return mark["last_modified"].timestamp()

    def _doomed_at(self, name: str) -> float | None:
        """Return since when a blob is doomed; None if it is not."""
        try:
            with self._reached() as ways:
                mark = obstore.head(ways.quick, _mark(name))
        except FileNotFoundError:
            return None
        return self._time_in(mark)

    def doom(self, name: str, at: float) -> None:
        self._put(_mark(name), f"{at:.3f}".encode())

    def spare(self, name: str) -> None:
        self._delete(_mark(name))

    def delete(self, name: str, doomed_at: float) -> None:
        if self._doomed_at(name) != doomed_at:
            return
        self._delete(_blob(name))
        self._delete(_mark(name))  # last: as long as it is doomed, nobody is given its key

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError), self._reached() as ways:
            obstore.delete(ways.quick, path)


def _blob(name: str) -> str:
    return f"blobs/{name[:2]}/{name}"


def _mark(name: str) -> str:
    return f"doomed/{name}"


def _name(listed: ObjectMeta) -> str:
    return listed["path"].rpartition("/")[2]


def _new_bucket(at: BlobPlace, answer_s: float) -> Bucket:
    """Open a bucket, without a request."""
    client: ClientConfig = {
        "allow_http": True,  # for an endpoint that says so: a server of one's own
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=answer_s),
        "timeout": timedelta(days=1),  # of a whole download, however large
    }
    retry: RetryConfig = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=RETRY_S),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
    }
    match at.scheme:
        case "s3":  # not every server knows how to delete in bulk, and here it is one object at a time
            return S3Store(
                at.bucket, prefix=at.path, client_options=client, retry_config=retry, disable_bulk_delete=True
            )
        case "gs":
            return GCSStore(at.bucket, prefix=at.path, client_options=client, retry_config=retry)
        case _:
            return AzureStore(at.bucket, prefix=at.path, client_options=client, retry_config=retry)


@cache
def _mark_readers(_process: int) -> Threads:
    """Return the threads of a process that read marks of doom. A forked child has none of its parent's."""
    return Threads("podium-doomed", most=16)
