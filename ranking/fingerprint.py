"""A digest of rows by their content: the same for every file layout, column order, batch size and parquet version."""

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc


def fingerprint(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """sha256 over column names, types, values and nulls, in the order of the rows; one batch in memory at a time.

    Args:
        schema: names and types; whole and floating numbers, booleans, timestamps and text.
        batches: the rows, in their canonical order.

    Returns:
        64 hexadecimal digits.
    """
    columns = {field.name: _Column(field) for field in schema}
    for batch in batches:
        for field, values in zip(schema, batch.columns, strict=True):
            columns[field.name].add(values)
    return hashlib.sha256(b"".join(columns[name].digest() for name in sorted(columns))).hexdigest()


class _Column:
    """One column: nulls, lengths and values apart, since interleaved they would tell where a batch ends."""

    def __init__(self, field: pa.Field) -> None:
        self._title = f"{field.name}\0{_kind(field.type)}\0".encode()
        self._nulls, self._lengths, self._values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    def add(self, values: pa.Array) -> None:
        self._nulls.update(_plain(values.is_null().cast(pa.int8())))
        if _is_text(values.type):
            # The text in a null's place is not content.
            binary = values.cast(pa.large_string()).cast(pa.large_binary()).fill_null(b"")
            self._lengths.update(_plain(pc.binary_length(binary)))
            self._values.update(b"".join(binary.to_pylist()))
            return
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.int64())
        elif pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        elif pa.types.is_floating(values.type):
            # Adding zero turns -0.0 into 0.0: equal numbers have equal digests.
            values = pc.add(values, pa.scalar(0.0, values.type))
        self._values.update(_plain(values.fill_null(0)))

    def digest(self) -> bytes:
        parts = (hashlib.sha256(self._title), self._nulls, self._lengths, self._values)
        return hashlib.sha256(b"".join(part.digest() for part in parts)).digest()


def _plain(values: pa.Array) -> bytes:
    """The numbers as little-endian bytes, whatever the machine."""
    numbers = values.to_numpy(zero_copy_only=False)
    return bytes(numbers.astype(numbers.dtype.newbyteorder("<"), copy=False).tobytes())


def _kind(kind: pa.DataType) -> str:
    # Engines disagree on 32 or 64 bit offsets for the same text.
    return "string" if _is_text(kind) else str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
