"""What is measured of a ranker, as functions of arrays.

``labels`` are (N,) of 0/1, ``scores`` (N,) predicted click rates, ``groups`` (N,) codes 0…G-1 of
users or requests, ``weights`` (N,) positive or ``None`` for 1.  Everything is O(N log N).  A metric
that is not defined on the rows given is ``None``; input that cannot be right raises
``ComparisonError``.  Metrics of the top of a list live in ``ranking.toplists``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ranking.errors import ComparisonError
from ranking.placements import (
    BoolArray,
    FloatArray,
    IntArray,
    ascending,
    checked_codes,
    checked_labels,
    checked_scores,
    checked_weights,
    placements,
)

CLIP = 1e-7
"""Log loss sees scores within [CLIP, 1 - CLIP], so that one certain miss costs 16, not infinity."""


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Chance that a click is scored above a non-click, ties counting half; ``None`` with one class."""
    y, s, w = _checked(labels, scores, weights)
    area = placements(y, s, weights=w).area[0]
    return None if np.isnan(area) else float(area)


def gauc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """AUC within groups, averaged by impressions over the groups with both labels.

    Zhu et al., "Optimized cost per click in Taobao display advertising" (KDD 2017), section 4.
    """
    y, s, w = _checked(labels, scores, weights)
    placed = placements(y, s, checked_codes(np.asarray(groups), len(y), "group"), w)
    both = placed.measurable
    if not both.any():
        return None
    return float(np.average(placed.area[both], weights=(placed.positives + placed.negatives)[both]))


def log_losses(labels: BoolArray, scores: FloatArray) -> FloatArray:
    """(N,) log loss of each row, in nats, of scores clipped to [CLIP, 1 - CLIP]."""
    likely = np.where(labels, scores, 1 - scores)
    losses: FloatArray = -np.log(np.clip(likely, CLIP, 1 - CLIP))
    return losses


