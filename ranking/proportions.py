"""Shares of users with one yes-or-no outcome each, such as "came back": the only place for a proportion test.

On impressions these tests are wrong (8 to 59 % false alarms), because one user's impressions are not
independent; there ``ranking.ratios`` is right.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from pydantic import Field

from ranking.errors import ComparisonError
from ranking.measurements import Estimate
from ranking.placements import FloatArray
from ranking.values import Value


class ProportionTest(Value):
    """Two shares of users compared."""

    control: float
    treatment: float
    difference: Estimate = Field(description="Treatment - control, with its Miettinen-Nurminen interval.")
    z: float = Field(description="Difference over its pooled standard error; its square is Pearson's chi-square.")
    p_value: float = Field(description="Two-sided.")


class Homogeneity(Value):
    """Whether several shares can be one and the same."""

    chi_square: float
    degrees_of_freedom: int
    p_value: float


def compare_proportions(
    control_successes: int,
    control_users: int,
    treatment_successes: int,
    treatment_users: int,
    confidence_level: float = 0.95,
) -> ProportionTest:
    """Two-proportion z-test with the interval that goes with it (Miettinen & Nurminen 1985).

    Raises:
        ComparisonError: counts that cannot be, or an outcome that everybody or nobody had.
    """
    from scipy.special import ndtr, ndtri

    _checked((control_successes, treatment_successes), (control_users, treatment_users))
    p, q = control_successes / control_users, treatment_successes / treatment_users
    pooled = (control_successes + treatment_successes) / (control_users + treatment_users)
    se = sqrt(pooled * (1 - pooled) * (1 / control_users + 1 / treatment_users))
    z = (q - p) / se
    low, high = _score_interval(q, treatment_users, p, control_users, float(ndtri(0.5 + confidence_level / 2)))
    return ProportionTest(
        control=p,
        treatment=q,
        difference=Estimate(value=q - p, se=se, low=low, high=high),
        z=z,
        p_value=2 * float(ndtr(-abs(z))),
    )


def same_proportions(successes: Sequence[int], users: Sequence[int]) -> Homogeneity:
    """Pearson's chi-square test that any number of arms have the same share.

    Raises:
        ComparisonError: fewer than two arms, counts that cannot be, or an outcome that everybody or nobody had.
    """
    from scipy.special import chdtrc

    yes, n = _checked(successes, users)
    pooled = yes.sum() / n.sum()
    statistic = float(((yes - n * pooled) ** 2 / (n * pooled * (1 - pooled))).sum())
    freedom = len(n) - 1
    return Homogeneity(chi_square=statistic, degrees_of_freedom=freedom, p_value=float(chdtrc(freedom, statistic)))


def proportion_power(users: float, control: float, treatment: float, alpha: float = 0.05) -> float:
    """Chance that ``users`` in each arm show the difference of two shares (as R's ``power.prop.test``)."""
    from scipy.special import ndtr, ndtri

    pooled, own = _spreads(control, treatment)
    return float(ndtr((sqrt(users) * abs(treatment - control) - float(ndtri(1 - alpha / 2)) * pooled) / own))


def proportion_users(control: float, treatment: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Users in each arm that show the difference of two shares with chance ``power``.

    Raises:
        ComparisonError: the shares are the same.
    """
    from scipy.special import ndtri

    if control == treatment:
        raise ComparisonError(f"Two shares of {control:g} have no difference to find.")
    pooled, own = _spreads(control, treatment)
    reach = float(ndtri(1 - alpha / 2)) * pooled + float(ndtri(power)) * own
    return (reach / (treatment - control)) ** 2


def _spreads(control: float, treatment: float) -> tuple[float, float]:
    """Standard deviation of the difference, per user in each arm: under no difference, and under this one."""
    middle = (control + treatment) / 2
    return sqrt(2 * middle * (1 - middle)), sqrt(control * (1 - control) + treatment * (1 - treatment))


def _score_interval(one: float, n: int, other: float, m: int, critical: float) -> tuple[float, float]:
    """Differences that the score test does not reject."""
    from scipy.optimize import brentq

    def excess(difference: float) -> float:
        return (one - other - difference) / _restricted_se(one, n, other, m, difference) - sign * critical

    here, edge, bounds = one - other, 1 - 1e-9, []
    for sign in (1, -1):
        far = -sign * edge
        reached = sign * (here - far) > 0 and sign * excess(far) > 0
        bounds.append(float(brentq(excess, *sorted((far, here)), xtol=1e-10)) if reached else -float(sign))
    return bounds[0], bounds[1]


def _restricted_se(one: float, n: int, other: float, m: int, difference: float) -> float:
    """Standard error at the most likely shares that differ by exactly ``difference``."""
    ratio = m / n
    # The likelihood's derivative is a cubic in the first share (Miettinen & Nurminen 1985, appendix I).
    a = 1 + ratio
    b = -(1 + ratio + one + ratio * other + difference * (ratio + 2))
    c = difference**2 + difference * (2 * one + ratio + 1) + one + ratio * other
    d = -one * difference * (1 + difference)
    v = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + d / (2 * a)
    u = (1 if v > 0 else -1) * sqrt(max((b / (3 * a)) ** 2 - c / (3 * a), 0.0))
    angle = (np.pi + np.arccos(np.clip(v / u**3, -1, 1) if u else 0.0)) / 3
    first = float(np.clip(2 * u * np.cos(angle) - b / (3 * a), max(difference, 0.0), min(1 + difference, 1.0)))
    second = float(np.clip(first - difference, 0.0, 1.0))
    variance = (first * (1 - first) / n + second * (1 - second) / m) * (n + m) / (n + m - 1)
    return sqrt(max(variance, 1e-18))


def _checked(successes: Sequence[int], users: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    yes, n = np.asarray(successes, dtype=np.float64), np.asarray(users, dtype=np.float64)
    if len(n) < 2 or yes.shape != n.shape or (n < 1).any() or (yes < 0).any() or (yes > n).any():
        raise ComparisonError(f"{list(successes)} of {list(users)} are no shares: 0 to all of at least one user each.")
    if yes.sum() in {0.0, n.sum()}:
        raise ComparisonError("Everybody or nobody had the outcome, so there is no error to compare with.")
    return yes, n
