"""What live users did, as Ibis expressions over the logs of a gateway: sessions, arms, clicks by user.

A rollout's stage is judged on what was seen in that very stage and nothing older.  A session is one user in one
window of time; it is bad with at least one bad request.  A user belongs to the arm that it was first seen in.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import ibis

from ranking.assignment import CONTROL, TREATMENT
from ranking.interleaving import A, B
from ranking.rollout import Rollout

if TYPE_CHECKING:
    import ibis.expr.types as ir

ARMS = (TREATMENT, CONTROL)


def in_stage(log: "ir.Table", rollout: Rollout, until: datetime) -> "ir.Table":
    """The rows of a gateway's log that belong to the present stage of a rollout, before ``until``.

    Args:
        log: with ``rollout``, ``stage`` and ``time``.
        rollout: the rollout.
        until: rows at or after it are left out.
    """
    timed = timed_in(log, rollout.entered, until)
    return timed.filter((timed.rollout == rollout.id) & (timed.stage == rollout.stage))


def timed_in(log: "ir.Table", start: datetime, until: datetime) -> "ir.Table":
    """The rows of a log in ``[start, until)`` by its column ``time``."""
    timed = log.mutate(time=log.time.cast("timestamp('UTC', 6)"))
    return timed.filter((timed.time >= ibis.literal(start)) & (timed.time < ibis.literal(until)))


def windows_of(log: "ir.Table", start: datetime, length: timedelta) -> "ir.Table":
    """The rows with their number of the window since ``start``: column ``window``."""
    since = log.time.delta(ibis.literal(start), unit="microsecond").cast("int64")
    return log.mutate(window=(since / float(length / timedelta(microseconds=1))).floor().cast("int64"))


def sessions(requests: "ir.Table", start: datetime, length: timedelta) -> "ir.Table":
    """Sessions by window and arm: columns ``window, arm, total, bad``.

    Args:
        requests: of one stage, with ``user``, ``arm``, ``time`` and ``bad``.
        start: when the stage was entered.
        length: of a window.
    """
    both = requests.filter(requests.arm.isin(ARMS))
    numbered = windows_of(both, start, length)
    users = numbered.group_by("window", "arm", "user").agg(bad=numbered.bad.cast("int64").max())
    return users.group_by("window", "arm").agg(total=users.count(), bad=users.bad.sum().cast("int64"))


def first_arms(requests: "ir.Table") -> "ir.Table":
    """Every user of the two arms once: ``user``, ``arm`` (the one first seen in) and ``arms`` (in how many)."""
    both = requests.filter(requests.arm.isin(ARMS))
    return both.group_by("user").agg(arm=both.arm.argmin(both.time), arms=both.arm.nunique())


def labelled(exposures: "ir.Table", outcomes: "ir.Table") -> "ir.Table":
    """The exposures whose outcome is known, with it in the column ``label``.

    Args:
        exposures: with ``request_id`` and ``item``.
        outcomes: with ``request_id``, ``item`` and ``label``; one row per impression.
    """
    once = outcomes.group_by("request_id", "item").agg(label=outcomes.label.max())
    joined = exposures.inner_join(once, ["request_id", "item"])
    return joined.select(*exposures.columns, "label")


def clicks_by_user(labelled_exposures: "ir.Table", arms: "ir.Table") -> "ir.Table":
    """Clicks and impressions of every user in the arms: ``user, arm, clicks, impressions``; 0 for who saw nothing."""
    counted = labelled_exposures.group_by("user").agg(
        clicks=labelled_exposures.label.cast("float64").sum(),
        impressions=labelled_exposures.count().cast("float64"),
    )
    joined = arms.left_join(counted, "user")
    zero = ibis.literal(0.0).cast("float64")
    return joined.select(
        "user", "arm", clicks=joined.clicks.fill_null(zero), impressions=joined.impressions.fill_null(zero)
    )


def votes(labelled_exposures: "ir.Table") -> "ir.Table":
    """Clicks on each model's picks in every mixed list: ``request_id, user, champion, challenger``.

    Args:
        labelled_exposures: of mixed requests, with ``team`` (see ``ranking.interleaving``) and ``label``.
    """
    mixed = labelled_exposures
    return mixed.group_by("request_id", "user").agg(
        champion=ibis.ifelse(mixed.team == A, mixed.label, 0.0).cast("float64").sum(),
        challenger=ibis.ifelse(mixed.team == B, mixed.label, 0.0).cast("float64").sum(),
    )


def before(log: "ir.Table") -> "ir.Table":
    """Clicks and impressions of every user in a log of ``user`` and ``label``: what CUPED takes out."""
    return log.group_by("user").agg(
        clicks_before=log.label.cast("float64").sum(), impressions_before=log.count().cast("float64")
    )
