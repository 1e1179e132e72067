"""numpy's arrays and scalars, in numpy's own file format (NEP 1). Arrays of objects are refused: they need pickle.

Arrays of plain numbers, times and texts are neither copied on their way out nor on their way in: their bytes are used
where they lie. Arrays with named fields go through numpy's own functions, which copy them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ..large import Pieces
from ..stored import Buffer
from .registry import Codec, NoCodec

_HEADER_BYTES = 16 * 1024
"""More than the longest header that numpy reads."""
_PREVIEWED = 4
"""Number of items that the description shows."""


def _dump_array(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    if value.dtype.hasobject:
        raise NoCodec("an array of objects cannot be encoded without pickle: give a list, or an array of numbers")
    about = {"dtype": str(value.dtype), "shape": list(value.shape)}
    if _is_copied(value.dtype):
        written = BytesIO()
        npy.write_array(written, value, allow_pickle=False)
        return about, Pieces((written.getvalue(),))
    dense = value if value.flags.c_contiguous or value.flags.f_contiguous else np.ascontiguousarray(value)
    header = BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(dense))
    as_stored: Any = dense if dense.flags.c_contiguous else dense.T
    return about | _preview(value), Pieces((header.getvalue(), memoryview(as_stored.reshape(-1).view(np.uint8))))


def _is_copied(dtype: Any) -> bool:
    return dtype.fields is not None or dtype.itemsize == 0


def _preview(array: Any) -> dict[str, Any]:
    """Return the first items, if they are numbers."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return {}
    items = array.flat[:_PREVIEWED].tolist()
    return {"first": items} if all(map(math.isfinite, items)) else {}


def _load_array(_about: Mapping[str, Any], data: Buffer) -> Any:
    """Return an array that may be written into. It lies in `data`, if that may be written into."""
    head = BytesIO(memoryview(data)[:_HEADER_BYTES])
    if npy.read_magic(head) != (1, 0):
        return npy.read_array(BytesIO(data), allow_pickle=False)
    shape, is_fortran, dtype = npy.read_array_header_1_0(head)
    if dtype.hasobject or _is_copied(dtype) or not math.prod(shape):
        return npy.read_array(BytesIO(data), allow_pickle=False)
    array = np.frombuffer(data, dtype, math.prod(shape), head.tell())
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return array if array.flags.writeable else array.copy(order="K")


def _dump_scalar(value: Any) -> tuple[Mapping[str, Any], bytes]:
    if value.dtype.hasobject or value.dtype.fields:
        raise NoCodec("a scalar with fields or objects cannot be encoded: give its `.item()`")
    return {"dtype": value.dtype.str}, value.tobytes()


def _load_scalar(about: Mapping[str, Any], data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(about["dtype"]))[0]


CODECS = (
    Codec("numpy.ndarray", np.ndarray, _dump_array, _load_array),
    Codec("numpy.generic", np.generic, _dump_scalar, _load_scalar, is_for_derived=True),
)
