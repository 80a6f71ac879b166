"""What a request sends, in the types of the columns that a model reads."""

from typing import Any

import numpy as np
import pyarrow as pa

from ranking.cells import whole_number
from ranking.errors import FeaturesError


def column_of(name: str, kind: pa.DataType, value: Any, count: int) -> pa.Array:
    """A value for all rows, or one per row, in the column's type."""
    if isinstance(value, list | tuple | np.ndarray):
        return array_of(name, kind, value.tolist() if isinstance(value, np.ndarray) else list(value))
    return pa.repeat(array_of(name, kind, [value])[0], count)


def array_of(name: str, kind: pa.DataType, values: list[Any]) -> pa.Array:
    """Values (N,) as a column of a type.

    Raises:
        FeaturesError: one cannot be read as that type; the column is named.
    """
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    # JSON may mix numbers and text in one column, or write 3 as 3.0; the encoder takes them for the same.
    spell = as_text if pa.types.is_string(kind) else as_whole if pa.types.is_int64(kind) else _number
    try:
        return pa.array([None if value is None else spell(value) for value in values], kind)
    except (TypeError, ValueError, OverflowError) as error:
        raise FeaturesError(f"{name} holds what cannot be read as {kind}: {error}.") from error


def as_text(value: Any) -> str:
    """An id or category as text: 3, 3.0 and "3" are one."""
    if isinstance(value, dict | list | tuple | set):
        raise TypeError(f"{value!r} is no single value")
    return (
        str(int(value)) if isinstance(value, bool | float | np.floating) and float(value).is_integer() else str(value)
    )


def as_whole(value: Any) -> int | None:
    """An id as a whole number; None, which is as unknown to a model as any other new id, where it is none."""
    if isinstance(value, str):
        return whole_number(value)
    return int(value) if float(value).is_integer() else None


def _number(value: Any) -> float:
    return float(value)
