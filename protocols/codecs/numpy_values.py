"""numpy's arrays and scalars, in numpy's own file format (NEP 1). Arrays of objects are refused: they need pickle."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ..values import Value
from .registry import Codec, NoCodec


def _dump_array(value: Any) -> tuple[Mapping[str, Any], Value]:
    if value.dtype.hasobject:
        raise NoCodec("an array of objects cannot be encoded without pickle: give a list, or an array of numbers")
    written = BytesIO()
    npy.write_array(written, value, allow_pickle=False)
    return {"dtype": str(value.dtype), "shape": list(value.shape)}, written.getvalue()


def _load_array(_about: Mapping[str, Any], data: bytes) -> Any:
    return npy.read_array(BytesIO(data), allow_pickle=False)


def _dump_scalar(value: Any) -> tuple[Mapping[str, Any], Value]:
    if value.dtype.hasobject or value.dtype.fields:
        raise NoCodec("a scalar with fields or objects cannot be encoded: give its `.item()`")
    return {"dtype": value.dtype.str}, value.tobytes()


def _load_scalar(about: Mapping[str, Any], data: bytes) -> Any:
    return np.frombuffer(data, np.dtype(about["dtype"]))[0]


CODECS = (
    Codec("numpy.ndarray", np.ndarray, _dump_array, _load_array),
    Codec("numpy.generic", np.generic, _dump_scalar, _load_scalar, is_for_derived=True),
)
