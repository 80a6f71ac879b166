"""How far two distributions lie apart, from the rows counted in the same B bins.

``reference`` and ``current`` are (B,) counts; a distance is ``None`` when one side has no rows.  P-values
say little about drift (with a million rows every shift is "significant"); they are only reported.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ranking.placements import FloatArray

EMPTY = 0.5
"""Rows that a bin counts as when one side has none in it, so that logarithms stay finite.

Half a row is what Haldane (1956) and Anscombe (1956) add to make the logarithm of a count nearly unbiased.
"""


def shares(reference: ArrayLike, current: ArrayLike) -> tuple[FloatArray, FloatArray] | None:
    """Both sides' shares of the bins that either side fills, an empty one counting half a row."""
    old, new = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if not old.sum() > 0 or not new.sum() > 0:
        return None
    used = (old > 0) | (new > 0)
    old, new = np.where(old[used] > 0, old[used], EMPTY), np.where(new[used] > 0, new[used], EMPTY)
    return old / old.sum(), new / new.sum()


def population_stability(reference: ArrayLike, current: ArrayLike) -> float | None:
    """PSI, the symmetric Kullback-Leibler divergence: sum of (q - p)·ln(q / p).

    Siddiqi, "Credit Risk Scorecards" (2006): below 0.1 little has changed, above 0.2 much has.
    """
    both = shares(reference, current)
    if both is None:
        return None
    p, q = both
    return float(((q - p) * np.log(q / p)).sum())


def null_stability(reference_units: float, current_units: float, bins: int, quantile: float) -> float | None:
    """Quantile of PSI between two samples of one population: (1/n + 1/m) · chi-square with B - 1 degrees of freedom.

    Yurdakul, "Statistical properties of the population stability index" (2018).  Units are whatever is
    independent: users, not rows.  ``None`` without units, or with fewer than two bins.
    """
    from scipy.special import chdtri

    if min(reference_units, current_units) <= 0 or bins < 2:
        return None
    return float((1 / reference_units + 1 / current_units) * chdtri(bins - 1, 1 - quantile))


def chi_square_p(reference: ArrayLike, current: ArrayLike) -> float | None:
    """P-value of Pearson's test that current follows the reference's shares; ``None`` with one bin."""
    from scipy.special import chdtrc

    both = shares(reference, current)
    if both is None or len(both[0]) < 2:
        return None
    old, new = np.asarray(reference), np.asarray(current)
    observed = new[(old > 0) | (new > 0)]
    expected = both[0] * float(observed.sum())
    return float(chdtrc(len(expected) - 1, ((observed - expected) ** 2 / expected).sum()))


def hellinger(reference: ArrayLike, current: ArrayLike) -> float | None:
    """Hellinger's distance, 0 to 1."""
    both = _plain(reference, current)
    if both is None:
        return None
    return float(np.sqrt(max(0.0, 1 - np.sqrt(both[0] * both[1]).sum())))


def jensen_shannon(reference: ArrayLike, current: ArrayLike) -> float | None:
    """Jensen-Shannon distance in nats (the square root of the divergence), 0 to 0.83."""
    from scipy.special import rel_entr

    both = _plain(reference, current)
    if both is None:
        return None
    middle = (both[0] + both[1]) / 2
    return float(np.sqrt(max(0.0, (rel_entr(both[0], middle) + rel_entr(both[1], middle)).sum() / 2)))


def kolmogorov_smirnov(reference: ArrayLike, current: ArrayLike) -> float | None:
    """Largest distance of the two distribution functions, looked at between ordered bins only."""
    both = _plain(reference, current)
    if both is None:
        return None
    return float(np.abs(np.cumsum(both[0] - both[1])).max())


def _plain(reference: Any, current: Any) -> tuple[FloatArray, FloatArray] | None:
    """Shares with empty bins left empty."""
    old, new = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if not old.sum() > 0 or not new.sum() > 0:
        return None
    return old / old.sum(), new / new.sum()
