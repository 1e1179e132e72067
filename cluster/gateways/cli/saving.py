"""Writes a value to a file, in the form in which other programs read it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ....protocols.codecs.registry import decoded
from ....protocols.contents import with_contents
from ....protocols.encoded import Encoded, encoded_in
from ....protocols.errors import InvalidInput
from ....protocols.stored import BYTES, FILE, TEXT, BlobSource, Stored, stored_in
from ....protocols.values import Value
from .terminal import to_json

_IMAGE = "PIL.Image"
_FORMS = {
    "numpy.ndarray": "numpy's file format",
    "pyarrow.Table": "an Arrow stream",
    "pyarrow.RecordBatch": "an Arrow stream",
    "pandas.DataFrame": "an Arrow stream",
    "pandas.Series": "an Arrow stream",
    "polars.DataFrame": "an Arrow file",
    "polars.Series": "an Arrow file",
}
"""Codecs whose data is a file that other programs read, with its name."""
_ENDINGS = {
    "numpy's file format": (".npy",),
    "an Arrow stream": (".arrow", ".arrows"),
    "an Arrow file": (".arrow", ".feather"),
}
"""Endings of names by the form of the file."""
_STORED_FORMS = {BYTES: "bytes", TEXT: "text", FILE: "a file", **_FORMS}
"""Stored parts whose content is such a file, with its name."""


def save(value: Value, path: Path, blobs: BlobSource) -> str:
    """Write a value to a new file; returns in which form: bytes, texts and files as they are, arrays and frames in the
    format of their codec, images by the name of the file, all else as JSON.

    Args:
        blobs: the store with the large parts of the value. A value that is such a part as a whole is copied from it.

    Raises:
        InvalidInput: the file is there, cannot be written, or is no name for an image.
        BlobMissing, BlobCorrupt, BlobsAway: a part cannot be read. Then no file is made.
    """
    _check_ending(value, path)
    try:
        if path.exists():
            raise FileExistsError
        return _saved(value, path, blobs)
    except FileExistsError as error:
        raise InvalidInput(problem="the file is there already; name another", path=f"--save {path}") from error
    except OSError as error:
        with suppress(OSError):
            path.unlink()  # a part of it was written
        raise InvalidInput(problem=f"it cannot be written: {error.strerror}", path=f"--save {path}") from error


def _saved(value: Value, path: Path, blobs: BlobSource) -> str:
    if isinstance(value, Stored) and not value.is_packed and value.codec in _STORED_FORMS:
        blobs.save(value.key, str(path))
        return _STORED_FORMS[value.codec]
    for part in stored_in(value):
        part.source = blobs
    if isinstance(value, Encoded) and value.codec == _IMAGE:
        return _save_image(value, path)
    form, content = _content_of(with_contents(value))
    with path.open("xb") as file:
        file.write(content)
    return form


def _check_ending(value: Value, path: Path) -> None:
    """Refuse a name that promises another form than that in which a value is written."""
    wanted = _ENDINGS.get(_FORMS.get(value.codec, "")) if isinstance(value, Encoded) else None
    if wanted is not None and path.suffix and path.suffix not in wanted:
        problem = f"it would be {_FORMS[value.codec]}: give a name with {' or '.join(wanted)}"
        raise InvalidInput(problem=f"{problem}, or without an ending", path=f"--save {path}")


def _content_of(value: Value) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "bytes", value
    if isinstance(value, str):
        return "text", value.encode()
    if isinstance(value, Encoded) and value.codec in _FORMS and isinstance(value.data, bytes):
        return _FORMS[value.codec], value.data
    described = sorted({part.codec for part in encoded_in(value)})
    form = f"JSON, in which each {' and '.join(described)} is only described" if described else "JSON"
    return form, f"{to_json(value)}\n".encode()


def _save_image(value: Encoded, path: Path) -> str:
    image = decoded(value)
    path.open("xb").close()
    try:
        image.save(path)
    except (ValueError, OSError) as error:
        path.unlink(missing_ok=True)
        raise InvalidInput(problem=f"no image can be written there: {error}", path=f"--save {path}") from error
    return f"an image, {path.suffix.lstrip('.').upper()}"
