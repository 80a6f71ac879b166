"""A digest of rows by their content: the same for every file layout, row group size and parquet version."""

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def fingerprint(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """sha256 over column names, types and values, in the order of the rows.

    Every column has a digest of its own, so that where one batch ends and the next begins does not matter.

    Args:
        schema: names and types; numbers, booleans, timestamps and text.
        batches: the rows, in their canonical order.

    Returns:
        64 hexadecimal digits.
    """
    columns = [hashlib.sha256(f"{field.name}\0{_kind(field.type)}\0".encode()) for field in schema]
    for batch in batches:
        for column, values in zip(columns, batch.columns, strict=True):
            for part in _bytes(values):
                column.update(part)
    return hashlib.sha256(b"".join(column.digest() for column in columns)).hexdigest()


def _kind(kind: pa.DataType) -> str:
    # Engines disagree on 32 or 64 bit offsets for the same text.
    return "string" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else str(kind)


def _bytes(values: pa.Array) -> Iterable[bytes]:
    """The mask of nulls and the values; what lies in a null's place is not content."""
    yield values.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        text = values.cast(pa.large_string()).fill_null("")
        yield pc.binary_length(text).to_numpy(zero_copy_only=False).tobytes()
        yield "".join(text.to_pylist()).encode()
        return
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    yield values.fill_null(0).to_numpy(zero_copy_only=False).tobytes()
