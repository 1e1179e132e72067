"""Fills drafts of blobs, and gives them up if they were not committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ...protocols.file import Draft
from ...protocols.stored import BlobKey, Buffer

D = TypeVar("D", bound=Draft)


@contextmanager
def filled(draft: D, pieces: Iterable[Buffer]) -> Iterator[D]:
    """Write pieces into a draft, which ends with the block."""
    try:
        for piece in pieces:
            draft.write(piece)
        yield draft
    finally:
        draft.abandon()


def committed(draft: Draft, pieces: Iterable[Buffer]) -> BlobKey:
    """Write pieces into a draft and store it, durably; returns the key."""
    with filled(draft, pieces):
        return draft.commit()
