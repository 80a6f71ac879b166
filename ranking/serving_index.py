"""What a table of serving features is in memory: per key a dictionary and its histories, per id its logged features."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.errors import FeaturesError
from ranking.features import FeatureSpec, HistoryKey
from ranking.serving_cells import as_text, as_whole

HOUR_US = 3_600_000_000


class Index:
    """Where a key is in its table: row 0…N-1, ``unseen`` (N) for any other, ``null`` (N + 1) for a missing one."""

    def __init__(self, values: list[Any]) -> None:
        self.unseen = len(values)
        self.null = self.unseen + 1
        self._place = {value: number for number, value in enumerate(values)}
        self._kind = type(values[0]) if values else str

    def rows(self, values: Iterable[Any]) -> np.ndarray:
        """Rows (N,) int64 of some keys."""
        listed = list(values)
        get = self._place.get
        found = [get(value, -1) for value in listed]
        if -1 in found:
            found = [self._other(value) if place < 0 else place for place, value in zip(found, listed, strict=True)]
        return np.array(found, dtype=np.int64)

    def _other(self, value: Any) -> int:
        """The key may be there in another spelling, as the encoder reads it: 3, 3.0 and "3" are one value."""
        if value is None or (isinstance(value, float) and np.isnan(value)):
            return self.null
        other = as_whole(value) if self._kind is int else as_text(value)
        return self._place.get(other, self.unseen)


@dataclass(frozen=True, eq=False)
class History:
    """One key's histories: ``values`` (N + 2, K) float64, where the last column is the instant of the last impression.

    Row N is what an unseen key gets, row N + 1 (all NaN) what a missing one gets.
    """

    key: HistoryKey
    names: tuple[str, ...]
    index: Index
    values: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, key: HistoryKey, spec: FeatureSpec, start: int) -> "History":
        """The histories of a key as its table has them, where ``start`` is T in microseconds."""
        names = spec.history_names(key)
        known, unseen = _known_and_unseen(table, key)
        values = np.full((known.num_rows + 2, len(names)), np.nan)
        for part, place in ((known, slice(0, known.num_rows)), (unseen, slice(known.num_rows, known.num_rows + 1))):
            for number, name in enumerate(names):
                values[place, number] = part[name].to_numpy()
        # The instant and not the hours since: it stays true, and gives the very number that training divides.
        values[:, -1] = start - np.rint(values[:, -1] * HOUR_US)
        keys = known[key.columns[0]].to_pylist() if len(key.columns) == 1 else []
        return cls(key, names, Index(keys), values)

    def columns(self, places: np.ndarray, now: int) -> dict[str, pa.Array]:
        """The history columns (N,) of some rows, seen from ``now`` in microseconds."""
        found = self.values[places].T
        arrays = [pa.array(column, from_pandas=True) for column in found[:-1]]
        arrays.append(pa.array((now - found[-1]) / HOUR_US, from_pandas=True))
        return dict(zip(self.names, arrays, strict=True))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Where a pair of keys is in its table, by the rows of the two keys in theirs: no dictionary of pairs."""

    first: Index
    second: Index
    codes: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, table: pa.Table, key: HistoryKey, singles: "Mapping[tuple[str, ...], History]") -> "Pairs":
        """The pairs that a table has, by the rows of ``singles``."""
        known, _ = _known_and_unseen(table, key)
        first, second = (singles[(column,)].index for column in key.columns)
        rows = [
            index.rows(known[column].to_pylist()) for index, column in zip((first, second), key.columns, strict=True)
        ]
        codes = rows[0] * (second.null + 1) + rows[1]
        order = np.argsort(codes)
        return cls(first, second, codes[order], order)

    def rows(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Rows (N,) of the pairs of two keys, each given by its rows (N,)."""
        wanted = first * (self.second.null + 1) + second
        unseen = len(self.codes)
        places = np.searchsorted(self.codes, wanted)
        near = np.minimum(places, unseen - 1)
        found = np.where(self.codes[near] == wanted, self.order[near], unseen) if unseen else np.zeros_like(wanted)
        missing = (first == self.first.null) | (second == self.second.null)
        return np.where(missing, unseen + 1, found)


@dataclass(frozen=True, eq=False)
class Profiles:
    """The logged features of users or items, with two rows of nulls behind: for an unseen and for a missing id."""

    index: Index
    columns: dict[str, pa.Array]

    @classmethod
    def of(cls, table: pa.Table | None, key: str) -> "Profiles":
        """The features in a table whose column ``key`` holds the ids."""
        if table is None:
            return cls(Index([]), {})
        columns = {
            name: pa.concat_arrays([*table[name].chunks, pa.nulls(2, table[name].type)])
            for name in table.column_names
            if name != key
        }
        return cls(Index(table[key].to_pylist()), columns)


def _known_and_unseen(table: pa.Table, key: HistoryKey) -> tuple[pa.Table, pa.Table]:
    new = np.asarray(table[key.columns[0]].is_null())
    if int(new.sum()) != 1:
        raise FeaturesError(
            f"The history of {key.name} has {int(new.sum())} rows for unseen keys; it must have one. "
            "Write the features again with `feedloop features`."
        )
    return table.filter(pa.array(~new)), table.filter(pa.array(new))
