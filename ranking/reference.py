"""The frozen reference: what the rows looked like that a champion learnt from.

It is built once, kept with the champion, and never changes; every later day is compared with it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from ranking.bins import ColumnBins, ColumnKind, Layout, fit_bins
from ranking.cells import canonical
from ranking.counts import Counts, count, label_rate, total
from ranking.distances import population_stability
from ranking.errors import EmptyWindow
from ranking.features import Schema
from ranking.placements import IntArray
from ranking.times import Window, as_utc
from ranking.values import Knobs, Value, digest

DAY = timedelta(days=1)


class ReferenceKnobs(Knobs):
    """How finely the reference looks.  The drift thresholds stand beside them under ``[drift]``."""

    bins: PositiveInt = Field(default=10, ge=2, le=100, description="Quantile bins of a number.")
    max_categories: PositiveInt = Field(
        default=20, le=1_000, description="Values of a category with a bin of their own; the others share one."
    )
    max_known_values: PositiveInt = Field(
        default=2_000, le=100_000, description="Values of a category that are remembered; any other is unseen."
    )
    history_days: PositiveInt = Field(
        default=28, le=366, description="Days of the reference, the last ones, whose own day-to-day PSI is learnt."
    )
    min_history_days: PositiveInt = Field(
        default=7, le=366, description="With fewer days than this a column has no usual PSI of its own."
    )
    history_quantile: float = Field(
        default=0.99, gt=0.5, lt=1, description="A column's usual PSI is this quantile of its days."
    )


class Reference(Value):
    """The frozen profile of a champion's training window.

    Attributes:
        champion: version it belongs to.
        layout: the bins.
        counts: all rows of the window.
        days: whole days in it.
        daily_rows: rows of each of the last days.
        units: effective number of users behind each column.
        usual_psi: quantile of each column's PSI of one day against the other days; ``None`` with too few.
        daily_new_share: share of a day's rows whose value no earlier day had (categories); ``None`` when
            there are too few days to tell.
    """

    champion: str
    layout: Layout
    counts: Counts
    days: NonNegativeInt
    daily_rows: tuple[NonNegativeInt, ...]
    units: dict[str, NonNegativeFloat]
    usual_psi: dict[str, float | None]
    daily_new_share: dict[str, float | None]

    @property
    def digest(self) -> str:
        """sha256 of the reference, to name it in a drift report."""
        return digest(self)

    @property
    def label(self) -> ColumnBins | None:
        """The label's bins, when labels are watched."""
        return next((column for column in self.layout.columns if column.kind is ColumnKind.LABEL), None)

    @property
    def label_rate(self) -> float | None:
        """Clicks per row with a known label."""
        return None if self.label is None else label_rate(self.counts, self.label)

    def age_days(self, moment: datetime) -> float:
        """Days since the reference ended."""
        return max(0.0, (moment - self.counts.window.end) / DAY)

    def joined(self, other: Self) -> Self:
        """With the columns of another reference of the same champion.

        A champion's scores on rows it learnt from are too sure, so its scores are frozen on its holdout:
        build one reference of the features, one of the scores, and join them.
        """
        names = {column.name for column in self.layout.columns}
        added = [column for column in other.layout.columns if column.name not in names]
        columns = {column.name: other.counts.columns[column.name] for column in added}
        return self.model_copy(
            update={
                "layout": self.layout.model_copy(update={"columns": (*self.layout.columns, *added)}),
                "counts": self.counts.model_copy(update={"columns": {**self.counts.columns, **columns}}),
                "units": {**other.units, **self.units},
                "usual_psi": {**other.usual_psi, **self.usual_psi},
                "daily_new_share": {**other.daily_new_share, **self.daily_new_share},
            }
        )


def build_reference(
    rows: pa.Table,
    kinds: Mapping[str, ColumnKind],
    log: Schema,
    *,
    champion: str,
    window: Window,
    knobs: ReferenceKnobs,
    arrival: str | None = None,
    late_after_hours: float = 6.0,
) -> Reference:
    """Freeze the rows a champion learnt from.

    Args:
        rows: they, with the watched columns and the log's roles.
        kinds: what to watch, from ``ranking.bins.kinds_of``.
        log: the roles of the columns.
        champion: its version.
        window: its training window; days are counted from its start.
        knobs: how finely to look.
        arrival: column with the time a row was delivered, if there is one.
        late_after_hours: delay from which it was late.

    Raises:
        EmptyWindow: no rows.
        MissingColumn: a watched column or a role is not there.
        InvalidInteractions: a column cannot be read.
    """
    if not rows.num_rows:
        raise EmptyWindow(
            f"There are 0 rows between {as_utc(window.start)} and {as_utc(window.end)}: "
            "no reference can be frozen, and without one no drift is measured."
        )
    columns = fit_bins(
        rows,
        kinds,
        bins=knobs.bins,
        max_categories=knobs.max_categories,
        max_known_values=knobs.max_known_values,
    )
    layout = Layout(
        user=log.user,
        time=log.time,
        key=log.key,
        arrival=arrival,
        late_after_hours=late_after_hours,
        columns=columns,
    )
    days = by_day(rows, log.time, window)
    return freeze(
        champion,
        layout,
        [count(part, layout, _day(window, number)) for number, part in enumerate(days)],
        knobs,
        {
            column.name: new_share([part[column.name] for part in days], column.name)
            for column in columns
            if column.kind is ColumnKind.CATEGORICAL
        },
    )


