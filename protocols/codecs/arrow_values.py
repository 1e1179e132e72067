"""pyarrow's tables and record batches, in Arrow's IPC stream format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ..large import Pieces
from ..stored import Buffer
from .registry import Codec


def stream_of(value: Any) -> Pieces:
    """Return a table or a batch as an IPC stream."""
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, value.schema) as writer:
        writer.write(value)
    return Pieces((memoryview(written.getvalue()),))


def table_of(stream: Buffer) -> Any:
    with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
        table = reader.read_all()
    table.validate(full=True)  # offsets beyond the data would end the process later
    return table


def _dump(value: Any) -> tuple[Mapping[str, Any], Pieces]:
    return {"rows": value.num_rows, "columns": value.schema.names[:20]}, stream_of(value)


def _load_table(_about: Mapping[str, Any], data: Buffer) -> Any:
    return table_of(data)


def _load_batch(_about: Mapping[str, Any], data: Buffer) -> Any:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        batch = reader.read_next_batch()
    batch.validate(full=True)
    return batch


CODECS = (
    Codec("pyarrow.Table", pa.Table, _dump, _load_table),
    Codec("pyarrow.RecordBatch", pa.RecordBatch, _dump, _load_batch),
)
