"""Tests that may be looked at again and again, and what looking does to those that may not.

Every evidence here is an e-value's logarithm: under its null hypothesis the chance that it *ever*
exceeds ln(1/a) is at most a (Ville's inequality), however often one looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import lgamma, log, log1p, sqrt

import numpy as np
from numpy.typing import ArrayLike

from ranking.errors import ComparisonError
from ranking.placements import FloatArray

NODES = 96
"""Points of the numerical integration between the bounds: more change nothing in six digits up to 100 looks."""


@dataclass(frozen=True)
class Batches:
    """Sessions of both arms by window, each (W,): how many, and how many of them were bad.

    Windows are compared each within itself, so that no hour of the day looks like a difference.
    """

    canary: FloatArray
    canary_bad: FloatArray
    control: FloatArray
    control_bad: FloatArray

    def log_likelihoods(self, ratios: ArrayLike) -> FloatArray:
        """(R,) log likelihood of each risk ratio, given the number of bad sessions of each window.

        A bad session is the canary's with probability w r / (1 - w + w r), where w is the canary's
        share of the window's sessions.  Windows in which one arm had no session say nothing.
        """
        both = (self.canary > 0) & (self.control > 0)
        share = np.where(both, self.canary, 1.0) / np.where(both, self.canary + self.control, 2.0)
        scaled = np.asarray(ratios, dtype=np.float64)[:, None] * share
        theirs = scaled / (1 - share + scaled)
        logs = np.where(both, self.canary_bad * np.log(theirs) + self.control_bad * np.log1p(-theirs), 0.0)
        total: FloatArray = logs.sum(axis=1)
        return total


def harm_log_evidence(batches: Batches, tolerated: float, ratios: Sequence[float]) -> float:
    """Mixture SPRT: evidence that the canary's risk of a bad session is more than ``tolerated`` times the control's.

    The mean over ``ratios`` of the likelihood ratios against ``tolerated`` (Robbins 1970; Johari et al.,
    "Peeking at A/B tests", KDD 2017).

    Args:
        batches: sessions by window.
        tolerated: risk ratio of the null hypothesis.
        ratios: risk ratios that the mixture looks for, all above ``tolerated``.
    """
    logs = batches.log_likelihoods([tolerated, *ratios])
    gains = logs[1:] - logs[0]
    return float(np.logaddexp.reduce(gains) - log(len(gains)))


def safety_log_evidence(batches: Batches, refuted: float) -> float:
    """The other way round: evidence for equal risk against a risk ratio of ``refuted`` or more."""
    equal, worse = batches.log_likelihoods([1.0, refuted])
    return float(equal - worse)


def rarity_log_evidence(sessions: float, bad: float, tolerable: float) -> float:
    """Evidence that a share of bad sessions is below ``tolerable``: likelihood ratio of a tenth of it."""
    rare = tolerable / 10
    return bad * log(rare / tolerable) + (sessions - bad) * (log1p(-rare) - log1p(-tolerable))


def imbalance_log_evidence(treatment: int, control: int) -> float:
    """Evidence that two arms that should be equally large are not.

    A uniform mixture over the treatment's share against one half (Lindon & Malek, "Anytime-valid
    inference for multinomial count data", NeurIPS 2022).
    """
    total = treatment + control
    mixture = lgamma(treatment + 1) + lgamma(control + 1) - lgamma(total + 2)
    return mixture + total * log(2)


def confidence_sequence_bound(information: float, alpha: float) -> float:
    """Half-width in standard errors of an asymptotic confidence sequence: it holds at all times at once.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (Annals of Statistics 2024), tightest at
    ``information`` = 1; wider before and after.

    Args:
        information: share of the planned information that is there, above 0.
        alpha: two-sided chance of ever missing the truth.
    """
    if information <= 0:
        raise ComparisonError(f"An information fraction of {information:g} has no bound: wait for data.")
    c = -2 * log(alpha) + log(1 - 2 * log(alpha))
    grown = c * information
    return sqrt((1 + 1 / grown) * log((1 + grown) / alpha**2))


@dataclass(frozen=True)
class Crossings:
    """Chance to cross a bound for the first time at each look, each (K,)."""

    upper: FloatArray
    lower: FloatArray

    @property
    def total(self) -> float:
        """Chance to cross either bound at any look."""
        return float(self.upper.sum() + self.lower.sum())


def crossings(times: Sequence[float], bounds: Sequence[float], drift: float = 0.0) -> Crossings:
    """Chance that a z-value looked at again and again crosses ± its bounds.

    The recursion of Armitage, McPherson & Rowe (1969) on the z-value times the root of its information,
    with Gauss-Legendre nodes.

    Args:
        times: information fractions of the looks, rising to 1 at the horizon.
        bounds: half-width at each look, in standard errors.
        drift: expected z-value at time 1; 0 when there is no effect.
    """
    if len(times) != len(bounds) or not len(times) or times[0] <= 0 or min(np.diff(times), default=1.0) <= 0:
        raise ComparisonError("Looks need rising information fractions above 0, and one bound each.")
    walk = _Walk(drift)
    outside = [walk.look(time, bound) for time, bound in zip(times, bounds, strict=True)]
    upper, lower = np.array(outside).T
    return Crossings(upper, lower)


class _Walk:
    """Where the walks are that crossed no bound so far: places and how much of the chance is there."""

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift
        self.time = 0.0
        self.places, self.mass = np.zeros(1), np.ones(1)

    def tails(self, time: float, bound: float) -> tuple[float, float]:
        """Chance to be above and below the bounds at the next look."""
        from scipy.special import ndtr

        step, reach = sqrt(time - self.time), bound * sqrt(time)
        middle = self.places + self.drift * (time - self.time)
        return float(self.mass @ ndtr((middle - reach) / step)), float(self.mass @ ndtr((-reach - middle) / step))

    def look(self, time: float, bound: float) -> tuple[float, float]:
        """The same, and go on with those within the bounds."""
        outside = self.tails(time, bound)
        nodes, weights = np.polynomial.legendre.leggauss(NODES)
        step, reach = sqrt(time - self.time), bound * sqrt(time)
        middle = self.places + self.drift * (time - self.time)
        density = np.exp(-0.5 * ((reach * nodes[:, None] - middle) / step) ** 2) / (step * sqrt(2 * np.pi))
        self.places, self.mass, self.time = reach * nodes, reach * weights * (density @ self.mass), time
        return outside


@lru_cache(maxsize=64)
def final_bound(looks: int, interim: float, alpha: float) -> float:
    """The bound of the last of equally spaced looks that makes all looks together err with ``alpha``.

    Haybittle (1971) and Peto et al. (1976): interim looks are so strict that the last one is hardly
    stricter than without them.

    Raises:
        ComparisonError: the interim looks alone use up ``alpha``.
    """
    from scipy.optimize import brentq

    walk = _Walk()
    spent = sum(sum(walk.look(look / looks, interim)) for look in range(1, looks))

    def excess(bound: float) -> float:
        return spent + sum(walk.tails(1.0, bound)) - alpha

    if excess(interim) > 0:
        raise ComparisonError(
            f"{looks} looks at ±{interim:g} already err with more than {alpha:.1%}: look less often or be stricter."
        )
    return float(brentq(excess, 0.5, interim, xtol=1e-6))
