"""Point-in-time history: what was known of a user, an item or an attribute strictly before each impression.

Everything is one mechanism.  Each observed row makes small *events* at the instant after which they count::

    impression   at time                     +1 impression, last = time
    label        at time + label delay       +1 known label, +label clicks
    leaving      at time + window            +1 impression, +label clicks that have left that window

and a row at time t sees the sum of its key's events whose instant is strictly before t.  At the day's grain all
instants are floored to UTC midnight first, and a row looks from the midnight at or before it: a floored instant
is before that midnight exactly when the instant itself is, so both grains share the code below.

Events are added up per key and instant, cumulated with ROWS frames, and joined back.  RANGE frames over the rows
themselves would say it in one line, but DuckDB searches each frame's bounds in the whole partition: on 20M rows in
50 categories that took five times the CPU.

Sums are float64: Ibis drops an int64 cast after a sum, and engines then disagree about the written type.  What is
summed are whole numbers, so the sums are exact below 2^53 and do not depend on the order of rows.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING

import ibis

from ranking.features import FeatureSpec, HistoryKey

if TYPE_CHECKING:
    import ibis.expr.types as ir

OBSERVED = "observed"
"""Optional boolean column: rows with False are questions; they get features and leave no trace in any history."""

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Columns of this module's own; the prefix keeps them apart from a log's.
US = "__us"
MIDNIGHT = "__midnight"
NOW = "__now"
THEN = "__then"


def _as_it_is(table: "ir.Table") -> "ir.Table":
    return table


def with_history(
    rows: "ir.Table",
    spec: FeatureSpec,
    stage: "Callable[[ir.Table], ir.Table]" = _as_it_is,
    *,
    answers_only: bool = False,
) -> "ir.Table":
    """Add the history columns of ``spec``, all float64, to every row.

    For a row at t, with the label known ``spec.label_delay_hours`` after an impression:

    - ``impressions``: rows of its key with time < t.
    - ``ctr``: (clicks + m p) / (known + m) over the rows of its key with time + delay < t.  m is
      ``prior_impressions`` and p = (C + 1) / (N + 2) over all rows with time + delay before the UTC midnight at or
      before t: the mean of a beta posterior whose prior is the feed's own click rate (empirical Bayes), and
      Laplace's rule of succession for that rate.
    - ``recency_hours``: since its key's last impression with time < t; null without one.
    - ``…_7d``: the same over t - 7 d <= time.

    At the grain ``day``, the UTC midnight at or before t takes the place of t throughout.

    Args:
        rows: interactions with the columns of ``spec.log`` in canonical types; further columns are kept.  A
            boolean column ``observed`` is optional; where it is False the label may be null.
        spec: keys, windows, grain, prior and label delay.
        stage: evaluates a table, keeps the result outside memory, and gives it back.  It is called for what all
            histories are made of and after each key, so that an engine holds one key's past at a time; without it
            the result is one lazy expression.
        answers_only: give back the questions alone (rows with ``observed`` False), which spares joining the rest.

    Returns:
        The rows, in no particular order, with the columns of ``spec.history_features``.  Where a part of the key
        is null, so is its whole history: a missing category is not a category.
    """
    if not spec.history_keys:
        return rows
    timed = _timed(rows, spec)
    log = stage(_log(timed, spec))
    asked = timed.filter(~timed[OBSERVED]) if answers_only else timed
    table = _joined(asked, _prior(log, spec), {MIDNIGHT: "__midnight_then"})
    for number, key in enumerate(spec.history_keys):
        past = _past(log, key, spec)
        own = past.rename({f"__{number}_{name}": name for name in past.columns})
        found = {name: f"__{number}_{name}" for name in key.columns} | {NOW: f"__{number}_{THEN}"}
        table = stage(_joined(table, own, found).drop(*found.values()))
    features: dict[str, ir.Value] = {}
    for number, key in enumerate(spec.history_keys):
        features |= _features(table, f"__{number}_", key, spec)
    return table.select(*rows.columns, **features)


def _timed(rows: "ir.Table", spec: FeatureSpec) -> "ir.Table":
    """The rows with their instant in microseconds, their midnight, and the instant they look from."""
    us = rows[spec.log.time].cast("timestamp('UTC', 6)").delta(ibis.literal(EPOCH), unit="microsecond")
    timed = rows.mutate(**{US: us.cast("int64")})
    midnight = _midnight(timed[US])
    return timed.mutate(**{MIDNIGHT: midnight, NOW: midnight if spec.history.grain == "day" else timed[US]})


def _log(timed: "ir.Table", spec: FeatureSpec) -> "ir.Table":
    """Only what histories are made of: keys, instants, and what a row adds (nothing, if it was not observed)."""
    keys = dict.fromkeys(column for key in spec.history_keys for column in key.columns)
    label = timed[spec.log.label].cast("float64")
    if OBSERVED not in timed.columns:
        return timed.select(*keys, US, MIDNIGHT, NOW, seen=_whole(1), click=label, last=timed[US])
    observed = timed[OBSERVED]
    return timed.select(
        *keys,
        US,
        MIDNIGHT,
        NOW,
        seen=observed.cast("float64"),
        click=ibis.ifelse(observed, label, _whole(0)),
        last=ibis.ifelse(observed, timed[US], ibis.null("int64")),
    )


def _prior(log: "ir.Table", spec: FeatureSpec) -> "ir.Table":
    """The feed's click rate as known at each midnight that some row looks from."""
    known = log.group_by(__then=_midnight(log[US] + _delay_us(spec))).agg(n=log.seen.sum(), c=log.click.sum())
    asked = log.select(__then=log[MIDNIGHT], n=_whole(0), c=_whole(0)).distinct()
    daily = known.union(asked.select(known.columns)).group_by(THEN).agg(n=ibis._.n.sum(), c=ibis._.c.sum())
    # One row per day: a window over everything is small here.
    before = ibis.rows_window(preceding=(None, 1), order_by=daily[THEN])
    n, c = (daily[name].sum().over(before).fill_null(_whole(0)) for name in ("n", "c"))
    return daily.select(__midnight_then=daily[THEN], __prior=(c + 1.0) / (n + 2.0))


