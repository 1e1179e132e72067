"""A blob store for blocking code of users and drivers: while the store is away, the code waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from ...protocols.errors import BlobsAway
from ...protocols.file import Draft
from ...protocols.stored import BlobKey, Buffer
from ...supervisors.ports.blobs import BlobStore

T = TypeVar("T")


class PatientBlobs:
    """Implements `BlobSource`, and makes new files."""

    def __init__(self, store: BlobStore, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store, self._timeout_s, self._sleep = store, timeout_s, sleep

    def get(self, key: BlobKey) -> Buffer:
        return self.patiently(lambda: self._store.get(key))

    def open(self, key: BlobKey) -> BinaryIO:
        return self.patiently(lambda: self._store.open(key))

    def save(self, key: BlobKey, path: str) -> None:
        self.patiently(lambda: self._store.save(key, path))

    def new_draft(self) -> PatientDraft:
        return PatientDraft(self, self.patiently(self._store.new_draft))

    def patiently(self, work: Callable[[], T], may_help: Callable[[], bool] = lambda: True) -> T:
        """Work, and again while the store is away, if that may help. Raises BlobsAway after the time-out."""
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, BlobsAway) and may_help()),
            wait=wait_exponential(multiplier=0.05, max=2.0),
            stop=stop_after_delay(self._timeout_s),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(work)


class PatientDraft:
    """Implements `Draft`. Only the end of it waits: what is written before that stays on this machine."""

    def __init__(self, blobs: PatientBlobs, draft: Draft) -> None:
        self._blobs, self._draft = blobs, draft

    @property
    def is_broken(self) -> bool:
        return self._draft.is_broken

    def write(self, piece: Buffer) -> None:
        self._draft.write(piece)

    def commit(self) -> BlobKey:
        return self._blobs.patiently(self._draft.commit, lambda: not self._draft.is_broken)

    def abandon(self) -> None:
        self._draft.abandon()
