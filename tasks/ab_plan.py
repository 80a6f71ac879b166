"""What past users say about a planned A/B test: how different they are, and how many come in so many weeks."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from ranking import live
from ranking.errors import EmptyWindow
from ranking.experiment_knobs import ExperimentKnobs
from ranking.planning import Plan, plan
from ranking.ratios import RatioSums
from ranking.times import as_utc
from settings.effects import DataKnobs
from tasks.adapters.warehouse import open_warehouse

LONGEST_WEEKS = 8
"""Horizons that a plan looks at, as far as the log reaches back."""


def plan_test(data: DataKnobs, knobs: ExperimentKnobs, now: datetime) -> Plan:
    """Plan an A/B test from the interaction log.

    The baseline is as long as the test, and the time before it stands for CUPED's pre-period.

    Args:
        data: the log.
        knobs: of the test.
        now: the end of what is read.

    Raises:
        EmptyWindow: the log has no row in the weeks before ``now``.
        DataError: the log cannot be read.
    """
    columns, horizon = data.columns, knobs.horizon
    with open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        log = engine.read(data.uri)
        rows = log.select(
            user=log[columns.user].cast("string"), time=log[columns.time], label=log[columns.label].cast("float64")
        )
        oldest = pd.Timestamp(live.timed_in(rows, datetime.min.replace(tzinfo=now.tzinfo), now).time.min().execute())
        if pd.isna(oldest):
            raise EmptyWindow(f"The log {data.uri} has no row before {as_utc(now)}, so nothing can be planned from it.")
        reach = min(int((now - oldest.to_pydatetime()) / timedelta(weeks=1)), LONGEST_WEEKS)
        recent = live.before(live.timed_in(rows, now - horizon, now)).execute()
        past = live.before(live.timed_in(rows, now - horizon - knobs.pre_period, now - horizon)).execute()
        weeks = [
            int(live.timed_in(rows, now - timedelta(weeks=number), now).user.nunique().execute())
            for number in range(1, max(reach, 1) + 1)
        ]
    if recent.empty:
        raise EmptyWindow(f"The log {data.uri} has no row in the {knobs.weeks} weeks before {as_utc(now)}.")
    both = recent.merge(past, on="user", how="left", suffixes=("", "_earlier")).fillna(0.0)
    names = ("clicks_before", "impressions_before", "clicks_before_earlier", "impressions_before_earlier")
    return plan(RatioSums.of(*(both[name].to_numpy(np.float64) for name in names)), weeks, knobs)
