"""A ratio of two per-user counts, such as clicks over impressions, from sums over users.

Impressions of one user are not independent, so a click-through rate is a ratio of two means over users
and its error comes from the delta method (Deng, Knoblich & Lu, KDD 2018).  What the users did before
the experiment explains part of their differences: CUPED takes that part out (Deng, Xu, Kohavi & Walker,
WSDM 2013).  All that is needed are sums, so shards of users can be added.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeInt

from ranking.errors import ComparisonError
from ranking.measurements import Estimate
from ranking.placements import FloatArray
from ranking.values import Value

LEAST_USERS = 100
"""Fewer users in an arm have no error worth the name: the mean of a heavy-tailed count is not normal yet."""

_PAIRS = np.triu_indices(4)


class RatioSums(Value):
    """Sums over the users of one arm; ``a + b`` are the sums of both sets of users.

    The four counts of a user are numerator, denominator, and the same two before the experiment
    (0 for a user who was not there).
    """

    users: NonNegativeInt
    sums: tuple[float, float, float, float] = Field(description="Sum of each of the four counts.")
    products: tuple[float, ...] = Field(
        min_length=10, max_length=10, description="Sums of their products, the upper triangle row by row."
    )

    @classmethod
    def of(
        cls,
        numerator: ArrayLike,
        denominator: ArrayLike,
        numerator_before: ArrayLike | None = None,
        denominator_before: ArrayLike | None = None,
    ) -> Self:
        """Sum users up.

        Args:
            numerator: (N,) such as clicks of each user.
            denominator: (N,) such as impressions of each user.
            numerator_before: (N,) the same in the weeks before the experiment.
            denominator_before: (N,) the same in the weeks before the experiment.

        Raises:
            ComparisonError: not one finite number per user, or half a pre-period.
        """
        if (numerator_before is None) != (denominator_before is None):
            raise ComparisonError("A pre-period needs its numerator and its denominator: one of the two is missing.")
        given = (numerator, denominator, numerator_before, denominator_before)
        rows = np.size(numerator)
        counts = np.stack([_counts(column, rows) for column in given])
        products = counts @ counts.T
        return cls(
            users=rows,
            sums=tuple(counts.sum(axis=1).tolist()),
            products=tuple(products[_PAIRS].tolist()),
        )

    def __add__(self, other: Self) -> Self:
        """The sums of two sets of users that have no user in common."""
        return type(self)(
            users=self.users + other.users,
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            products=tuple(a + b for a, b in zip(self.products, other.products, strict=True)),
        )

    @property
    def ratio(self) -> float | None:
        """Numerator over denominator; ``None`` when there is no denominator."""
        return self.sums[0] / self.sums[1] if self.sums[1] > 0 else None

    @property
    def ratio_before(self) -> float | None:
        """The same before the experiment."""
        return self.sums[2] / self.sums[3] if self.sums[3] > 0 else None

    @property
    def covariance(self) -> FloatArray:
        """(4, 4) sample covariance of a user's four counts."""
        mean = np.array(self.sums) / self.users
        second = np.zeros((4, 4))
        second[_PAIRS] = self.products
        second += np.triu(second, 1).T
        spread: FloatArray = (second / self.users - np.outer(mean, mean)) * self.users / (self.users - 1)
        return spread

    @property
    def gradient(self) -> FloatArray:
        """(4,) how the ratio follows the mean counts; needs a denominator."""
        return self._gradient(0)

    @property
    def gradient_before(self) -> FloatArray:
        """(4,) how the ratio before the experiment follows the mean counts; zeros without one."""
        return self._gradient(2) if self.sums[3] > 0 else np.zeros(4)

    def _gradient(self, first: int) -> FloatArray:
        slope = np.zeros(4)
        mean = self.sums[first + 1] / self.users
        slope[first : first + 2] = 1 / mean, -self.sums[first] / self.sums[first + 1] / mean
        return slope


def _counts(column: ArrayLike | None, rows: int) -> FloatArray:
    counts = np.zeros(rows) if column is None else np.asarray(column, dtype=np.float64)
    if counts.shape != (rows,) or not np.isfinite(counts).all():
        raise ComparisonError(f"Counts have shape {counts.shape} for {rows} users: one finite number per user.")
    return counts


