"""What monitoring needs to know of some rows: sums, so that days and shards can be added."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, Field, NonNegativeInt

from ranking.bins import ColumnBins, ColumnKind, Layout
from ranking.cells import Unreadable, as_numbers, canonical
from ranking.errors import MissingColumn
from ranking.placements import BoolArray, FloatArray, IntArray
from ranking.sketches import HashArray, KeySketch, hashes_of, value_hashes
from ranking.times import Window
from ranking.values import Value

BLOCK = 1 << 16
"""Rows compared with all edges at once: they stay in the processor's cache."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WRAP = 1 << 64


class ColumnCounts(Value):
    """One column's cells.

    Attributes:
        bins: rows in each bin of ``ColumnBins``, null last.
        unseen: rows with a value that the reference does not know (categories).
        total, squares: sums of the numbers and of their squares.
        lowest, highest: of the numbers.
        newest: time of the newest row that has a value.
        fingerprint: sum over rows of (hash of the row) · (hash of the cell); two columns that agree in
            every row agree here.
    """

    bins: tuple[NonNegativeInt, ...]
    unseen: NonNegativeInt = 0
    total: float = 0.0
    squares: float = 0.0
    lowest: float | None = None
    highest: float | None = None
    newest: AwareDatetime | None = None
    fingerprint: NonNegativeInt = 0

    def __add__(self, other: Self) -> Self:
        """Both shards' cells."""
        return type(self)(
            bins=tuple(left + right for left, right in zip(self.bins, other.bins, strict=True)),
            unseen=self.unseen + other.unseen,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            lowest=min((x for x in (self.lowest, other.lowest) if x is not None), default=None),
            highest=max((x for x in (self.highest, other.highest) if x is not None), default=None),
            newest=_latest(self.newest, other.newest),
            fingerprint=(self.fingerprint + other.fingerprint) % _WRAP,
        )

    @property
    def rows(self) -> int:
        """Rows, null ones included."""
        return sum(self.bins)

    @property
    def null_share(self) -> float | None:
        """Share of null; ``None`` without rows."""
        return self.bins[-1] / self.rows if self.rows else None

    @property
    def unseen_share(self) -> float | None:
        """Share of unknown values among those that are not null; ``None`` without any."""
        known = self.rows - self.bins[-1]
        return self.unseen / known if known else None


class Counts(Value):
    """All that monitoring keeps of some rows.

    Attributes:
        window: the stretch of time they come from.
        rows: how many.
        late: rows delivered too late; ``None`` when delivery times are not logged.
        newest: time of the newest row.
        users: sketch of the users.
        row_keys: sketch of the keys of the rows; a model with an attribute `keys` would pass for a mapping.
        columns: the watched columns that could be read.
        broken: those that could not, and why.
    """

    window: Window
    rows: NonNegativeInt
    late: NonNegativeInt | None
    newest: AwareDatetime | None
    users: KeySketch
    row_keys: KeySketch
    columns: dict[str, ColumnCounts]
    broken: dict[str, str] = Field(default_factory=dict)

    def __add__(self, other: Self) -> Self:
        """Both shards' rows.  Where only one has a column, the other's rows count as null."""
        names = {**self.columns, **other.columns}
        return type(self)(
            window=Window(start=min(self.window.start, other.window.start), end=max(self.window.end, other.window.end)),
            rows=self.rows + other.rows,
            late=None if self.late is None or other.late is None else self.late + other.late,
            newest=_latest(self.newest, other.newest),
            users=self.users + other.users,
            row_keys=self.row_keys + other.row_keys,
            columns={name: self._column(name, like) + other._column(name, like) for name, like in names.items()},
            broken={**self.broken, **other.broken},
        )

    def _column(self, name: str, like: ColumnCounts) -> ColumnCounts:
        found = self.columns.get(name)
        return ColumnCounts(bins=(*(0 for _ in like.bins[1:]), self.rows)) if found is None else found


def total(counted: Iterable[Counts]) -> Counts:
    """The sum of one or more counts."""
    return reduce(add, counted)


def count(rows: pa.Table, layout: Layout, window: Window) -> Counts:
    """Count the rows of a window, or of a shard of it.

    Args:
        rows: a table with the layout's user, time and key columns.  A watched column that is not there or
            cannot be read is told in ``broken``, since that is what monitoring looks for.
        layout: the bins, from the reference.
        window: where the rows come from.

    Raises:
        MissingColumn: the user, time or key columns are not there.
    """
    needed = dict.fromkeys((layout.user, layout.time, *layout.key))
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise MissingColumn(f"The window's rows lack {', '.join(missing)}: without them nothing can be counted.")
    times = _microseconds(rows[layout.time])
    keys = hashes_of([rows[name] for name in layout.key])
    reader = _Reader(times, keys, rows.num_rows)
    columns, broken = {}, {}
    for bins in layout.columns:
        try:
            columns[bins.name] = reader.read(rows, bins)
        except Unreadable as error:
            broken[bins.name] = str(error)
    return Counts(
        window=window,
        rows=rows.num_rows,
        late=_late(rows, layout, times),
        newest=_moment(times),
        users=KeySketch.of(hashes_of([rows[layout.user]])),
        row_keys=KeySketch.of(keys),
        columns=columns,
        broken=broken,
    )


