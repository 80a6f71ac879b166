"""Into which bins each column's cells fall: quantiles of numbers, frequent values of categories.

Bins are fitted once, on the rows that a champion learnt from, and never move again; so counts of any
later rows can be compared with the champion's, and added to each other.
"""

from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import pyarrow as pa
from pydantic import NonNegativeFloat, NonNegativeInt

from ranking.cells import Unreadable, as_numbers, canonical
from ranking.errors import InvalidInteractions, MissingColumn
from ranking.features import FeatureSpec, Kind
from ranking.placements import FloatArray
from ranking.values import Value


class ColumnKind(StrEnum):
    """What a watched column is."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    SCORE = "score"
    LABEL = "label"


class ColumnBins(Value):
    """The bins of one column; null always has a bin of its own, the last.

    Attributes:
        name: the column.
        kind: numbers and scores have ``edges``, categories and labels ``values``.
        edges: inner edges, ascending; a bin holds its lower edge.
        values: known values, most frequent first.
        singled: how many of them have a bin of their own; everything else shares one.
    """

    name: str
    kind: ColumnKind
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    singled: NonNegativeInt = 0

    @property
    def is_number(self) -> bool:
        """Whether the cells are numbers."""
        return self.kind in {ColumnKind.NUMERIC, ColumnKind.SCORE}

    @property
    def size(self) -> int:
        """Number of bins, null's included."""
        return (len(self.edges) if self.is_number else self.singled) + 2


class Layout(Value):
    """What is counted of a table: who and when a row is, and the bins of every watched column.

    Attributes:
        user: column whose values are independent of each other.
        time: column with the time of the impression.
        key: columns that together name a row.
        arrival: column with the time the row was delivered, if it is logged.
        late_after_hours: delay from which a delivered row counts as late.
        columns: the watched columns.
    """

    user: str
    time: str
    key: tuple[str, ...]
    arrival: str | None = None
    late_after_hours: NonNegativeFloat = 6.0
    columns: tuple[ColumnBins, ...]

    def column(self, name: str) -> ColumnBins:
        """One watched column by name."""
        return next(column for column in self.columns if column.name == name)


def kinds_of(spec: FeatureSpec, score: str | None = None) -> dict[str, ColumnKind]:
    """What to watch of a model: its features, the label and, if the rows carry it, the score."""
    numeric = {Kind.NUMERIC: ColumnKind.NUMERIC, Kind.CATEGORICAL: ColumnKind.CATEGORICAL}
    kinds = {feature.name: numeric[feature.kind] for feature in spec.features}
    kinds[spec.log.label] = ColumnKind.LABEL
    return kinds if score is None else {**kinds, score: ColumnKind.SCORE}


def fit_bins(
    rows: pa.Table, kinds: Mapping[str, ColumnKind], *, bins: int, max_categories: int, max_known_values: int
) -> tuple[ColumnBins, ...]:
    """Fit the bins of every watched column.

    Args:
        rows: the rows the champion learnt from, or a random sample of them.
        kinds: column to kind.
        bins: quantile bins of a number.
        max_categories: values of a category with a bin of their own.
        max_known_values: values of a category that are remembered, so that a new one is seen as unseen.

    Raises:
        MissingColumn: a watched column is not there.
        InvalidInteractions: a column cannot be read as its kind.
    """
    missing = [name for name in kinds if name not in rows.column_names]
    if missing:
        raise MissingColumn(
            f"The reference rows lack {len(missing)} of {len(kinds)} watched columns: {', '.join(missing)}. "
            "A column that the champion reads must be there to be watched."
        )
    try:
        return tuple(
            ColumnBins(name=name, kind=kind, edges=_edges(as_numbers(rows[name], name), bins))
            if kind in {ColumnKind.NUMERIC, ColumnKind.SCORE}
            else _categories(rows[name], name, kind, max_categories, max_known_values)
            for name, kind in kinds.items()
        )
    except Unreadable as error:
        raise InvalidInteractions(str(error)) from error


def _edges(numbers: FloatArray, bins: int) -> tuple[float, ...]:
    """Inner edges of bins of about equal size; a value with a bin's share of the rows gets its own bin.

    Quantiles alone would collapse on heavy ties: of a column that is 0 in 95 % of the rows they see nothing.
    """
    known = numbers[np.isfinite(numbers)]
    if not known.size:
        return ()
    values, rows = np.unique(known, return_counts=True)
    if len(values) == 1:
        # both neighbours get a bin, or another constant would look the same
        return (float(values[0]), float(np.nextafter(values[0], np.inf)))
    if len(values) <= bins:
        return tuple(values[1:].tolist())
    heavy = rows >= len(known) / bins
    own = np.concatenate((values[heavy], values[np.flatnonzero(heavy[:-1]) + 1]))
    left = max(bins - int(heavy.sum()), 1)
    others = known if not heavy.any() else known[~np.isin(known, values[heavy])]
    inner = np.linspace(0, 1, left + 1)[1:-1]
    edges = np.unique(np.concatenate((own, np.quantile(others, inner, method="higher") if others.size else inner[:0])))
    return tuple(edges[edges > values[0]].tolist())


def _categories(
    column: pa.ChunkedArray, name: str, kind: ColumnKind, max_categories: int, max_known_values: int
) -> ColumnBins:
    counted = canonical(column, name).drop_null().value_counts()
    values, rows = counted.field("values").cast(pa.large_string()).to_pylist(), counted.field("counts").to_numpy()
    order = sorted(range(len(values)), key=lambda place: (-rows[place], values[place]))[:max_known_values]
    known = tuple(values[place] for place in order)
    return ColumnBins(name=name, kind=kind, values=known, singled=min(len(known), max_categories))
