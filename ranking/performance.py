"""Is the champion still as good as it was when it was promoted?

Looked at on matured labels, a few whole days at once: a single day's AUC wanders, and a day-by-day test at
5 % would raise some twenty false alarms a year.  The alarm needs a drop that matters and that is proven.

An unchanged champion, looked at every day, its value at promotion as uncertain as the mean of three days, is
retrained 0.12 to 0.15 times a year when two checks in a row must agree (0.36 to 0.45 if one is enough);
where the mean's standard error is 0.002, 0.01 times.  ``tests/ranking/test_monitor_simulation.py`` repeats this
with the arbiter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from ranking import influence
from ranking.clusters import Clusters, InfluenceSums, estimate
from ranking.errors import ComparisonError, ImmatureLabels
from ranking.influence import Measure
from ranking.levels import Level
from ranking.measurements import Estimate
from ranking.placements import BoolArray, FloatArray, IntArray
from ranking.results import Comparison
from ranking.scored import Checked, Scored
from ranking.times import Window, as_utc
from ranking.values import Knobs, Value
from ranking.verdict import TOLERANCE


class PerformanceKnobs(Knobs):
    """When the champion has become worse."""

    days: PositiveInt = Field(default=3, le=28, description="Matured days whose mean is compared.")
    max_auc_drop: float = Field(default=0.01, gt=0, lt=0.5, description="Drop of the mean AUC that is an alarm.")
    leave_auc_drop: float = Field(
        default=0.005,
        ge=0,
        lt=0.5,
        description="An alarm lasts until the drop is smaller than this, or no longer proven.",
    )
    confidence_level: float = Field(
        default=0.997,
        gt=0.5,
        lt=1,
        description="Of the drop's two-sided interval; more than 0.95, since it is looked at every day.",
    )
    min_positives: NonNegativeInt = Field(
        default=50, description="Fewest clicks, and fewest non-clicks, of a day for its AUC to be trusted."
    )
    min_clusters: NonNegativeInt = Field(
        default=20, description="Fewest users, and fewest items, of the days together."
    )


class Baseline(Value):
    """What the champion was worth when it was promoted, on the holdout of then."""

    champion: str
    auc: Estimate | None
    gauc: Estimate | None
    log_loss: Estimate | None
    exploration: bool = Field(default=False, description="Measured on random impressions only.")

    @classmethod
    def of(cls, comparison: Comparison) -> "Baseline":
        """The challenger's side of the comparison that it was promoted on."""
        return cls(
            champion=comparison.challenger.version,
            auc=comparison.auc.challenger,
            gauc=comparison.gauc.challenger,
            log_loss=comparison.log_loss.challenger,
            exploration=comparison.exploration,
        )


@dataclass(frozen=True)
class MaturedDay:
    """One whole day whose labels are final, with the champion's scores.

    Attributes:
        window: the day.
        labels: (N,) 0/1.
        scores: (N,) the champion's predicted click rates.
        users: (N,) codes of users, the same in all days (``ranking.scored.codes`` of the days together).
        items: (N,) codes of items, the same in all days.
        groups: (N,) codes of what GAUC ranks within; users when ``None``.
        exploration: all rows were chosen at random.
    """

    window: Window
    labels: BoolArray
    scores: FloatArray
    users: IntArray
    items: IntArray
    groups: IntArray | None = None
    exploration: bool = False


class DayPerformance(Value):
    """One day's numbers; ``None`` is not measurable."""

    window: Window
    rows: NonNegativeInt
    positives: NonNegativeInt
    auc: float | None
    gauc: float | None
    log_loss: float | None


class Performance(Value):
    """The champion of late against itself at promotion.

    Attributes:
        champion: version.
        window: from the first day to the last.
        days: each day's numbers.
        auc, gauc, log_loss: change of the mean over the days, with its error.
        level: ``None`` when it was not measured.
        sentence: why.
    """

    champion: str
    window: Window | None
    days: tuple[DayPerformance, ...]
    auc: Estimate | None = None
    gauc: Estimate | None = None
    log_loss: Estimate | None = None
    level: Level | None
    sentence: str


def measure_performance(
    days: Sequence[MaturedDay],
    baseline: Baseline,
    knobs: PerformanceKnobs,
    *,
    now: datetime,
    label_maturity_hours: float,
) -> Performance:
    """Compare the mean of the last days with the value at promotion.

    The error of the mean is two-way clustered over the days together, so a user who comes every day is
    one user.  The baseline's own error is added as if it were independent; users who are in both make
    the sum too large, which errs to the side of no alarm.

    Args:
        days: matured days, oldest first; the last ``knobs.days`` count.
        baseline: the champion at promotion.
        knobs: thresholds.
        now: the present.
        label_maturity_hours: time after which a label is final.

    Raises:
        ImmatureLabels: a day's labels are not final yet.
        ComparisonError: arrays that cannot be right.
    """
    recent = list(days)[-knobs.days :]
    _matured(recent, now, label_maturity_hours)
    rows = [_checked(day) for day in recent]
    measures = [_measures(part) for part in rows]
    told = tuple(map(_day, recent, rows, measures))
    window = Window(start=recent[0].window.start, end=recent[-1].window.end) if recent else None
    excuse = _excuse(recent, rows, told, baseline, knobs)
    if excuse:
        sentence = f"Performance was not measured: {excuse}."
        return Performance(champion=baseline.champion, window=window, days=told, level=None, sentence=sentence)
    before = {"auc": baseline.auc, "gauc": baseline.gauc, "log_loss": baseline.log_loss}
    changes = {name: _change(rows, [day[name] for day in measures], value, knobs) for name, value in before.items()}
    level, sentence = judge(changes["auc"], baseline, knobs)
    return Performance(champion=baseline.champion, window=window, days=told, level=level, sentence=sentence, **changes)


