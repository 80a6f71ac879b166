"""Cells of a column, whatever type they arrive in, as the one form that the encoder knows them by."""

import numpy as np
import pyarrow as pa

_EXACT_IN_FLOAT = 2.0**53


class Unreadable(Exception):
    """A column whose cells cannot be read; the message names it."""


def canonical(column: pa.ChunkedArray, name: str) -> pa.Array:
    """One form per value, whatever the type it came in: int64 if all cells are whole numbers, else large_string.

    Raises:
        Unreadable: the cells are lists, structs or the like.
    """
    cells = _one_array(column)
    kind = cells.type
    if pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_signed_integer(kind):
        return cells.cast(pa.int64())
    if pa.types.is_floating(kind):
        return _canonical_float(cells.cast(pa.float64()))
    try:
        # uint64 may not fit int64, and its text is the same value.
        return cells.cast(pa.int64()) if pa.types.is_unsigned_integer(kind) else cells.cast(pa.large_string())
    except pa.ArrowInvalid:
        return cells.cast(pa.large_string())
    except pa.ArrowNotImplementedError as error:
        raise Unreadable(
            f"The categorical column {name!r} holds {kind}; it must hold text, whole numbers or booleans. "
            "Leave it out of the features, or flatten it first."
        ) from error


def _canonical_float(cells: pa.Array) -> pa.Array:
    numbers = cells.to_numpy(zero_copy_only=False)
    missing = ~np.isfinite(numbers)
    filled = np.where(missing, 0.0, numbers)
    if np.all((filled == np.floor(filled)) & (np.abs(filled) < _EXACT_IN_FLOAT)):
        return pa.array(filled.astype(np.int64), mask=missing)
    texts = [None if gone else _text(number) for number, gone in zip(numbers.tolist(), missing, strict=True)]
    return pa.array(texts, type=pa.large_string())


def _text(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)


def whole_number(text: str) -> int | None:
    """The int64 that a text spells canonically, so that "07" and "7" stay different ids."""
    if not text.removeprefix("-").isdecimal():
        return None
    number = int(text)
    return number if str(number) == text and -(2**63) <= number < 2**63 else None


def as_numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A numeric column as (N,) float64 with NaN for null.

    Raises:
        Unreadable: the cells are no numbers.
    """
    cells = _one_array(column)
    try:
        if pa.types.is_boolean(cells.type):
            cells = cells.cast(pa.int8())
        if not pa.types.is_float64(cells.type):
            cells = cells.cast(pa.float64(), safe=False)
        numbers = cells.to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Unreadable(f"The numeric column {name!r} holds {cells.type} that is no number: {error}.") from error
    return np.array(numbers, dtype=np.float64)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    # A request's column is one chunk already, and asking for it costs a tenth of combining.
    cells = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(cells, pa.ChunkedArray):
        cells = pa.concat_arrays(cells.chunks) if cells.num_chunks else pa.array([], type=cells.type)
    return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells
