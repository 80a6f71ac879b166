"""What a comparison shows but never decides by: lists, calibration, score shift, curves."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking import metrics, toplists
from ranking.measurements import Agreement, Curve, Estimate, Lines, MetricComparison
from ranking.placements import FloatArray
from ranking.scored import Checked
from ranking.toplists import Lists

TOP = 10
TOPS = (1, 3, 5, TOP, 20)


@dataclass(frozen=True)
class _Model:
    """One model on the holdout: its lists, its bins, and the four numbers that come of them."""

    scores: FloatArray
    lists: Lists
    lines: Lines
    numbers: dict[str, float | None]


BETTER: dict[str, bool | None] = {
    f"ndcg_at_{TOP}": True,
    "mean_reciprocal_rank": True,
    "expected_calibration_error": False,
    f"popularity_share_at_{TOP}": None,
}


def reported(rows: Checked) -> dict[str, Any]:
    """Fields of a ``Comparison`` that are only shown: others, agreement and both models' lines."""
    new = _model(rows, rows.challenger)
    old = None if rows.champion is None else _model(rows, rows.champion)
    shown: dict[str, Any] = {
        "others": tuple(_metric(name, old.numbers[name] if old else None, new.numbers[name]) for name in BETTER),
        "challenger_lines": new.lines,
    }
    if old is not None:
        shown["champion_lines"] = old.lines
        shown["agreement"] = _agreement(rows, old, new)
    return shown


def _agreement(rows: Checked, old: _Model, new: _Model) -> Agreement:
    kept = {top: toplists.top_overlap(old.lists, new.lists, top) for top in TOPS}
    measured = {float(top): share for top, share in kept.items() if share is not None}
    sorted_already = None if rows.champion_order is None else (rows.champion_order, rows.challenger_order)
    return Agreement(
        stability_index=metrics.population_stability(old.scores, new.scores, orders=sorted_already),
        top_overlap=kept[TOP],
        top=TOP,
        overlaps=Curve(x=tuple(measured), y=tuple(measured.values())) if measured else None,
    )


def _model(rows: Checked, scores: FloatArray) -> _Model:
    ranked = toplists.lists(scores, rows.groups, rows.lists_of(scores))
    binned = metrics.reliability(rows.labels, scores, order=rows.order_of(scores))
    rates = metrics.roc(rows.labels, scores, order=rows.order_of(scores))
    counts, edges = np.histogram(scores, bins=50)
    return _Model(
        scores,
        ranked,
        Lines(
            roc=None if rates is None else _curve(*rates),
            reliability=_curve(binned.predicted, binned.actual),
            scores=_curve((edges[1:] + edges[:-1]) / 2, counts / len(scores)),
        ),
        {
            f"ndcg_at_{TOP}": toplists.ndcg(rows.labels, ranked, TOP),
            "mean_reciprocal_rank": toplists.mean_reciprocal_rank(rows.labels, ranked),
            "expected_calibration_error": metrics.calibration_error(binned),
            f"popularity_share_at_{TOP}": toplists.popularity_share(ranked, rows.clusters.items, TOP),
        },
    )


def _metric(name: str, champion: float | None, challenger: float | None) -> MetricComparison:
    """A metric without standard error."""
    difference = None if champion is None or challenger is None else Estimate(value=challenger - champion)
    return MetricComparison(
        name=name,
        higher_is_better=BETTER[name],
        champion=None if champion is None else Estimate(value=champion),
        challenger=None if challenger is None else Estimate(value=challenger),
        difference=difference,
        note="" if challenger is not None else "no list is long enough, or none has both labels",
    )


def _curve(x: FloatArray, y: FloatArray) -> Curve:
    return Curve(x=tuple(x.tolist()), y=tuple(y.tolist()))
