"""Writes a value to a file, in the form in which other programs read it."""

from __future__ import annotations

from pathlib import Path

from ....protocols.codecs.registry import decoded
from ....protocols.encoded import Encoded
from ....protocols.errors import InvalidInput
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


def save(value: Value, path: Path) -> str:
    """Write a value to a new file; returns in which form: bytes and texts as they are, arrays and frames in the format
    of their codec, images by the name of the file, all else as JSON.

    Raises:
        InvalidInput: the file is there, cannot be written, or is no name for an image.
    """
    try:
        with path.open("xb") as file:
            if isinstance(value, Encoded) and value.codec == _IMAGE:
                file.close()
                return _save_image(value, path)
            form, content = _content_of(value)
            file.write(content)
            return form
    except FileExistsError as error:
        raise InvalidInput(problem="the file is there already; name another", path=f"--save {path}") from error
    except OSError as error:
        raise InvalidInput(problem=f"it cannot be written: {error.strerror}", path=f"--save {path}") from error


def _content_of(value: Value) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "bytes", value
    if isinstance(value, str):
        return "text", value.encode()
    if isinstance(value, Encoded) and value.codec in _FORMS and isinstance(value.data, bytes):
        return _FORMS[value.codec], value.data
    return "JSON", f"{to_json(value)}\n".encode()


def _save_image(value: Encoded, path: Path) -> str:
    image = decoded(value)
    try:
        image.save(path)
    except (ValueError, OSError) as error:
        path.unlink(missing_ok=True)
        raise InvalidInput(problem=f"no image can be written there: {error}", path=f"--save {path}") from error
    return f"an image, {path.suffix.lstrip('.').upper()}"
