"""Says where blobs are if they are not beside the tasks: the setting `blobs`, a URL without credentials."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast
from urllib.parse import unquote

Cloud = Literal["s3", "gs", "az"]

_FORMS = "file:///folder, s3://bucket/path, gs://bucket/path or az://container/path"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BlobPlace(NamedTuple):
    """A folder, or a path in a bucket."""

    scheme: Literal["file"] | Cloud
    bucket: str
    """The bucket, or the container in Azure; "" for a folder."""
    path: str
    """Absolute for a folder. In a bucket it has no slash at its ends, and may be ""."""

    def __str__(self) -> str:
        return f"{self.scheme}://{'/'.join(part for part in (self.bucket, self.path) if part)}"


def read_place(url: str) -> BlobPlace:
    """Read the setting `blobs`. Raises ValueError, in words that repeat nothing of the URL: it may hold a password."""
    scheme, colon, rest = url.partition("://")
    if not colon or scheme not in ("file", "s3", "gs", "az"):
        raise ValueError(f"expected {_FORMS}")
    if scheme == "file":
        return BlobPlace("file", "", _folder(rest))
    bucket, _, path = rest.partition("/")
    if "@" in rest or ":" in bucket:
        raise ValueError("the URL is no place for a user, a password or a port: they belong into the environment")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"it names no bucket: expected {_FORMS}")
    return BlobPlace(cast(Cloud, scheme), bucket, _path_in_bucket(path.removesuffix("/")))


def _folder(rest: str) -> str:
    folder = unquote(rest).rstrip("/")
    if not folder.startswith("/") or "\0" in folder:
        raise ValueError("expected a folder with its whole path: file:///folder")
    return folder


def _path_in_bucket(path: str) -> str:
    if "?" in path or "#" in path:
        raise ValueError("the URL takes no parameters: a region and the like belong into the environment")
    if path and not all(part.strip(".") and part.isprintable() for part in path.split("/")):
        raise ValueError("a path in a bucket has no empty parts, and none of dots alone")
    return path
