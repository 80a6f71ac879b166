"""Placements: for each row, the share of the other class it is ranked right against.

The one sort that AUC, GAUC and their standard errors share.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranking.errors import ComparisonError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Placements:
    """DeLong placements of N rows in G groups.

    Attributes:
        value: (N,) in [0, 1]; NaN in groups with one class.  A click's placement is the share of
            its group's non-clicks scored below it (ties count half); a non-click's is the share of
            clicks scored above it.
        positives: (G,) weight of the clicks of each group.
        negatives: (G,) weight of the non-clicks of each group.
        area: (G,) AUC within each group; NaN where it has one class.
    """

    value: FloatArray
    positives: FloatArray
    negatives: FloatArray
    area: FloatArray

    @property
    def measurable(self) -> BoolArray:
        """(G,) groups with both labels."""
        return (self.positives > 0) & (self.negatives > 0)


def placements(
    labels: BoolArray, scores: FloatArray, groups: IntArray | None = None, weights: FloatArray | None = None
) -> Placements:
    """Rank every row against the other class of its group, in O(N log N).

    The fast form of DeLong, DeLong & Clarke-Pearson (1988) by Sun & Xu (2014), from running sums
    over one sort instead of two sets of ranks; ties count half.

    Args:
        labels: (N,) bool.
        scores: (N,) finite.
        groups: (N,) codes 0…G-1; ``None`` is one group.
        weights: (N,) positive; ``None`` is 1.
    """
    order = np.argsort(scores)
    if groups is not None:
        order = grouped(order, groups)
    sorted_scores, clicks = scores[order], labels[order]
    sorted_groups = np.zeros(len(order), dtype=np.int64) if groups is None else groups[order]
    weight = np.ones(len(order)) if weights is None else weights[order]
    new_group = np.diff(sorted_groups, prepend=-1) != 0
    new_block = new_group | (np.diff(sorted_scores, prepend=np.nan) != 0)
    first, last = _edges(new_block)
    group_first, group_last = _edges(new_group)
    below = np.concatenate(([0.0], np.cumsum(np.where(clicks, 0.0, weight))))  # non-clicks
    above = np.concatenate(([0.0], np.cumsum(np.where(clicks, weight, 0.0))))  # clicks
    negatives = below[group_last] - below[group_first]
    positives = above[group_last] - above[group_first]
    right = np.where(
        clicks,
        (below[first] + below[last]) / 2 - below[group_first],
        above[group_last] - (above[first] + above[last]) / 2,
    )
    others = np.where(clicks, negatives, positives)
    both = (positives > 0) & (negatives > 0)
    value = np.empty(len(order))
    value[order] = np.divide(right, others, out=np.full(len(order), np.nan), where=both)
    size = int(sorted_groups[-1]) + 1 if len(order) else 0
    return _by_group(value, labels, groups, weights, size)


def grouped(order: IntArray, groups: IntArray) -> IntArray:
    """Bring an order of N rows into groups, keeping it within each group.

    One sort of whole numbers: several times faster than ``np.lexsort``.
    """
    key = np.empty(len(order), dtype=np.int64)
    key[order] = np.arange(len(order))
    key += groups * len(order)
    key.sort()
    return order[key % max(len(order), 1)]


def _edges(new: BoolArray) -> tuple[IntArray, IntArray]:
    """For each row, where its block starts and where it ends (exclusive)."""
    starts = np.flatnonzero(new)
    block = np.cumsum(new) - 1
    ends = np.append(starts[1:], len(new))
    return starts[block], ends[block]


def _by_group(
    value: FloatArray, labels: BoolArray, groups: IntArray | None, weights: FloatArray | None, size: int
) -> Placements:
    codes = np.zeros(len(value), dtype=np.int64) if groups is None else groups
    weight = np.ones(len(value)) if weights is None else weights
    clicks = np.where(labels, weight, 0.0)
    positives = np.bincount(codes, clicks, minlength=size).astype(np.float64)
    negatives = np.bincount(codes, weight - clicks, minlength=size).astype(np.float64)
    both = (positives > 0) & (negatives > 0)
    right = np.bincount(codes, clicks * np.where(labels, value, 0.0), minlength=size)
    area = np.divide(right, positives, out=np.full(size, np.nan), where=both)
    return Placements(value, positives, negatives, area)


def checked_labels(labels: NDArray[np.generic]) -> BoolArray:
    """Labels as (N,) bool.

    Raises:
        ComparisonError: no rows, not one-dimensional, or anything but 0 and 1.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or array.size == 0:
        raise ComparisonError(f"labels have shape {array.shape}: one label per row, and at least one row, is needed.")
    if array.dtype == np.bool_:
        return array.astype(np.bool_, copy=False)
    bad = array[~np.isin(array, (0, 1))]
    if bad.size:
        raise ComparisonError(f"{bad.size} of {array.size} labels are neither 0 nor 1, such as {bad[0]!r}.")
    return array.astype(np.bool_)


def checked_scores(scores: NDArray[np.generic], rows: int, who: str = "scores") -> FloatArray:
    """Scores as (N,) finite float64.

    Raises:
        ComparisonError: not one score per row, or one of them NaN or infinite.
    """
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (rows,):
        raise ComparisonError(f"{who} have shape {array.shape}, the holdout has {rows} rows: one score per row.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ComparisonError(f"{bad} of {rows} {who} are NaN or infinite: this model cannot be measured.")
    return array


def checked_weights(weights: NDArray[np.generic] | None, rows: int) -> FloatArray | None:
    """Row weights as (N,) positive float64.

    Raises:
        ComparisonError: not one weight per row, or one that is not positive and finite.
    """
    if weights is None:
        return None
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (rows,):
        raise ComparisonError(f"weights have shape {array.shape}, the holdout has {rows} rows: one weight per row.")
    bad = int(np.count_nonzero(~(np.isfinite(array) & (array > 0))))
    if bad:
        raise ComparisonError(f"{bad} of {rows} weights are not positive numbers: leave such rows out.")
    return array


def checked_codes(codes: NDArray[np.generic], rows: int, who: str) -> IntArray:
    """Codes of users, items or groups as (N,) int64, 0 or more.

    Raises:
        ComparisonError: not one code per row, not whole numbers, or a negative one (a missing id).
    """
    array = np.asarray(codes)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ComparisonError(
            f"{who} codes have shape {array.shape} and type {array.dtype}: one whole number for each of {rows} rows."
        )
    if rows and int(array.min()) < 0:
        raise ComparisonError(f"{int((array < 0).sum())} of {rows} rows have no {who} (a negative code).")
    return array.astype(np.int64, copy=False)
