"""The picture of a check: which columns moved how far, and how good the champion was day by day."""

from typing import TYPE_CHECKING

from ranking.drift import ColumnDrift, Drift
from ranking.performance import Baseline, Performance
from tasks.pictures import BAD, CHALLENGER, CHAMPION, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 20
"""Columns that the picture shows, those nearest to their bounds first."""


def drift_picture(drift: Drift, performance: Performance | None, baseline: Baseline, title: str) -> bytes:
    """Draw each column's PSI beside its bound, and the AUC of the matured days beside that at promotion.

    Args:
        drift: the columns.
        performance: the days; the panel says so when they were not measured.
        baseline: the champion at promotion.
        title: above both.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _columns(left, drift)
    _days(right, performance, baseline)
    return png(figure)


def _columns(axes: "Axes", drift: Drift) -> None:
    axes.set_title("PSI of each column; the mark is its bound")
    shown = sorted((column for column in drift.columns if column.psi is not None), key=_share_of_bound)[-SHOWN:]
    if not shown:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    places = range(len(shown))
    colors = [BAD if column.drifted else CHALLENGER for column in shown]
    axes.barh(places, [column.psi or 0.0 for column in shown], color=colors)
    axes.scatter([column.threshold or 0.0 for column in shown], places, marker="|", s=160, color="black")
    axes.set_yticks(places, [column.name for column in shown])
    axes.set_xlabel("PSI")


def _share_of_bound(column: ColumnDrift) -> float:
    return (column.psi or 0.0) / (column.threshold or 1.0)


def _days(axes: "Axes", performance: Performance | None, baseline: Baseline) -> None:
    axes.set_title("AUC of matured days against promotion")
    days = [] if performance is None else [day for day in performance.days if day.auc is not None]
    if not days:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
    else:
        names = [f"{day.window.start:%m-%d}" for day in days]
        axes.plot(names, [day.auc or 0.0 for day in days], marker="o", color=CHALLENGER)
    if baseline.auc is not None:
        axes.axhline(baseline.auc.value, color=CHAMPION, linestyle="--", linewidth=1)
    axes.set_ylabel("AUC")
