"""Pictures of an A/B test: what it could see before it starts, and what it has seen since."""

from typing import TYPE_CHECKING

from ranking.assignment import CONTROL, TREATMENT
from ranking.experiment_knobs import GUARDRAIL_METRICS
from ranking.planning import Plan
from tasks.ab_readout import Look
from tasks.pictures import BAD, CHALLENGER, CHAMPION, GOOD, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plan_picture(planned: Plan, wanted: float) -> bytes:
    """Smallest change that a test of so many weeks sees, beside the change that is wanted; a PNG.

    Args:
        planned: the plan.
        wanted: relative change of the click-through rate that the test is planned for.
    """
    figure = _figure("What an A/B test of so many weeks could see", (8.0, 4.5))
    axes = figure.subplots()
    known = [option for option in planned.options if option.detectable_relative_effect is not None]
    weeks = [option.weeks for option in known]
    shown = [100 * (option.detectable_relative_effect or 0.0) for option in known]
    axes.plot(weeks, shown, marker="o", color=CHALLENGER, label="smallest change seen with the wanted power")
    for option, height in zip(known, shown, strict=True):
        axes.annotate(f"{option.users_per_arm:,}\nper arm", (option.weeks, height), fontsize=8, va="bottom")
    axes.axhline(100 * wanted, color=BAD, linestyle="--", label=f"wanted: {wanted:.1%}")
    if planned.weeks is not None:
        axes.axvline(planned.weeks, color=GOOD, linestyle=":", label=f"{planned.weeks} weeks suffice")
    axes.set(xlabel="weeks", ylabel="relative change of the click-through rate, %", xticks=weeks)
    axes.set_ylim(0, 1.3 * max([100 * wanted, *shown]))
    axes.margins(x=0.12)
    axes.legend(fontsize=9)
    return png(figure)


def look_picture(seen: Look) -> bytes:
    """Change of every metric with its interval, and the click-through rate of both arms day by day; a PNG."""
    rollout = seen.rollout
    verdict = "no verdict yet" if seen.readout is None else str(seen.readout.verdict)
    figure = _figure(f"Version {rollout.challenger} (B) against version {rollout.champion} (A): {verdict}", (11.0, 5.0))
    left, right = figure.subplots(1, 2)
    _effects(left, seen)
    _daily(right, seen)
    return png(figure)


def _effects(axes: "Axes", seen: Look) -> None:
    axes.set_title("Relative change of B against A, at this look's bound")
    rows = [(name, change.relative) for name, change in seen.effects.items() if change.relative is not None]
    if not rows:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    worse = {metric.words for metric in GUARDRAIL_METRICS if not metric.higher_is_better}
    for place, (name, moved) in enumerate(reversed(rows)):
        low, high = moved.low or moved.value, moved.high or moved.value
        risen, fallen = (BAD, GOOD) if name in worse else (GOOD, BAD)
        color = risen if low > 0 else fallen if high < 0 else CHAMPION
        axes.plot([100 * low, 100 * high], [place, place], color=color, linewidth=3)
        axes.plot([100 * moved.value], [place], marker="o", color=color)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("%")


def _daily(axes: "Axes", seen: Look) -> None:
    axes.set_title("Click-through rate by day, final labels")
    if seen.daily is None:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    for arm, color, name in ((CONTROL, CHAMPION, "A"), (TREATMENT, CHALLENGER, "B")):
        days = seen.daily[seen.daily["arm"] == arm]
        rates = 100 * days["clicks"] / days["impressions"]
        axes.plot([f"{day:%m-%d}" for day in days["day"]], rates, marker="o", color=color, label=name)
    axes.set_ylabel("%")
    axes.tick_params(axis="x", rotation=45)
    axes.legend()


def _figure(title: str, size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14)
    return figure
