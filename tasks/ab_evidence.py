"""What an A/B test is read from: sums by user, and clicks by day, of labels that are final."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pandas as pd

from ranking import live
from ranking.assignment import CONTROL, TREATMENT
from ranking.experiment import Arms, ExperimentEvidence
from ranking.experiment_knobs import ExperimentKnobs
from ranking.times import Window
from tasks.stage_logs import Logs, by_arm, clicks_until, holds_rows, ratio_of

if TYPE_CHECKING:
    import ibis.expr.types as ir


def experiment_evidence(logs: Logs, knobs: ExperimentKnobs) -> ExperimentEvidence | None:
    """Sums by user of an A/B test, up to the newest moment before which every label is final."""
    found = _test(logs, knobs)
    if found is None:
        return None
    until, arms, users = found
    counted = arms.group_by("arm").agg(users=arms.count(), crossed=(arms.arms > 1).sum()).execute()
    seen, crossed = by_arm(counted, "users"), by_arm(counted, "crossed")
    return ExperimentEvidence(
        until=until,
        clicks=_arms(users, "clicks", "impressions", "clicks_before", "impressions_before"),
        guardrails={
            "clicks_per_user": _arms(users, "clicks", "one", "clicks_before", "one"),
            "impressions_per_user": _arms(users, "impressions", "one", "impressions_before", "one"),
            "bad_sessions": _arms(users, "bad", "sessions"),
        },
        control_users=seen.get(CONTROL, 0),
        treatment_users=seen.get(TREATMENT, 0),
        crossovers=sum(crossed.values()),
    )


def users_of_test(logs: Logs, knobs: ExperimentKnobs) -> pd.DataFrame | None:
    """Everything that is known of every user of an A/B test, in one row each; ``None`` while no label is final."""
    found = _test(logs, knobs)
    return None if found is None else found[2]


def daily_clicks(logs: Logs) -> pd.DataFrame | None:
    """Clicks and impressions with final labels by day and arm: ``day, arm, clicks, impressions``."""
    exposures, outcomes = logs.stage("exposures", logs.matured), logs.outcomes
    if exposures is None or outcomes is None:
        return None
    shown = live.labelled(exposures.filter(exposures.arm.isin(live.ARMS)), outcomes)
    dated = shown.mutate(day=shown.time.truncate("D"))
    found: pd.DataFrame = (
        dated.group_by("day", "arm")
        .agg(clicks=dated.label.sum(), impressions=dated.count())
        .order_by("day", "arm")
        .execute()
    )
    return found if len(found) else None


def _test(logs: Logs, knobs: ExperimentKnobs) -> "tuple[datetime, ir.Table, pd.DataFrame] | None":
    """Until when labels are final, every user's first arm, and what is summed of every user."""
    rollout = logs.rollout
    until = min(logs.matured, rollout.entered + knobs.horizon)
    requests = logs.stage("requests", until) if until > rollout.entered else None
    if requests is None:
        return None
    arms = logs.engine.stage(live.first_arms(requests))
    clicks = clicks_until(logs, arms, until)
    if clicks is None:
        return None
    beside = clicks.merge(_before(logs, knobs.pre_period), on="user", how="left")
    beside = beside.merge(_user_sessions(logs, requests), on="user", how="left")
    counts = ("clicks_before", "impressions_before", "sessions", "bad")
    return until, arms, beside.fillna(dict.fromkeys(counts, 0.0)).assign(one=1.0)


def _before(logs: Logs, length: timedelta) -> pd.DataFrame:
    """What users did in the log before the stage: for CUPED.  Labels of then are final now."""
    columns, start = logs.data.columns, logs.rollout.entered
    empty = pd.DataFrame({"user": pd.Series(dtype="str"), "clicks_before": [], "impressions_before": []})
    if not holds_rows(logs.data.uri):
        return empty
    log = logs.engine.read(logs.data.uri)
    renamed = log.select(
        user=log[columns.user].cast("string"), time=log[columns.time], label=log[columns.label].cast("float64")
    )
    past = Window(start=start - length, end=start - logs.maturity if logs.maturity < length else start)
    found: pd.DataFrame = live.before(live.timed_in(renamed, past.start, past.end)).execute()
    return found if len(found) else empty


def _user_sessions(logs: Logs, requests: "ir.Table") -> pd.DataFrame:
    """Sessions and bad sessions by user."""
    length = timedelta(minutes=logs.rollout.knobs.window_minutes)
    numbered = live.windows_of(requests.filter(requests.arm.isin(live.ARMS)), logs.rollout.entered, length)
    each = numbered.group_by("user", "window").agg(bad=numbered.bad.cast("float64").max())
    found: pd.DataFrame = each.group_by("user").agg(sessions=each.count().cast("float64"), bad=each.bad.sum()).execute()
    return found


def _arms(users: pd.DataFrame, *columns: str) -> Arms:
    return Arms(control=ratio_of(users, CONTROL, *columns), treatment=ratio_of(users, TREATMENT, *columns))
