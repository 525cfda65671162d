"""Tables as bytes, between processes."""

from __future__ import annotations

import pyarrow as pa


def to_bytes(table: pa.Table) -> memoryview:
    """Write a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def from_bytes(content: bytes) -> pa.Table:
    """Read a table from an Arrow stream."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()
