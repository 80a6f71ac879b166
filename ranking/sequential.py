"""Tests that may be looked at again and again, and what looking does to those that may not.

Every evidence here is an e-value's logarithm: under its null hypothesis the chance that it *ever*
exceeds ln(1/a) is at most a (Ville's inequality), however often one looks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, log, sqrt

import numpy as np
from numpy.typing import ArrayLike

from ranking.errors import ComparisonError
from ranking.placements import FloatArray

NODES = 256
"""Points of the numerical integration over the continuation region; 64 already give six digits."""


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
    return bad * log(rare / tolerable) + (sessions - bad) * (np.log1p(-rare) - np.log1p(-tolerable))


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
    from scipy.special import ndtr

    if len(times) != len(bounds) or not len(times) or times[0] <= 0 or min(np.diff(times), default=1.0) <= 0:
        raise ComparisonError("Looks need rising information fractions above 0, and one bound each.")
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, mass, last = np.zeros(1), np.ones(1), 0.0
    upper, lower = [], []
    for time, bound in zip(times, bounds, strict=True):
        reach, step = bound * sqrt(time), sqrt(time - last)
        middle = places + drift * (time - last)
        upper.append(float(mass @ ndtr((middle - reach) / step)))
        lower.append(float(mass @ ndtr((-reach - middle) / step)))
        inside = reach * nodes
        density = np.exp(-0.5 * ((inside[:, None] - middle) / step) ** 2) / (step * sqrt(2 * np.pi))
        places, mass, last = inside, reach * weights * (density @ mass), time
    return Crossings(np.array(upper), np.array(lower))
