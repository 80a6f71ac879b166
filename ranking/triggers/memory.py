"""What the trigger arbiter is told, and what it remembers from check to check."""

from datetime import datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveFloat, PositiveInt

from ranking.data_quality.checks import Quality
from ranking.drift import Drift
from ranking.levels import Level
from ranking.performance import Performance
from ranking.times import Window
from ranking.values import Knobs, Value

EVIDENCE = frozenset({"drift", "performance", "combined", "volume"})
"""Triggers that rest on the data of the window: they need checked data, and their cool-down doubles."""

RECENT = 50
"""Decisions and non-decisions remembered; the others are in the reports of their checks."""

STARTS = 100
"""Starts of retrainings remembered for the daily budget."""

FAULTY = 60
"""Windows with an open data incident remembered."""

DOUBLINGS = 20
"""More doublings of the cool-down than any cap needs."""


class TriggerKnobs(Knobs):
    """When a signal retrains."""

    drift_windows: PositiveInt = Field(
        default=2, le=30, description="Windows in a row that must show drift before it retrains."
    )
    performance_windows: PositiveInt = Field(
        default=2, le=30, description="Checks in a row that must show a worse champion; each looks at several days."
    )
    max_window_gap_hours: PositiveFloat = Field(
        default=36.0, description="Two windows are in a row when their ends lie no further apart than this."
    )
    cool_down_hours: PositiveFloat = Field(
        default=24.0, description="No automatic retraining within this time after the end of the last one."
    )
    max_cool_down_hours: PositiveFloat = Field(
        default=168.0,
        description="The cool-down of signals doubles up to this with each retraining that was not promoted.",
    )
    daily_budget: PositiveInt = Field(default=2, le=STARTS, description="Retrainings that may start within 24 hours.")
    flight_expires_hours: PositiveFloat = Field(
        default=96.0,
        description="A retraining that has not reported back for this long is lost. Longer than training and the "
        "wait for an approval together.",
    )
    incident_hold_hours: float = Field(
        default=24.0,
        ge=0,
        description="A window with a data incident blocks this long after its end, unless it is found repaired. The "
        "training window's length here means that nothing is ever learnt from a faulty day.",
    )
    volume_rows: PositiveInt | None = Field(
        default=None, description="New labelled rows since the champion's cut-off that retrain; off unless set."
    )
    max_days_without_retrain: PositiveFloat | None = Field(
        default=None, description="Retrain after so many days without one, whatever the cron does; off unless set."
    )


class ManualRequest(Value):
    """Somebody wants a retraining now."""

    requester: str
    reason: str = ""
    forced: bool = Field(default=False, description="Retrain although the data have an incident; needs a reason.")


class Signals(Value):
    """Everything one check saw.  ``None`` is not measured, and never counts as fine.

    Attributes:
        champion: version that serves; ``None`` before the first.
        window: the whole days that were looked at.
        quality, drift, performance: what was found.
        new_labelled_rows: rows with a label since the champion's cut-off.
        scheduled: the cron of the retraining is due.
        manual: somebody asks.
    """

    champion: str | None = None
    window: Window | None = None
    quality: Quality | None = None
    drift: Drift | None = None
    performance: Performance | None = None
    new_labelled_rows: NonNegativeInt | None = None
    scheduled: bool = False
    manual: ManualRequest | None = None


class Watch(Value):
    """One signal over time.

    Attributes:
        streak: alarms in a row.
        active: enough of them came in a row, and it has not been calm since.
        last_end: end of the last window that was counted; no window counts twice.
        level: what that window said; ``None`` when it was not measured.
        streak_before, active_before: as they were before that window.
    """

    streak: NonNegativeInt = 0
    active: bool = False
    last_end: AwareDatetime | None = None
    level: Level | None = None
    streak_before: NonNegativeInt = 0
    active_before: bool = False

    def after(self, level: Level | None, end: datetime, needed: int, gap: timedelta) -> "Watch":
        """The watch after one more check of the window that ends at ``end``.

        A window that was not measured breaks the row; looking at the same window again (late rows came)
        replaces what it said; an older window changes nothing.
        """
        if self.last_end is not None and (end < self.last_end or (end == self.last_end and level is None)):
            return self
        streak, active = self.streak_before, self.active_before
        if end != self.last_end:
            in_a_row = self.last_end is not None and end - self.last_end <= gap
            streak, active = self.streak if in_a_row else 0, self.active
        return Watch(
            streak=streak + 1 if level is Level.ALARM else 0,
            active=level is not Level.CALM and (active or (level is Level.ALARM and streak + 1 >= needed)),
            last_end=end,
            level=level,
            streak_before=streak,
            active_before=active,
        )


