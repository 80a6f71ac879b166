"""Champion against challenger on the same holdout rows.

``Scored`` holds the arrays, ``compare`` measures them into a frozen ``Comparison``; deciding what
follows is ``ranking.verdict``'s, asking whether the comparison is fair ``ranking.fairness``'s.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranking import influence
from ranking.clusters import Clusters, InfluenceSums, estimate
from ranking.errors import ComparisonError
from ranking.influence import Measure, unmeasured
from ranking.metrics import constant_log_loss, correlation
from ranking.placements import (
    BoolArray,
    FloatArray,
    IntArray,
    checked_codes,
    checked_labels,
    checked_weights,
)
from ranking.results import (
    Comparison,
    Costs,
    Estimate,
    MetricComparison,
    ModelRef,
    ScoreHealth,
    SliceComparison,
    Window,
)

HIGHER_IS_BETTER = {"auc": True, "gauc": True, "log_loss": False, "normalised_entropy": False, "calibration": None}


@dataclass(frozen=True)
class Scored:
    """N holdout rows and what both models said about them.

    Attributes:
        labels: (N,) 0/1 or bool.
        challenger: (N,) predicted click rates.
        champion: (N,) predicted click rates, or ``None`` for the first model ever.
        users: (N,) whole-number codes, 0 or more (see :func:`codes`).
        items: (N,) codes.
        row_ids: (N,) the snapshot's ``row_id``.
        groups: (N,) codes of what GAUC ranks within: requests, or users when ``None``.
        slices: name -> (N,) bool mask; ``new_users`` and ``cold_items`` are expected by the default gate,
            ``column=value`` comes from :func:`by_value`.
        weights: (N,) positive row weights, or ``None`` for 1.
    """

    labels: NDArray[Any]
    challenger: NDArray[Any]
    champion: NDArray[Any] | None
    users: NDArray[Any]
    items: NDArray[Any]
    row_ids: NDArray[Any]
    groups: NDArray[Any] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    weights: NDArray[Any] | None = None

    def checked(self) -> "Checked":
        """The arrays with their final types.

        Raises:
            ComparisonError: a shape, a label, a code, a weight or a mask is wrong; which, and how many.
        """
        labels = checked_labels(np.asarray(self.labels))
        rows = len(labels)
        users = checked_codes(np.asarray(self.users), rows, "user")
        row_ids = checked_codes(np.asarray(self.row_ids), rows, "row_id")
        repeated = int(np.count_nonzero(np.diff(np.sort(row_ids)) == 0))
        if repeated:
            raise ComparisonError(f"{repeated} of {rows} holdout rows repeat a row_id: each row is scored once.")
        return Checked(
            labels=labels,
            challenger=_shaped(self.challenger, rows, "the challenger"),
            champion=None if self.champion is None else _shaped(self.champion, rows, "the champion"),
            clusters=Clusters(users, checked_codes(np.asarray(self.items), rows, "item")),
            groups=users if self.groups is None else checked_codes(np.asarray(self.groups), rows, "group"),
            row_ids=row_ids,
            slices={name: _mask(name, mask, rows) for name, mask in self.slices.items()},
            weights=checked_weights(self.weights, rows),
        )


@dataclass(frozen=True)
class Checked:
    """``Scored`` with arrays of known shape and type; scores may still be NaN."""

    labels: BoolArray
    challenger: FloatArray
    champion: FloatArray | None
    clusters: Clusters
    groups: IntArray
    row_ids: IntArray
    slices: Mapping[str, BoolArray]
    weights: FloatArray | None

    def only(self, mask: BoolArray) -> "Checked":
        """Some of the rows, without slices."""
        rows = np.flatnonzero(mask)
        return replace(
            self,
            labels=self.labels[rows],
            challenger=self.challenger[rows],
            champion=None if self.champion is None else self.champion[rows],
            clusters=self.clusters.subset(rows),
            groups=self.groups[rows],
            row_ids=self.row_ids[rows],
            slices={},
            weights=None if self.weights is None else self.weights[rows],
        )


def compare(
    scored: Scored,
    *,
    champion: ModelRef | None,
    challenger: ModelRef,
    holdout: Window,
    snapshot_fingerprint: str,
    costs: Costs | None = None,
    confidence_level: float = 0.95,
    report: bool = True,
) -> Comparison:
    """Measure both models and their difference, each with a two-way clustered standard error.

    Args:
        scored: the rows and both models' scores.
        champion: who serves, or ``None`` for the first model ever.
        challenger: who wants to.
        holdout: the time span the rows come from.
        snapshot_fingerprint: of the snapshot the rows come from.
        costs: measured latency and size of the challenger.
        confidence_level: of the two-sided intervals.
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
        from ranking.pictures import reported

        extra = reported(rows)
        extra["others"] = (measured, *extra["others"])
    return Comparison(
        champion=champion,
        challenger=challenger,
        snapshot_fingerprint=snapshot_fingerprint,
        holdout=holdout,
        holdout_digest=holdout_digest(rows.row_ids, rows.labels),
        **_counts(rows),
        **metrics,
        constant_log_loss=constant_log_loss(rows.labels, rows.weights),
        slices=tuple(_slice(name, rows.only(mask), broken, confidence_level) for name, mask in rows.slices.items()),
        champion_scores=old_health,
        challenger_scores=health,
        score_correlation=None if broken or rows.champion is None else correlation(rows.champion, rows.challenger),
        costs=costs or Costs(),
        **extra,
    )


