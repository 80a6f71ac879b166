"""How many different keys, and how many rows each has, from a sample of bounded size that can be merged."""

from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt

from ranking.values import Value

HashArray = NDArray[np.uint64]

SAMPLE = 1024
"""Keys kept: distinct counts are exact up to here and good to about 3 % beyond."""

_SPACE = 2.0**64
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class KeySketch(Value):
    """The keys with the smallest hashes, with all rows of each.

    The k-minimum-values sample (Bar-Yossef et al. 2002; Beyer et al., SIGMOD 2007): a key that is among
    the k smallest of the whole is among the k smallest of every shard it occurs in, so shards add up to
    exactly what one pass would have found.

    Attributes:
        limit: most keys kept.
        hashes: ascending; as many as there are keys, at most ``limit``.
        rows: rows of each of those keys.
    """

    limit: PositiveInt = SAMPLE
    hashes: tuple[NonNegativeInt, ...] = ()
    rows: tuple[NonNegativeInt, ...] = ()

    @classmethod
    def of(cls, hashes: HashArray, limit: int = SAMPLE) -> Self:
        """Sketch the hashes (N,) of N rows' keys."""
        ceiling = 4.0 * limit / max(len(hashes), 1)
        while True:
            # only the lowest hashes need sorting, unless many rows share few keys
            low = hashes if ceiling >= 1 else hashes[hashes < np.uint64(ceiling * _SPACE)]
            kept, rows = np.unique(low, return_counts=True)
            if len(kept) >= limit or ceiling >= 1:
                return cls(limit=limit, hashes=tuple(kept[:limit].tolist()), rows=tuple(rows[:limit].tolist()))
            ceiling *= 8

    def __add__(self, other: Self) -> Self:
        """The sketch of both shards' rows."""
        rows = dict(zip(self.hashes, self.rows, strict=True))
        for key, count in zip(other.hashes, other.rows, strict=True):
            rows[key] = rows.get(key, 0) + count
        limit = min(self.limit, other.limit)
        kept = sorted(rows)[:limit]
        return type(self)(limit=limit, hashes=tuple(kept), rows=tuple(rows[key] for key in kept))

    @property
    def distinct(self) -> float:
        """Number of different keys."""
        if len(self.hashes) < self.limit:
            return float(len(self.hashes))
        return (self.limit - 1) / ((self.hashes[-1] + 1) / _SPACE)

    @cached_property
    def effective(self) -> float:
        """Number of equally busy keys that would be as informative: (sum of rows)² / sum of rows² (Kish 1965)."""
        if not self.rows:
            return 0.0
        rows = np.array(self.rows, dtype=np.float64)
        return float(self.distinct * rows.mean() ** 2 / (rows**2).mean())

    @property
    def repeated_share(self) -> float | None:
        """Share of rows that repeat the key of another row; ``None`` without rows."""
        return 1 - len(self.rows) / sum(self.rows) if self.rows else None


def hashes_of(columns: list[Any]) -> HashArray:
    """One hash (N,) per row of one or more arrow columns; the same values give the same hash on every machine."""
    combined: HashArray | None = None
    for column in columns:
        hashed = _column_hashes(column)
        combined = hashed if combined is None else (combined * _MULTIPLIER) ^ hashed
    if combined is None:
        raise ValueError("a key needs at least one column")
    return _mixed(combined)


def value_hashes(values: list[str]) -> HashArray:
    """One hash (V,) per text."""
    from pandas.util import hash_array

    return np.asarray(hash_array(np.array(values, dtype=object), categorize=False), dtype=np.uint64)


def _column_hashes(column: pa.ChunkedArray) -> HashArray:
    cells = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    kind = cells.type
    if pa.types.is_timestamp(kind) or pa.types.is_integer(kind):
        whole = cells.cast(pa.int64()) if not pa.types.is_uint64(kind) else cells
        numbers = whole.fill_null(0).to_numpy().view(np.uint64)
        return _mixed(numbers.copy())
    encoded = cells.cast(pa.large_string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    per_value = np.append(value_hashes(encoded.dictionary.to_pylist()), np.uint64(0))
    hashed: HashArray = per_value[encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()]
    return hashed


def _mixed(numbers: HashArray) -> HashArray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): near numbers become far hashes."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: HashArray = numbers ^ (numbers >> np.uint64(31))
    return mixed
