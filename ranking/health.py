"""Bad sessions of a canary against its concurrent control, window by window.

A session is bad with at least one error, timeout, fallback or answer slower than agreed.  The unit is the
session (or the user), never the request: one broken phone makes a hundred bad requests.
"""

from datetime import datetime, timedelta
from math import log
from typing import Self

import numpy as np
from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ranking.findings import Finding, Status
from ranking.sequential import Batches, harm_log_evidence, rarity_log_evidence, safety_log_evidence
from ranking.times import as_utc
from ranking.values import Knobs, Value


class HealthKnobs(Knobs):
    """When bad sessions end a rollout, and when they let it go on."""

    window_minutes: PositiveFloat = Field(default=15.0, description="Length of the windows that metrics come in.")
    metrics_delay_minutes: float = Field(default=5.0, ge=0, description="How late a window's metrics may be.")
    max_missing_windows: PositiveInt = Field(
        default=2, description="So many windows in a row without metrics roll back: nobody knows what users see."
    )
    harm_alpha: float = Field(
        default=0.0033, gt=0, le=0.05, description="Chance per stage to roll back a canary that is no worse."
    )
    tolerated_risk_ratio: float = Field(
        default=1.25, ge=1, lt=10, description="A canary may have this many times the control's bad sessions."
    )
    watched_risk_ratios: tuple[float, ...] = Field(
        default=(1.5, 2.0, 3.0, 5.0, 10.0, 20.0), min_length=1, description="Risk ratios that the test looks for."
    )
    refuted_risk_ratio: float = Field(
        default=5.0, gt=1, le=100, description="A stage is left only when this risk ratio is ruled out ..."
    )
    tolerable_bad_share: float = Field(
        default=0.005, gt=0, lt=0.5, description="... or the canary's share of bad sessions is proven below this."
    )
    safety_alpha: float = Field(
        default=0.05, gt=0, le=0.2, description="Chance that a canary with that risk ratio is let through."
    )
    breaker_bad_sessions: PositiveInt = Field(default=20, description="The breaker needs so many bad sessions, ...")
    breaker_bad_share: float = Field(default=0.05, gt=0, lt=1, description="... more than this share of sessions, ...")
    breaker_risk_ratio: float = Field(
        default=5.0, gt=1, le=100, description="... and more than this many times the control's share."
    )

    @model_validator(mode="after")
    def _looks_above_what_it_tolerates(self) -> Self:
        if min(self.watched_risk_ratios) <= self.tolerated_risk_ratio:
            raise ValueError(
                f"watched_risk_ratios must all be above tolerated_risk_ratio ({self.tolerated_risk_ratio})"
            )
        if self.refuted_risk_ratio <= self.tolerated_risk_ratio:
            raise ValueError(f"refuted_risk_ratio must be above tolerated_risk_ratio ({self.tolerated_risk_ratio})")
        return self

    @property
    def patience(self) -> timedelta:
        """How long no metrics may come."""
        return timedelta(minutes=self.max_missing_windows * self.window_minutes + self.metrics_delay_minutes)


class Sessions(Value):
    """Sessions of one arm in one window.  Zero is measured: nobody came."""

    total: NonNegativeInt
    bad: NonNegativeInt

    @model_validator(mode="after")
    def _bad_are_some_of_all(self) -> Self:
        if self.bad > self.total:
            raise ValueError(f"{self.bad} of {self.total} sessions cannot be bad")
        return self


class HealthWindow(Value):
    """What the metrics say of one window of one stage; ``None`` where they say nothing."""

    start: AwareDatetime
    end: AwareDatetime
    canary: Sessions | None
    control: Sessions | None = Field(description="Also None in a stage that has no control.")


def batches(windows: tuple[HealthWindow, ...]) -> Batches:
    """The windows in which both arms were measured."""
    both = [(w.canary, w.control) for w in windows if w.canary is not None and w.control is not None]
    columns = np.array([(a.total, a.bad, b.total, b.bad) for a, b in both], dtype=np.float64).reshape(-1, 4).T
    return Batches(*columns)