def _matured(days: Sequence[MaturedDay], now: datetime, label_maturity_hours: float) -> None:
    final = now - timedelta(hours=label_maturity_hours)
    early = [day.window.end for day in days if day.window.end > final]
    if early:
        raise ImmatureLabels(
            f"{len(early)} of {len(days)} days end after {as_utc(final)}, the latest at {as_utc(max(early))}, and "
            f"labels are final {label_maturity_hours:g} h after that. Measure earlier days, or come back later."
        )


def _checked(day: MaturedDay) -> Checked:
    broken = int(np.count_nonzero(~np.isfinite(day.scores)))
    if broken:
        raise ComparisonError(
            f"The champion gave NaN or infinite scores on {broken} of {len(day.scores)} rows of "
            f"{as_utc(day.window.start)}: it may be serving these scores. Roll back if it is."
        )
    return Scored(
        labels=day.labels,
        challenger=day.scores,
        champion=None,
        users=day.users,
        items=day.items,
        row_ids=np.arange(len(day.labels)),
        groups=day.groups,
    ).checked()


def _measures(rows: Checked) -> dict[str, Measure]:
    labels, scores = rows.labels, rows.challenger
    return {
        "auc": influence.auc(labels, scores, order=rows.challenger_order),
        "gauc": influence.gauc(labels, scores, rows.groups, order=rows.challenger_lists),
        "log_loss": influence.log_loss(labels, scores),
    }


def _day(day: MaturedDay, rows: Checked, measures: dict[str, Measure]) -> DayPerformance:
    return DayPerformance(
        window=day.window,
        rows=len(rows.labels),
        positives=int(rows.labels.sum()),
        **{name: measure.value for name, measure in measures.items()},
    )


def _excuse(
    days: Sequence[MaturedDay],
    rows: Sequence[Checked],
    told: Sequence[DayPerformance],
    baseline: Baseline,
    knobs: PerformanceKnobs,
) -> str:
    """Why the drop cannot be told."""
    if baseline.auc is None or baseline.auc.se is None:
        return f"nobody recorded the AUC of version {baseline.champion} at promotion with its error"
    if len(days) < knobs.days:
        return f"{len(days)} matured days are known, and {knobs.days} are needed"
    apart = [day for day, later in pairwise(days) if day.window.end != later.window.start]
    if apart or any(day.window.days != 1 for day in days):
        return "the days are not whole days in a row"
    if any(day.exploration != baseline.exploration for day in days):
        kind = "random impressions" if baseline.exploration else "all impressions"
        return f"at promotion the champion was measured on {kind}, and these days are other ones"
    return _too_few(rows, told, knobs)


def _too_few(rows: Sequence[Checked], told: Sequence[DayPerformance], knobs: PerformanceKnobs) -> str:
    few, enough = min(min(day.positives, day.rows - day.positives) for day in told), max(knobs.min_positives, 1)
    if few < enough:
        return f"a day has {few} clicks or non-clicks, and {enough} of each are needed"
    clusters = _clusters(rows)
    least, enough = min(len(np.unique(codes)) for codes in (clusters.users, clusters.items)), max(knobs.min_clusters, 2)
    return f"the days have {least} users or items, and {enough} of each are needed" if least < enough else ""


def _clusters(rows: Sequence[Checked]) -> Clusters:
    return Clusters(
        np.concatenate([part.clusters.users for part in rows]), np.concatenate([part.clusters.items for part in rows])
    )


def _change(
    rows: Sequence[Checked], measures: Sequence[Measure], before: Estimate | None, knobs: PerformanceKnobs
) -> Estimate | None:
    """Mean of the days minus the value at promotion."""
    values = [measure.value for measure in measures if measure.value is not None]
    if before is None or len(values) < len(measures):
        return None
    change = float(np.mean(values)) - before.value
    if before.se is None:
        return Estimate(value=change)
    clusters, labels = _clusters(rows), np.concatenate([part.labels for part in rows])
    psi = np.concatenate([measure.influence for measure in measures]) / len(measures)
    if measures[0].counted is not None:
        counted = np.concatenate([measure.counted for measure in measures if measure.counted is not None])
        clusters, labels, psi = clusters.subset(counted), labels[counted], psi[counted]
    sums = InfluenceSums.of(psi, clusters, labels if measures[0].by_class else None)
    own = sums.variance()
    variance = None if own is None else own + before.se**2
    return estimate(change, variance, min(sums.user.clusters, sums.item.clusters), knobs.confidence_level)


def judge(change: Estimate | None, baseline: Baseline, knobs: PerformanceKnobs) -> tuple[Level | None, str]:
    """The rule on the change of AUC, and its sentence."""
    if change is None or change.low is None or change.high is None or baseline.auc is None:
        return None, "Performance was not measured: the error of the AUC's change is not measurable."
    said = (
        f"The mean AUC of {knobs.days} days changed by {change.value:+.4f} since promotion "
        f"({knobs.confidence_level:.1%} interval {change.low:+.4f} to {change.high:+.4f}; "
        f"it was {baseline.auc.value:.4f})"
    )
    if change.value > -min(knobs.leave_auc_drop, knobs.max_auc_drop) + TOLERANCE:
        return Level.CALM, f"{said}."
    if change.high >= 0:
        # An unproven drop keeps no alarm alive, or one unlucky week would retrain again and again.
        return Level.CALM, f"{said}: a drop, but not proven."
    if change.value > -knobs.max_auc_drop + TOLERANCE:
        return Level.RAISED, f"{said}: proven, but less than the {knobs.max_auc_drop:.4f} that is an alarm."
    return Level.ALARM, f"{said}: a drop of at least {knobs.max_auc_drop:.4f}, and proven."
