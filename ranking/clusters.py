"""Standard errors when rows of one user, or of one item, err together."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from ranking.measurements import Estimate
from ranking.placements import BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Clusters:
    """Whose row is it: users (N,) and items (N,) as codes."""

    users: IntArray
    items: IntArray

    @cached_property
    def rows(self) -> tuple[FloatArray, FloatArray]:
        """Rows of each user and of each item: (1, users), (1, items)."""
        return _rows(self.users), _rows(self.items)

    def subset(self, rows: BoolArray | IntArray) -> "Clusters":
        """The same for some of the rows."""
        return Clusters(self.users[rows], self.items[rows])


@dataclass(frozen=True)
class AxisSums:
    """Influence summed per part and cluster, with the number of rows behind each sum: (P, G) both.

    AUC has two parts, non-clicks and clicks; a mean has one.
    """

    influence: FloatArray
    rows: FloatArray

    def __add__(self, other: Self) -> Self:
        """The sums of two shards of one holdout; both use the same codes."""
        size = max(self.rows.shape[1], other.rows.shape[1])
        return type(self)(
            _padded(self.influence, size) + _padded(other.influence, size),
            _padded(self.rows, size) + _padded(other.rows, size),
        )

    @property
    def clusters(self) -> int:
        """Number of clusters with rows."""
        return int(np.count_nonzero(self.rows.sum(axis=0)))

    def variance(self) -> float | None:
        """Variance between clusters; ``None`` when a part has fewer than two of them.

        Obuchowski (1997): each part has its own small-sample factor I/(I-1), where I counts the
        clusters with rows of that part; with one row per cluster this is DeLong exactly.
        """
        parts = np.count_nonzero(self.rows, axis=1)
        if parts.min() < 2:
            return None
        squares = (self.influence**2).sum(axis=1)
        own = float((parts / (parts - 1) * squares).sum())
        if len(parts) == 1:
            return own
        crossed = float((self.influence.sum(axis=0) ** 2).sum() - squares.sum())
        return own + self.clusters / (self.clusters - 1) * crossed


@dataclass(frozen=True)
class InfluenceSums:
    """All that is needed of a holdout for one standard error.  Sums, so shards can be added."""

    user: AxisSums
    item: AxisSums
    row_squares: FloatArray
    rows: FloatArray

    @classmethod
    def of(cls, influence: FloatArray, clusters: Clusters, parts: BoolArray | None = None) -> Self:
        """Sum the rows' influence by user and by item.

        Args:
            influence: (N,) each row's influence on the statistic; they sum to about 0.
            clusters: whose rows they are.
            parts: (N,) the class of each row, for statistics that take classes apart (AUC).
        """
        if parts is None:
            return cls(
                AxisSums(_sums(clusters.users, influence), clusters.rows[0]),
                AxisSums(_sums(clusters.items, influence), clusters.rows[1]),
                np.array([influence @ influence]),
                np.array([float(len(influence))]),
            )
        part = parts.astype(np.int64)
        return cls(
            _axis(influence, clusters.users, part, clusters.rows[0]),
            _axis(influence, clusters.items, part, clusters.rows[1]),
            np.bincount(part, influence**2, minlength=2).astype(np.float64),
            np.bincount(part, minlength=2).astype(np.float64),
        )

    def __add__(self, other: Self) -> Self:
        """The sums of two shards of one holdout."""
        return type(self)(
            self.user + other.user,
            self.item + other.item,
            self.row_squares + other.row_squares,
            self.rows + other.rows,
        )

    def variance(self) -> float | None:
        """max(V_user, V_user + V_item - V_row); ``None`` with one user or one item.

        Cameron, Gelbach & Miller (2011).  V_row stands for the overlap of the two ways; where one
        user sees one item often it is smaller than the overlap, which errs to the safe side.
        """
        user, item = self.user.variance(), self.item.variance()
        if user is None or item is None:
            return None
        row = float((self.rows / (self.rows - 1) * self.row_squares).sum())
        return max(user, user + item - row, 0.0)


def _padded(sums: FloatArray, size: int) -> FloatArray:
    return np.pad(sums, ((0, 0), (0, size - sums.shape[1])))


def _sums(codes: IntArray, values: FloatArray) -> FloatArray:
    return np.bincount(codes, values).astype(np.float64)[None, :]


def _rows(codes: IntArray) -> FloatArray:
    return np.bincount(codes).astype(np.float64)[None, :]


def _axis(influence: FloatArray, codes: IntArray, part: IntArray, rows: FloatArray) -> AxisSums:
    """Sums by class: non-clicks first."""
    size = rows.shape[1]
    summed = np.bincount(part * size + codes, influence, minlength=2 * size).astype(np.float64)
    clicks = np.bincount(codes, part, minlength=size).astype(np.float64)
    return AxisSums(summed.reshape(2, size), np.stack((rows[0] - clicks, clicks)))


def critical(probability: float, clusters: int) -> float:
    """Student's quantile with ``clusters - 1`` degrees of freedom (1.96 for 0.975 and many clusters).

    Two-way clustered errors go by the smaller of the two numbers of clusters (Cameron, Gelbach &
    Miller 2011): with ten items the normal quantile would promise too much.
    """
    from scipy.special import stdtrit

    return float(stdtrit(max(clusters - 1, 1), probability))


def estimate(value: float, variance: float | None, clusters: int, confidence_level: float) -> Estimate:
    """A value with its two-sided interval; no bounds when the variance is not measurable."""
    if variance is None:
        return Estimate(value=value)
    se = float(np.sqrt(variance))
    reach = critical(0.5 + confidence_level / 2, clusters) * se
    return Estimate(value=value, se=se, low=value - reach, high=value + reach)