class Effect(Value):
    """How the treatment's ratio differs from the control's.  ``None`` is not measured; ``note`` says why."""

    control: float | None = None
    treatment: float | None = None
    difference: Estimate | None = Field(default=None, description="Treatment - control, CUPED-adjusted if it could be.")
    relative: Estimate | None = Field(default=None, description="The same as a share of the control's ratio.")
    z: float | None = Field(default=None, description="Difference over its standard error.")
    variance_reduction: float | None = Field(
        default=None, description="Share of the variance that the pre-period explained; None without one."
    )
    note: str = ""


def effect(control: RatioSums, treatment: RatioSums, *, critical: float = 1.96) -> Effect:
    """Difference of two ratios, with its error by the delta method, and CUPED when there is a pre-period.

    Args:
        control: the champion's users.
        treatment: the challenger's users.
        critical: half-width of the intervals in standard errors.
    """
    before, after = control.ratio, treatment.ratio
    fewest = min(control.users, treatment.users)
    if fewest < LEAST_USERS:
        return Effect(
            control=before,
            treatment=after,
            note=f"{control.users:,} and {treatment.users:,} users are fewer than the {LEAST_USERS} per arm "
            "that an error needs",
        )
    if before is None or after is None:
        return Effect(control=before, treatment=after, note="an arm has nothing in its denominator")
    weight = _cuped_weight(control + treatment)
    plain = _variance(control, 0.0) + _variance(treatment, 0.0)
    variance = _variance(control, weight) + _variance(treatment, weight)
    if plain <= 0 or variance <= 0:
        return Effect(control=before, treatment=after, note="all users have the same ratio, so there is no error")
    before, after = _adjusted(control, treatment, weight)
    se = float(np.sqrt(variance))
    return Effect(
        control=before,
        treatment=after,
        difference=_estimate(after - before, se, critical),
        relative=_relative(control, treatment, weight, critical),
        z=(after - before) / se,
        variance_reduction=1 - variance / plain if weight else None,
    )


def relative_variance(sums: RatioSums) -> float | None:
    """Variance of one user's linearised ratio over the squared ratio, less what the pre-period explains.

    ``None`` with fewer than two users or a ratio of 0.
    """
    ratio = sums.ratio
    if sums.users < 2 or not ratio:
        return None
    return _variance(sums, _cuped_weight(sums)) * sums.users / ratio**2


def _cuped_weight(total: RatioSums) -> float:
    """How much of a user's pre-period deviation returns in the experiment: cov / var over all users.

    One weight for both arms, as the same one keeps the difference unbiased.
    """
    spread, after, before = total.covariance, total.gradient, total.gradient_before
    variance = float(before @ spread @ before)
    return float(after @ spread @ before) / variance if variance > 0 else 0.0


def _variance(arm: RatioSums, weight: float) -> float:
    slope = arm.gradient - weight * arm.gradient_before
    return float(slope @ arm.covariance @ slope) / arm.users


def _adjusted(control: RatioSums, treatment: RatioSums, weight: float) -> tuple[float, float]:
    """Both ratios, each less what the pre-period says about its users."""
    middle = (control + treatment).ratio_before
    adjusted = []
    for arm in (control, treatment):
        ratio, own = arm.ratio or 0.0, arm.ratio_before
        shift = 0.0 if middle is None or own is None else weight * (own - middle)
        adjusted.append(ratio - shift)
    return adjusted[0], adjusted[1]


def _relative(control: RatioSums, treatment: RatioSums, weight: float, critical: float) -> Estimate | None:
    """Relative change by the delta method on the quotient; ``None`` when the control's ratio is not positive."""
    before, after = _adjusted(control, treatment, weight)
    if before <= 0:
        return None
    spread = _variance(treatment, weight) / before**2 + after**2 * _variance(control, weight) / before**4
    return _estimate(after / before - 1, float(np.sqrt(spread)), critical)


def _estimate(value: float, se: float, critical: float) -> Estimate:
    return Estimate(value=value, se=se, low=value - critical * se, high=value + critical * se)
