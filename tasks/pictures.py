"""The report's first picture: four panels that show what the models are; the second is in ``evidence_picture``."""

from io import BytesIO
from typing import TYPE_CHECKING

from ranking.fits import Training
from ranking.measurements import Curve, Lines
from ranking.results import Comparison, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHAMPION = "#6b7280"
CHALLENGER = "#2563eb"
GOOD = "#15803d"
BAD = "#b91c1c"


def report_picture(
    comparison: Comparison,
    verdict: Verdict,
    training: Training | None,
    *,
    min_auc_improvement: float,
    max_auc_degradation: float,
) -> bytes:
    """Draw ROC, calibration, the AUC difference with its interval, and the training curve.

    Args:
        comparison: the numbers.
        verdict: named in the title.
        training: epochs of the fit; the panel says so when nobody recorded them.
        min_auc_improvement: the margin a promotion must reach, drawn as a line.
        max_auc_degradation: the margin below which a challenger is rejected, drawn as a line.

    Returns:
        A PNG.
    """
    figure = titled_figure(comparison, verdict)
    axes = figure.subplots(2, 2)
    _roc(axes[0][0], comparison)
    _reliability(axes[0][1], comparison)
    _difference(axes[1][0], comparison, min_auc_improvement, max_auc_degradation)
    _training(axes[1][1], training)
    return png(figure)


def titled_figure(comparison: Comparison, verdict: Verdict) -> "Figure":
    """An empty figure that says who is compared and what was decided."""
    # The object API, not pyplot: no global state, no display, safe in any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    challenger, champion = comparison.challenger, comparison.champion
    against = f"champion v{champion.version}" if champion else "no champion yet"
    figure.suptitle(
        f"{challenger.name}: challenger v{challenger.version} against {against}: {verdict.decision}", fontsize=14
    )
    return figure


def png(figure: "Figure") -> bytes:
    """The figure as a file's content."""
    buffer = BytesIO()
    # No date and no version in the file: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _roc(axes: "Axes", comparison: Comparison) -> None:
    axes.plot([0, 1], [0, 1], color="#d1d5db", linewidth=1)
    aucs = {"champion": comparison.auc.champion, "challenger": comparison.auc.challenger}
    for who, color, lines in _both(comparison):
        estimate = aucs[who]
        if lines.roc is not None and estimate is not None:
            _line(axes, lines.roc, color, f"{who}, AUC {estimate.value:.4f}")
    axes.set(title="ROC on the holdout", xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    axes.legend(loc="lower right", fontsize=9)


def _reliability(axes: "Axes", comparison: Comparison) -> None:
    drawn = [(who, color, lines.reliability) for who, color, lines in _both(comparison)]
    top = max((value for _, _, line in drawn for value in (*line.x, *line.y)), default=1.0) * 1.05
    axes.plot([0, top], [0, top], color="#d1d5db", linewidth=1)
    for who, color, line in drawn:
        _line(axes, line, color, who, marker="o")
    axes.set(title="Calibration", xlabel="predicted click rate", ylabel="observed click rate")
    axes.legend(loc="upper left", fontsize=9)


def _both(comparison: Comparison) -> list[tuple[str, str, Lines]]:
    named = (("champion", CHAMPION, comparison.champion_lines), ("challenger", CHALLENGER, comparison.challenger_lines))
    return [(who, color, lines) for who, color, lines in named if lines is not None]


def _difference(axes: "Axes", comparison: Comparison, gain: float, loss: float) -> None:
    axes.set(title="AUC: challenger minus champion")
    difference = comparison.auc.difference
    if difference is None:
        axes.text(0.5, 0.5, "first model: nothing to compare with", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.axvline(0, color="#d1d5db")
    axes.axvline(gain, color=GOOD, linestyle="--", label=f"gain needed: {gain:+.3f}")
    axes.axvline(-loss, color=BAD, linestyle="--", label=f"loss allowed: {-loss:+.3f}")
    label = f"{difference.value:+.4f}"
    if difference.low is not None and difference.high is not None:
        axes.plot([difference.low, difference.high], [0, 0], color=CHALLENGER, linewidth=3)
        label += f"  (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"
    axes.plot([difference.value], [0], "o", color=CHALLENGER, markersize=9, label=label)
    axes.set_yticks([])
    axes.set_ylim(-1, 2.2)
    axes.set_xlabel("ΔAUC")
    axes.legend(loc="upper center", fontsize=9)


def _training(axes: "Axes", training: Training | None) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(title="Training", xlabel="epoch", ylabel="log loss")
    if training is None:
        axes.text(0.5, 0.5, "no training curve recorded", ha="center", transform=axes.transAxes)
        return
    numbers = [epoch.number + 1 for epoch in training.epochs]
    axes.plot(numbers, [epoch.train_log_loss for epoch in training.epochs], color=CHAMPION, marker=".", label="train")
    axes.plot(
        numbers,
        [epoch.validation_log_loss for epoch in training.epochs],
        color=CHALLENGER,
        marker="o",
        label="validation",
    )
    axes.axvline(training.best_epoch + 1, color=GOOD, linestyle=":", label="kept")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9)


def _line(axes: "Axes", curve: Curve, color: str, label: str, marker: str = "") -> None:
    axes.plot(curve.x, curve.y, color=color, label=label, marker=marker, markersize=4)
