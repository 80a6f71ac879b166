"""The rows of a holdout and what both models said about them, as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking.clusters import Clusters
from ranking.errors import ComparisonError
from ranking.placements import (
    BoolArray,
    FloatArray,
    IntArray,
    ascending,
    checked_codes,
    checked_labels,
    checked_weights,
    grouped,
)


@dataclass(frozen=True)
class Scored:
    """N holdout rows and what both models said about them.

    Attributes:
        labels: (N,) 0/1 or bool.
        challenger: (N,) predicted click rates.
        champion: (N,) predicted click rates, or ``None`` for the first model ever.
        users: (N,) whole-number codes, 0 or more (see :func:`codes`).
        items: (N,) codes.
        row_ids: (N,) the snapshot's ``row_id``.
        groups: (N,) codes of what GAUC ranks within: requests, or users when ``None``.
        slices: name -> (N,) bool mask; ``new_users`` and ``cold_items`` are expected by the default gate,
            ``column=value`` comes from :func:`by_value`.
        weights: (N,) positive row weights, or ``None`` for 1.
    """

    labels: NDArray[Any]
    challenger: NDArray[Any]
    champion: NDArray[Any] | None
    users: NDArray[Any]
    items: NDArray[Any]
    row_ids: NDArray[Any]
    groups: NDArray[Any] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    weights: NDArray[Any] | None = None

    def checked(self) -> "Checked":
        """The arrays with their final types.

        Raises:
            ComparisonError: a shape, a label, a code, a weight or a mask is wrong; which, and how many.
        """
        labels = checked_labels(np.asarray(self.labels))
        rows = len(labels)
        users = checked_codes(np.asarray(self.users), rows, "user")
        row_ids = checked_codes(np.asarray(self.row_ids), rows, "row_id")
        repeated = int(np.count_nonzero(np.diff(np.sort(row_ids)) == 0))
        if repeated:
            raise ComparisonError(f"{repeated} of {rows} holdout rows repeat a row_id: each row is scored once.")
        return Checked(
            labels=labels,
            challenger=_shaped(self.challenger, rows, "the challenger"),
            champion=None if self.champion is None else _shaped(self.champion, rows, "the champion"),
            clusters=Clusters(users, checked_codes(np.asarray(self.items), rows, "item")),
            groups=users if self.groups is None else checked_codes(np.asarray(self.groups), rows, "group"),
            row_ids=row_ids,
            slices={name: _mask(name, mask, rows) for name, mask in self.slices.items()},
            weights=checked_weights(self.weights, rows),
        )


@dataclass(frozen=True)
class Checked:
    """``Scored`` with arrays of known shape and type; scores may still be NaN."""

    labels: BoolArray
    challenger: FloatArray
    champion: FloatArray | None
    clusters: Clusters
    groups: IntArray
    row_ids: IntArray
    slices: Mapping[str, BoolArray]
    weights: FloatArray | None

    @cached_property
    def challenger_order(self) -> IntArray:
        """Rows from the challenger's lowest score to its highest."""
        return ascending(self.challenger)

    @cached_property
    def champion_order(self) -> IntArray | None:
        """Rows from the champion's lowest score to its highest."""
        return None if self.champion is None else ascending(self.champion)

    @cached_property
    def challenger_lists(self) -> IntArray:
        """The same within each group."""
        return grouped(self.challenger_order, self.groups)

    @cached_property
    def champion_lists(self) -> IntArray | None:
        """The same within each group."""
        return None if self.champion_order is None else grouped(self.champion_order, self.groups)

    def order_of(self, scores: FloatArray) -> IntArray | None:
        """The order of one of the two models' scores."""
        return self.challenger_order if scores is self.challenger else self.champion_order

    def lists_of(self, scores: FloatArray) -> IntArray | None:
        """The order within groups of one of the two models' scores."""
        return self.challenger_lists if scores is self.challenger else self.champion_lists

    def only(self, mask: BoolArray) -> "Checked":
        """Some of the rows, without slices."""
        rows = np.flatnonzero(mask)
        return replace(
            self,
            labels=self.labels[rows],
            challenger=self.challenger[rows],
            champion=None if self.champion is None else self.champion[rows],
            clusters=self.clusters.subset(rows),
            groups=self.groups[rows],
            row_ids=self.row_ids[rows],
            slices={},
            weights=None if self.weights is None else self.weights[rows],
        )


def codes(values: Any) -> tuple[IntArray, list[str]]:
    """Whole-number codes of any ids, and the id behind each code; a missing id becomes -1.

    Args:
        values: (N,) array, list, or pandas or arrow column of ids.
    """
    import pandas as pd

    found, names = pd.factorize(pd.Series(values))
    return found.astype(np.int64), [str(name) for name in names]


def by_value(column: str, values: Any, labels: NDArray[Any], min_positives: int = 50) -> dict[str, BoolArray]:
    """One slice ``column=value`` for each value with enough clicks to be tested.

    Args:
        column: name of the column.
        values: (N,) its values on the holdout; a missing value makes the slice ``column=missing``.
        labels: (N,) 0/1.
        min_positives: values with fewer clicks get no slice.
    """
    found, names = codes(values)
    names.append("missing")
    found = np.where(found < 0, len(names) - 1, found)
    clicks = np.bincount(found, checked_labels(np.asarray(labels)), minlength=len(names))
    return {f"{column}={names[code]}": found == code for code in np.flatnonzero(clicks >= min_positives)}


def _shaped(scores: NDArray[Any], rows: int, who: str) -> FloatArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (rows,):
        raise ComparisonError(f"Scores of {who} have shape {array.shape}, the holdout has {rows} rows: one per row.")
    return array


def _mask(name: str, mask: NDArray[Any], rows: int) -> BoolArray:
    array = np.asarray(mask)
    if array.shape != (rows,) or array.dtype != np.bool_:
        raise ComparisonError(
            f"Slice {name!r} has shape {array.shape} and type {array.dtype}: a bool for each of {rows} rows."
        )
    return array
