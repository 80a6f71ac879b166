"""What a check of the champion rests on, and what it found: the values that the monitoring flow passes on."""

from datetime import UTC, datetime, timedelta

from pydantic import Field

from ranking.counts import ColumnCounts, Counts
from ranking.data_quality.checks import Quality
from ranking.drift import Drift
from ranking.performance import Baseline, Performance
from ranking.reference import DAY, Reference
from ranking.results import ModelRef
from ranking.times import Window
from ranking.triggers import Arbitration
from ranking.triggers.memory import Flight
from ranking.values import Value

SCORE = "champion_score"
"""Column that holds the champion's score in its reference."""


class Frozen(Value):
    """All that is frozen of a champion, to compare later days with."""

    features: Reference = Field(description="Logged features and labels of the rows that it learnt from.")
    scores: Reference = Field(description="Its scores on the holdout that it was promoted on.")
    baseline: Baseline = Field(description="What it was worth on that holdout.")

    @property
    def whole(self) -> Reference:
        """Features and scores as one reference."""
        return self.features.joined(self.scores)


class Scores(Value):
    """The champion's scores on recent rows.  What is ``None`` was not measured; ``note`` says why."""

    column: ColumnCounts | None = Field(default=None, description="Of the window, in the reference's bins.")
    performance: Performance | None = None
    note: str = ""

    def beside(self, counts: Counts) -> Counts:
        """The window's counts with the scores as one more column."""
        if self.column is None:
            return counts.model_copy(update={"broken": {**counts.broken, SCORE: self.note}})
        return counts.model_copy(update={"columns": {**counts.columns, SCORE: self.column}})


class Weighed(Value):
    """What the arbiter decided, and the retraining that nobody has started yet.

    Attributes:
        decision: of this check.
        flight: a retraining that was decided, by this check or an earlier one, and that no run has taken up.
        reason: why it was decided.
    """

    decision: Arbitration
    flight: Flight | None = None
    reason: str = ""


class DriftReport(Value):
    """Where the report of one check lies."""

    markdown_uri: str
    picture_uri: str
    title: str


class Monitoring(Value):
    """One check of the champion."""

    champion: ModelRef
    window: Window
    quality: Quality
    drift: Drift
    performance: Performance | None
    weighed: Weighed
    report: DriftReport


def last_day(now: datetime) -> Window:
    """The last whole day (UTC) before a moment."""
    end = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(start=end - DAY, end=end)


def matured_days(window: Window, now: datetime, maturity_hours: float, days: int) -> list[Window]:
    """The last ``days`` whole days (UTC) up to the window's end whose labels are final, oldest first."""
    end = min(window.end, last_day(now - timedelta(hours=maturity_hours)).end)
    return [Window(start=end - (back + 1) * DAY, end=end - back * DAY) for back in reversed(range(days))]