class _Reader:
    """Counts one column after the other of the same rows."""

    def __init__(self, times: IntArray, keys: HashArray, rows: int) -> None:
        self._times, self._rows = times, rows
        self._weights = keys | np.uint64(1)

    def read(self, rows: pa.Table, bins: ColumnBins) -> ColumnCounts:
        if bins.name not in rows.column_names:
            raise Unreadable(f"The column {bins.name!r} is not there.")
        return self._numbers(rows, bins) if bins.is_number else self._categories(rows, bins)

    def _numbers(self, rows: pa.Table, bins: ColumnBins) -> ColumnCounts:
        numbers = as_numbers(rows[bins.name], bins.name)
        known = np.isfinite(numbers)
        found = int(np.count_nonzero(known))
        if found < self._rows:
            numbers = np.where(known, numbers, np.nan)
        above = np.array([found, *_at_least(numbers, bins.edges), 0])
        values = numbers if found == self._rows else numbers[known]
        return ColumnCounts(
            bins=(*(above[:-1] - above[1:]).tolist(), self._rows - found),
            total=float(values.sum()),
            squares=float(values @ values),
            lowest=float(values.min()) if found else None,
            highest=float(values.max()) if found else None,
            newest=self._newest(known, found),
            fingerprint=int((numbers.view(np.uint64) * self._weights).sum()),
        )

    def _categories(self, rows: pa.Table, bins: ColumnBins) -> ColumnCounts:
        cells = canonical(rows[bins.name], bins.name)
        encoded = cells.dictionary_encode()
        values = encoded.dictionary.cast(pa.large_string()).to_pylist()
        slots = encoded.indices.fill_null(len(values)).to_numpy()
        counted = np.bincount(slots, minlength=len(values) + 1)
        known = {value: place for place, value in enumerate(bins.values)}
        places = np.array([known.get(value, len(known)) for value in values], dtype=np.int64)
        bin_of = np.append(np.minimum(places, bins.singled), bins.singled + 1)
        hashes = np.append(value_hashes(values), np.uint64(0))
        valid = cells.is_valid().to_numpy(zero_copy_only=False)
        return ColumnCounts(
            bins=tuple(np.bincount(bin_of, counted, minlength=bins.size).astype(np.int64).tolist()),
            unseen=int(counted[:-1][places == len(known)].sum()),
            newest=self._newest(valid, self._rows - cells.null_count),
            fingerprint=int((hashes[slots] * self._weights).sum()),
        )

    def _newest(self, known: BoolArray, found: int) -> datetime | None:
        return _moment(self._times if found == self._rows else self._times[known])


def label_rate(counts: Counts, bins: ColumnBins) -> float | None:
    """Share of ``1`` among the rows with a known label; ``None`` without one.

    Raises:
        ValueError: the column is no label.
    """
    if bins.kind is not ColumnKind.LABEL:
        raise ValueError(f"{bins.name} is no label")
    column = counts.columns.get(bins.name)
    known = 0 if column is None else column.rows - column.bins[-1]
    if column is None or not known:
        return None
    return column.bins[bins.values.index("1")] / known if "1" in bins.values[: bins.singled] else 0.0


def _at_least(numbers: FloatArray, edges: tuple[float, ...]) -> list[int]:
    """Rows at or above each edge; a few comparisons per block beat a binary search per row."""
    above = [0] * len(edges)
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        for place, edge in enumerate(edges):
            above[place] += int(np.count_nonzero(block >= edge))
    return above


def _late(rows: pa.Table, layout: Layout, times: IntArray) -> int | None:
    if layout.arrival is None or layout.arrival not in rows.column_names:
        return None
    # a row without a delivery time has not been seen to arrive in time
    arrived = _microseconds(rows[layout.arrival], missing=np.iinfo(np.int64).max)
    return int(np.count_nonzero(arrived > times + int(layout.late_after_hours * 3.6e9)))


def _microseconds(column: pa.ChunkedArray, missing: int = 0) -> IntArray:
    cells = column.cast(pa.timestamp("us", tz="UTC"), safe=False)
    micros: IntArray = pc.fill_null(cells.cast(pa.int64()), missing).to_numpy()
    return micros


def _moment(times: IntArray) -> datetime | None:
    return EPOCH + timedelta(microseconds=int(times.max())) if len(times) else None


def _latest(left: datetime | None, right: datetime | None) -> datetime | None:
    return max((moment for moment in (left, right) if moment is not None), default=None)