def _past(log: "ir.Table", key: HistoryKey, spec: FeatureSpec) -> "ir.Table":
    """For each key and each instant a row looks from: the sums of all events strictly before."""
    events = reduce(lambda one, other: one.union(other), _streams(log, key, spec))
    sums = [name for name in events.columns if name not in (*key.columns, THEN, "last")]
    instants = events.group_by(*key.columns, THEN).agg(
        **{name: events[name].sum() for name in sums}, last=events["last"].max()
    )
    before = ibis.rows_window(preceding=(None, 1), group_by=list(key.columns), order_by=instants[THEN])
    return instants.select(
        *key.columns,
        THEN,
        **{name: instants[name].sum().over(before).fill_null(_whole(0)) for name in sums},
        last=instants["last"].max().over(before),
    )


def _streams(log: "ir.Table", key: HistoryKey, spec: FeatureSpec) -> "list[ir.Table]":
    """The events of one key.  The first stream also holds an instant for every row, so that each finds its past."""
    known = log.filter(*(log[column].notnull() for column in key.columns))
    delay = _delay_us(spec)
    blank: dict[str, ir.Value] = dict.fromkeys(("seen", "known", "clicks", *_left(spec)), _whole(0))
    labels = {"known": known.seen, "clicks": known.click}

    def stream(at: "ir.Value", last: "ir.Value", **amounts: "ir.Value") -> "ir.Table":
        then = _midnight(at) if spec.history.grain == "day" else at
        return known.select(*key.columns, **{THEN: then, "last": last, **blank, **amounts})

    never = ibis.null("int64")
    streams = [stream(known[US], known["last"], seen=known.seen, **({} if delay else labels))]
    if delay:
        streams.append(stream(known[US] + delay, never, **labels))
    for days in spec.history.windows_days:
        gone = {f"seen_{days}d": known.seen, f"clicks_{days}d": known.click}
        streams.append(stream(known[US] + days * DAY_US, never, **gone))
    return streams


def _features(table: "ir.Table", prefix: str, key: HistoryKey, spec: FeatureSpec) -> "dict[str, ir.Value]":
    """The named features from the joined sums."""
    strength, prior = spec.history.prior_impressions, table["__prior"]
    past = {name: table[f"{prefix}{name}"] for name in ("seen", "known", "clicks", "last", *_left(spec))}
    features = {}
    for days in (*((None,) if spec.history.since_start else ()), *spec.history.windows_days):
        suffix, seen, known, clicks = "", past["seen"], past["known"], past["clicks"]
        if days is not None:
            suffix = f"_{days}d"
            left, left_clicks = past[f"seen{suffix}"], past[f"clicks{suffix}"]
            # What left the window was known by then, unless labels take longer than the window is.
            within = days * DAY_US > _delay_us(spec)
            known, clicks = (known - left, clicks - left_clicks) if within else (seen * 0.0, seen * 0.0)
            seen = seen - left
        features[f"hist_{key.name}_impressions{suffix}"] = seen
        features[f"hist_{key.name}_ctr{suffix}"] = (clicks + strength * prior) / (known + strength)
    hours = (table[NOW] - past["last"]).cast("float64") / float(HOUR_US)
    return features | {f"hist_{key.name}_recency_hours": hours}


def _left(spec: FeatureSpec) -> list[str]:
    return [f"{what}_{days}d" for days in spec.history.windows_days for what in ("seen", "clicks")]


def _joined(table: "ir.Table", past: "ir.Table", on: dict[str, str]) -> "ir.Table":
    return table.left_join(past, [table[mine] == past[theirs] for mine, theirs in on.items()])


def _delay_us(spec: FeatureSpec) -> int:
    return round(spec.label_delay_hours * HOUR_US)


def _whole(number: int) -> "ir.Value":
    """A float64 constant.  To DuckDB 0.0 is a DECIMAL, and sums of it are decimals that Ibis believes to be floats."""
    return ibis.literal(number).cast("float64")


def _midnight(us: "ir.Value") -> "ir.Value":
    """Floor to the UTC day.  The remainder of a negative number is negative in SQL, hence the second one."""
    return us - (us % DAY_US + DAY_US) % DAY_US
