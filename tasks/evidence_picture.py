"""The report's second picture: what decided.  Intervals against margins, slices, and how scores and lists moved."""

from typing import TYPE_CHECKING

from ranking.findings import Status
from ranking.measurements import Curve, SliceComparison
from ranking.results import Comparison, Verdict
from ranking.verdict import GateKnobs
from tasks.gauges import Gauge, gauges
from tasks.pictures import BAD, CHALLENGER, CHAMPION, GOOD, png, titled_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

UNSURE = "#b45309"
QUIET = "#d1d5db"
COLOURS = {Status.OK: GOOD, Status.UNPROVEN: UNSURE, Status.HARM: BAD}

SLICES = 14
"""Slices drawn at most, the worst of them; the title says how many there are."""


def evidence_picture(comparison: Comparison, verdict: Verdict, gate: GateKnobs) -> bytes:
    """Draw every gating number against its margin, the slices, both models' scores, and the tops of their lists.

    Args:
        comparison: the numbers.
        verdict: its findings give the colours.
        gate: the margins.

    Returns:
        A PNG.
    """
    figure = titled_figure(comparison, verdict)
    halves = figure.subfigures(1, 2, squeeze=False)[0]
    _gauges(halves[0], gauges(comparison, verdict, gate))
    slices, scores, tops = halves[1].subplots(3, 1, height_ratios=(2.2, 1.3, 1))
    _slices(slices, comparison, verdict, gate)
    _scores(scores, comparison)
    _tops(tops, comparison)
    return png(figure)


def _gauges(figure: "SubFigure", measured: tuple[Gauge, ...]) -> None:
    panels = figure.subplots(len(measured), 1, squeeze=False)[:, 0]
    for axes, gauge in zip(panels, measured, strict=True):
        _gauge(axes, gauge)


def _gauge(axes: "Axes", gauge: Gauge) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    colour = COLOURS[gauge.status]
    axes.set_title(f"{gauge.name}: {gauge.status}", color=colour, loc="left", fontsize=11, fontweight="bold")
    for limit in gauge.limits:
        axes.axvline(limit.at, color=BAD if limit.forbids else GOOD, linestyle="--", linewidth=1)
        axes.annotate(
            limit.words,
            (limit.at, 0.97),
            xycoords=("data", "axes fraction"),
            # Beside its line, on the side where it is not read across a neighbouring one.
            xytext=(-3, 0) if limit.forbids else (3, 0),
            textcoords="offset points",
            rotation=90,
            ha="right" if limit.forbids else "left",
            va="top",
            fontsize=7,
            color=BAD if limit.forbids else GOOD,
        )
    if gauge.value is None:
        axes.text(0.5, 0.5, f"not measured: {gauge.note}", ha="center", va="center", transform=axes.transAxes)
    else:
        _interval(axes, 0, (gauge.value, gauge.low, gauge.high), colour)
        axes.annotate(
            _said(gauge), (gauge.value, 0), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9
        )
    if gauge.champion is not None:
        axes.plot([gauge.champion], [-0.55], "D", color=CHAMPION, markersize=5)
        axes.annotate(
            "champion", (gauge.champion, -0.55), xytext=(6, -3), textcoords="offset points", fontsize=8, color=CHAMPION
        )
    axes.margins(x=0.12)
    axes.set_yticks([])
    axes.set_ylim(-1, 1)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if gauge.percent:
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.spines[["left", "right", "top"]].set_visible(False)


def _said(gauge: Gauge) -> str:
    if gauge.percent:
        return f"{gauge.value:+.2%}"
    return f"{gauge.value:+.4f}" if gauge.name.startswith("Δ") else f"{gauge.value:.4f}"


def _interval(axes: "Axes", y: float, numbers: tuple[float, float | None, float | None], colour: str) -> None:
    value, low, high = numbers
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot([value], [y], "o", color=colour, markersize=6)


