"""Influence functions: how much each row moves a metric.

Each function returns a :class:`Measure`: the metric's value and the derivative of the metric in
each row's weight (the infinitesimal jackknife).  Summed by user and by item and squared they give
the standard error; subtracted between two models, that of the difference.
"""

from dataclasses import dataclass

import numpy as np

from ranking.metrics import constant_log_loss, log_losses
from ranking.placements import BoolArray, FloatArray, IntArray, placements


@dataclass(frozen=True)
class Measure:
    """A metric on N rows.

    Attributes:
        value: ``None`` when not measurable; ``note`` says why.
        influence: (N,) or empty when not measurable.
        by_class: clicks and non-clicks are separate samples (AUC).
        counted: (N,) rows that take part, when not all do (GAUC).
        note: why there is no value.
    """

    value: float | None
    influence: FloatArray
    by_class: bool = False
    counted: BoolArray | None = None
    note: str = ""


def unmeasured(note: str) -> Measure:
    """A metric that has no value, and why."""
    return Measure(None, np.empty(0), note=note)


def _weights(weights: FloatArray | None, rows: int) -> FloatArray:
    return np.ones(rows) if weights is None else weights


def auc(
    labels: BoolArray, scores: FloatArray, weights: FloatArray | None = None, order: IntArray | None = None
) -> Measure:
    """AUC: (placement - AUC) / weight of the row's class (DeLong et al. 1988)."""
    placed = placements(labels, scores, weights=weights, order=order)
    if not placed.measurable[0]:
        return unmeasured(f"all {len(labels)} labels are {int(labels[0])}: AUC needs both")
    area = float(placed.area[0])
    share = _weights(weights, len(labels)) / np.where(labels, placed.positives[0], placed.negatives[0])
    return Measure(area, share * (placed.value - area), by_class=True)


def gauc(
    labels: BoolArray,
    scores: FloatArray,
    groups: IntArray,
    weights: FloatArray | None = None,
    order: IntArray | None = None,
) -> Measure:
    """GAUC: mean AUC within groups, weighted by impressions.

    A row moves both its group's AUC and its group's weight:
    ``w/W · (A_g - GAUC + n_g·(placement - A_g)/n_class)``; per group this sums to
    ``n_g·(A_g - GAUC)/W``, the influence of a ratio estimator.
    """
    placed = placements(labels, scores, groups, weights, order)
    both = placed.measurable
    if not both.any():
        return unmeasured("no group has both clicks and non-clicks: GAUC needs some that do")
    size = placed.positives + placed.negatives
    total = float(size[both].sum())
    mean = float((size[both] * placed.area[both]).sum() / total)
    counted = both[groups]
    code, weight = groups[counted], _weights(weights, len(labels))[counted]
    area = placed.area[code]
    own_class = np.where(labels[counted], placed.positives[code], placed.negatives[code])
    influence = np.zeros(len(labels))
    influence[counted] = weight / total * (area - mean + size[code] * (placed.value[counted] - area) / own_class)
    return Measure(mean, influence, counted=counted)


def log_loss(labels: BoolArray, scores: FloatArray, weights: FloatArray | None = None) -> Measure:
    """Mean log loss: (loss - mean) / N."""
    losses = log_losses(labels, scores)
    share = _shares(weights, len(labels))
    mean = float((share * losses).sum())
    return Measure(mean, share * (losses - mean))


def normalised_entropy(labels: BoolArray, scores: FloatArray, weights: FloatArray | None = None) -> Measure:
    """Log loss / entropy of the click rate p; the entropy moves with p by ln((1-p)/p)."""
    loss = log_loss(labels, scores, weights)
    share = _shares(weights, len(labels))
    rate = float(share[labels].sum())
    entropy = constant_log_loss(labels, weights)
    if loss.value is None or entropy <= 0:
        return unmeasured(f"all {len(labels)} labels are {int(labels[0])}: normalised entropy needs both")
    value = loss.value / entropy
    moved = np.log((1 - rate) / rate) * share * (labels - rate)
    return Measure(value, (loss.influence - value * moved) / entropy)


def calibration(labels: BoolArray, scores: FloatArray, weights: FloatArray | None = None) -> Measure:
    """Predicted clicks / actual clicks R: (prediction - R·label) / actual clicks."""
    share = _shares(weights, len(labels))
    actual = float(share[labels].sum())
    if actual <= 0:
        return unmeasured("the holdout has no click: predicted / actual needs some")
    ratio = float((share * scores).sum() / actual)
    return Measure(ratio, share * (scores - ratio * labels) / actual)


def _shares(weights: FloatArray | None, rows: int) -> FloatArray:
    weight = _weights(weights, rows)
    shares: FloatArray = weight / weight.sum()
    return shares
