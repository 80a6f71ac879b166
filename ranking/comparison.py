"""Champion against challenger on the same holdout rows.

``compare`` measures what a ``Scored`` holds into a frozen ``Comparison``; deciding what follows is
``ranking.verdict``'s, asking whether the comparison is fair ``ranking.fairness``'s.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ranking import influence
from ranking.clusters import InfluenceSums, estimate
from ranking.errors import ComparisonError
from ranking.influence import Measure, unmeasured
from ranking.measurements import Costs, Estimate, MetricComparison, ScoreHealth, SliceComparison
from ranking.metrics import constant_log_loss, correlation
from ranking.pictures import reported
from ranking.placements import BoolArray, FloatArray, IntArray
from ranking.results import Comparison, ModelRef, ServingCheck
from ranking.scored import Checked, Scored, by_value, codes
from ranking.times import Window

__all__ = ["Scored", "by_value", "codes", "compare", "holdout_digest"]

HIGHER_IS_BETTER = {"auc": True, "gauc": True, "log_loss": False, "normalised_entropy": False, "calibration": None}


def compare(
    scored: Scored,
    *,
    champion: ModelRef | None,
    challenger: ModelRef,
    holdout: Window,
    snapshot_fingerprint: str,
    serving: ServingCheck | None = None,
    confidence_level: float = 0.95,
    exploration: bool = False,
    report: bool = True,
) -> Comparison:
    """Measure both models and their difference, each with a two-way clustered standard error.

    Args:
        scored: the rows and both models' scores.
        champion: who serves, or ``None`` for the first model ever.
        challenger: who wants to.
        holdout: the time span the rows come from.
        snapshot_fingerprint: of the snapshot the rows come from.
        serving: how the registered challenger answered, with its latency and size; None when nobody asked it.
        confidence_level: of the two-sided intervals.
        exploration: all rows were chosen at random, not by the champion.
        report: also measure what is only shown: NDCG, MRR, ECE, PSI, overlap, curves.

    Raises:
        ComparisonError: input that cannot be right, or a champion without a score for every row.  A
            challenger without one is measured as far as it can be, for the gate to reject.
    """
    rows = scored.checked()
    if (champion is None) != (rows.champion is None):
        raise ComparisonError("A champion needs its scores, and scores need their champion: one of the two is missing.")
    health = _health(rows.challenger)
    old_health = None if rows.champion is None else _champion_health(rows.champion, champion)
    broken = f"{health.missing} of {len(rows.labels)} challenger scores are NaN or infinite" if health.missing else ""
    metrics = _metrics(rows, broken, confidence_level)
    measured = metrics.pop("normalised_entropy")
    extra: dict[str, Any] = {"others": (measured,)}
    if report and not broken:
        extra = reported(rows)
        extra["others"] = (measured, *extra["others"])
    return Comparison(
        champion=champion,
        challenger=challenger,
        snapshot_fingerprint=snapshot_fingerprint,
        holdout=holdout,
        exploration=exploration,
        holdout_digest=holdout_digest(rows.row_ids, rows.labels),
        **_counts(rows),
        **metrics,
        constant_log_loss=constant_log_loss(rows.labels, rows.weights),
        slices=tuple(_slice(name, rows.only(mask), broken, confidence_level) for name, mask in rows.slices.items()),
        champion_scores=old_health,
        challenger_scores=health,
        score_correlation=None if broken or rows.champion is None else correlation(rows.champion, rows.challenger),
        costs=serving.costs if serving else Costs(),
        serving=serving,
        **extra,
    )


def holdout_digest(row_ids: IntArray, labels: BoolArray) -> str:
    """sha256 over row ids and labels, in row-id order."""
    order = np.argsort(row_ids, kind="stable")
    text = hashlib.sha256(np.ascontiguousarray(row_ids[order], dtype="<i8").tobytes())
    text.update(np.ascontiguousarray(labels[order], dtype="u1").tobytes())
    return text.hexdigest()


def _metrics(rows: Checked, broken: str, level: float) -> dict[str, MetricComparison]:
    y, w = rows.labels, rows.weights
    measures: dict[str, Callable[[FloatArray], Measure]] = {
        "auc": lambda scores: influence.auc(y, scores, w, rows.order_of(scores)),
        "log_loss": lambda scores: influence.log_loss(y, scores, w),
        "gauc": lambda scores: influence.gauc(y, scores, rows.groups, w, rows.lists_of(scores)),
        "calibration": lambda scores: influence.calibration(y, scores, w),
        "normalised_entropy": lambda scores: influence.normalised_entropy(y, scores, w),
    }
    return {name: _metric(name, measure, rows, broken, level) for name, measure in measures.items()}


def _metric(
    name: str,
    measure: Callable[[FloatArray], Measure],
    rows: Checked,
    broken: str,
    level: float,
    *,
    each: bool = True,
) -> MetricComparison:
    """One metric of both models and of the difference; ``each`` gives each model its interval too."""
    old = None if rows.champion is None else measure(rows.champion)
    new = unmeasured(broken) if broken else measure(rows.challenger)
    difference = None
    if old is not None and old.value is not None and new.value is not None:
        difference = replace(new, value=new.value - old.value, influence=new.influence - old.influence)
    return MetricComparison(
        name=name,
        higher_is_better=HIGHER_IS_BETTER[name],
        champion=_estimate(old, rows, level if each else None),
        challenger=_estimate(new, rows, level if each else None),
        difference=_estimate(difference, rows, level),
        note=new.note or (old.note if old else ""),
    )


def _estimate(measure: Measure | None, rows: Checked, level: float | None) -> Estimate | None:
    if measure is None or measure.value is None:
        return None
    if level is None:
        return Estimate(value=measure.value)
    clusters, psi, labels = rows.clusters, measure.influence, rows.labels
    if measure.counted is not None:
        counted = np.flatnonzero(measure.counted)
        clusters, psi, labels = clusters.subset(counted), psi[counted], labels[counted]
    sums = InfluenceSums.of(psi, clusters, labels if measure.by_class else None)
    return estimate(measure.value, sums.variance(), min(sums.user.clusters, sums.item.clusters), level)


def _slice(name: str, rows: Checked, broken: str, level: float) -> SliceComparison:
    def auc(scores: FloatArray) -> Measure:
        return influence.auc(rows.labels, scores, rows.weights) if len(scores) else unmeasured("no rows")

    def log_loss(scores: FloatArray) -> Measure:
        return influence.log_loss(rows.labels, scores, rows.weights) if len(scores) else unmeasured("no rows")

    return SliceComparison(
        name=name,
        **_counts(rows),
        auc=_metric("auc", auc, rows, broken, level, each=False),
        log_loss=_metric("log_loss", log_loss, rows, broken, level, each=False),
    )


def _counts(rows: Checked) -> dict[str, int]:
    return {
        "rows": len(rows.labels),
        "positives": int(rows.labels.sum()),
        "users": len(np.flatnonzero(np.bincount(rows.clusters.users))),
        "items": len(np.flatnonzero(np.bincount(rows.clusters.items))),
    }


def _health(scores: FloatArray) -> ScoreHealth:
    finite = scores[np.isfinite(scores)]
    return ScoreHealth(
        missing=len(scores) - len(finite),
        outside=int(((finite < 0) | (finite > 1)).sum()),
        certain=int(((finite == 0) | (finite == 1)).sum()),
        lowest=float(finite.min()) if finite.size else None,
        highest=float(finite.max()) if finite.size else None,
        mean=float(finite.mean()) if finite.size else None,
    )


def _champion_health(scores: FloatArray, champion: ModelRef | None) -> ScoreHealth:
    health = _health(scores)
    if health.missing:
        raise ComparisonError(
            f"The champion (version {champion.version if champion else '?'}) gave NaN or infinite scores on "
            f"{health.missing} of {len(scores)} holdout rows, so nothing can be compared with it. "
            "Look at the champion first: it may be serving these scores; roll back if it is."
        )
    return health
