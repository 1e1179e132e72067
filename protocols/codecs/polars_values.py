"""polars' frames and series, in Arrow's IPC format, as polars writes it."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import polars as pl

from ..large import Pieces
from ..stored import Buffer
from .registry import Codec, NoCodec


def _dump_frame(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    return {"rows": value.height, "columns": value.columns[:20]}, _written(value)


def _dump_series(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    return {"rows": len(value), "dtype": str(value.dtype), "name": value.name}, _written(value.to_frame())


def _written(frame: Any) -> Pieces:
    objects = [name for name, dtype in frame.schema.items() if dtype == pl.Object]
    if objects:
        raise NoCodec(f"its column {objects[0]!r} holds Python objects, which cannot be encoded; give it another type")
    empty = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Array) and dtype.size == 0]
    if empty:
        raise NoCodec(f"its column {empty[0]!r} holds arrays of no items, which polars cannot read back")
    written = BytesIO()
    frame.write_ipc(written)
    return Pieces((written.getbuffer(),))


def _load_frame(_about: Mapping[str, Any], data: Buffer) -> Any:
    return pl.read_ipc(BytesIO(data))


def _load_series(about: Mapping[str, Any], data: Buffer) -> Any:
    return _load_frame(about, data).to_series()


CODECS = (
    Codec("polars.DataFrame", pl.DataFrame, _dump_frame, _load_frame),
    Codec("polars.Series", pl.Series, _dump_series, _load_series),
)