def log_loss(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean log loss in nats."""
    y, s, w = _checked(labels, scores, weights)
    return float(np.average(log_losses(y, s), weights=w))


def constant_log_loss(labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Log loss of always predicting the rows' own click rate: the entropy of the labels, in nats."""
    y = checked_labels(np.asarray(labels))
    rate = float(np.average(y, weights=None if weights is None else np.asarray(weights)))
    if rate in {0.0, 1.0}:
        return 0.0
    return float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def normalised_entropy(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Log loss over that of a constant; below 1 is better than a constant.

    He et al., "Practical lessons from predicting clicks on ads at Facebook" (ADKDD 2014).
    """
    entropy = constant_log_loss(labels, weights)
    return log_loss(labels, scores, weights) / entropy if entropy > 0 else None


def predicted_to_actual(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Predicted clicks over actual clicks; ``None`` without a click."""
    y, s, w = _checked(labels, scores, weights)
    actual = float(np.average(y, weights=w))
    return float(np.average(s, weights=w)) / actual if actual > 0 else None


@dataclass(frozen=True)
class Reliability:
    """Rows in bins of equal size by score, lowest first; each array is (bins,)."""

    predicted: FloatArray
    actual: FloatArray
    rows: FloatArray


def reliability(labels: ArrayLike, scores: ArrayLike, bins: int = 10, order: IntArray | None = None) -> Reliability:
    """Mean prediction and click rate in quantile bins; equal scores share a bin.

    ``order`` is (N,) rows from the lowest score to the highest, when somebody sorted them already.
    """
    y, s, _ = _checked(labels, scores, None)
    if bins < 1:
        raise ComparisonError(f"reliability needs at least one bin, not {bins}.")
    order = ascending(s) if order is None else order
    ranked, clicks = s[order], y[order]
    # With few rows several edges may lie between two neighbours: they start one bin.
    starts = np.unique(np.concatenate(([0], np.searchsorted(ranked, _inner_edges(ranked, bins), side="left"))))
    rows = np.diff(np.append(starts, len(ranked))).astype(np.float64)
    predicted = np.add.reduceat(ranked, starts)
    actual = np.add.reduceat(clicks.astype(np.float64), starts)
    return Reliability(predicted / rows, actual / rows, rows)


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = 10) -> float:
    """Mean distance between prediction and click rate over the bins of :func:`reliability`."""
    return calibration_error(reliability(labels, scores, bins))


def calibration_error(binned: Reliability) -> float:
    """The same from bins that somebody filled already."""
    return float(np.average(np.abs(binned.predicted - binned.actual), weights=binned.rows))


def population_stability(
    reference: ArrayLike,
    current: ArrayLike,
    bins: int = 10,
    orders: tuple[IntArray, IntArray] | None = None,
) -> float | None:
    """PSI of current scores in the quantile bins of the reference; ``None`` if that is constant.

    An empty bin counts as half a row, so that PSI stays finite.  ``orders`` are the rows of both from the lowest
    score to the highest, when somebody sorted them already.
    """
    old = checked_scores(np.asarray(reference), np.size(reference), "reference scores")
    new = checked_scores(np.asarray(current), np.size(current), "current scores")
    if not old.size or not new.size:
        raise ComparisonError(f"PSI needs scores on both sides, got {old.size} and {new.size}.")
    old, new = (np.sort(old), np.sort(new)) if orders is None else (old[orders[0]], new[orders[1]])
    edges = _inner_edges(old, bins)
    if not edges.size:
        return None
    p, q = (_shares_of_bins(values, edges) for values in (old, new))
    return float(((q - p) * np.log(q / p)).sum())


def correlation(left: ArrayLike, right: ArrayLike) -> float | None:
    """Pearson correlation of two models' scores; ``None`` when one of them is constant."""
    x = checked_scores(np.asarray(left), np.size(left))
    y = checked_scores(np.asarray(right), len(x))
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def roc(
    labels: ArrayLike, scores: ArrayLike, points: int = 201, order: IntArray | None = None
) -> tuple[FloatArray, FloatArray] | None:
    """False and true positive rates at about ``points`` thresholds; ``None`` with one class.

    ``order`` is (N,) rows from the lowest score to the highest, when somebody sorted them already.
    """
    y, s, _ = _checked(labels, scores, None)
    if y.all() or not y.any():
        return None
    order = (ascending(s) if order is None else order)[::-1]
    hits = np.concatenate(([0], np.cumsum(y[order])))
    ends = np.concatenate(([0], np.flatnonzero(np.append(np.diff(s[order]) != 0, True)) + 1))
    false = (ends - hits[ends]) / (len(y) - hits[-1])
    kept = np.unique(np.searchsorted(false, np.linspace(0, 1, points)).clip(max=len(ends) - 1))
    kept = np.unique(np.concatenate(([0], kept, [len(ends) - 1])))
    return false[kept], hits[ends][kept] / hits[-1]


def _inner_edges(ranked: FloatArray, bins: int) -> FloatArray:
    """Quantiles of sorted scores between the bins, without those that would leave the lowest bin empty."""
    edges = np.unique(np.quantile(ranked, np.linspace(0, 1, bins + 1)[1:-1]))
    above: FloatArray = edges[edges > ranked[0]]
    return above


def _shares_of_bins(ranked: FloatArray, edges: FloatArray) -> FloatArray:
    rows = np.diff(np.concatenate(([0], np.searchsorted(ranked, edges, side="left"), [len(ranked)])))
    filled: FloatArray = np.maximum(rows, 0.5)
    shares: FloatArray = filled / filled.sum()
    return shares


def _checked(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None
) -> tuple[BoolArray, FloatArray, FloatArray | None]:
    y = checked_labels(np.asarray(labels))
    s = checked_scores(np.asarray(scores), len(y))
    return y, s, checked_weights(None if weights is None else np.asarray(weights), len(y))