def holdout_digest(row_ids: IntArray, labels: BoolArray) -> str:
    """sha256 over row ids and labels, in row-id order."""
    order = np.argsort(row_ids, kind="stable")
    text = hashlib.sha256(np.ascontiguousarray(row_ids[order], dtype="<i8").tobytes())
    text.update(np.ascontiguousarray(labels[order], dtype="u1").tobytes())
    return text.hexdigest()


def codes(values: Any) -> tuple[IntArray, list[str]]:
    """Whole-number codes of any ids, and the id behind each code; a missing id becomes -1.

    Args:
        values: (N,) array, list, or pandas or arrow column of ids.
    """
    import pandas as pd

    found, names = pd.factorize(pd.Series(values))
    return found.astype(np.int64), [str(name) for name in names]


def by_value(column: str, values: Any, labels: NDArray[Any], min_positives: int = 50) -> dict[str, BoolArray]:
    """One slice ``column=value`` for each value with enough clicks to be tested.

    Args:
        column: name of the column.
        values: (N,) its values on the holdout; a missing value makes the slice ``column=missing``.
        labels: (N,) 0/1.
        min_positives: values with fewer clicks get no slice.
    """
    found, names = codes(values)
    names.append("missing")
    found = np.where(found < 0, len(names) - 1, found)
    clicks = np.bincount(found, checked_labels(np.asarray(labels)), minlength=len(names))
    return {f"{column}={names[code]}": found == code for code in np.flatnonzero(clicks >= min_positives)}


def _metrics(rows: Checked, broken: str, level: float) -> dict[str, MetricComparison]:
    y, w = rows.labels, rows.weights
    measures: dict[str, Callable[[FloatArray], Measure]] = {
        "auc": lambda scores: influence.auc(y, scores, w),
        "log_loss": lambda scores: influence.log_loss(y, scores, w),
        "gauc": lambda scores: influence.gauc(y, scores, rows.groups, w),
        "calibration": lambda scores: influence.calibration(y, scores, w),
        "normalised_entropy": lambda scores: influence.normalised_entropy(y, scores, w),
    }
    return {name: _metric(name, measure, rows, broken, level) for name, measure in measures.items()}


def _metric(
    name: str, measure: Callable[[FloatArray], Measure], rows: Checked, broken: str, level: float
) -> MetricComparison:
    """One metric of both models and of the difference."""
    old = None if rows.champion is None else measure(rows.champion)
    new = unmeasured(broken) if broken else measure(rows.challenger)
    difference = None
    if old is not None and old.value is not None and new.value is not None:
        difference = replace(new, value=new.value - old.value, influence=new.influence - old.influence)
    return MetricComparison(
        name=name,
        higher_is_better=HIGHER_IS_BETTER[name],
        champion=_estimate(old, rows, level),
        challenger=_estimate(new, rows, level),
        difference=_estimate(difference, rows, level),
        note=new.note or (old.note if old else ""),
    )


def _estimate(measure: Measure | None, rows: Checked, level: float) -> Estimate | None:
    if measure is None or measure.value is None:
        return None
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
        auc=_metric("auc", auc, rows, broken, level),
        log_loss=_metric("log_loss", log_loss, rows, broken, level),
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


def _shaped(scores: NDArray[Any], rows: int, who: str) -> FloatArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.shape != (rows,):
        raise ComparisonError(f"Scores of {who} have shape {array.shape}, the holdout has {rows} rows: one per row.")
    return array


def _mask(name: str, mask: NDArray[Any], rows: int) -> BoolArray:
    array = np.asarray(mask)
    if array.shape != (rows,) or array.dtype != np.bool_:
        raise ComparisonError(
            f"Slice {name!r} has shape {array.shape} and type {array.dtype}: a bool for each of {rows} rows."
        )
    return array
