"""What a comparison shows but never decides by: lists, calibration, score shift, curves."""

from typing import Any

import numpy as np

from ranking import metrics, toplists
from ranking.comparison import Checked
from ranking.placements import BoolArray, FloatArray
from ranking.results import Agreement, Curve, Estimate, Lines, MetricComparison
from ranking.toplists import Lists

TOP = 10


def reported(rows: Checked) -> dict[str, Any]:
    """Fields of a ``Comparison`` that are only shown: others, agreement and both models' lines."""
    new = toplists.lists(rows.challenger, rows.groups)
    old = None if rows.champion is None else toplists.lists(rows.champion, rows.groups)
    shown: dict[str, Any] = {
        "others": _others(rows, old, new),
        "challenger_lines": _lines(rows.labels, rows.challenger),
    }
    if rows.champion is not None and old is not None:
        shown["champion_lines"] = _lines(rows.labels, rows.champion)
        shown["agreement"] = Agreement(
            stability_index=metrics.population_stability(rows.champion, rows.challenger),
            top_overlap=toplists.top_overlap(old, new, TOP),
            top=TOP,
        )
    return shown


def _others(rows: Checked, old: Lists | None, new: Lists) -> tuple[MetricComparison, ...]:
    def pair(name: str, better: bool | None, value: Any) -> MetricComparison:
        before = value(rows.champion, old) if old is not None else None
        return _plain(name, better, before, value(rows.challenger, new))

    return (
        pair(f"ndcg_at_{TOP}", True, lambda _, ranked: toplists.ndcg(rows.labels, ranked, TOP)),
        pair("mean_reciprocal_rank", True, lambda _, ranked: toplists.mean_reciprocal_rank(rows.labels, ranked)),
        pair(
            "expected_calibration_error",
            False,
            lambda scores, _: metrics.expected_calibration_error(rows.labels, scores),
        ),
        pair(
            f"popularity_share_at_{TOP}",
            None,
            lambda _, ranked: toplists.popularity_share(ranked, rows.clusters.items, TOP),
        ),
    )


def _plain(name: str, better: bool | None, champion: float | None, challenger: float | None) -> MetricComparison:
    """A metric without standard error."""
    both = champion is not None and challenger is not None
    return MetricComparison(
        name=name,
        higher_is_better=better,
        champion=None if champion is None else Estimate(value=champion),
        challenger=None if challenger is None else Estimate(value=challenger),
        difference=Estimate(value=challenger - champion) if both else None,  # type: ignore[operator]
        note="" if challenger is not None else "no list is long enough or has both labels",
    )


def _lines(labels: BoolArray, scores: FloatArray) -> Lines:
    rates = metrics.roc(labels, scores)
    binned = metrics.reliability(labels, scores)
    counts, edges = np.histogram(scores, bins=50)
    return Lines(
        roc=None if rates is None else _curve(*rates),
        reliability=_curve(binned.predicted, binned.actual),
        scores=_curve((edges[1:] + edges[:-1]) / 2, counts / len(scores)),
    )


def _curve(x: FloatArray, y: FloatArray) -> Curve:
    return Curve(x=tuple(x.tolist()), y=tuple(y.tolist()))
