"""Rules on the rows as a whole: how many, how late, how often, how labelled."""

from datetime import timedelta

from ranking.counts import Counts, label_rate
from ranking.data_quality.checks import Check, Health, beyond_chance, graded
from ranking.data_quality.knobs import QualityKnobs
from ranking.reference import Reference
from ranking.times import as_utc

HOUR = timedelta(hours=1)


def volume(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """Rows per day are not far below the reference's quietest day or above its busiest."""
    if not current.rows:
        return Check(rule="volume", health=Health.INCIDENT, sentence="The window has no rows.", numbers={"rows": 0})
    if not reference.daily_rows or not current.window.days:
        return Check(
            rule="volume",
            health=Health.SUSPECT,
            sentence="Volume was not compared: the reference has no whole day, or the window no length.",
        )
    per_day = current.rows / current.window.days
    low, high = min(reference.daily_rows), max(reference.daily_rows)
    off = max(low / per_day, per_day / high if high else float(per_day), 1.0)
    return Check(
        rule="volume",
        health=graded(off, knobs.volume_suspect_ratio, knobs.volume_incident_ratio),
        sentence=f"{per_day:,.0f} rows a day; the reference's days have {low:,} to {high:,}.",
        numbers={"rows_per_day": per_day, "lowest": low, "highest": high},
    )


def freshness(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """Rows reach until the window's end."""
    if current.newest is None:
        return None
    lag = (current.window.end - current.newest) / HOUR
    return Check(
        rule="freshness",
        health=graded(lag, knobs.stale_suspect_hours, knobs.stale_incident_hours),
        sentence=f"The newest row is of {as_utc(current.newest)}, {max(lag, 0):.1f} h before the window's end.",
        numbers={"hours": lag},
    )


def lateness(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """No more rows were delivered late than usual.  Does not apply when delivery times are not logged."""
    if reference.layout.arrival is None or not current.rows:
        return None
    if current.late is None or reference.counts.late is None:
        said = f"Lateness was not measured: {reference.layout.arrival!r} is not there."
        return Check(rule="lateness", health=Health.SUSPECT, sentence=said)
    share, usual = current.late / current.rows, reference.counts.late / max(reference.counts.rows, 1)
    return Check(
        rule="lateness",
        health=graded(share - usual, knobs.late_suspect, knobs.late_incident),
        sentence=f"{share:.1%} of the rows came more than {reference.layout.late_after_hours:g} h late; "
        f"{usual:.1%} did in the reference.",
        numbers={"share": share, "reference": usual},
    )


def duplicates(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """No more rows repeat the key of another row than usual."""
    share, usual = current.row_keys.repeated_share, reference.counts.row_keys.repeated_share
    if share is None or usual is None:
        return None
    return Check(
        rule="duplicates",
        health=graded(share - usual, knobs.duplicates_suspect, knobs.duplicates_incident),
        sentence=f"{share:.1%} of the rows repeat another's {', '.join(reference.layout.key)}; "
        f"{usual:.1%} did in the reference.",
        numbers={"share": share, "reference": usual},
    )


def labels(reference: Reference, current: Counts, knobs: QualityKnobs) -> Check | None:
    """The label rate is near the reference's.  Does not apply while no label of the window is known."""
    usual = reference.label_rate
    rate = None if reference.label is None else label_rate(current, reference.label)
    if reference.label is None or rate is None or usual is None:
        return None
    off = max(rate / usual if usual else float("inf"), usual / rate if rate else float("inf"))
    real = beyond_chance(usual, rate, current.users.effective)
    health = graded(off, knobs.label_suspect_ratio, knobs.label_incident_ratio) if real else Health.OK
    if rate in {0.0, 1.0} and real:
        health = Health.INCIDENT
    return Check(
        rule="labels",
        health=health,
        sentence=f"{rate:.2%} of the known labels are 1; {usual:.2%} were in the reference.",
        numbers={"rate": rate, "reference": usual},
    )