def freeze(
    champion: str,
    layout: Layout,
    daily: Sequence[Counts],
    knobs: ReferenceKnobs,
    daily_new_share: Mapping[str, float | None],
) -> Reference:
    """The reference from the counts of its days: the form for rows that do not fit in memory.

    Args:
        champion: its version.
        layout: the bins, perhaps fitted on a sample.
        daily: counts of each day, oldest first.
        knobs: how finely to look.
        daily_new_share: of each category, from :func:`new_share`.
    """
    whole = total(daily)
    recent = [day for day in daily[-knobs.history_days :] if day.rows]
    full = [day for day in recent if day.window.days >= 1]
    return Reference(
        champion=champion,
        layout=layout,
        counts=whole,
        days=len(full),
        daily_rows=tuple(day.rows for day in full),
        units={column.name: whole.users.effective for column in layout.columns},
        usual_psi={column.name: _usual(column, full, whole, knobs) for column in layout.columns},
        daily_new_share=dict(daily_new_share),
    )


def by_day(rows: pa.Table, time: str, window: Window) -> list[pa.Table]:
    """The rows of each day of the window, oldest first; the last day may be a part of one."""
    start = pa.scalar(window.start, type=pa.timestamp("us", tz="UTC"))
    times = rows[time].cast(pa.timestamp("us", tz="UTC"), safe=False)
    number = pc.subtract(times, start).cast(pa.int64()).to_numpy() // (DAY // timedelta(microseconds=1))
    if (np.diff(number) < 0).any():
        order = np.argsort(number, kind="stable")
        rows, number = rows.take(pa.array(order)), number[order]
    days = int(np.ceil(window.days))
    bounds = np.searchsorted(number, np.arange(days + 1))
    return [rows.slice(low, high - low) for low, high in pairwise(bounds)]


def new_share(days: Sequence[pa.ChunkedArray], name: str) -> float | None:
    """Mean share of a day's cells whose value no earlier day had, over the later half of the days.

    The first days are new to everything, so they say nothing; ``None`` with fewer than four days.
    """
    filled = [canonical(day, name).drop_null() for day in days]
    if len(filled) < 4:
        return None
    codes = pa.chunked_array([cells.cast(pa.large_string()) for cells in filled]).combine_chunks().dictionary_encode()
    slots, seen = codes.indices.to_numpy(), np.zeros(len(codes.dictionary) + 1, dtype=bool)
    ends, found = np.cumsum([len(cells) for cells in filled]), []
    for number, end in enumerate(ends):
        today = slots[end - len(filled[number]) : end]
        if number >= len(filled) // 2 and len(today):
            found.append(float((~seen[today]).mean()))
        seen[today] = True
    return float(np.mean(found)) if found else None


def compared(counts: Counts, column: ColumnBins) -> IntArray:
    """(B,) rows in the bins that are compared: null is a bin of a feature; a label that is null is not known yet."""
    bins = np.array(counts.columns[column.name].bins, dtype=np.int64)
    return bins[:-1] if column.kind is ColumnKind.LABEL else bins


def _usual(column: ColumnBins, days: Sequence[Counts], whole: Counts, knobs: ReferenceKnobs) -> float | None:
    """Quantile of one day's PSI against all other days: a day compared with itself would look too calm."""
    if len(days) < max(knobs.min_history_days, 2):
        return None
    everything = compared(whole, column)
    found = []
    for day in days:
        own = compared(day, column)
        stability = population_stability(everything - own, own)
        if stability is not None:
            found.append(stability)
    return float(np.quantile(found, knobs.history_quantile)) if found else None


def _day(window: Window, number: int) -> Window:
    start = window.start + number * DAY
    return Window(start=start, end=min(start + DAY, window.end))