def _slices(axes: "Axes", comparison: Comparison, verdict: Verdict, gate: GateKnobs) -> None:
    from matplotlib.ticker import MaxNLocator

    status = next((finding.status for finding in verdict.findings if finding.rule == "slices"), None)
    measured = [part for part in comparison.slices if part.auc.difference is not None]
    shown = sorted(measured, key=_gain)[:SLICES]
    some = f", {len(shown)} worst of {len(comparison.slices)}" if 0 < len(shown) < len(comparison.slices) else ""
    title = f"ΔAUC by slice{some}: {status}" if status else "ΔAUC by slice"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=COLOURS[status] if status else "black")
    if not shown:
        why = "nothing to compare with" if comparison.champion is None else "no slice could be measured"
        axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.axvline(0, color=QUIET)
    axes.axvline(-gate.slice_auc_margin, color=BAD, linestyle="--", linewidth=1)
    for row, part in enumerate(shown):
        difference = part.auc.difference
        if difference is not None:
            numbers = (difference.value, difference.low, difference.high)
            _interval(axes, row, numbers, COLOURS[_slice_status(part, gate)])
    axes.set_yticks(range(len(shown)), [_slice_name(part) for part in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"ΔAUC of each slice alone; red line: margin of {-gate.slice_auc_margin:g}", fontsize=8)


def _gain(part: SliceComparison) -> float:
    return part.auc.difference.value if part.auc.difference else 0.0


def _slice_status(part: SliceComparison, gate: GateKnobs) -> Status:
    """Where the interval lies; a picture of one slice, not the guardrail's joint test."""
    difference = part.auc.difference
    if difference is None or difference.low is None or difference.high is None:
        return Status.UNPROVEN
    if difference.high < -gate.slice_auc_margin:
        return Status.HARM
    return Status.OK if difference.low > -gate.slice_auc_margin else Status.UNPROVEN


def _slice_name(part: SliceComparison) -> str:
    # A dollar sign would start a formula.
    name = part.name if len(part.name) <= 28 else f"{part.name[:27]}…"
    return f"{name} ({part.rows:,})".replace("$", r"\$")


def _scores(axes: "Axes", comparison: Comparison) -> None:
    lines = (("champion", CHAMPION, comparison.champion_lines), ("challenger", CHALLENGER, comparison.challenger_lines))
    for who, colour, drawn in lines:
        if drawn is not None:
            x, density = _density(drawn.scores)
            axes.fill_between(x, density, step="mid", color=colour, alpha=0.25)
            axes.step(x, density, where="mid", color=colour, label=who)
    axes.set_title(f"Scores\n{_shift(comparison)}", loc="left", fontsize=11)
    axes.set(xlabel="predicted click rate", ylabel="density", ylim=(0, None))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    else:
        axes.text(0.5, 0.5, "scores were not kept", ha="center", transform=axes.transAxes)


def _density(curve: Curve) -> tuple[list[float], list[float]]:
    """Each model has bins of its own width, so that shares alone cannot be laid over each other."""
    width = curve.x[1] - curve.x[0] if len(curve.x) > 1 else 1.0
    return list(curve.x), [share / width if width > 0 else share for share in curve.y]


def _shift(comparison: Comparison) -> str:
    if comparison.champion is None:
        return "one model: no shift"
    agreement, correlation = comparison.agreement, comparison.score_correlation
    parts = [f"correlation {correlation:.3f}" if correlation is not None else "correlation not measured"]
    if agreement is not None and agreement.stability_index is not None:
        parts.insert(0, f"PSI {agreement.stability_index:.3f}")
    return ", ".join(parts)


def _tops(axes: "Axes", comparison: Comparison) -> None:
    """How much of each list's top stays, for several lengths of top."""
    axes.set_title("Share of the top of a list that is kept", loc="left", fontsize=11)
    kept = comparison.agreement.overlaps if comparison.agreement is not None else None
    if kept is None:
        why = "one model: nothing to keep" if comparison.champion is None else "no list is long enough"
        axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    bars = axes.bar([f"top {length:.0f}" for length in kept.x], kept.y, color=CHALLENGER, width=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for share in kept.y], fontsize=8, padding=1)
    axes.set(ylim=(0, 1.25), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
