"""pandas' frames and series, in Arrow's IPC stream format, which needs pyarrow.

Arrow has no columns of arbitrary objects, so what comes back is compared with what was given, and refused if it
differs: a column of sets would come back as lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..large import Pieces
from ..stored import Buffer
from .registry import Codec, NoCodec

_SERIES = "$series"
"""Name of the only column of a frame that stands for a series."""


def _dump_frame(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    data, about = _stream_of(value), _freq_of(value)
    _check_same(value, _load_frame(about, data[0]))
    return {"rows": len(value), "columns": [str(name) for name in value.columns[:20]]} | about, data


def _dump_series(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    about = {"rows": len(value), "dtype": str(value.dtype), "name": value.name} | _freq_of(value)
    if value.name is not None and not isinstance(value.name, str | int):
        raise NoCodec("a series whose name is no text or number cannot be encoded: rename it")
    data = _stream_of(value.to_frame(_SERIES))
    _check_same(value, _load_series(about, data[0]))
    return about, data


def _stream_of(frame: Any) -> Pieces:
    try:
        import pyarrow as pa  # noqa: PLC0415  (pandas works without it)
    except ImportError as error:
        raise NoCodec("pandas' frames are encoded by pyarrow: install pyarrow") from error
    from .arrow_values import stream_of  # noqa: PLC0415

    try:
        return stream_of(pa.Table.from_pandas(frame, preserve_index=None))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise NoCodec(f"pyarrow cannot encode it: {error}; give columns of one type each") from error


def _freq_of(value: Any) -> dict[str, str]:
    """Return the frequency of an index of times, which Arrow does not keep."""
    freq = getattr(value.index, "freqstr", None) if isinstance(value.index, pd.DatetimeIndex) else None
    return {} if freq is None else {"freq": freq}


def _load_frame(about: Mapping[str, Any], data: Buffer) -> Any:
    from .arrow_values import table_of  # noqa: PLC0415

    frame = table_of(data).to_pandas()
    if "freq" in about:
        frame.index.freq = about["freq"]
    return frame


def _load_series(about: Mapping[str, Any], data: Buffer) -> Any:
    return _load_frame(about, data)[_SERIES].rename(about["name"])


def _check_same(before: Any, after: Any) -> None:
    is_frame = isinstance(before, pd.DataFrame)
    for name, column in before.items() if is_frame else [(before.name, before)]:
        if column.dtype == object:
            _check_types(name, column, after[name] if is_frame else after)
    testing: Any = pd.testing
    same = testing.assert_frame_equal if is_frame else testing.assert_series_equal
    try:
        same(before, after, check_exact=True)
    except (AssertionError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise NoCodec(f"it would not come out equal: {problem}; give columns of one type each") from error


def _check_types(name: object, before: Any, after: Any) -> None:
    changed = next(((b, a) for b, a in zip(before, after, strict=True) if type(b) is not type(a)), None)
    if changed is not None:
        kinds = " into a ".join(type(each).__name__ for each in changed)
        raise NoCodec(f"its column {name!r} would change a {kinds}; give columns of one type each")


CODECS = (
    Codec("pandas.DataFrame", pd.DataFrame, _dump_frame, _load_frame),
    Codec("pandas.Series", pd.Series, _dump_series, _load_series),
)