class Flight(Value):
    """A retraining on its way.  ``key`` names it, so that starting it twice starts it once."""

    key: str
    trigger: str
    champion: str | None
    started_at: AwareDatetime


class Outcome(Value):
    """How a retraining ended."""

    key: str = Field(description="Of its flight.")
    result: Literal["promoted", "not_promoted", "failed"]
    at: AwareDatetime


class Recorded(Value):
    """One line of the memory: what was decided, and why."""

    at: AwareDatetime
    decision: Literal["retrain", "wait"]
    trigger: str | None
    reason: str


class Memory(Value):
    """All that the arbiter remembers: plain JSON of bounded size.

    Attributes:
        revision: grows by one with every change, for compare-and-set in whatever store keeps it.
        champion: who served at the last check.
        drift, performance: their watches.
        flight: the retraining on its way.
        starts: times of the last starts.
        quiet_since: end of the last retraining.
        unpromoted: retrainings by a signal since the last promotion.
        settled: keys of retrainings that ended.
        faulty: windows with an open data incident.
        recent: the last decisions and non-decisions, oldest first.
    """

    revision: NonNegativeInt = 0
    champion: str | None = None
    drift: Watch = Watch()
    performance: Watch = Watch()
    flight: Flight | None = None
    starts: tuple[AwareDatetime, ...] = ()
    quiet_since: AwareDatetime | None = None
    unpromoted: NonNegativeInt = 0
    settled: tuple[str, ...] = ()
    faulty: tuple[Window, ...] = ()
    recent: tuple[Recorded, ...] = ()

    def cool_down(self, knobs: TriggerKnobs, *, doubled: bool) -> timedelta:
        """How long to wait after the end of the last retraining."""
        base, most = knobs.cool_down_hours, max(knobs.cool_down_hours, knobs.max_cool_down_hours)
        return timedelta(hours=min(base * 2 ** (self.unpromoted if doubled else 0), most))


def settle(memory: Memory, outcome: Outcome) -> Memory:
    """The memory after a retraining ended; telling it twice changes nothing.

    A promotion ends the doubling of the cool-down and starts both watches afresh, since everything is now
    compared with another reference; that holds too for a flight that was given up as lost.
    """
    flight = memory.flight
    landed = flight is not None and flight.key == outcome.key
    promoted = outcome.result == "promoted"
    if outcome.key in memory.settled or not (landed or promoted):
        return memory
    settled = (*memory.settled, outcome.key)[-RECENT:]
    update: dict[str, object] = {"revision": memory.revision + 1, "quiet_since": outcome.at, "settled": settled}
    if landed:
        update["flight"] = None
    if promoted:
        update |= {"unpromoted": 0, "drift": Watch(), "performance": Watch()}
    elif flight is not None and flight.trigger in EVIDENCE:
        update["unpromoted"] = min(memory.unpromoted + 1, DOUBLINGS)
    return memory.model_copy(update=update)


def without_lost_flight(memory: Memory, knobs: TriggerKnobs, now: datetime) -> Memory:
    """The memory without a flight that has been away for too long; it counts as failed, until it reports back."""
    flight = memory.flight
    if flight is None or now - flight.started_at < timedelta(hours=knobs.flight_expires_hours):
        return memory
    given_up = settle(memory, Outcome(key=flight.key, result="failed", at=flight.started_at))
    return given_up.model_copy(update={"settled": memory.settled})