def arriving(
    windows: tuple[HealthWindow, ...], since: datetime, now: datetime, knobs: HealthKnobs, *, paired: bool
) -> Finding:
    """Whether metrics of the stage still come.

    Args:
        windows: of this stage.
        since: when the stage was entered.
        now: the time.
        knobs: the patience.
        paired: whether the stage has a control, which must be measured too.
    """
    measured = [w.end for w in windows if w.canary is not None and (w.control is not None or not paired)]
    last = max(measured, default=since)
    silent = now - last
    lost = silent >= knobs.patience
    return Finding(
        rule="metrics",
        status=Status.HARM if lost else Status.OK if measured else Status.UNPROVEN,
        sentence=f"The last metrics are of {as_utc(last)}, {silent / timedelta(minutes=1):.0f} minutes ago; "
        f"{knobs.patience / timedelta(minutes=1):.0f} minutes of silence roll back.",
        numbers={"silent_minutes": silent / timedelta(minutes=1)},
    )


def breaker(windows: tuple[HealthWindow, ...], knobs: HealthKnobs, reference: float | None) -> Finding:
    """Stops a canary that is plainly broken, without statistics.

    Args:
        windows: of this stage.
        knobs: the three limits.
        reference: the control's share of bad sessions in the stage before, for a stage without control.
    """
    total, bad = _summed(tuple(w.canary for w in windows))
    others, others_bad = _summed(tuple(w.control for w in windows))
    share = bad / total if total else 0.0
    theirs = others_bad / others if others else reference
    limit = (
        knobs.breaker_bad_share if theirs is None else max(knobs.breaker_bad_share, knobs.breaker_risk_ratio * theirs)
    )
    broken = bad >= knobs.breaker_bad_sessions and share > limit
    compared = "nothing to compare with" if theirs is None else f"{theirs:.2%} in the control"
    return Finding(
        rule="breaker",
        status=Status.HARM if broken else Status.OK,
        sentence=f"{bad:,} of {total:,} canary sessions were bad ({share:.2%}; {compared}); the breaker opens at "
        f"{knobs.breaker_bad_sessions} and {limit:.1%}.",
        numbers={"bad": float(bad), "sessions": float(total), "share": share, "control": theirs},
    )


def bad_sessions(windows: tuple[HealthWindow, ...], knobs: HealthKnobs) -> Finding:
    """Mixture SPRT for harm, and its mirror for safety; both may be looked at all the time."""
    counted = batches(windows)
    harm = harm_log_evidence(counted, knobs.tolerated_risk_ratio, knobs.watched_risk_ratios)
    total, bad = _summed(tuple(w.canary for w in windows))
    # the mean of two e-values is one again, for "this risk ratio, and not rare either"; their maximum is not
    safe = float(
        np.logaddexp(
            safety_log_evidence(counted, knobs.refuted_risk_ratio),
            rarity_log_evidence(total, bad, knobs.tolerable_bad_share),
        )
    ) - log(2)
    others, others_bad = float(counted.control.sum()), float(counted.control_bad.sum())
    status, words = Status.UNPROVEN, f"{knobs.refuted_risk_ratio:g} times the risk is not ruled out yet"
    if harm >= -log(knobs.harm_alpha):
        status, words = Status.HARM, f"proven more than {knobs.tolerated_risk_ratio:g} times the control's risk"
    elif safe >= -log(knobs.safety_alpha):
        status, words = Status.OK, f"not {knobs.refuted_risk_ratio:g} times the control's risk, or rare enough"
    return Finding(
        rule="bad_sessions",
        status=status,
        sentence=f"{bad:,} of {total:,} canary sessions were bad, and {others_bad:,.0f} of {others:,.0f} of the "
        f"control's: {words}.",
        numbers={"log_evidence_of_harm": harm, "log_evidence_of_safety": safe},
    )


def control_bad_share(windows: tuple[HealthWindow, ...]) -> float | None:
    """The control's share of bad sessions; ``None`` without sessions."""
    total, bad = _summed(tuple(w.control for w in windows))
    return bad / total if total else None


def _summed(arm: tuple[Sessions | None, ...]) -> tuple[int, int]:
    known = [sessions for sessions in arm if sessions is not None]
    return sum(sessions.total for sessions in known), sum(sessions.bad for sessions in known)
